"""Many runs: each experiment is trained, judged and reported on its own; one that fails does not stop the rest.

    OUTPUT/NAME/checkpoint.safetensors   see ``edge_ad.training``
               /report.json              settings and results; its being there means that the experiment is finished
    OUTPUT/results.json, results.md      of all

Started again, a finished experiment is taken from its report, and a stopped one goes on from its checkpoint. A
report counts only while edge-ad's version, the settings, the file of the teacher's weights and the data set's files
(their names and sizes) are those it was made with.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

import edge_ad
from edge_ad.config import MACHINE_SETTINGS, TrainConfig
from edge_ad.data import Dataset, open_dataset
from edge_ad.errors import ConfigError, EdgeAdError
from edge_ad.evaluation import evaluate
from edge_ad.extras import require
from edge_ad.files import write_bytes
from edge_ad.predictor import open_predictor
from edge_ad.settings import Settings

REPORT = "report.json"
SCHEMA_VERSION = 1
FOLDER_NAME = re.compile(r"\w[\w+-]*")

Watch = Callable[[str, int, int], None]
"""Told where an experiment is: the stage, what is done of it, and all of it."""


class Experiment(Settings):
    """One category with one setting.

    Attributes:
        name: of its directory, of letters, digits, +, - and _; no two experiments of one output share it.
        data: the category's directory.
        label: what the experiments of several seeds have in common.
        config: the settings of its training.
        weights: file of the teacher's weights; None for the published ones.
    """

    name: str
    data: Path
    label: str
    config: TrainConfig
    weights: Path | None = None

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not FOLDER_NAME.fullmatch(value):
            raise ValueError("it names a folder: use letters, digits, +, - and _")
        return value


class Origin(Settings):
    """What a report was made with, beside the settings; with another one it may come out differently.

    Attributes:
        version: of edge-ad.
        files_sha256: of the names and sizes of the data set's files.
        weights_sha256: of the file of the teacher's weights; empty for the published ones, which don't change.
    """

    version: str
    files_sha256: str
    weights_sha256: str

    @classmethod
    def of(cls, experiment: Experiment, dataset: Dataset) -> Origin:
        """What a report of this experiment would be made with now."""
        weights = ""
        if (path := experiment.weights) is not None:
            content = path.read_bytes() if path.is_file() else b""  # the training will say that it is missing
            weights = hashlib.sha256(content).hexdigest()
        return cls(version=edge_ad.__version__, files_sha256=files_digest(dataset), weights_sha256=weights)


class Report(Settings):
    """What came of an experiment.

    Attributes:
        schema_version: of this record.
        experiment: what was done.
        category: the product.
        origin: what it was done with.
        evaluation: see ``edge_ad.evaluation.Evaluation.report``.
    """

    schema_version: int = Field(default=SCHEMA_VERSION, ge=SCHEMA_VERSION, le=SCHEMA_VERSION)
    experiment: Experiment
    category: str
    origin: Origin
    evaluation: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.experiment.name

    @property
    def metrics(self) -> dict[str, float]:
        """By name, each in [0, 1]."""
        return {str(name): float(value) for name, value in self.evaluation["metrics"].items()}


class Failure(Settings):
    """An experiment that came to nothing: what happened, why, and what to do."""

    name: str
    what: str
    why: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, name: str, error: Exception) -> Failure:
        """An error as a failure; one that no user can have caused tells the line it came from."""
        if isinstance(error, EdgeAdError):
            return cls(name=name, what=error.what, why=error.why, remedy=error.remedy)
        lines = [f"{Path(x.filename).name}:{x.lineno}" for x in traceback.extract_tb(error.__traceback__)]
        return cls(
            name=name,
            what=f"{name} broke down with {type(error).__name__}",
            why=f"{error} ({' → '.join(lines[-3:])})",
            remedy="if memory ran out, lower the batch size; otherwise please report it with this text",
        )


Outcome = Report | Failure


def attempt(
    experiment: Experiment, output: Path, *, threads: int | None = None, watch: Watch = lambda stage, done, total: None
) -> Outcome:
    """``run_experiment``, with its error as a result, so that the other experiments go on."""
    try:
        return run_experiment(experiment, output, threads=threads, watch=watch)
    except Exception as error:
        return Failure.of(experiment.name, error)


def run_experiment(
    experiment: Experiment, output: Path, *, threads: int | None = None, watch: Watch = lambda stage, done, total: None
) -> Report:
    """Trains and judges, or takes the report of a run that did.

    Args:
        experiment: what to do.
        output: directory of all experiments.
        threads: CPU threads for torch, for this process from now on; None leaves them.
        watch: told where it is.

    Raises:
        EdgeAdError: as ``open_dataset``, ``train``, ``open_predictor`` and ``evaluate``.
    """
    run_dir = output / experiment.name
    dataset = open_dataset(experiment.data)
    origin = Origin.of(experiment, dataset)
    report = known_report(experiment, output)
    if report is not None and report.origin == origin:
        return report
    frames = dataset.frames("test")  # before the training, which would be in vain without them
    _train(experiment, dataset, run_dir, threads, watch)
    predictor = open_predictor(run_dir)
    try:
        evaluation = evaluate(
            predictor,
            frames,
            predictor.threshold,
            lambda done, total: watch("judging test frames", done, total),
            roi=predictor.spec.roi,
            secondary=True,
        )
    finally:
        predictor.close()
    report = Report(experiment=experiment, category=dataset.category, origin=origin, evaluation=evaluation.report())
    write_bytes(run_dir / REPORT, report.model_dump_json(indent=1).encode())
    return report


def _train(experiment: Experiment, dataset: Dataset, run_dir: Path, threads: int | None, watch: Watch) -> None:
    torch = require("torch", extra="train")
    from edge_ad.training import train

    if threads is not None:
        torch.set_num_threads(threads)
    train(
        dataset,
        experiment.config,
        run_dir,
        weights_path=experiment.weights,
        resume=True,
        progress=lambda progress: watch(progress.stage, progress.step, progress.steps),
    )


def read_report(run_dir: Path) -> Report | None:
    """The report of a finished experiment; None where there is none that this version can read."""
    try:
        return Report.model_validate_json((run_dir / REPORT).read_bytes())
    except (OSError, ValidationError):
        return None


def known_report(experiment: Experiment, output: Path) -> Report | None:
    """The report that an experiment with these settings has left, though its data may have changed since."""
    report = read_report(output / experiment.name)
    if report is None or _deciding(report.experiment.config) != _deciding(experiment.config):
        return None
    return report.model_copy(update={"experiment": experiment})


def known_reports(experiments: Sequence[Experiment], output: Path) -> dict[str, Outcome]:
    """By experiment's name, what ``known_report`` finds: where all results start from, so that none gets lost."""
    found = (known_report(experiment, output) for experiment in experiments)
    return {report.name: report for report in found if report is not None}


def files_digest(dataset: Dataset) -> str:
    """sha256 (hex) over the names and sizes of a data set's files: cheap, and enough to notice new captures."""
    files = (path for entry in dataset.entries for _, path in sorted(entry.files.items()))
    lines = (f"{path.relative_to(dataset.root).as_posix()} {path.stat().st_size}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide the result."""
    return config.model_dump(exclude=set(MACHINE_SETTINGS))


def check_names(experiments: Sequence[Experiment]) -> None:
    """Makes sure that no two experiments would share a directory.

    Raises:
        ConfigError: two have the same name.
    """
    seen: dict[str, Experiment] = {}
    for experiment in experiments:
        other = seen.setdefault(experiment.name, experiment)
        if other is not experiment:
            raise ConfigError(
                f"two experiments are called {experiment.name}",
                why=f"their data are {other.data} and {experiment.data}",
                remedy="give each experiment of the TOML file a name of its own, or run them into two outputs",
            )


@dataclass(frozen=True, slots=True)
class Summary:
    """Experiments that differ in their seed only; ``metrics`` are (mean, standard deviation) in %."""

    category: str
    label: str
    seeds: int
    metrics: dict[str, tuple[float, float]]

    def text(self, metric: str) -> str:
        """The value for a table."""
        if metric not in self.metrics:
            return "–"
        mean, spread = self.metrics[metric]
        return f"{mean:.1f} ± {spread:.1f}" if self.seeds > 1 else f"{mean:.1f}"


def summaries(reports: Sequence[Report]) -> list[Summary]:
    """Mean and spread over the seeds of each category and label, in the order in which they first come."""
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    for report in reports:
        groups.setdefault((report.category, report.experiment.label), []).append(report.metrics)
    return [Summary(*key, len(group), _mean_and_spread(group)) for key, group in groups.items()]


def _mean_and_spread(group: Sequence[dict[str, float]]) -> dict[str, tuple[float, float]]:
    result = {}
    for metric in group[0]:
        values = [100 * metrics[metric] for metrics in group if metric in metrics]
        result[metric] = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    return result


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Text in rows and columns, for the terminal and for Markdown."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As a Markdown table under its title."""
        lines = [self.headings, ("---",) + ("---:",) * (len(self.headings) - 1), *self.rows]
        return "\n".join((f"# {self.title}", "", *(f"| {' | '.join(line)} |" for line in lines)))


def write_results(output: Path, document: dict[str, Any], markdown: str) -> None:
    """Writes ``results.json`` and ``results.md``.

    Raises:
        OutputError: they cannot be written.
    """
    write_bytes(output / "results.json", json.dumps(document, indent=1).encode())
    write_bytes(output / "results.md", markdown.encode())
