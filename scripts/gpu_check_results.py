"""What the parts of gpu_check hand to each other, as files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.files import write_bytes

CASES = "cases"
"""Directory of the prepared graphs: below it one of each case."""
MODEL, QUANTIZED, GOLDEN = "model.onnx", "quantized.onnx", "golden.safetensors"
PREPARED = "prepare.json"
WARM_UP = 20


@dataclass(frozen=True)
class Row:
    """One variant of one engine, or of PyTorch.

    Attributes:
        case: model and backbone.
        runner: what ran it.
        precision: of the arithmetic.
        batch: frames at once.
        variant: what else tells it apart.
        p50_ms, p95_ms, p99_ms: from arrays on the host to arrays on the host; None where it did not run.
        build_s, rebuild_s: without and with what the first build measured.
        plan_bytes: size of the engine.
        memory_bytes: of the GPU that went when it was opened.
        difference: the largest, from PyTorch's answers in float32.
        error: why there are no figures; empty where all is well.
    """

    case: str
    runner: str
    precision: str
    batch: int
    variant: str = ""
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    build_s: float | None = None
    rebuild_s: float | None = None
    plan_bytes: int | None = None
    memory_bytes: int | None = None
    difference: float | None = None
    error: str = ""


def timed(row: Row, step: Callable[[], object], rounds: int) -> Row:
    """The row with percentiles of a step's duration after a warm-up."""
    times = []
    for index in range(WARM_UP + rounds):
        started = time.perf_counter()
        step()
        if index >= WARM_UP:
            times.append(1000 * (time.perf_counter() - started))
    p50, p95, p99 = (float(np.percentile(times, share)) for share in (50, 95, 99))
    return replace(row, p50_ms=p50, p95_ms=p95, p99_ms=p99)


def write_results(path: Path, facts: dict[str, Any], rows: list[Row]) -> None:
    """Writes a part's JSON, whole or not at all."""
    content = {"date": time.strftime("%Y-%m-%d"), **facts, "rows": [asdict(row) for row in rows]}
    write_bytes(path, json.dumps(content, indent=1).encode())


def read_results(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Facts and rows of a part's JSON; empty where there is none."""
    if not path.is_file():
        return {}, []
    content = json.loads(path.read_text(encoding="utf-8"))
    return content, [Row(**row) for row in content.pop("rows")]


def comma_separated(text: str) -> tuple[str, ...]:
    """The parts of ``crd,rd``; none of an empty text."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
