from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edge_ad.bundle import Threshold
from edge_ad.errors import ConfigError, DataError
from edge_ad.scoring import judge
from edge_ad.thresholding import (
    binomial_bound,
    conformal_threshold,
    false_reject_bound,
    frames_needed,
    promise,
    threshold_from_scores,
)
from edge_ad.types import AnomalyResult, Decision

RATES = st.floats(0.001, 0.6)
CONFIDENCES = st.floats(0.5, 0.999)


@given(st.integers(1, 400), st.floats(0, 1), CONFIDENCES)
def test_the_bound_is_the_quantile_of_the_beta_distribution(frames: int, place: float, confidence: float) -> None:
    rank = 1 + round(place * (frames - 1))
    expected = stats.beta.ppf(confidence, rank, frames + 1 - rank)
    assert false_reject_bound(frames, rank, confidence) == pytest.approx(expected, rel=1e-9)


def test_the_bound_of_many_frames_keeps_its_digits() -> None:
    assert false_reject_bound(20_000, 150, 0.99) == pytest.approx(stats.beta.ppf(0.99, 150, 19_851), rel=1e-9)


def test_the_bound_is_clopper_and_pearsons() -> None:
    expected = stats.binomtest(3, 40, alternative="less").proportion_ci(0.95, "exact").high
    assert binomial_bound(40, 3, 0.95) == pytest.approx(expected, rel=1e-9)
    assert binomial_bound(40, 40, 0.95) == 1


@pytest.mark.parametrize(
    ("rate", "confidence", "frames"),
    [(0.05, 0.95, 59), (0.01, 0.95, 299), (0.1, 0.9, 22), (0.5, 0.75, 2), (0.001, 0.99, 4603)],
)
def test_frames_needed(rate: float, confidence: float, frames: int) -> None:
    assert frames_needed(rate, confidence) == frames


@given(RATES, CONFIDENCES)
def test_frames_needed_are_enough_and_no_more_than_enough(rate: float, confidence: float) -> None:
    frames = frames_needed(rate, confidence)
    assert false_reject_bound(frames, 1, confidence) <= rate * (1 + 1e-9)
    assert frames == 1 or false_reject_bound(frames - 1, 1, confidence) > rate * (1 - 1e-9)


@given(st.integers(60, 500), st.floats(0.05, 0.5))
def test_the_threshold_is_the_lowest_score_whose_bound_holds(frames: int, rate: float) -> None:
    scores = np.random.default_rng(frames).permutation(frames).astype(float).tolist()
    threshold = conformal_threshold(scores, false_reject_rate=rate)
    rank = int(frames - threshold.value)
    assert threshold.false_reject_rate == rank / (frames + 1)
    assert threshold.false_reject_bound == false_reject_bound(frames, rank)
    assert false_reject_bound(frames, rank) <= rate * (1 + 1e-9)
    assert false_reject_bound(frames, rank + 1) > rate


DISTRIBUTIONS = {
    "normal": stats.norm(),
    "heavy tail": stats.t(1.5),
    "bounded": stats.beta(0.5, 0.5),
    "ties": stats.poisson(3),
    "two values": stats.bernoulli(0.2),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("frames", "rate", "confidence"), [(30, 0.2, 0.9), (60, 0.05, 0.95), (200, 0.05, 0.95)])
def test_fresh_good_parts_are_rejected_as_promised(name: str, frames: int, rate: float, confidence: float) -> None:
    """Thousands of validation sets: the exact share above each one's threshold against both promises."""
    draws = 4000
    distribution = DISTRIBUTIONS[name]
    scores = distribution.rvs((draws, frames), random_state=np.random.default_rng(frames))
    made = conformal_threshold(scores[0].tolist(), false_reject_rate=rate, confidence=confidence)
    rank = round(made.false_reject_rate * (frames + 1))
    values = np.sort(scores, axis=1)[:, frames - rank]
    for row in range(20):  # what the function gives is that order statistic
        again = conformal_threshold(scores[row].tolist(), false_reject_rate=rate, confidence=confidence)
        assert again.value == values[row]
    shares = distribution.sf(values)
    assert made.false_reject_bound is not None
    kept = float(np.mean(shares <= made.false_reject_bound))
    allowed = 4 * math.sqrt(confidence * (1 - confidence) / draws)
    average_error = 4 * float(shares.std()) / math.sqrt(draws)
    if name in ("ties", "two values"):  # conservative
        assert kept >= confidence - allowed
        assert shares.mean() <= made.false_reject_rate + average_error
    else:
        assert kept == pytest.approx(confidence, abs=allowed)
        assert shares.mean() == pytest.approx(made.false_reject_rate, abs=average_error)


def test_the_check_above_notices_a_threshold_one_rank_too_low() -> None:
    scores = np.sort(stats.norm.rvs(size=(4000, 60), random_state=np.random.default_rng(0)), axis=1)
    kept = np.mean(stats.norm.sf(scores[:, -2]) <= false_reject_bound(60, 1))
    assert kept < 0.95 - 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_the_largest_score_without_a_rate() -> None:
    threshold = threshold_from_scores([0.2, 0.9, 0.4, 0.1])
    assert threshold.value == 0.9
    assert threshold.frames == 4
    assert threshold.false_reject_rate == pytest.approx(1 / 5)
    assert threshold.confidence == 0.95
    assert threshold.false_reject_bound == pytest.approx(1 - 0.05 ** (1 / 4))
    assert "maximum of 4 good scores" in threshold.method
    assert "1/5" in threshold.method
    assert threshold.assumption == ""


def test_every_good_part_of_the_validation_set_is_ok() -> None:
    scores = [0.1, 0.7, 0.7, 0.3]
    value = threshold_from_scores(scores).value
    empty = np.zeros((2, 2), np.float32)
    assert all(judge(AnomalyResult(empty, score), value).decision is Decision.OK for score in scores)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        pytest.param([], "0 good scores are too few", id="none"),
        pytest.param([0.1, 0.2], "2 good scores are too few", id="two"),
        pytest.param([0.1, 0.2, float("nan")], "score 2 of the good parts is nan", id="NaN"),
        pytest.param([float("inf"), 0.2, 0.1], "score 0 of the good parts is inf", id="infinite"),
    ],
)
def test_scores_that_make_no_threshold(scores: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        threshold_from_scores(scores)
    with pytest.raises(DataError, match=message):
        conformal_threshold(scores, false_reject_rate=0.9, confidence=0.5)


@pytest.mark.parametrize(
    ("count", "rate", "needed"), [(58, 0.05, 59), (20, 0.05, 59), (298, 0.01, 299)], ids=["one short", "few", "1 %"]
)
def test_a_promise_that_the_frames_cannot_give_names_how_many_can(count: int, rate: float, needed: int) -> None:
    scores = [float(value) for value in range(count)]
    with pytest.raises(ConfigError, match=rf"that takes {needed}.*capture {needed - count} more") as caught:
        conformal_threshold(scores, false_reject_rate=rate)
    offered = float(caught.value.remedy.split()[-1])
    assert conformal_threshold(scores, false_reject_rate=offered).value == max(scores)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_shares_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        conformal_threshold([1.0] * 100, false_reject_rate=value)
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        threshold_from_scores([1.0] * 100, confidence=value)


def made_of(bound: float | None, assumption: str = "") -> Threshold:
    return Threshold(
        value=1.0,
        method="test",
        frames=300,
        false_reject_rate=1 / 301,
        confidence=None if bound is None else 0.95,
        false_reject_bound=bound,
        assumption=assumption,
    )


@pytest.mark.parametrize(
    ("threshold", "text"),
    [
        (made_of(0.0499), "at most 50 false rejects in 1,000 at 95 % confidence, from 300 frames"),
        (made_of(0.05), "at most 50 false rejects in 1,000 at 95 % confidence, from 300 frames"),
        (made_of(0.00231), "at most 2.4 false rejects in 1,000 at 95 % confidence, from 300 frames"),
        (
            made_of(0.01, "it rains"),
            "at most 10 false rejects in 1,000 at 95 % confidence, from 300 frames, if it rains",
        ),
        (made_of(None), "about 3.4 false rejects in 1,000 on average, from 300 frames"),
    ],
    ids=["rounded up", "exact", "small", "with an assumption", "of an older version"],
)
def test_promise(threshold: Threshold, text: str) -> None:
    assert promise(threshold) == text


def test_a_threshold_of_an_older_version_still_reads() -> None:
    old = '{"value": 4.0, "method": "largest", "frames": 10, "false_reject_rate": 0.05}'
    assert Threshold.model_validate_json(old).false_reject_bound is None
