"""``edge-ad export``: checkpoint to bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from edge_ad.cli.console import notes, print_json, progress_bar
from edge_ad.errors import DataError
from edge_ad.extras import require


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished training run.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Directory of the bundle (RUN/bundle).")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Writes a bundle: ONNX graphs, manifest, threshold and golden samples.

    Each graph is run and compared with PyTorch; one that differs by more
    than 0.0001 is not kept. The bundle is all that travels to a box; torch
    stays behind.

    Example: edge-ad export runs/lid --output bundles/lid
    """
    require("torch", extra="train")
    from edge_ad.export import export_bundle

    directory = output or (run if run.is_dir() else run.parent) / "bundle"
    with progress_bar("loading") as bar:
        bundle = export_bundle(
            run,
            directory,
            metrics=_metrics(run),
            progress=lambda name: bar.update(bar.task_ids[0], description=f"exporting {name}"),
        )
    if json_output:
        print_json(bundle.manifest.model_dump(mode="json"))
        return
    worst = max(bundle.manifest.parity.values())
    name = escape(str(directory))
    notes.print(f"[green]exported[/] {len(bundle.manifest.parity)} graphs: {name}")
    notes.print(f"  largest difference from PyTorch {worst:.1e}, threshold {bundle.thresholds.modes['full'].value:.2f}")
    notes.print(f"  next: [bold]edge-ad build-engine {name}[/]", soft_wrap=True)


def _metrics(run: Path) -> dict[str, float]:
    """The metrics of the run's evaluation, to travel with the bundle; none if it was not evaluated."""
    path = (run if run.is_dir() else run.parent) / "evaluation.json"
    if not path.is_file():
        return {}
    try:
        return {str(name): float(value) for name, value in json.loads(path.read_text())["metrics"].items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is damaged", why=str(error), remedy="evaluate again, or remove it") from error
