"""``edge-ad evaluate``: how well a model finds the defects of a test split."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from edge_ad.bundle import FULL
from edge_ad.cli.console import notes, print_json, progress_bar, results
from edge_ad.data import open_dataset
from edge_ad.errors import ConfigError
from edge_ad.evaluation import METRIC_TITLES, Evaluation, evaluate
from edge_ad.files import write_bytes
from edge_ad.intervals import Interval
from edge_ad.predictor import is_uri, open_predictor
from edge_ad.report.page import report_html
from edge_ad.visualization import write_png


def command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Run, checkpoint, bundle, model.onnx, engine, or grpc://… of a server."),
    ],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Data set with a test split.")],
    category: Annotated[str | None, typer.Option(help="Folder of DATA, where it holds several products.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where report.html, contact_sheet.png and evaluation.json go (MODEL)."),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="full, rgb_only or 3d_only; by default full, or what the engine was built for.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Judges every part of the test split and compares with the truth.

    Takes a checkpoint, an exported ONNX file or a built engine alike, so
    that all three can be compared, with all sensors or, by --mode, with one of
    them, whose results go to a folder of that name. Writes a report to open in
    a browser, a contact sheet, and all figures as JSON.

    Example: edge-ad evaluate runs/lid captures/lid
    """
    if output is None and is_uri(model):
        raise ConfigError(f"{model} is on a server, which keeps no results", remedy="add --output DIRECTORY")
    dataset = open_dataset(data, category=category)
    frames = dataset.frames("test")
    predictor = open_predictor(model, mode)
    with progress_bar("judging test frames") as bar:
        task = bar.task_ids[0]
        evaluation = evaluate(
            predictor,
            frames,
            predictor.threshold,
            lambda done, total: bar.update(task, completed=done, total=total),
            roi=predictor.spec.roi,
        )
    place = output or _place(Path(model))
    if output is None and predictor.mode != FULL:
        place = place / predictor.mode  # an export takes along what was found with all sensors
    write_bytes(place / "evaluation.json", json.dumps(evaluation.report(), indent=1).encode())
    write_png(place / "contact_sheet.png", evaluation.sheet(f"{dataset.category}   {predictor.description}"))
    page = report_html(
        evaluation,
        category=dataset.category,
        description=predictor.description,
        when=datetime.now(timezone.utc),
    )
    write_bytes(place / "report.html", page.encode())
    predictor.close()
    if json_output:
        print_json(evaluation.report())
        return
    print_evaluation(evaluation, f"{dataset.category}, {predictor.description}")
    files = escape(f"{place}/report.html, contact_sheet.png and evaluation.json")
    notes.print(f"[green]evaluated[/] {len(evaluation.scores)} parts: {files}")


def _place(model: Path) -> Path:
    """Where results go: into a run; beside an engine or a bundle, which hold only what their manifests list."""
    root = (model.parent if model.is_file() else model).resolve()
    is_run = (root / "checkpoint.safetensors").is_file()
    return root if is_run else root.with_name(f"{root.name}-evaluation")


def print_evaluation(evaluation: Evaluation, title: str) -> None:
    """Two tables, metrics by map and what was found of each kind of defect, with 95 % intervals."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("in per cent")
    maps = [("all", evaluation.metrics, evaluation.intervals.metrics)]
    maps += [(name, found, evaluation.intervals.modalities[name]) for name, found in evaluation.modalities.items()]
    for name, _, _ in maps:
        table.add_column(escape(name), justify="right")
    for metric, heading in METRIC_TITLES.items():
        if metric in evaluation.metrics:
            table.add_row(heading, *(_figure(metrics[metric], intervals[metric]) for _, metrics, intervals in maps))
    results.print(table)
    table = Table(title=f"at threshold {evaluation.threshold:.2f}", title_justify="left")
    table.add_column("part")
    table.add_column("rejected", justify="right")
    table.add_column("I-AUROC", justify="right")
    confusion = evaluation.confusion
    table.add_row("good", f"{confusion['good_rejected']} of {confusion['good']}", "")
    for kind, row in evaluation.defects.items():
        found = f"{row['found']:.0f} of {row['parts']:.0f}"
        table.add_row(escape(kind), found, _figure(row["image_auroc"], evaluation.intervals.defects[kind]))
    results.print(table)


def _figure(share: float, interval: Interval) -> str:
    """In per cent, with the interval dimmed beside it."""
    return f"{100 * share:.1f} [dim]{100 * interval[0]:.1f}–{100 * interval[1]:.1f}[/dim]"
