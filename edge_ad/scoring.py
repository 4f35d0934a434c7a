"""From an anomaly map to a decision, and from good parts to the threshold it is made with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from edge_ad.bundle import Threshold
from edge_ad.errors import DataError
from edge_ad.types import AnomalyResult, Decision, Float32Array, Region, Verdict

MAX_REGIONS = 32
"""Regions that a verdict names: enough to act on, few enough to store for every part."""

MIN_SCORES = 3
"""Fewer good scores would let at least one good part in three be rejected."""


def judge(result: AnomalyResult, threshold: float) -> Verdict:
    """Decides on one part: NG when its score is above the threshold, else OK.

    What cannot be compared is ERROR, never OK: a score, a threshold or a map that is not finite.

    Args:
        result: the model's answer.
        threshold: in the units of ``result.score``.

    Returns:
        The verdict. NG names the 8-connected regions of the map above the threshold, largest peak
        first, at most `MAX_REGIONS`. There may be none: the map at the frame's size is a resized
        one, and its peak can lie below the score.
    """
    for name, value in (("the score", result.score), ("the threshold", threshold)):
        if not math.isfinite(value):
            return Verdict(Decision.ERROR, threshold, reason=f"{name} is {value}")
    if not np.isfinite(result.anomaly_map).all():
        return Verdict(Decision.ERROR, threshold, reason="the anomaly map holds NaN or infinity")
    if result.score > threshold:
        return Verdict(Decision.NG, threshold, _regions_above(result.anomaly_map, threshold))
    return Verdict(Decision.OK, threshold)


def threshold_from_scores(scores: Sequence[float]) -> Threshold:
    """The threshold that good parts alone justify: the largest of their scores.

    If the next good part comes from the same source as these n, each of the n + 1 scores is equally
    likely to be the largest, so it exceeds the threshold with probability 1 / (n + 1), and less
    where scores tie. This is the last quantile of split conformal prediction (Vovk, Gammerman and
    Shafer, "Algorithmic Learning in a Random World", 2005; Lei et al., JASA 2018).
    It holds on average over validation sets, and only for parts that the model was not trained on.

    Args:
        scores: of good parts kept apart from training.

    Raises:
        DataError: there are fewer than `MIN_SCORES`, or one is not finite.
    """
    count = len(scores)
    if count < MIN_SCORES:
        raise DataError(
            f"{count} good scores are too few for a threshold",
            why=f"of n scores the largest rejects 1 good part in n + 1; at least {MIN_SCORES} are needed",
            remedy="add good parts to the validation split",
        )
    for index, score in enumerate(scores):
        if not math.isfinite(score):
            raise DataError(
                f"score {index} of the good parts is {score}",
                why="a threshold must be a number",
                remedy="look at that validation frame; train again if it is sound",
            )
    return Threshold(
        value=float(max(scores)),
        method=(
            f"maximum of {count} good validation scores: a fresh good part exceeds it with "
            f"probability 1/{count + 1} (exchangeability, as in split conformal prediction)"
        ),
        frames=count,
        false_reject_rate=1 / (count + 1),
    )


def _regions_above(anomaly_map: Float32Array, threshold: float) -> tuple[Region, ...]:
    above = anomaly_map > threshold
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(above.astype(np.uint8), connectivity=8)
    peaks = np.full(count, -np.inf)
    np.maximum.at(peaks, labels[above].astype(np.intp), anomaly_map[above])
    strongest = 1 + np.argsort(-peaks[1:], kind="stable")[:MAX_REGIONS]
    regions = []
    for label in strongest:
        x, y, width, height, area = (int(value) for value in statistics[label])
        regions.append(Region(x, y, width, height, area, peak=float(peaks[label])))
    return tuple(regions)
