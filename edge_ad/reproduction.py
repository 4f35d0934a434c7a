"""The papers' protocol: which settings, which categories, and a table of our numbers beside theirs.

Settings and numbers come from ``edge_ad.published``. Where a reproduction still differs from the papers is in
``DIFFERENCES``, and written into every result.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ad.config import TrainConfig
from edge_ad.data import open_dataset
from edge_ad.errors import ConfigError, DataError
from edge_ad.evaluation import METRIC_TITLES
from edge_ad.experiments import Experiment, Failure, Report, ResultTable, Summary, summaries
from edge_ad.published import CATEGORIES, PROTOCOLS, Published, published
from edge_ad.settings import validated

DIFFERENCES = (
    "Depth is scaled with one range learned on the training frames, the papers scale each image by its own; "
    "holes are filled from a pyramid, and resizing averages inverse depth instead of taking the nearest sample.",
    "MVTec 3D-AD: the papers cut the background out of depth and normals, 5 mm above a plane fitted to each image; "
    "here all of the frame is kept, as background = 'auto' would also mask the anomaly map, which the papers don't.",
    "MVTec 3D-AD: normals are metric, from inverse depth and intrinsics fitted to the point clouds, one setting for "
    "all; TRD takes Sobel gradients of scaled depth, with a kernel chosen for each category.",
    "An epoch's last incomplete batch is left out, and the learning rate falls at every step instead of every epoch.",
    "After training, BatchNorm's running averages are replaced by exact ones over the training set.",
    "Maps are compared at the frames' own size, labels come from the folders, AUPRO is exact; TRD compares at 256² "
    "with 100 thresholds. So does the secondary column, with mask and map resized from the frames' own size.",
)
"""Where a reproduction is not what the papers did."""

SHOWN = ("image_auroc", "pixel_auroc", "aupro_30")
SECONDARY = "aupro_30_100"
IMAGE_SIZE_PX, BATCH_SIZE = 256, 16
BACKBONE = "wide_resnet50_2"


@dataclass(frozen=True, slots=True)
class Request:
    """What to reproduce.

    Attributes:
        data: directory of the data set's categories.
        dataset: ``mvtec3d`` or ``eyecandies``.
        model: a key of ``PROTOCOLS``.
        modalities: empty for the protocol's.
        categories: empty for all that are there.
        backbone: the teacher.
        weights: file of its weights; None for the published ones.
        epochs: None for the protocol's.
        seeds: runs of each category, with seeds 0, 1, …
        settings: of training, put over the protocol's.
    """

    data: Path
    dataset: str
    model: str = "crd"
    modalities: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    backbone: str = BACKBONE
    weights: Path | None = None
    epochs: int | None = None
    seeds: int = 1
    settings: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.dataset not in CATEGORIES:
            raise ConfigError(f"data set {self.dataset!r} is unknown", remedy=f"name one of {', '.join(CATEGORIES)}")
        if self.model not in PROTOCOLS:
            raise ConfigError(f"no protocol for model {self.model!r}", remedy=f"name one of {', '.join(PROTOCOLS)}")
        for category in self.categories:
            if category not in CATEGORIES[self.dataset]:
                raise ConfigError(
                    f"{self.dataset} has no category {category!r}",
                    remedy=f"name some of {', '.join(CATEGORIES[self.dataset])}",
                )

    @property
    def chosen_modalities(self) -> tuple[str, ...]:
        """What the model looks at."""
        return self.modalities or PROTOCOLS[self.model].modalities[self.dataset]

    @property
    def differences(self) -> tuple[str, ...]:
        """Where this is not what the paper did: what was asked for first, then what always differs."""
        asked = []
        if self.backbone != BACKBONE:
            asked.append(f"Asked for: teacher {self.backbone} instead of {BACKBONE}.")
        epochs = PROTOCOLS[self.model].epochs[self.dataset]
        if self.epochs not in (None, epochs):
            asked.append(f"Asked for: {self.epochs} epochs instead of {epochs}.")
        if self.settings:
            asked.append(f"Asked for: settings {json.dumps(self.settings)}.")
        return (*asked, *DIFFERENCES)

    @property
    def label(self) -> str:
        """E.g. ``crd-rgb+normals``."""
        return f"{self.model}-{'+'.join(self.chosen_modalities)}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The experiments of a request.

    Attributes:
        request: what was asked for.
        categories: those that are there, in the papers' order.
        missing: those of the data set that are not.
        experiments: one for each category and seed.
        failures: categories that cannot be opened.
        paper: the paper's numbers, if any were found.
    """

    request: Request
    categories: tuple[str, ...]
    missing: tuple[str, ...]
    experiments: tuple[Experiment, ...]
    failures: tuple[Failure, ...]
    paper: Published | None


def plan(request: Request) -> Plan:
    """Finds the categories and settles each one's settings.

    Raises:
        ConfigError: a setting is not possible.
        DataError: the directory holds none of the categories, or not one that was named.
    """
    wanted = [
        name for name in CATEGORIES[request.dataset] if name in (request.categories or CATEGORIES[request.dataset])
    ]
    there = [name for name in wanted if (request.data / name).is_dir()]
    missing = [name for name in wanted if name not in there]
    if not there or (request.categories and missing):
        raise DataError(
            f"{request.data} lacks {', '.join(missing)}",
            why=f"each category of {request.dataset} is a folder in it",
            remedy="give the directory that holds these folders",
        )
    experiments: list[Experiment] = []
    failures = []
    for category in there:
        try:
            entries = open_dataset(request.data, layout=request.dataset, category=category).entries
        except DataError as error:
            failures.append(Failure.of(category, error))
            continue
        frames = sum(entry.split == "train" and entry.defect == "good" for entry in entries)
        experiments += [_experiment(request, category, frames, seed) for seed in range(request.seeds)]
    paper = published(request.dataset, request.model, request.chosen_modalities)
    return Plan(request, tuple(there), tuple(missing), tuple(experiments), tuple(failures), paper)


def _experiment(request: Request, category: str, frames: int, seed: int) -> Experiment:
    return Experiment(
        name=f"{category}-{request.label}-seed{seed}",
        data=(request.data / category).absolute(),
        label=request.label,
        config=_settings(request, frames, seed),
        weights=None if request.weights is None else request.weights.absolute(),
    )


def _settings(request: Request, frames: int, seed: int) -> TrainConfig:
    """The paper's settings for a category with so many training frames."""
    protocol = PROTOCOLS[request.model]
    epochs = protocol.epochs[request.dataset] if request.epochs is None else request.epochs
    settings = {
        "model": request.model,
        "backbone": request.backbone,
        "preprocess": {
            "modalities": request.chosen_modalities,
            "image_size_px": IMAGE_SIZE_PX,
            "normals_source": "frame" if request.dataset == "eyecandies" else "depth",
            "background": "keep",
        },
        "head": {"standardize": "modality", "energy_floor": 0.0, "sigma_px": 4.0},
        "batch_size": BATCH_SIZE,
        "learning_rate": protocol.learning_rate,
        "final_learning_rate": protocol.decay**epochs,
        "betas": (0.5, 0.999),
        "seed": seed,
        **protocol.settings,
    }
    settings = _merged(settings, request.settings or {})
    batch = min(_config(request, {"steps": 1, **settings}).batch_size, max(frames, 1))
    return _config(request, {"steps": epochs * max(1, frames // batch), **settings})


def _config(request: Request, settings: dict[str, Any]) -> TrainConfig:
    return validated(TrainConfig, settings, f"the settings for {request.label}")


def _merged(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` with those of ``over`` in their place, table by table."""
    result = dict(settings)
    for name, value in over.items():
        old = result.get(name)
        result[name] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def comparison(plan: Plan, reports: Sequence[Report]) -> ResultTable:
    """Our numbers beside the paper's, one row for each category and a last one with the means."""
    found = {summary.category: summary for summary in summaries(reports)}
    theirs = "paper" if plan.paper is None else plan.paper.method
    headings = [text for metric in SHOWN for text in (METRIC_TITLES[metric], theirs)]
    rows = []
    for category in plan.categories:
        paper = [None if plan.paper is None else plan.paper.value(category, metric) for metric in SHOWN]
        rows.append((category, *_cells(found.get(category), paper)))
    means = mean_over_categories(plan, list(found.values()))
    rows.append((f"mean of {len(found)}", *_cells(means, [_paper_mean(plan, found, metric) for metric in SHOWN])))
    request = plan.request
    return ResultTable(
        f"{request.dataset}, {request.label}, {request.backbone}",
        ("category", *headings, f"secondary: {METRIC_TITLES[SECONDARY]}"),
        tuple(rows),
    )


def _cells(ours: Summary | None, paper: Sequence[float | None]) -> list[str]:
    """One row: each metric of ours and the paper's, then the secondary one."""
    cells = []
    for metric, value in zip(SHOWN, paper, strict=True):
        cells += ["–" if ours is None else ours.text(metric), "–" if value is None else f"{value:.1f}"]
    return [*cells, "–" if ours is None else ours.text(SECONDARY)]


def mean_over_categories(plan: Plan, found: Sequence[Summary]) -> Summary | None:
    """The unweighted mean of the finished categories' means; None where there is none."""
    if not found:
        return None
    metrics = {
        metric: (statistics.mean(summary.metrics[metric][0] for summary in found), 0.0)
        for metric in found[0].metrics
        if all(metric in summary.metrics for summary in found)
    }
    return Summary("mean", plan.request.label, 1, metrics)


def _paper_mean(plan: Plan, found: Mapping[str, Summary], metric: str) -> float | None:
    """The printed mean, or where not all categories are finished, the mean over those that are."""
    if plan.paper is None:
        return None
    if len(found) == len(CATEGORIES[plan.request.dataset]):
        return plan.paper.means.get(metric)
    values = [plan.paper.value(category, metric) for category in found]
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def markdown(plan: Plan, table: ResultTable, failures: Sequence[Failure]) -> str:
    """The table with its sources, what is missing, and where the protocol differs."""
    lines = [table.markdown()]
    if plan.paper is not None:
        lines.append(f"{plan.paper.method}: {plan.paper.source} ({plan.paper.status}).")
    if plan.missing:
        lines.append(f"Not in the data set's directory: {', '.join(plan.missing)}.")
    lines += [f"Failed: {failure.name}: {failure.what}." for failure in failures]
    lines.append("Where this differs from the papers:\n\n" + "\n".join(f"- {x}" for x in plan.request.differences))
    return "\n\n".join(lines) + "\n"


def document(plan: Plan, reports: Sequence[Report], failures: Sequence[Failure]) -> dict[str, Any]:
    """All of a reproduction, JSON-able; values in %."""
    found = summaries(reports)
    mean = mean_over_categories(plan, found)
    paper = plan.paper
    return {
        "dataset": plan.request.dataset,
        "label": plan.request.label,
        "backbone": plan.request.backbone,
        "categories": {
            summary.category: {
                "seeds": summary.seeds,
                "metrics": {name: {"mean": x, "spread": spread} for name, (x, spread) in summary.metrics.items()},
                "paper": {} if paper is None else {m: paper.value(summary.category, m) for m in paper.by_category},
            }
            for summary in found
        },
        "mean": {} if mean is None else {name: x for name, (x, _) in mean.metrics.items()},
        "paper": {}
        if paper is None
        else {"method": paper.method, "means": paper.means, "source": paper.source} | {"status": paper.status},
        "secondary_metrics": [SECONDARY],
        "missing": list(plan.missing),
        "failures": [failure.model_dump() for failure in failures],
        "differences": list(plan.request.differences),
    }
