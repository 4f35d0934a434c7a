"""How well a model tells bad parts from good ones: metrics and how sure they are, defects, pictures.

Protocol: labels come from the folder, maps are compared at the frames' original size, the image score
is the largest value of the network's map, and AUPRO is exact (every distinct value is a threshold).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_ad.errors import DataError
from edge_ad.intervals import LEVEL, RESAMPLES, Interval, image_intervals, pixel_intervals
from edge_ad.judged import Example, Judged, examples, sheet_rows
from edge_ad.metric_inputs import Float64Array
from edge_ad.metrics import (
    aupro_100_thresholds,
    average_precision,
    f1_max,
    image_auroc,
    partial_area,
    pixel_auroc,
    pro_curve,
)
from edge_ad.types import AnomalyResult, AnyArray, BoolArray, Float32Array, Frame, LabelledFrame, Roi, UInt8Array
from edge_ad.visualization import SheetRow, contact_sheet

Predict = Callable[[Frame], AnomalyResult]
METRIC_TITLES = {
    "image_auroc": "I-AUROC",
    "pixel_auroc": "P-AUROC",
    "aupro_30": "AUPRO@30%",
    "aupro_1": "AUPRO@1%",
    "average_precision": "AP",
    "f1_max": "F1-max",
    "aupro_30_100": "AUPRO@30%, 100 thresholds",
    "aupro_1_100": "AUPRO@1%, 100 thresholds",
}
"""What people call the metrics, in the order of tables."""

MAIN_METRICS = ("image_auroc", "pixel_auroc", "aupro_30", "aupro_1")
"""Those to compare models by."""

CURVE_LIMIT = 0.3
"""How far `Evaluation.pro_curve` goes."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """95 % bootstrap intervals (see `edge_ad.intervals`) of the figures of the same names in `Evaluation`."""

    metrics: dict[str, Interval]
    modalities: dict[str, dict[str, Interval]]
    defects: dict[str, Interval]

    def report(self) -> dict[str, Any]:
        """JSON-able: each interval a list of its ends."""
        return {
            "level": LEVEL,
            "resamples": RESAMPLES,
            "metrics": _lists(self.metrics),
            "modalities": {name: _lists(intervals) for name, intervals in self.modalities.items()},
            "defects": _lists(self.defects),
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results over a test split.

    Attributes:
        metrics: by name, each in [0, 1].
        modalities: the same metrics by modality, from each modality's map alone.
        f1_max_threshold: the score above which parts must be rejected for ``f1_max``.
        modality_thresholds: the same by modality, of the largest value of its map.
        defects: per kind of defect: its image AUROC against the good parts, and how many were found.
        threshold: with which parts were judged.
        confusion: good and defective parts, each rejected and all.
        scores: per frame its path, defect and score.
        intervals: how sure the metrics are.
        pro_curve: float64 (K, 2), false positive rate up to 0.3 and overlap, thinned to be drawn; None
            where there are no pixel metrics.
        lowest_defective: the defective parts that look best to the model, lowest score first.
        highest_good: the good parts that look worst to it, highest score first.
        sheet_rows: a few parts to look at.
        geometry_titles: names of their pictures beside colour and map.
    """

    metrics: dict[str, float]
    modalities: dict[str, dict[str, float]]
    f1_max_threshold: float
    modality_thresholds: dict[str, float]
    defects: dict[str, dict[str, float]]
    threshold: float
    confusion: dict[str, int]
    scores: tuple[dict[str, Any], ...]
    intervals: Intervals
    pro_curve: Float64Array | None
    lowest_defective: tuple[Example, ...]
    highest_good: tuple[Example, ...]
    sheet_rows: tuple[SheetRow, ...]
    geometry_titles: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """Everything but the pictures, JSON-able."""
        return {
            "metrics": self.metrics,
            "modalities": self.modalities,
            "f1_max_threshold": self.f1_max_threshold,
            "modality_thresholds": self.modality_thresholds,
            "defects": self.defects,
            "intervals": self.intervals.report(),
            "threshold": self.threshold,
            "confusion": self.confusion,
            "scores": list(self.scores),
        }

    def sheet(self, title: str) -> UInt8Array:
        """The contact sheet, RGB."""
        return contact_sheet(
            self.sheet_rows, title=title, threshold=self.threshold, geometry_titles=self.geometry_titles
        )


def evaluate(
    predict: Predict,
    frames: Sequence[LabelledFrame],
    threshold: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
    roi: Roi | None = None,
    secondary: bool = False,
) -> Evaluation:
    """Judges every frame of a test split.

    Args:
        predict: the model.
        frames: good and defective parts; read one at a time.
        threshold: a score above it is a reject.
        progress: called with the frames done and all.
        roi: where in the frames the modalities' maps are; None for all of them.
        secondary: adds ``aupro_30_100`` and ``aupro_1_100``, to compare with papers whose code looks at
            100 thresholds (`edge_ad.metrics.aupro_100_thresholds`).

    Raises:
        DataError: a frame cannot be read or does not fit the model, or one of the two classes is missing.
    """
    items: list[Judged] = []
    for index, item in enumerate(frames):
        items.append(Judged.of(item, predict(item.frame), roi))
        progress(index + 1, len(frames))
    labels = _labels(items)
    scores = np.array([item.score for item in items])
    whole = _measure(items, labels, [item.anomaly_map for item in items], scores, secondary)
    modalities = {}
    for name in items[0].modality_maps if len(items[0].modality_maps) > 1 else ():
        maps = [item.modality_maps[name] for item in items]
        modalities[name] = _measure(items, labels, maps, np.array([x.max() for x in maps]), secondary)
    rejected = scores > threshold
    defects, defect_intervals = _per_defect(items, scores, rejected)
    rows, titles = sheet_rows(items, frames, threshold)
    ranked = np.argsort(scores, kind="stable")
    return Evaluation(
        metrics=whole.metrics,
        modalities={name: measured.metrics for name, measured in modalities.items()},
        f1_max_threshold=whole.f1_max_threshold,
        modality_thresholds={name: measured.f1_max_threshold for name, measured in modalities.items()},
        defects=defects,
        threshold=threshold,
        confusion={
            "good": int((~labels).sum()),
            "good_rejected": int((rejected & ~labels).sum()),
            "defective": int(labels.sum()),
            "defective_rejected": int((rejected & labels).sum()),
        },
        scores=tuple({"path": item.path, "defect": item.defect, "score": item.score} for item in items),
        intervals=Intervals(
            whole.intervals, {name: measured.intervals for name, measured in modalities.items()}, defect_intervals
        ),
        pro_curve=whole.pro_curve,
        lowest_defective=examples(ranked[labels[ranked]], items, frames),
        highest_good=examples(ranked[~labels[ranked]][::-1], items, frames),
        sheet_rows=rows,
        geometry_titles=titles,
    )


def _labels(items: Sequence[Judged]) -> BoolArray:
    labels = np.array([item.is_anomalous for item in items], np.bool_)
    if not labels.any() or labels.all():
        raise DataError(
            "the test split cannot be evaluated",
            why=f"it has {int((~labels).sum())} good and {int(labels.sum())} defective parts",
            remedy="it needs both",
        )
    return labels


@dataclass(frozen=True, slots=True)
class _Measured:
    """What is said of one kind of map over all images."""

    metrics: dict[str, float]
    f1_max_threshold: float
    intervals: dict[str, Interval]
    pro_curve: Float64Array | None


def _measure(
    items: Sequence[Judged], labels: BoolArray, maps: Sequence[Float32Array], scores: AnyArray, secondary: bool
) -> _Measured:
    """All metrics of these maps and scores. Pixel metrics need a mask for every defect."""
    f1, f1_threshold = f1_max(labels, scores)
    metrics = {
        "image_auroc": image_auroc(labels, scores),
        "average_precision": average_precision(labels, scores),
        "f1_max": f1,
    }
    intervals = image_intervals(labels, scores)
    masks: list[BoolArray] = [item.gt_mask for item in items if item.gt_mask is not None]
    if len(masks) < len(items) or not any(mask.any() for mask in masks):
        return _Measured(metrics, f1_threshold, intervals, None)
    rates, overlaps = pro_curve(masks, maps)
    metrics["pixel_auroc"] = pixel_auroc(masks, maps)
    metrics["aupro_30"] = partial_area(rates, overlaps, 0.3)
    metrics["aupro_1"] = partial_area(rates, overlaps, 0.01)
    if secondary:
        metrics["aupro_30_100"] = aupro_100_thresholds(masks, maps, 0.3)
        metrics["aupro_1_100"] = aupro_100_thresholds(masks, maps, 0.01)
    intervals.update(pixel_intervals(labels, masks, maps))
    drawn = np.concatenate([[0.0], np.geomspace(1e-4, 0.01, 100), np.linspace(0.01, CURVE_LIMIT, 200)])
    # At a rate of 0 the curve rises straight up; interp gives the upper end, so the lower is added.
    curve = np.vstack([[0.0, 0.0], np.column_stack([drawn, np.interp(drawn, rates, overlaps)])])
    return _Measured(metrics, f1_threshold, intervals, curve)


def _per_defect(
    items: Sequence[Judged], scores: AnyArray, rejected: AnyArray
) -> tuple[dict[str, dict[str, float]], dict[str, Interval]]:
    """Each kind of defect against all good parts, and the intervals of their image AUROC."""
    kinds: AnyArray = np.array([item.defect for item in items])
    figures, intervals = {}, {}
    for kind in map(str, sorted(set(kinds) - {"good"})):
        pair = np.flatnonzero(np.isin(kinds, (kind, "good")))
        figures[kind] = {
            "image_auroc": image_auroc(kinds[pair] == kind, scores[pair]),
            "parts": float((kinds == kind).sum()),
            "found": float(rejected[kinds == kind].sum()),
        }
        intervals[kind] = image_intervals(kinds[pair] == kind, scores[pair])["image_auroc"]
    return figures, intervals


def _lists(intervals: dict[str, Interval]) -> dict[str, list[float]]:
    return {name: list(interval) for name, interval in intervals.items()}
