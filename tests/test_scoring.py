from __future__ import annotations

import numpy as np
import pytest

from edge_ad.scoring import MAX_REGIONS, judge
from edge_ad.types import AnomalyResult, Decision, Float32Array, Region


def make_map(*spots: tuple[int, int, float], size: tuple[int, int] = (20, 30)) -> Float32Array:
    anomaly_map = np.zeros(size, dtype=np.float32)
    for row, column, value in spots:
        anomaly_map[row, column] = value
    return anomaly_map


@pytest.mark.parametrize(
    ("score", "decision"),
    [
        pytest.param(1.01, Decision.NG, id="above"),
        pytest.param(1.0, Decision.OK, id="equal"),
        pytest.param(0.99, Decision.OK, id="below"),
        pytest.param(float("nan"), Decision.ERROR, id="NaN"),
        pytest.param(float("inf"), Decision.ERROR, id="infinite"),
        pytest.param(float("-inf"), Decision.ERROR, id="minus infinite"),
    ],
)
def test_decision(score: float, decision: Decision) -> None:
    verdict = judge(AnomalyResult(make_map(), score), threshold=1.0)
    assert verdict.decision is decision
    assert verdict.threshold == 1.0
    assert bool(verdict.reason) == (decision is Decision.ERROR)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_that_is_no_number_is_an_error_not_ok(threshold: float) -> None:
    verdict = judge(AnomalyResult(make_map(), 0.5), threshold)
    assert verdict.decision is Decision.ERROR
    assert "threshold" in verdict.reason


def test_a_map_with_nan_is_an_error_even_when_its_score_is_low() -> None:
    verdict = judge(AnomalyResult(make_map((3, 3, np.nan)), 0.1), threshold=1.0)
    assert verdict.decision is Decision.ERROR
    assert "NaN" in verdict.reason


def test_regions_are_8_connected_and_sorted_by_peak() -> None:
    spots = [(2, 3, 2.0), (3, 4, 3.0), (10, 20, 5.0), (10, 21, 4.0), (11, 20, 1.5), (15, 1, 0.9)]
    verdict = judge(AnomalyResult(make_map(*spots), 5.0), threshold=1.0)
    assert verdict.regions == (
        Region(x_px=20, y_px=10, width_px=2, height_px=2, area_px=3, peak=5.0),
        Region(x_px=3, y_px=2, width_px=2, height_px=2, area_px=2, peak=3.0),
    )


def test_regions_are_bounded_and_the_strongest_are_kept() -> None:
    spots = [(row, column, 1.0 + row + column / 100) for row in range(0, 20, 2) for column in range(0, 30, 2)]
    regions = judge(AnomalyResult(make_map(*spots), 99.0), threshold=0.5).regions
    assert len(regions) == MAX_REGIONS
    peaks = [region.peak for region in regions]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == pytest.approx(max(value for _, _, value in spots))


@pytest.mark.parametrize("score", [0.5, 1.5])
def test_no_regions_where_nothing_is_above(score: float) -> None:
    assert judge(AnomalyResult(make_map((5, 5, 0.9)), score), threshold=1.0).regions == ()
