"""``edge-ad benchmark``: how fast is an engine here, where does the time go, and is it faster than another?"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_ad.cli.benchmark_view import print_benchmark
from edge_ad.cli.console import comma_separated, print_json, progress_bar
from edge_ad.errors import ConfigError
from edge_ad.types import Frame

if TYPE_CHECKING:
    # They need the package onnx, which a box that only runs does not have to load.
    from edge_ad.benchmark import Contestant
    from edge_ad.graph_cost import GraphCost

MODEL_KINDS = "Engine, bundle, model.onnx or checkpoint."


def command(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help=MODEL_KINDS)],
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Measured in turns with ENGINE, and compared.")
    ] = None,
    rounds: Annotated[int, typer.Option(metavar="N", help="How often everything is measured.", min=3)] = 50,
    warm_up: Annotated[int, typer.Option(metavar="N", help="Unmeasured runs before that.", min=1)] = 5,
    batches: Annotated[str, typer.Option(metavar="N,…", help="Batch sizes for the throughput.")] = "1,2,4",
    frames: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="A data set or recording, or synthetic; by default the golden samples."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Measures latency by stage, throughput, memory, and the share of what this box can do at most.

    Two models, their batch sizes, and the box's own limits (a matrix product
    on the same backend, a copy in memory) are measured in turns, so that a
    busy machine slows all alike. Shares are those of the matrix product's
    operations per second and of the copy's bytes, from the fastest run of
    each; multiply-adds are counted on the ONNX graph, bytes are its weights,
    inputs and outputs. With --against, the ratio of the medians has a 95 %
    interval, and both judge the same frames, so that nobody compares models
    that do not do the same work.

    Example: edge-ad benchmark engines/lid-int8 --against engines/lid-fp32
    """
    # They need the package onnx, which a box that only runs does not have to load.
    from edge_ad.benchmark import Peaks, run_rounds
    from edge_ad.benchmark_figures import compare, contestant_figures, peak_figures, report

    sizes = _batch_sizes(batches)
    with ExitStack() as stack, progress_bar("opening") as bar:
        contestants = _opened([engine] if against is None else [engine, against], stack)
        shown = _frames(contestants, frames)
        for contestant in contestants:
            contestant.warm_up(shown, sizes, warm_up)
        peaks = Peaks(contestants)
        stack.callback(peaks.close)
        task = bar.task_ids[0]
        bar.update(task, description="measuring", total=rounds)
        run_rounds(
            contestants, shown, sizes, peaks, rounds=rounds, progress=lambda done: bar.update(task, completed=done)
        )
        limits = peak_figures(peaks)
        figures = [contestant_figures(item, _cost(item, contestants), limits) for item in contestants]
        comparison = None if against is None else compare(contestants[0], contestants[1], shown)
    settings = {"rounds": rounds, "warm_up": warm_up, "batches": sizes, "frames": [frame.source for frame in shown]}
    if json_output:
        print_json(report(figures, limits, comparison, **settings))
    else:
        print_benchmark(figures, limits, comparison)


def _batch_sizes(text: str) -> list[int]:
    """The sizes in ``1,2,4``, each once, in their order.

    Raises:
        ConfigError: one is not a whole number from 1 to 1024.
    """
    parts = comma_separated(text)
    if not parts or not all(part.isascii() and part.isdecimal() and 1 <= int(part) <= 1024 for part in parts):
        raise ConfigError(f"--batches {text!r} is not valid", remedy="give sizes from 1 to 1024, such as 1,2,4")
    return list(dict.fromkeys(map(int, parts)))


def _opened(paths: list[Path], stack: ExitStack) -> list[Contestant]:
    """The models, which the stack closes."""
    from edge_ad.benchmark import Contestant

    contestants = []
    for path in paths:
        contestants.append(Contestant(path))
        stack.callback(contestants[-1].predictor.close)
    return contestants


def _frames(contestants: list[Contestant], where: str | None) -> list[Frame]:
    """Frames that have what all of the models need."""
    from edge_ad.benchmark_frames import chosen_frames

    neediest = max(contestants, key=lambda item: len(item.input_names))
    needed = {name for item in contestants for name in item.input_names}
    return chosen_frames(where, neediest.golden_path, neediest.predictor.spec, needed)


def _cost(contestant: Contestant, contestants: list[Contestant]) -> GraphCost | None:
    """Of the contestant's graph; of the same graph in another form, where this one is a compiled plan."""
    same = (
        item
        for item in (contestant, *contestants)
        if (item.predictor.model_id, item.predictor.mode) == (contestant.predictor.model_id, contestant.predictor.mode)
    )
    return next((cost for item in same if (cost := item.cost()) is not None), None)
