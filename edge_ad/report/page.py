"""Puts the report together: figures, charts and pictures into the page's template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import jinja2
import numpy as np
from markupsafe import Markup

import edge_ad
from edge_ad.evaluation import MAIN_METRICS, METRIC_TITLES, Evaluation
from edge_ad.intervals import LEVEL, RESAMPLES, Interval, share_interval
from edge_ad.metrics import roc_curve
from edge_ad.report.charts import histogram, pro_chart, roc_chart, whisker
from edge_ad.report.pictures import MODALITIES, Card, Scales, card, scale_bar

METRIC_MEANINGS = {
    "image_auroc": "chance that a defective part scores above a good one",
    "pixel_auroc": "chance that a defective pixel scores above another",
    "aupro_30": "overlap with defects, up to 30 % false positives",
    "aupro_1": "the same, up to 1 %",
    "average_precision": "mean precision over all recalls",
    "f1_max": "best F1 over all thresholds",
    "aupro_30_100": "as papers compute it, at 256×256; to compare only",
    "aupro_1_100": "as papers compute it, at 256×256; to compare only",
}
"""Plain words for each metric."""

CLOSEST_CALLS = 2
"""How many parts are shown where none was judged wrongly."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Parts of one class: those judged wrongly or, as ``remark`` then says, the closest calls."""

    title: str
    remark: str
    cards: Sequence[Card]


def report_html(evaluation: Evaluation, *, category: str, description: str, when: datetime) -> str:
    """The report as one page of HTML that loads nothing.

    Args:
        evaluation: what to report.
        category: the product.
        description: the model, in one line.
        when: the time of the evaluation, with its time zone.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edge_ad.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["interval"] = _interval
    environment.globals.update(whisker=whisker, share_interval=share_interval)
    maps = [("whole model", evaluation.metrics, evaluation.intervals.metrics)]
    for name, metrics in evaluation.modalities.items():
        maps.append((f"{MODALITIES.get(name, name)} alone", metrics, evaluation.intervals.modalities[name]))
    return environment.get_template("page.html.j2").render(
        category=category,
        description=description,
        when=when.astimezone(timezone.utc),
        version=edge_ad.__version__,
        evaluation=evaluation,
        headlines=[name for name in MAIN_METRICS if name in evaluation.metrics],
        names={
            name: (title, METRIC_MEANINGS[name]) for name, title in METRIC_TITLES.items() if name in evaluation.metrics
        },
        maps=maps,
        charts=_charts(evaluation),
        other_thresholds=_other_thresholds(evaluation),
        galleries=_galleries(evaluation),
        scale_bar=scale_bar(),
        level=LEVEL,
        resamples=RESAMPLES,
    )


def _charts(evaluation: Evaluation) -> list[tuple[str, Markup, str]]:
    """Title, picture and caption of each chart."""
    scores = np.array([row["score"] for row in evaluation.scores])
    labels = np.array([row["defect"] != "good" for row in evaluation.scores])
    confusion = evaluation.confusion
    threshold_at = (
        confusion["good_rejected"] / confusion["good"],
        confusion["defective_rejected"] / confusion["defective"],
    )
    rates, hits = roc_curve(labels, scores)
    charts = [
        ("Scores", histogram(scores[~labels], scores[labels], evaluation.threshold), "Each bar counts parts."),
        ("ROC, parts", roc_chart(rates.tolist(), hits.tolist(), threshold_at), "The circle marks the threshold."),
    ]
    if evaluation.pro_curve is not None:
        caption = "Each defective region counts the same, small or large."
        charts.append(("PRO, regions", pro_chart(evaluation.pro_curve), caption))
    return charts


def _other_thresholds(evaluation: Evaluation) -> list[tuple[str, float, int, int]]:
    """In words, the threshold, defective parts found and good ones rejected, as hindsight would choose it."""
    scores = np.array([row["score"] for row in evaluation.scores])
    labels = np.array([row["defect"] != "good" for row in evaluation.scores])
    lowest_defective = scores[labels].min()
    below = scores[scores < lowest_defective]
    thresholds = (
        ("Accept every good part", float(scores[~labels].max())),
        ("Best F1", evaluation.f1_max_threshold),
        ("Find every defect", float(below.max() if below.size else np.nextafter(lowest_defective, -np.inf))),
    )
    return [
        (words, value, int((scores[labels] > value).sum()), int((scores[~labels] > value).sum()))
        for words, value in thresholds
    ]


def _galleries(evaluation: Evaluation) -> list[Gallery]:
    """What was missed, then what was rejected wrongly; the closest calls where there is nothing of it."""
    scales = Scales.of(evaluation)
    galleries = []
    for title, nothing, examples in (
        ("Worst misses", "Every defective part was found", evaluation.lowest_defective),
        ("Worst false rejects", "No good part was rejected", evaluation.highest_good),
    ):
        cards = [card(example, evaluation.threshold, scales) for example in examples]
        mistakes = [item for item in cards if item.wrong]
        remark = "" if mistakes else f"{nothing}. These came closest to the threshold."
        galleries.append(Gallery(title, remark, mistakes or cards[:CLOSEST_CALLS]))
    return galleries


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _interval(ends: Interval) -> str:
    return f"{_percent(ends[0])}–{_percent(ends[1])}"
