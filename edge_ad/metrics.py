"""Detection metrics, exact on every distinct score: pure functions on numpy arrays.

All of them come from one table, the operating points: for each distinct score of a *positive*
(defective image or pixel), how many negatives score above it and how many at least as high. Between
two scores of positives the hit rate stands still, so these points say everything, and only the
negatives' values need sorting: no index array over all pixels, one copy of the maps in memory.

Equal scores are one operating point: neither order among them is preferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_ad.errors import DataError
from edge_ad.metric_inputs import Float64Array, masks_and_maps, require_defects, require_negatives, split_scores
from edge_ad.types import AnyArray, BoolArray

SECONDARY_SIZE_PX = 256
"""Side of the maps that the papers' code compares."""

SECONDARY_THRESHOLDS = 100
"""How many thresholds it looks at."""


@dataclass(frozen=True, slots=True)
class _OperatingPoints:
    """What is called anomalous at each distinct score of a positive, highest score first.

    Attributes:
        scores: (K,) the distinct scores.
        hits: float64 (K,), weight of the positives that score at least as high.
        false_above: int64 (K,), negatives that score higher.
        false_from: int64 (K,), negatives that score at least as high.
    """

    scores: AnyArray
    hits: Float64Array
    false_above: NDArray[np.int64]
    false_from: NDArray[np.int64]


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a defective part scores above a good one, ties half.

    Args:
        labels: (N,), true or 1 for a defective part, false or 0 for a good one.
        scores: (N,), larger is more anomalous.

    Raises:
        DataError: only one class is there, a score is not finite, or the lengths differ.
    """
    return _area(*roc_curve(labels, scores))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Share of the defective parts found over the share of the good ones rejected.

    Args:
        labels: (N,), true or 1 for a defective part, false or 0 for a good one.
        scores: (N,), larger is more anomalous.

    Returns:
        False positive rates and hit rates, float64 (K,), rising from (0, 0) to (1, 1).

    Raises:
        DataError: as `image_auroc`.
    """
    positives, negatives = split_scores(labels, scores)
    require_negatives(negatives, "good part")
    return _roc(_operating_points(positives, np.ones(positives.size), negatives), negatives.size)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Sum over the distinct scores of (recall gained) * (precision there), without interpolation.

    With no good part the precision is 1 throughout, and so is the result.

    Args:
        labels: (N,), true or 1 for a defective part.
        scores: (N,), larger is more anomalous.

    Raises:
        DataError: no part is defective, a score is not finite, or the lengths differ.
    """
    positives, negatives = split_scores(labels, scores)
    points = _operating_points(positives, np.ones(positives.size), negatives)
    gained = np.diff(points.hits, prepend=0.0)
    return float(np.sum(gained * points.hits / (points.hits + points.false_from)) / positives.size)


def f1_max(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
    """The best F1 = 2 TP / (2 TP + FP + FN) that any threshold reaches, and the threshold.

    Args:
        labels: (N,), true or 1 for a defective part.
        scores: (N,), larger is more anomalous.

    Returns:
        F1, and the largest score that is still called good: a score *above* it is anomalous. Among
        equally good thresholds the highest.

    Raises:
        DataError: no part is defective, a score is not finite, or the lengths differ.
    """
    positives, negatives = split_scores(labels, scores)
    points = _operating_points(positives, np.ones(positives.size), negatives)
    f1 = 2 * points.hits / (points.hits + points.false_from + positives.size)
    best = int(np.argmax(f1))
    lowest_anomalous = points.scores[best]
    everything = np.concatenate([positives, negatives])
    good = everything[everything < lowest_anomalous]
    threshold = good.max() if good.size else np.nextafter(lowest_anomalous, -np.inf)
    return float(f1[best]), float(threshold)


def pixel_auroc(masks: Sequence[AnyArray], maps: Sequence[AnyArray]) -> float:
    """Area under the ROC curve over all pixels of all images.

    Args:
        masks: per image (H, W), non-zero on the defect; all zero for a good part.
        maps: per image (H, W), larger is more anomalous.

    Raises:
        DataError: no pixel is defective or all are, a map is not finite, or sizes differ.
    """
    pairs = list(masks_and_maps(masks, maps))
    positives = np.concatenate([anomaly_map[mask] for mask, anomaly_map in pairs])
    negatives = np.concatenate([anomaly_map[~mask] for mask, anomaly_map in pairs])
    require_defects(positives)
    require_negatives(negatives, "pixel without a defect")
    return _area(*_roc(_operating_points(positives, np.ones(positives.size), negatives), negatives.size))


def pro_curve(masks: Sequence[AnyArray], maps: Sequence[AnyArray]) -> tuple[Float64Array, Float64Array]:
    """Per-region overlap over the false positive rate, at every distinct score.

    Defined in Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021: the
    regions are the 8-connected components of the masks, pooled over all images. A threshold's
    overlap is the mean over regions of the share that scores at least as high; its false positive
    rate is that share over all pixels outside the masks, good images included.

    Args:
        masks: per image (H, W), non-zero on the defect; all zero for a good part.
        maps: per image (H, W), larger is more anomalous.

    Returns:
        False positive rates and overlaps, float64 (K,), rising from (0, 0) to (1, 1). Points that
        lie on a straight piece of the curve are left out.

    Raises:
        DataError: no pixel is defective or all are, a map is not finite, or sizes differ.
    """
    pairs = list(masks_and_maps(masks, maps))
    positives, weights = [], []
    for mask, anomaly_map in pairs:
        positives.append(anomaly_map[mask])
        weights.append(region_weights(mask))
    scores = np.concatenate(positives)
    negatives = np.concatenate([anomaly_map[~mask] for mask, anomaly_map in pairs])
    require_defects(scores)
    require_negatives(negatives, "pixel without a defect")
    return _roc(_operating_points(scores, np.concatenate(weights), negatives), negatives.size)


def region_weights(mask: BoolArray) -> Float64Array:
    """1 / (pixels of its 8-connected region) for each defective pixel: each region weighs 1 in all.

    Args:
        mask: bool (H, W).

    Returns:
        float64 (P,), in the order of ``anomaly_map[mask]``.
    """
    _, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    region_of_pixel = regions[mask]
    return np.asarray(1.0 / np.bincount(region_of_pixel)[region_of_pixel])


def partial_area(rates: Float64Array, overlaps: Float64Array, limit: float) -> float:
    """Area under a curve up to a false positive rate, divided by that rate: 1 is perfect.

    Trapezoids, with linear interpolation at the limit.

    Args:
        rates: float64 (K,), rising from 0 to 1, as `pro_curve` gives them.
        overlaps: float64 (K,).
        limit: in (0, 1].

    Raises:
        DataError: the limit is out of range.
    """
    if not 0 < limit <= 1:
        raise DataError(f"fpr_limit is {limit}", why="it must be above 0 and at most 1", remedy="use 0.3")
    inside = int(np.searchsorted(rates, limit, side="right"))
    x, y = rates[:inside], overlaps[:inside]
    if inside < rates.size:
        share = (limit - rates[inside - 1]) / (rates[inside] - rates[inside - 1])
        rise = overlaps[inside] - overlaps[inside - 1]
        x, y = np.append(x, limit), np.append(y, overlaps[inside - 1] + share * rise)
    return _area(x, y) / limit


def aupro(masks: Sequence[AnyArray], maps: Sequence[AnyArray], fpr_limit: float = 0.3) -> float:
    """Area under `pro_curve` up to ``fpr_limit``, divided by it; exact, no grid of thresholds.

    For several limits make the curve once and call `partial_area` for each.

    Args:
        masks: per image (H, W), non-zero on the defect; all zero for a good part.
        maps: per image (H, W), larger is more anomalous.
        fpr_limit: in (0, 1].

    Raises:
        DataError: no pixel is defective or all are, a map is not finite, sizes differ, or the limit
            is out of range.
    """
    return partial_area(*pro_curve(masks, maps), fpr_limit)


def aupro_100_thresholds(masks: Sequence[AnyArray], maps: Sequence[AnyArray], fpr_limit: float = 0.3) -> float:
    """Secondary: AUPRO as the code of TRD and most other papers computes it, to compare with their tables only.

    Maps and masks are brought to 256×256, a mask pixel counts where its bilinear (anti-aliased) value
    is above 0.5, and only 100 thresholds are looked at: the good pixels' scores at equidistant ranks.
    These are one per cent of false positives apart, so at a limit of 1 % the curve is one straight
    line, far below the exact one (`aupro`). After ``evaluation/metrics_utils.py`` of hito2448/TRD.

    Args:
        masks: per image (H, W), non-zero on the defect; all zero for a good part.
        maps: per image (H, W), larger is more anomalous.
        fpr_limit: in (0, 1].

    Raises:
        DataError: as `aupro`; also where no region is left at 256×256.
    """
    size = (SECONDARY_SIZE_PX, SECONDARY_SIZE_PX)
    small = [(_resized(mask.astype(np.float64)) > 0.5, cv2.resize(x, size)) for mask, x in masks_and_maps(masks, maps)]
    positives = np.concatenate([anomaly_map[mask] for mask, anomaly_map in small])
    weights = np.concatenate([region_weights(mask) for mask, _ in small])
    negatives = np.sort(np.concatenate([anomaly_map[~mask] for mask, anomaly_map in small]))
    require_defects(positives)
    require_negatives(negatives, "pixel without a defect")
    ranks = np.linspace(0, negatives.size - 1, SECONDARY_THRESHOLDS, dtype=int)[::-1]
    order = np.argsort(positives)
    below = np.searchsorted(positives[order], negatives[ranks], side="right")
    overlaps = 1 - np.concatenate([[0.0], np.cumsum(weights[order])])[below] / weights.sum()
    rates = 1 - (ranks + 1) / negatives.size
    return partial_area(np.append(rates, 1.0), np.append(overlaps, 1.0), fpr_limit)


def _resized(image: Float64Array) -> Float64Array:
    """Bilinear at `SECONDARY_SIZE_PX` with the anti-aliasing of Pillow: a triangle as wide as the step."""
    rows, columns = (_triangles(length) for length in image.shape)
    return np.asarray(rows @ image @ columns.T)


def _triangles(length: int) -> Float64Array:
    """(256, length): how much each pixel of a line adds to each pixel of the resized line."""
    step = length / SECONDARY_SIZE_PX
    centres = (np.arange(SECONDARY_SIZE_PX) + 0.5) * step
    distance = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(step, 1.0)
    weights = np.clip(1 - distance, 0, None)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _operating_points(positives: AnyArray, weights: Float64Array, negatives: AnyArray) -> _OperatingPoints:
    """The table that every metric reads; ``negatives`` is sorted in place."""
    scores, place = np.unique(positives, return_inverse=True)
    negatives.sort()
    above = negatives.size - np.searchsorted(negatives, scores, side="right")
    at_least = negatives.size - np.searchsorted(negatives, scores, side="left")
    hits = np.cumsum(np.bincount(place, weights)[::-1], dtype=np.float64)
    return _OperatingPoints(scores[::-1], hits, above[::-1], at_least[::-1])


def _roc(points: _OperatingPoints, negative_count: int) -> tuple[Float64Array, Float64Array]:
    """False positive rate and hit rate, from (0, 0) to (1, 1).

    Two points per score, before and after it: what ties with a positive makes a slanted piece.
    """
    rates, hit_rates = (np.zeros(2 * points.scores.size + 2) for _ in range(2))
    rates[1:-1:2], rates[2:-1:2], rates[-1] = points.false_above, points.false_from, negative_count
    hit_rates[2:-1:2], hit_rates[3::2] = points.hits, points.hits
    return rates / negative_count, hit_rates / points.hits[-1]


def _area(x: Float64Array, y: Float64Array) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
