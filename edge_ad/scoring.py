"""From an anomaly map to a decision."""

from __future__ import annotations

import math

import cv2
import numpy as np

from edge_ad.types import AnomalyResult, Decision, Float32Array, Region, Verdict

MAX_REGIONS = 32
"""Regions that a verdict names: enough to act on, few enough to store for every part."""


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
