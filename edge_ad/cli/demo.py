"""``edge-ad demo``: the whole circle on this machine, with nothing but itself."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from edge_ad.bundle import read_bundle
from edge_ad.cameras import camera_from_uri, opened
from edge_ad.candidates import Evidence
from edge_ad.cli.console import notes, progress_bar, results
from edge_ad.cli.engine_view import print_engine
from edge_ad.cli.evaluate import print_evaluation
from edge_ad.config import TrainConfig
from edge_ad.data import open_dataset
from edge_ad.data.synthetic import write_synthetic
from edge_ad.engine_build import build_engine
from edge_ad.errors import OutputError
from edge_ad.evaluation import evaluate
from edge_ad.extras import require
from edge_ad.files import write_bytes
from edge_ad.predictor import Predictor, open_predictor
from edge_ad.quantization.calibration import make_calibration_set
from edge_ad.report.page import report_html
from edge_ad.runtime.judging import Inspector
from edge_ad.runtime.loop import Line, RunSummary, run
from edge_ad.sinks.images import OverlaySink
from edge_ad.sinks.jsonl import JsonLinesSink
from edge_ad.sinks.memory import MemorySink
from edge_ad.sinks.sqlite import SqliteSink
from edge_ad.types import Decision, Inspection
from edge_ad.visualization import write_png

TRAIN_FRAMES, VALIDATION_FRAMES, TEST_GOOD, TEST_PER_DEFECT = 40, 30, 24, 4
POOL = 100
"""Different parts that the synthetic camera shows before it repeats itself."""


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="New directory for all that it makes.")] = Path(
        "runs/demo"
    ),
    steps: Annotated[int, typer.Option(help="Training steps.", min=10)] = 160,
    frames: Annotated[int, typer.Option(help="Live frames to inspect.", min=10)] = 100,
    fps: Annotated[int, typer.Option(help="Of the synthetic camera.", min=1, max=120)] = 15,
) -> None:
    """Goes the whole way on this machine, from a product to live verdicts.

    Makes a synthetic product, learns it, exports it, builds the fastest
    engine that judges as the model does and inspects live frames. Needs no camera, no GPU, no data set and no
    network; minutes on two CPU cores.

    Example: edge-ad demo --output /tmp/demo
    """
    require("torch", extra="train")
    if output.exists() and any(output.iterdir()):
        raise OutputError(f"{output} is not empty", why="the demo starts from nothing", remedy="name a new --output")
    clock = _Clock()
    data, run_dir, bundle_dir, engine_dir = (output / name for name in ("housing", "run", "bundle", "engine"))
    with clock.step("make a product", "rendering") as advance:
        write_synthetic(
            data,
            train=TRAIN_FRAMES,
            validation=VALIDATION_FRAMES,
            test_good=TEST_GOOD,
            test_per_defect=TEST_PER_DEFECT,
            progress=advance,
        )
    _train(clock, data, run_dir, steps)
    _evaluate(clock, run_dir, data, output)
    _export(clock, run_dir, bundle_dir)
    _build(clock, data, bundle_dir, output / "calibration", engine_dir)
    predictor = open_predictor(engine_dir)
    with clock.step("inspect live frames", "inspecting") as advance:
        seen, summary = _inspect(predictor, output / "live", frames, fps, advance)
    predictor.close()
    _print_live(seen.inspections, summary)
    clock.print()
    notes.print(f"[green]done[/]  look at {escape(str(output))}/report.html, contact_sheet.png and live/overlays")
    again = f"edge-ad run --engine {engine_dir} --camera 'synthetic://?fps={fps}'"
    notes.print(f"  again:  [bold]{escape(again)}[/]", soft_wrap=True)


@dataclass
class _Clock:
    """Times the steps of the demo and shows a bar for each."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, doing: str) -> Iterator[Callable[[int, int], None]]:
        """Times what happens inside; yields a function that moves the bar."""
        started = time.monotonic()
        with progress_bar(doing) as bar:
            yield lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total)
        self.seconds[name] = time.monotonic() - started
        notes.print(f"[green]✓[/] {name}  [dim]{self.seconds[name]:.1f} s")

    def print(self) -> None:
        """How long each step took, and the most memory that the process held."""
        table = Table(title="The whole circle", title_justify="left")
        table.add_column("step")
        table.add_column("seconds", justify="right")
        for name, seconds in self.seconds.items():
            table.add_row(name, f"{seconds:.1f}")
        table.add_row("all", f"{sum(self.seconds.values()):.1f}", style="bold")
        results.print(table)
        peak = _peak_memory_gb()
        if peak is not None:
            results.print(f"peak memory {peak:.1f} GB")


def _train(clock: _Clock, data: Path, run_dir: Path, steps: int) -> None:
    from edge_ad.training import train

    with clock.step(f"train on {TRAIN_FRAMES} good frames", "training") as advance:
        config = TrainConfig(steps=steps)
        train(open_dataset(data), config, run_dir, progress=lambda now: advance(now.step, now.steps))


def _evaluate(clock: _Clock, run_dir: Path, data: Path, output: Path) -> None:
    predictor = open_predictor(run_dir)
    with clock.step("evaluate on parts it never saw", "judging test frames") as advance:
        frames = open_dataset(data).frames("test")
        evaluation = evaluate(predictor, frames, predictor.threshold, advance, roi=predictor.spec.roi)
    write_png(output / "contact_sheet.png", evaluation.sheet("Synthetic housing: what the model sees"))
    now = datetime.now(timezone.utc)
    page = report_html(evaluation, category="synthetic housing", description=predictor.description, when=now)
    write_bytes(output / "report.html", page.encode())
    write_bytes(run_dir / "evaluation.json", json.dumps(evaluation.report(), indent=1).encode())
    print_evaluation(evaluation, f"synthetic housing, {predictor.description}")


def _export(clock: _Clock, run_dir: Path, bundle_dir: Path) -> None:
    from edge_ad.export import export_bundle

    with clock.step("export to ONNX and compare with PyTorch", "exporting"):
        export_bundle(run_dir, bundle_dir)


def _build(clock: _Clock, data: Path, bundle_dir: Path, calibration_dir: Path, engine_dir: Path) -> None:
    bundle = read_bundle(bundle_dir)
    with clock.step("choose a calibration set", "comparing frames") as advance:
        frames = make_calibration_set(bundle, open_dataset(data), calibration_dir, frames=16, progress=advance)
    with clock.step("build the fastest engine that judges as the model does", "building"):
        engine = build_engine(bundle, engine_dir, backend="auto", precision="auto", evidence=Evidence(frames))
    print_engine(engine.manifest)


def _inspect(
    predictor: Predictor, directory: Path, frames: int, fps: int, advance: Callable[[int, int], None]
) -> tuple[MemorySink, RunSummary]:
    """Runs the line on the synthetic camera, with every sink that needs no server."""
    memory = MemorySink()
    sinks = (
        memory,
        JsonLinesSink(directory / "inspections.jsonl"),
        SqliteSink(directory / "inspections.sqlite"),
        OverlaySink(directory / "overlays"),
    )
    inspector = Inspector.of(predictor, predictor.threshold)
    camera = camera_from_uri(f"synthetic://?fps={fps}&defect_rate=0.3&pool={min(frames, POOL)}")
    with opened(camera) as info:
        summary = run(
            camera,
            info,
            Line(
                lambda recipe: inspector,
                sinks,
                on_update=lambda _, statistics: advance(len(memory.inspections), frames),
            ),
            max_frames=frames,
        )
    return memory, summary


def _print_live(inspections: list[Inspection], summary: RunSummary) -> None:
    """What was shown against what was said, and how long it took."""
    counts: dict[str, list[int]] = {}
    for inspection in inspections:
        kind = inspection.frame.source.rsplit("/", 1)[-1]
        row = counts.setdefault(kind, [0, 0])
        row[0] += 1
        row[1] += inspection.verdict.decision is Decision.NG
    table = Table(title=f"{len(inspections)} live frames", title_justify="left")
    for heading in ("part", "shown", "rejected"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for kind in sorted(counts, key=lambda kind: (kind != "good", kind)):
        table.add_row(kind, *map(str, counts[kind]))
    results.print(table)
    latency, dropped = summary.statistics["latency_ms"], summary.statistics["dropped"]
    stages = ", ".join(f"{name} {latency[name]['p50']:.1f}" for name in ("predict.engine", "age") if name in latency)
    results.print(
        f"{summary.statistics['fps']:.1f} frames a second; p50 in ms: {stages}; frames dropped {sum(dropped.values())}"
    )


def _peak_memory_gb() -> float | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (1 << 30 if sys.platform == "darwin" else 1 << 20)
