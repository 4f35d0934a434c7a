"""``edge-ad evaluate``: how well a model finds the defects of a test split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from edge_ad.cli.console import notes, print_json, progress_bar, results
from edge_ad.data import open_dataset
from edge_ad.evaluation import Evaluation, evaluate
from edge_ad.files import write_bytes
from edge_ad.predictor import open_predictor
from edge_ad.visualization import write_png

METRIC_TITLES = {
    "image_auroc": "I-AUROC",
    "pixel_auroc": "P-AUROC",
    "aupro_30": "AUPRO@30%",
    "aupro_1": "AUPRO@1%",
    "average_precision": "AP",
    "f1_max": "F1-max",
}


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Run, checkpoint, bundle, model.onnx or engine.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Data set with a test split.")],
    category: Annotated[str | None, typer.Option(help="Folder of DATA, where it holds several products.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where evaluation.json and contact_sheet.png go. [MODEL]")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Judges every part of the test split and compares with the truth.

    Takes a checkpoint, an exported ONNX file or a built engine alike, so
    that all three can be compared.

    Example: edge-ad evaluate runs/lid captures/lid
    """
    dataset = open_dataset(data, category=category)
    frames = dataset.frames("test")
    predictor = open_predictor(model)
    with progress_bar("judging test frames") as bar:
        task = bar.task_ids[0]
        evaluation = evaluate(
            predictor,
            frames,
            predictor.threshold,
            lambda done, total: bar.update(task, completed=done, total=total),
            roi=predictor.spec.roi,
        )
    # An engine's and a bundle's directory hold only what their manifests list, so results go beside them.
    root = (model.parent if model.is_file() else model).resolve()
    is_run = (root / "checkpoint.safetensors").is_file()
    place = output or (root if is_run else root.with_name(f"{root.name}-evaluation"))
    write_bytes(place / "evaluation.json", json.dumps(evaluation.report(), indent=1).encode())
    write_png(place / "contact_sheet.png", evaluation.sheet(f"{dataset.category}   {predictor.description}"))
    predictor.close()
    if json_output:
        print_json(evaluation.report())
        return
    print_evaluation(evaluation, f"{dataset.category}, {predictor.description}")
    files = escape(f"{place}/contact_sheet.png and evaluation.json")
    notes.print(f"[green]evaluated[/] {len(evaluation.scores)} parts: {files}")


def print_evaluation(evaluation: Evaluation, title: str) -> None:
    """Two tables: metrics by map, and what was found of each kind of defect."""
    table = Table(title=title, title_justify="left")
    table.add_column("map")
    for heading in METRIC_TITLES.values():
        table.add_column(heading, justify="right")
    for name, metrics in [("all", evaluation.metrics), *evaluation.modalities.items()]:
        table.add_row(name, *(f"{100 * metrics[key]:.1f}" if key in metrics else "–" for key in METRIC_TITLES))
    results.print(table)
    table = Table(title=f"at threshold {evaluation.threshold:.2f}", title_justify="left")
    table.add_column("part")
    table.add_column("rejected", justify="right")
    table.add_column("I-AUROC", justify="right")
    confusion = evaluation.confusion
    table.add_row("good", f"{confusion['good_rejected']} of {confusion['good']}", "")
    for kind, figures in evaluation.defects.items():
        found = f"{figures['found']:.0f} of {figures['parts']:.0f}"
        table.add_row(kind, found, f"{100 * figures['image_auroc']:.1f}")
    results.print(table)
