"""``edge-ad calibrate``: good frames to the calibration set of an INT8 engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from edge_ad.bundle import read_bundle
from edge_ad.cli.console import notes, print_json, progress_bar
from edge_ad.data import open_dataset
from edge_ad.quantization.calibration import make_calibration_set


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of a bundle.")],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Good parts, in the layout that train reads.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory of the set (calibration/NAME).")
    ] = None,
    frames: Annotated[int, typer.Option(help="To calibrate with; at most half of the training frames.")] = 64,
    gate_frames: Annotated[int, typer.Option(help="Others, to judge the engine by.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print the recipe as JSON.")] = False,
) -> None:
    """Chooses the good frames that an INT8 engine is calibrated with.

    Takes those that differ most in what the teacher sees, so that rare but
    good looks are among them, and keeps other good frames to judge the engine
    by. Test frames and defects are refused: nothing that judges a model later
    may tune it. The set travels to the box with the bundle.

    Example: edge-ad calibrate bundles/lid captures/lid
    """
    source, data = read_bundle(bundle), open_dataset(dataset)
    directory = output or Path("calibration") / source.manifest.name
    with progress_bar("reading frames") as bar:
        task = bar.task_ids[0]
        made = make_calibration_set(
            source,
            data,
            directory,
            frames=frames,
            gate_frames=gate_frames,
            seed=seed,
            progress=lambda done, total: bar.update(task, description="comparing", completed=done, total=total),
        )
    recipe = made.recipe
    if json_output:
        print_json(recipe.model_dump(mode="json"))
        return
    name = escape(str(directory))
    notes.print(
        f"[green]chosen[/] {len(recipe.calibration)} of {recipe.considered} frames to calibrate with, "
        f"{len(recipe.gate)} others to judge by: {name}"
    )
    notes.print(
        f"  next: [bold]edge-ad build-engine {escape(str(bundle))} --precision auto --calibration {name}[/]",
        soft_wrap=True,
    )
