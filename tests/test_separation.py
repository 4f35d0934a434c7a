from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from edge_ad.errors import DataError
from edge_ad.separation import detection, separating_threshold
from edge_ad.thresholding import false_reject_bound


def test_what_separates_fully_is_cut_in_the_middle_of_the_gap() -> None:
    threshold = separating_threshold([1.0, 3.0, 2.0], [7.0, 9.0])
    assert threshold.value == 5.0
    assert threshold.frames == 3
    assert threshold.false_reject_rate == 1 / 4
    assert threshold.false_reject_bound == pytest.approx(1 - 0.025 ** (1 / 3))  # half of the risk is rank 1's


@pytest.mark.parametrize("seed", range(8))
def test_no_threshold_has_a_better_balanced_accuracy(seed: int) -> None:
    random = np.random.default_rng(seed)
    good, defective = random.normal(0, 1, 40).round(1), random.normal(1, 1, 15).round(1)
    labels, scores = [0] * 40 + [1] * 15, np.concatenate([good, defective])
    value = separating_threshold(good.tolist(), defective.tolist()).value
    best = max(balanced_accuracy_score(labels, scores > other) for other in scores)
    assert balanced_accuracy_score(labels, scores > value) == pytest.approx(best)


def test_of_equal_thresholds_the_one_with_fewer_false_rejects_is_taken() -> None:
    # Above 2: both defects and half of the good parts. Above 4: one defect and no good part.
    assert separating_threshold([1.0, 2.0, 4.0, 4.0], [3.0, 6.0]).value == 5.0


def test_neighbouring_floats_leave_the_lower_one() -> None:
    above = float(np.nextafter(1.0, 2.0))
    assert separating_threshold([1.0, 1.0, 1.0], [above]).value == 1.0


@pytest.mark.parametrize(
    ("good", "defective", "message"),
    [
        pytest.param([1.0, 2.0, 3.0], [0.0, 0.5], "tells the defective parts", id="the wrong way round"),
        pytest.param([1.0, 1.0, 1.0], [1.0], "tells the defective parts", id="all alike"),
        pytest.param([1.0, 2.0, 3.0], [], "0 defective scores", id="no defects"),
        pytest.param([1.0, 2.0], [3.0], "2 good scores", id="too few good parts"),
        pytest.param([1.0, 2.0, 3.0], [float("nan")], "score 0 of the defective parts is nan", id="NaN"),
    ],
)
def test_what_cannot_be_separated(good: list[float], defective: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        separating_threshold(good, defective)


def test_promises_hold_although_the_scores_chose_the_threshold() -> None:
    """Defects that overlap, so that the choice follows chance; both limits are checked against the truth."""
    random = np.random.default_rng(0)
    draws, rejects_kept, detections_kept = 1500, 0, 0
    for _ in range(draws):
        good, defective = random.normal(size=40).tolist(), random.normal(1.5, size=12).tolist()
        threshold = separating_threshold(good, defective, confidence=0.8)
        found = detection(threshold.value, defective, confidence=0.8, chosen_on_them=True)
        assert threshold.false_reject_bound is not None
        rejects_kept += stats.norm.sf(threshold.value) <= threshold.false_reject_bound
        detections_kept += stats.norm.sf(threshold.value, 1.5) >= found.rate_bound
    allowed = 4 * math.sqrt(0.8 * 0.2 / draws)
    assert rejects_kept / draws >= 0.8 - allowed
    assert detections_kept / draws >= 0.8 - allowed


def test_detection_has_clopper_and_pearsons_lower_limit() -> None:
    found = detection(2.0, [1.0, 2.0, 3.0, 4.0, 5.0])
    expected = stats.binomtest(3, 5, alternative="greater").proportion_ci(0.95, "exact").low
    assert (found.found, found.parts) == (3, 5)
    assert found.rate_bound == pytest.approx(expected)
    assert detection(9.0, [1.0]).rate_bound == 0
    assert detection(2.0, [1.0, 3.0], chosen_on_them=True).rate_bound < detection(2.0, [1.0, 3.0]).rate_bound


def test_the_corrected_bound_is_above_the_plain_one() -> None:
    good = [float(value) for value in range(60)]
    bound = separating_threshold(good, [57.5, 100.0, 101.0]).false_reject_bound
    assert bound is not None
    assert bound > false_reject_bound(60, 3)
