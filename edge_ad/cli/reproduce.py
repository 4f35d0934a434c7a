"""``edge-ad reproduce``: a paper's table again, with its own protocol."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from edge_ad.cli.console import comma_separated, notes, print_json, progress_bar
from edge_ad.cli.experiment_view import print_failures, print_outcome, print_table, stoppable
from edge_ad.experiments import (
    Experiment,
    Failure,
    Outcome,
    Report,
    attempt,
    check_names,
    known_reports,
    write_results,
)
from edge_ad.extras import require
from edge_ad.reproduction import BACKBONE, Plan, Request, comparison, document, markdown, plan
from edge_ad.settings import read_toml


def command(
    data: Annotated[Path, typer.Argument(metavar="PATH", help="Directory that holds the data set's categories.")],
    dataset: Annotated[str, typer.Option(help="mvtec3d or eyecandies.")],
    model: Annotated[str, typer.Option(help="crd, mmrd or rd.")] = "crd",
    modalities: Annotated[str | None, typer.Option(help="As rgb,normals; by default those of the paper.")] = None,
    categories: Annotated[str | None, typer.Option(help="Some of them, with commas; by default all.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="By default runs/DATASET-MODEL-MODALITIES.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="The frozen teacher.")] = BACKBONE,
    weights: Annotated[Path | None, typer.Option(help="Teacher weights; by default the published ones.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="By default the paper's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each category.")] = 1,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings that go before the paper's.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Trains a paper's model on each category and puts the results beside its own.

    Settings are the paper's: WideResNet-50-2 at 256 px, 16 frames a step,
    200 epochs of MVTec 3D-AD or 100 of Eyecandies for crd, 400 for mmrd,
    200 for rd. That takes a GPU, and hours. Stopped and started again, it
    goes on; finished categories are kept, and one that fails does not stop
    the others.

    It differs from the papers in a few places: depth is scaled by a range
    learned on the training set rather than per image, the background is
    kept, normals are metric with one setting for all. OUTPUT/results.md
    lists them all, beside the table.

    Example: edge-ad reproduce mvtec_3d_anomaly_detection --dataset mvtec3d --model crd
    """
    request = Request(
        data=data,
        dataset=dataset,
        model=model,
        modalities=comma_separated(modalities),
        categories=comma_separated(categories),
        backbone=backbone,
        weights=weights,
        epochs=epochs,
        seeds=seeds,
        settings=None if config is None else read_toml(config),
    )
    planned = plan(request)
    check_names(planned.experiments)
    require("torch", extra="train")
    from edge_ad.models.weights import load_teacher

    load_teacher(backbone, weights)  # now, rather than after the first category's frames are read
    if planned.missing:
        notes.print(f"[yellow]missing[/] in {escape(str(data))}: {', '.join(planned.missing)}", soft_wrap=True)
    directory = output or Path("runs") / f"{dataset}-{request.label}"
    with stoppable(directory):
        outcomes = _run(planned, directory)
    reports, failures = _sorted(outcomes)
    if json_output:
        print_json(document(planned, reports, failures))
    else:
        print_table(comparison(planned, reports))
        if planned.paper is not None:
            notes.print(escape(f"{planned.paper.method}: {planned.paper.source} ({planned.paper.status})"))
        place = escape(str(directory / "results.md"))
        notes.print(f"  {len(request.differences)} differences from the paper are listed in {place}", soft_wrap=True)
    print_failures(failures)
    if failures:
        raise typer.Exit(1)


def _run(planned: Plan, output: Path) -> dict[str, Outcome]:
    """All experiments, one after the other; the results so far, and those of before, are on disk after each."""
    total = len(planned.failures) + len(planned.experiments)
    for done, failure in enumerate(planned.failures, 1):
        print_outcome(failure, done, total)
    outcomes = {failure.name: failure for failure in planned.failures} | known_reports(planned.experiments, output)
    for done, experiment in enumerate(planned.experiments, len(planned.failures) + 1):
        outcomes[experiment.name] = outcome = _run_one(experiment, output)
        print_outcome(outcome, done, total)
        reports, failures = _sorted(outcomes)
        text = markdown(planned, comparison(planned, reports), failures)
        write_results(output, document(planned, reports, failures), text)
    return outcomes


def _run_one(experiment: Experiment, output: Path) -> Outcome:
    with progress_bar(escape(experiment.name)) as bar:
        task = bar.task_ids[0]

        def watch(stage: str, done: int, total: int) -> None:
            if not notes.is_terminal and done % max(1, total // 10) == 0:
                notes.print(escape(f"{experiment.name}: {stage}: {done} of {total}"), soft_wrap=True)
            bar.update(task, description=escape(f"{experiment.name}: {stage}"), completed=done, total=total)

        return attempt(experiment, output, watch=watch)


def _sorted(outcomes: Mapping[str, Outcome]) -> tuple[list[Report], list[Failure]]:
    reports = [outcome for outcome in outcomes.values() if isinstance(outcome, Report)]
    return reports, [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
