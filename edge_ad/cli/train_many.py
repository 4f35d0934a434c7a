"""``edge-ad train-many``: many categories and settings, several at a time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field
from rich.markup import escape

from edge_ad.cli.console import comma_separated, notes, print_json
from edge_ad.cli.experiment_view import print_failures, print_outcome, print_retry, print_table, stoppable
from edge_ad.cli.train import train_config
from edge_ad.cluster import Resources, run_on_ray
from edge_ad.config import TrainConfig
from edge_ad.data.dataset import subfolders
from edge_ad.data.layouts import layout_of
from edge_ad.errors import ConfigError, DataError
from edge_ad.evaluation import MAIN_METRICS, METRIC_TITLES
from edge_ad.experiments import (
    Experiment,
    Failure,
    Outcome,
    Report,
    ResultTable,
    check_names,
    known_reports,
    summaries,
    write_results,
)
from edge_ad.settings import Settings, read_toml, validated


class ExperimentTable(Settings):
    """One ``[[experiment]]`` of a TOML file; paths are relative to the file.

    Attributes:
        data: a category's directory, or one that holds several.
        name: what its results are called; by default the model and its modalities.
        categories: some of those in ``data``; empty for all.
        seeds: runs of each category; the first has the settings' seed.
        weights: file of the teacher's weights.
        settings: as in the TOML file of ``edge-ad train --config``.
    """

    data: Path
    name: str | None = None
    categories: tuple[str, ...] = ()
    seeds: int = Field(default=1, ge=1)
    weights: Path | None = None
    settings: dict[str, Any] = {}


class ExperimentsFile(Settings):
    """The content of a TOML file of experiments."""

    experiment: tuple[ExperimentTable, ...] = Field(min_length=1)


def command(
    sources: Annotated[
        list[Path], typer.Argument(metavar="FILE.toml|DATA...", help="A file of experiments, or data sets.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of all runs.")] = Path("runs/many"),
    categories: Annotated[str | None, typer.Option(help="Folders of DATA, with commas; by default all.")] = None,
    models: Annotated[str | None, typer.Option(help="As crd,rd or crd:rgb+normals,rd:depth; by default crd.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each; by default 1.")] = None,
    backbone: Annotated[str | None, typer.Option(help="The frozen teacher.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Teacher weights; by default the published ones.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings, as of 'edge-ad train'.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, HOST:PORT or auto; by default this box.")
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of a job; by default they are shared out.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs of a job, 0.5 for half of one; by default 1 if there is.")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a failed job is tried again.")] = 1,
    json_output: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Trains and evaluates many categories with many settings, several at a time.

    Jobs run on Ray: on this box, or on a cluster whose nodes all see DATA and
    OUTPUT at the same paths. Each has a directory in OUTPUT with checkpoint
    and report; results.md and results.json have all that this command names.
    Stopped and started again, it goes on: finished jobs are kept. The exit
    code is 1 if a job failed in the end; the others' results are there all
    the same.

    Instead of DATA, a TOML file can list the experiments: tables called
    experiment with data, and if you like name, categories, seeds, weights
    and settings (those of 'edge-ad train --config').

    Example: edge-ad train-many captures --models crd,rd --seeds 3 --output runs/many
    """
    if len(sources) == 1 and sources[0].suffix == ".toml":
        said = {"categories": categories, "models": models, "seeds": seeds, "backbone": backbone}
        _refuse_with_file(sources[0], {**said, "weights": weights, "steps": steps, "config": config})
        experiments = experiments_from_file(sources[0])
    else:
        options = {"backbone": backbone, "steps": steps}
        configs = configs_from_models(models or "crd", config, options)
        experiments = []
        for data in sources:
            for label, settings in configs:
                names = comma_separated(categories)
                table = ExperimentTable(data=data, categories=names, seeds=seeds or 1, weights=weights)
                experiments += _expanded(table, label, settings)
    check_names(experiments)
    notes.print(f"{len(experiments)} experiments into {escape(str(output))}", soft_wrap=True)
    resources = Resources(cpus, gpus)
    outcomes = known_reports(experiments, output)
    runs = run_on_ray(
        experiments, output.absolute(), address=address, resources=resources, retries=retries, retrying=print_retry
    )
    with stoppable(output), closing(runs):
        for done, outcome in enumerate(runs, 1):
            outcomes[outcome.name] = outcome
            print_outcome(outcome, done, len(experiments))
            write_results(output, _document(experiments, outcomes), _table(experiments, outcomes).markdown())
    failures = _failures(outcomes)
    if json_output:
        print_json(_document(experiments, outcomes))
    else:
        print_table(_table(experiments, outcomes))
    print_failures(failures)
    if failures:
        raise typer.Exit(1)


def _refuse_with_file(path: Path, options: dict[str, Any]) -> None:
    """What a file of experiments says must not be said by options too."""
    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                f"--{name} does not go with {path}", why="the file says it", remedy=f"write it into {path}"
            )


def configs_from_models(models: str, path: Path | None, options: dict[str, Any]) -> list[tuple[str, TrainConfig]]:
    """``crd:rgb+normals,rd`` as settings with their labels.

    Raises:
        ConfigError: a setting is not possible.
    """
    configs = []
    for text in comma_separated(models):
        model, _, modalities = text.partition(":")
        config = train_config(path, {**options, "model": model}, modalities.replace("+", ",") or None)
        configs.append((_label(config), config))
    return configs


def experiments_from_file(path: Path) -> list[Experiment]:
    """The experiments that a TOML file names.

    Raises:
        ConfigError: it is no such file, or a setting is not possible.
        DataError: a data set is not there.
    """
    experiments = []
    for number, table in enumerate(validated(ExperimentsFile, read_toml(path), str(path)).experiment, 1):
        place = path.absolute().parent
        weights = None if table.weights is None else place / table.weights
        table = table.model_copy(update={"data": place / table.data, "weights": weights})
        config = validated(TrainConfig, table.settings, f"experiment {number} of {path}")
        experiments += _expanded(table, table.name or _label(config), config)
    return experiments


def _expanded(table: ExperimentTable, label: str, config: TrainConfig) -> list[Experiment]:
    """One experiment for each category and seed."""
    return [
        _experiment(category.absolute(), label, config.model_copy(update={"seed": seed}), table.weights)
        for category in _category_directories(table.data, table.categories)
        for seed in range(config.seed, config.seed + table.seeds)
    ]


def _experiment(category: Path, label: str, config: TrainConfig, weights: Path | None) -> Experiment:
    name = f"{category.name}-{label}-seed{config.seed}"
    values = {
        "name": name,
        "data": category,
        "label": label,
        "config": config,
        "weights": None if weights is None else weights.absolute(),
    }
    return validated(Experiment, values, f"experiment {name}", remedy="rename the category's folder or the experiment")


def _category_directories(data: Path, names: tuple[str, ...]) -> list[Path]:
    """The directories of the named categories, of all in ``data``, or ``data`` where it is a category itself."""
    if names:
        for name in names:
            if not (data / name).is_dir():
                raise DataError(f"{data} has no category {name}", remedy="check --categories and the path")
        return [data / name for name in names]
    if not data.is_dir() or layout_of(data) is not None:
        return [data]  # a data set that is not there is the experiment's failure
    found = [folder for folder in subfolders(data) if layout_of(folder) is not None]
    if not found:
        raise DataError(
            f"{data} holds no category",
            why="neither it nor a folder in it has a layout known here",
            remedy="check the path, or record one with 'edge-ad capture'",
        )
    return found


def _label(config: TrainConfig) -> str:
    return f"{config.model}-{'+'.join(config.preprocess.modalities)}"


def _reports(experiments: list[Experiment], outcomes: Mapping[str, Outcome]) -> list[Report]:
    """The reports in the experiments' order; on Ray they come as they finish."""
    found = (outcomes.get(experiment.name) for experiment in experiments)
    return [outcome for outcome in found if isinstance(outcome, Report)]


def _failures(outcomes: Mapping[str, Outcome]) -> list[Failure]:
    return [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]


def _table(experiments: list[Experiment], outcomes: Mapping[str, Outcome]) -> ResultTable:
    rows = [
        (summary.category, summary.label, str(summary.seeds), *map(summary.text, MAIN_METRICS))
        for summary in summaries(_reports(experiments, outcomes))
    ]
    headings = ("category", "model", "seeds", *(METRIC_TITLES[name] for name in MAIN_METRICS))
    return ResultTable(f"{len(rows)} results of {len(experiments)} experiments", headings, tuple(rows))


def _document(experiments: list[Experiment], outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """All results, JSON-able; metrics in [0, 1]."""
    return {
        "experiments": [
            {
                "name": report.name,
                "category": report.category,
                "label": report.experiment.label,
                "seed": report.experiment.config.seed,
                "metrics": report.metrics,
            }
            for report in _reports(experiments, outcomes)
        ],
        "failures": [failure.model_dump() for failure in _failures(outcomes)],
    }
