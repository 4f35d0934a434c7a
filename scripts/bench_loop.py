"""What the line itself costs at 30 frames a second of 640×480 RGB-D, beside what people write by hand.

    scripts/bench loop [--rounds 5] [--seconds 6] [--json] [--size 64]

Every way judges the frames of the same camera with the same small model (rd on colour, random weights, one
thread), each turn in a process of its own, all ways in turns; figures are medians over the turns.

    edge-ad             a capture process, frames through shared memory, the newest one judged; a thread for the sink
    edge-ad in process  the same with the camera in a thread
    naive               read, judge, write, in one thread; the driver's 4 buffers fill, as with V4L2 or GenTL
    naive, newest       the same with a driver that keeps the newest frame only
    queue               a capture process that pickles its frames into a multiprocessing.Queue(5)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from bench_loop_camera import ReplayCamera, ReplayOptions
from bench_loop_turn import WAYS, Figures, Turn, Way
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from edge_ad.bundle import InputSpec
from edge_ad.config import PreprocessConfig
from edge_ad.export import onnx_from_graph
from edge_ad.export_graphs import graphs
from edge_ad.feeds import feeds_from_frame
from edge_ad.models.detector import Detector, DetectorConfig
from edge_ad.types import Frame, Roi

SCENES: dict[str, dict[str, float]] = {
    "light model": {},
    "model of 60 ms": {"predict_ms": 60},
    "sink of 80 ms": {"sink_ms": 80},
}


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="Measured in each turn.", min=1)] = 6,
    size: Annotated[int, typer.Option(help="Side of the network's input in pixels.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Every turn's figures as JSON.")] = False,
) -> None:
    """Prints the tables."""
    turns: dict[str, dict[Way, list[Figures]]] = {scene: {way: [] for way in WAYS} for scene in SCENES}
    with tempfile.TemporaryDirectory() as directory, Progress(console=Console(stderr=True)) as progress:
        model = Path(directory) / "light.onnx"
        spec = _export(model, size)
        bar = progress.add_task("taking turns", total=rounds * len(SCENES) * len(WAYS))
        for _ in range(rounds):
            for scene, options in SCENES.items():
                for way in WAYS:
                    turn = Turn.model_validate(
                        {"way": way, "model": model, "spec": spec, "seconds": seconds, **options}
                    )
                    turns[scene][way].append(_take(turn))
                    progress.advance(bar)
    if as_json:
        plain = {
            scene: {way: [one.model_dump() for one in all_] for way, all_ in ways.items()}
            for scene, ways in turns.items()
        }
        print(json.dumps({"rounds": rounds, "seconds": seconds, "turns": plain}, indent=1))
        return
    for scene, ways in turns.items():
        Console().print(_table(scene, ways), "")


def _take(turn: Turn) -> Figures:
    program = [sys.executable, str(Path(__file__).with_name("bench_loop_turn.py"))]
    done = subprocess.run(program, input=turn.model_dump_json(), text=True, stdout=subprocess.PIPE, check=True)
    return Figures.model_validate_json(done.stdout)


FIGURES = {
    "age_p50_ms": "age p50, ms",
    "age_p99_ms": "age p99, ms",
    "beside_model_ms": "age p50 less model, ms",
    "predict_ms": "model, ms",
    "hand_over_p50_ms": "hand-over p50, ms",
    "outside_ms": "judging thread, CPU ms",
    "cpu": "CPU, cores",
    "cpu_without_model": "CPU without model",
    "judged": "judged",
    "missed": "missed",
    "written": "written",
}


def _table(scene: str, ways: dict[Way, list[Figures]]) -> Table:
    table = Table(scene, box=None, padding=(0, 1, 0, 0))
    for way in ways:
        table.add_column(way.replace("_", " "), justify="right", max_width=10)
    for name, meaning in FIGURES.items():
        table.add_row(meaning, *(_cell([getattr(one, name) for one in figures]) for figures in ways.values()))
    return table


def _cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.3g}" if known else "–"


def _export(path: Path, size: int) -> InputSpec:
    """Writes the light model for the camera's frames; says how they feed it."""
    options = ReplayOptions()
    spec = InputSpec(
        frame_size_px=(options.height, options.width),
        roi=Roi(0, 0, options.width, options.height),
        depth="none",
        depth_unit_m=0.001,
        intrinsics=None,
    )
    torch.manual_seed(0)
    config = {
        "model": "rd",
        "preprocess": PreprocessConfig(modalities=("rgb",), image_size_px=size),
        "input": spec,
    }
    detector = Detector(DetectorConfig.model_validate(config)).eval()
    camera = ReplayCamera(options)
    camera.open()
    frame = camera.read(1.0)
    assert isinstance(frame, Frame)
    feeds = feeds_from_frame(frame, spec, detector.operating().input_names)
    samples = {name: torch.from_numpy(array).repeat(2, *[1] * (array.ndim - 1)) for name, array in feeds.items()}
    path.write_bytes(onnx_from_graph(next(iter(graphs(detector, samples)))).SerializeToString())
    return spec


if __name__ == "__main__":
    typer.run(main)
