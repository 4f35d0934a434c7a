"""The engine side of gpu_check: builds, answers and latencies; needs no torch."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.numpy
from gpu_check_results import CASES, GOLDEN, MODEL, QUANTIZED, Row, read_results, timed, write_results
from rich.console import Console
from rich.markup import escape

from edge_ad.backends import BackendName, backend_class
from edge_ad.backends.base import QUANTIZED as QUANTIZED_PRECISIONS
from edge_ad.backends.base import EngineBackend, Precision
from edge_ad.backends.golden import check_golden
from edge_ad.errors import EdgeAdError, MissingExtraError
from edge_ad.files import write_bytes
from edge_ad.types import AnyArray, Backend

UNFINISHED = "the process ended while this engine was tried"


@dataclass(frozen=True)
class Plan:
    """What to try: cases, precisions (none: all that are supported), batches, and how."""

    cases: tuple[str, ...] | list[str]
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    rounds: int
    rebuild: bool


def judge(output: Path, bundle: Path, calibration: Path, backend: str) -> None:
    """Lets every precision of a trained model pass the accuracy gate, or not, and keeps ``gate-BACKEND.json``.

    Raises:
        EdgeAdError: as :func:`edge_ad.engine_build.build_engine`.
    """
    from edge_ad.bundle import read_bundle
    from edge_ad.candidates import Evidence
    from edge_ad.engine_build import build_engine
    from edge_ad.quantization.calibration import read_calibration_set

    console, evidence = Console(), Evidence(read_calibration_set(calibration))
    engine = build_engine(
        read_bundle(bundle),
        output / f"engine-{backend}",
        backend=cast(BackendName, backend),
        precision="auto",
        evidence=evidence,
        progress=lambda text: console.print(f"[dim]{escape(text)}"),
    )
    write_bytes(output / f"gate-{backend}.json", engine.manifest.model_dump_json(indent=1).encode())


def check_all(output: Path, backend: str, plan: Plan, budget_s: float) -> bool:
    """Tries every engine that has no result yet; True if all is well.

    Args:
        output: of ``prepare``; ``check-BACKEND.json`` in it is read and written.
        backend: name of the backend.
        plan: what to try.
        budget_s: seconds after which no further engine is begun.

    Raises:
        EngineError: there is no driver or GPU.
        MissingExtraError: the backend is not installed.
    """
    console, kind = Console(), backend_class(backend)
    facts = asdict(kind.box_facts()) | {"python": platform.python_version(), "machine": platform.machine()}
    path, until = output / f"check-{backend}.json", time.monotonic() + budget_s
    rows = read_results(path)[1]
    for case in plan.cases:
        for precision in plan.precisions or _precisions(kind):
            for batch in plan.batches:
                engine = Row(case, backend, precision, batch)
                if any(_same(row, engine) for row in rows):
                    continue
                if time.monotonic() > until:
                    console.print("the time is up; call again to go on")
                    return False
                # Said first, so that an engine that takes the process with it is not tried for ever.
                write_results(path, facts, [*rows, replace(engine, error=UNFINISHED)])
                for row in _tried(kind, output / CASES / case, engine, plan):
                    rows.append(row)
                    console.print(_line(row))
                write_results(path, facts, rows)
    failed = [row for row in rows if row.error]
    console.print(f"{len(rows)} variants, {len(failed)} failed: {path}")
    return not failed


def _precisions(kind: type[EngineBackend]) -> tuple[str, ...]:
    """Those to try unasked. The prepared quantised graphs are TensorRT's."""
    tensorrt = kind.quantization == "tensorrt"
    return tuple(x for x in kind.precisions if x != "bf16" and (tensorrt or x not in QUANTIZED_PRECISIONS))


def _same(row: Row, engine: Row) -> bool:
    return (row.case, row.precision, row.batch) == (engine.case, engine.precision, engine.batch)


def _tried(kind: type[EngineBackend], directory: Path, engine: Row, plan: Plan) -> Iterator[Row]:
    """Builds an engine and measures each variant of running it."""
    name = QUANTIZED if engine.precision in QUANTIZED_PRECISIONS else MODEL
    precision = cast(Precision, engine.precision)
    try:
        model = (directory / name).read_bytes()
        times = []
        for _ in range(1 + plan.rebuild):
            started = time.perf_counter()
            payload = kind.build(
                model, source=str(directory / name), precision=precision, max_batch=engine.batch, progress=None
            )
            times.append(time.perf_counter() - started)
    except (EdgeAdError, OSError) as error:
        yield replace(engine, error=str(error))
        return
    rebuild_s = times[1] if plan.rebuild else None
    engine = replace(engine, build_s=times[0], rebuild_s=rebuild_s, plan_bytes=len(payload))
    for variant, options in _variants(kind):
        try:
            backend = cast(Any, kind).open(payload, source=engine.case, precision=precision, **options)
        except EdgeAdError as error:
            yield replace(engine, variant=variant, error=str(error))
            continue
        try:
            yield _measured(backend, directory / GOLDEN, replace(engine, variant=variant), plan.rounds)
        finally:
            backend.close()


def _variants(kind: type[EngineBackend]) -> list[tuple[str, dict[str, Any]]]:
    """Names and options of ``open``: each package that reaches the GPU's memory, with CUDA graphs and without."""
    if kind.quantization != "tensorrt":
        return [("", {})]
    from edge_ad.backends.tensorrt.device_memory import PACKAGES, open_device_memory

    present = []
    for package in PACKAGES:
        try:
            memory = open_device_memory(package)
        except MissingExtraError:
            continue
        with memory.active():
            memory.free()
        present.append(package)
    names = {True: "CUDA graphs", False: "no CUDA graphs"}
    return [
        (f"{package}, {name}", {"memory_package": package, "cuda_graphs": graphs})
        for package in present
        for graphs, name in names.items()
    ]


def _measured(backend: Backend, golden_path: Path, engine: Row, rounds: int) -> Row:
    row = replace(engine, memory_bytes=getattr(backend, "memory_bytes", None))
    try:
        difference = check_golden(backend, golden_path, cast(Precision, engine.precision), engine.batch)
    except EdgeAdError as error:
        row = replace(row, error=str(error))  # wrong, but how fast is still of interest
    else:
        row = replace(row, difference=difference)
    feeds = _tiled(golden_path, engine.batch)
    try:
        return timed(row, lambda: backend.run(feeds), rounds)
    except EdgeAdError as error:
        return replace(row, error=str(error))


def _tiled(golden_path: Path, batch: int) -> Mapping[str, AnyArray]:
    """The golden inputs, over and over until there are ``batch``."""
    golden = safetensors.numpy.load_file(golden_path)
    inputs = {name.removeprefix("input."): x for name, x in golden.items() if name.startswith("input.")}
    return {name: np.ascontiguousarray(x[np.arange(batch) % len(x)]) for name, x in inputs.items()}


def _line(row: Row) -> str:
    text = f"{row.case} {row.precision} batch {row.batch} {row.variant}".rstrip() + ":"
    if row.p50_ms is not None:
        text += f" p50 {row.p50_ms:.2f} ms, p99 {row.p99_ms:.2f} ms, built in {row.build_s:.1f} s"
    return escape(text) + (f" [red]{escape(row.error)}[/]" if row.error else "")
