"""gpu_check's results as Markdown that can go into the documentation as it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu_check_results import PREPARED, Row, read_results


def markdown(output: Path) -> str:
    """The report of whatever ``prepare`` and ``check`` left in ``output``."""
    prepared, rows = read_results(output / PREPARED)
    parts = ["# GPU check", "", *_torch_box(prepared)]
    for path in sorted(output.glob("check-*.json")):
        facts, found = read_results(path)
        rows += found
        parts += _engine_box(facts)
    parts += ["", "Latency is that of one call, from arrays on the host to arrays on the host.", ""]
    parts += _roofline(prepared.get("roofline"))
    for case in dict.fromkeys(row.case for row in rows):
        cost = prepared.get("cases", {}).get(case, {})
        parts += _case(case, cost, [row for row in rows if row.case == case], prepared.get("roofline"))
    parts += _gates(sorted(output.glob("gate-*.json")))
    failures = [row for row in rows if row.error]
    parts += ["## Failures" if failures else "No failures.", ""]
    parts += [
        f"- {row.case}, {row.runner} {row.precision} batch {row.batch} {row.variant}: {row.error}" for row in failures
    ]
    return "\n".join(parts).rstrip() + "\n"


def _gates(paths: Iterable[Path]) -> list[str]:
    """What the accuracy gate said of a trained model in each precision."""
    head = ["engine", "p50, ms", "rank correlation", "shift, σ", "I-AUROC drop", "AUPRO drop", "layers kept", "refused"]
    body = []
    for path in paths:
        for one in json.loads(path.read_text())["candidates"]:
            gate = one["gate"] or {}
            drops = gate.get("defects") or gate.get("pasted") or {}
            figures = [one["median_ms"], gate.get("rank_correlation"), gate.get("shift_sigma")]
            figures += [drops.get("image_auroc_drop"), drops.get("aupro_drop")]
            kept = str(len(one["kept"]))
            body.append([f"{one['backend']} {one['precision']}", *map(_number, figures), kept, one["refused"]])
    return ["## The accuracy gate", "", *_table(head, body)] if body else []


def _torch_box(facts: dict[str, Any]) -> list[str]:
    if not facts:
        return []
    gpu = f"{facts['gpu']}, CUDA {facts['cuda']}" if "gpu" in facts else "no GPU: PyTorch was not timed"
    text = f"- {facts['date']}, PyTorch {facts['torch']}, Python {facts['python']}, {gpu}"
    return [f"{text}; {facts['modalities']}, {facts['size_px']} px, random weights"]


def _engine_box(facts: dict[str, Any]) -> list[str]:
    known = [facts["backend_version"], facts["gpu"], f"compute capability {facts['compute_capability']}"]
    known = known if facts["gpu"] else known[:1]
    driver = [f"driver {facts['driver']}"] if facts["driver"] else []
    return [f"- {', '.join([facts['date'], *known, *driver, 'Python ' + facts['python'], facts['machine']])}"]


def _roofline(measured: dict[str, float] | None) -> list[str]:
    if not measured:
        return []
    names = {"fp32": "GEMM fp32, TFLOP/s", "fp16": "GEMM fp16, TFLOP/s", "int8": "GEMM int8, TOP/s"}
    names |= {"device_copy": "copy on the GPU, GB/s", "host_to_device": "copy to the GPU, GB/s"}
    return ["Measured with PyTorch, as the roof:", "", *_table(names.values(), [[f"{measured[x]:.4g}" for x in names]])]


def _case(case: str, cost: dict[str, float], rows: list[Row], roof: dict[str, float] | None) -> list[str]:
    size = f" ({cost['gmac']:.2f} GMAC a frame, {cost['parameters_m']:.1f} M parameters)" if cost else ""
    head = ["runs in", "precision", "batch", "p50, ms", "p95, ms", "p99, ms", "frames/s", "share of GEMM", "differs by"]
    head += ["build, s", "again, s", "plan, MB", "GPU, MB"]
    body = []
    for row in rows:
        frames = None if row.p50_ms is None else 1000 * row.batch / row.p50_ms
        runner = f"{row.runner} ({row.variant})" if row.variant else row.runner
        cells = [runner, row.precision, str(row.batch)]
        cells += [_number(x) for x in (row.p50_ms, row.p95_ms, row.p99_ms, frames)]
        cells += [_share(row, cost, roof), _number(row.difference)]
        cells += [_number(x) for x in (row.build_s, row.rebuild_s, _mega(row.plan_bytes), _mega(row.memory_bytes))]
        body.append(cells)
    return [f"## {case}{size}", "", *_table(head, body)]


def _share(row: Row, cost: dict[str, float], roof: dict[str, float] | None) -> str:
    """Multiply-adds a second, as a share of what matrix products of this precision reach on this GPU."""
    if row.p50_ms is None or not cost or not roof or row.runner in ("onnxruntime", "openvino"):
        return "–"
    reached = 2 * cost["gmac"] * row.batch / row.p50_ms  # GFLOP a millisecond: TFLOP/s
    return f"{100 * reached / roof['int8' if row.precision.startswith('int8') else row.precision]:.1f} %"


def _mega(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / 1e6


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _table(head: Iterable[str], body: list[list[str]]) -> list[str]:
    head = list(head)
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)] + [""]
