"""How sure a figure is: 95 % intervals, from resampled test splits or timings or, for a share, from its count.

A resample draws as many good and as many defective images as there are, with replacement, each class
from itself; the interval of a metric runs from its 2.5th to its 97.5th percentile over the resamples
(Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). Whole images are drawn,
as the pixels of one image are not independent. What it cannot know: with few images, or where every
resample is perfect, the interval is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_ad.errors import DataError
from edge_ad.metric_inputs import Float64Array, masks_and_maps, split_scores
from edge_ad.metrics import partial_area, region_weights
from edge_ad.types import AnyArray, BoolArray

Interval = tuple[float, float]
"""The lower and the upper end."""

LEVEL = 0.95
RESAMPLES = 1000
_TAIL_BINS = 2000
_EVEN_BINS = 1000
_SAMPLED_PIXELS = 4_000_000


def image_intervals(
    labels: ArrayLike, scores: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of ``image_auroc``, ``average_precision`` and ``f1_max``; each resample is measured exactly.

    Args:
        labels: (N,), true or 1 for a defective part, false or 0 for a good one.
        scores: (N,), larger is more anomalous.
        resamples: how many.
        seed: the same seed gives the same intervals.

    Raises:
        DataError: only one class is there, a score is not finite, or the lengths differ.
    """
    split_scores(labels, scores)
    is_defective, score_array = np.asarray(labels, np.bool_), np.asarray(scores, np.float64)
    order = np.argsort(-score_array)
    starts = np.flatnonzero(np.diff(score_array[order], prepend=np.inf))
    drawn = draws(is_defective, resamples, seed)[:, order]
    # Per resample and distinct score, highest first: defective and good parts that score at least as high.
    hits, false = (
        np.cumsum(np.add.reduceat(drawn * members, starts, axis=1), axis=1)
        for members in (is_defective[order], ~is_defective[order])
    )
    gained, lost = np.diff(hits, prepend=0), np.diff(false, prepend=0)
    defective, good = int(is_defective.sum()), int((~is_defective).sum())
    return {
        "image_auroc": _percentiles(np.sum(lost * (hits - gained / 2), axis=1) / (defective * good)),
        "average_precision": _percentiles(np.sum(gained * hits / np.maximum(hits + false, 1), axis=1) / defective),
        "f1_max": _percentiles(np.max(2 * hits / (hits + false + defective), axis=1)),
    }


def pixel_intervals(
    labels: ArrayLike,
    masks: Sequence[AnyArray],
    maps: Sequence[AnyArray],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of ``pixel_auroc``, ``aupro_30`` and ``aupro_1``.

    Each image is reduced to histograms over common bins of the score, so that a resample is a weighted
    sum of them; see `BinnedPixels` for how closely that follows the exact metrics. Resamples without
    any defective pixel are left out.

    Args:
        labels: (N,), true for an image from a folder of defects: what a resample keeps the number of.
        masks: per image (H, W), non-zero on the defect; all zero for a good part.
        maps: per image (H, W), larger is more anomalous.
        resamples: how many.
        seed: the same seed gives the same intervals.

    Raises:
        DataError: as `edge_ad.metrics.aupro`.
    """
    pixels = BinnedPixels.of(masks, maps)
    has_pixels = pixels.positives.any(axis=1)
    drawn = draws(np.asarray(labels, np.bool_), resamples, seed)
    measured = [pixels.metrics(times) for times in drawn if times[has_pixels].any()]
    return {name: _percentiles(np.array([row[name] for row in measured])) for name in measured[0]}


@dataclass(frozen=True, slots=True)
class BinnedPixels:
    """The pixels of each image, counted by score in common bins, highest scores first.

    The bins lie at even and, towards the highest good pixels, at geometric steps of the false positive
    rate: within a bin the curves are taken as straight. A bin is less than 0.8 % of the false positive rate at
    its place, so no metric is off by more than 0.004; most are by less than 0.001.

    Attributes:
        positives: float64 (N, B), defective pixels.
        regions: float64 (N, B), the same, with each region weighing 1 in all.
        negatives: float64 (N, B), other pixels.
    """

    positives: Float64Array
    regions: Float64Array
    negatives: Float64Array

    @classmethod
    def of(cls, masks: Sequence[AnyArray], maps: Sequence[AnyArray]) -> BinnedPixels:
        """Counts the pixels of images as `edge_ad.metrics.aupro` takes them.

        Raises:
            DataError: no pixel is defective or all are, a map is not finite, or sizes differ.
        """
        pairs = list(masks_and_maps(masks, maps))
        good = [np.sort(anomaly_map[~mask]) for mask, anomaly_map in pairs]
        if not any(mask.any() for mask, _ in pairs) or not any(scores.size for scores in good):
            raise DataError(
                "there are no defective or no other pixels",
                why="an interval needs both",
                remedy="evaluate a test split that has masks and good parts",
            )
        edges = _edges(good)
        count = edges.size + 1
        positives, regions, negatives = (np.zeros((len(pairs), count)) for _ in range(3))
        for index, (mask, anomaly_map) in enumerate(pairs):
            bins = np.searchsorted(edges, anomaly_map[mask], side="left")
            positives[index] = np.bincount(bins, minlength=count)
            regions[index] = np.bincount(bins, region_weights(mask), count)
            at_most = np.searchsorted(good[index], edges, side="right")
            negatives[index] = np.diff(at_most, prepend=0, append=good[index].size)
        return cls(positives[:, ::-1], regions[:, ::-1], negatives[:, ::-1])

    def metrics(self, weights: ArrayLike) -> dict[str, float]:
        """``pixel_auroc``, ``aupro_30`` and ``aupro_1`` with each image taken ``weights`` (N,) times."""
        times = np.asarray(weights, np.float64)
        rates, hits, overlaps = (_curve(times @ table) for table in (self.negatives, self.positives, self.regions))
        return {
            "pixel_auroc": partial_area(rates, hits, 1.0),
            "aupro_30": partial_area(rates, overlaps, 0.3),
            "aupro_1": partial_area(rates, overlaps, 0.01),
        }


def share_interval(count: int, total: int) -> Interval:
    """95 % score interval of ``count`` out of ``total`` (Wilson, JASA 22, 1927), honest also at 0 and at all.

    Args:
        count: in [0, total].
        total: above 0.
    """
    z = 1.959964  # of the normal distribution at 97.5 %
    share, z2 = count / total, z * z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    reach = z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def ratio_of_medians(
    values: ArrayLike, others: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, Interval]:
    """The median of ``values`` over that of ``others``, and its interval; whole pairs are drawn.

    Args:
        values: (N,), each measured together with
        others: (N,), the one of the same index, so that what slows one pair slows both; above 0.
        resamples: how many.
        seed: the same seed gives the same interval.
    """
    pairs = np.stack([np.asarray(values, np.float64), np.asarray(others, np.float64)])
    drawn = np.random.default_rng(seed).integers(0, pairs.shape[1], (resamples, pairs.shape[1]))
    above, below = np.median(pairs, axis=1)
    resampled = np.median(pairs[:, drawn], axis=2)
    return float(above / below), _percentiles(resampled[0] / resampled[1])


def draws(is_defective: BoolArray, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each image is in each resample.

    Args:
        is_defective: bool (N,).
        resamples: how many.
        seed: the same seed draws the same.

    Returns:
        int64 (resamples, N); each row sums to the number of good and of defective images, class by class.
    """
    random = np.random.default_rng(seed)
    counts = np.zeros((resamples, is_defective.size), np.int64)
    for members in (np.flatnonzero(~is_defective), np.flatnonzero(is_defective)):
        if members.size:
            evenly = np.full(members.size, 1 / members.size)
            counts[:, members] = random.multinomial(members.size, evenly, size=resamples)
    return counts


def _edges(good: Sequence[AnyArray]) -> AnyArray:
    """The bins' upper ends but the last's, rising; the largest good score is one of them."""
    step = max(1, sum(scores.size for scores in good) // _SAMPLED_PIXELS)
    largest = max(scores[-1] for scores in good if scores.size)
    pooled = np.sort(np.concatenate([scores[::step] for scores in good]))
    even = np.linspace(0, pooled.size - 1, _EVEN_BINS)
    tail = pooled.size - np.geomspace(1, pooled.size, _TAIL_BINS)
    ranks = np.concatenate([even, tail]).astype(int)
    return np.unique(np.append(pooled[ranks], largest))


def _curve(counts: Float64Array) -> Float64Array:
    """From counts by bin to the share that lies in the bins so far, from 0 to 1."""
    summed = np.concatenate([[0.0], np.cumsum(counts)])
    return np.asarray(summed / summed[-1])


def _percentiles(values: Float64Array) -> Interval:
    low, high = np.percentile(values, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return float(low), float(high)
