from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edge_ad.errors import ConfigError, DataError
from edge_ad.tail import REACH, fit_pareto, goodness, tail_threshold


@pytest.mark.parametrize("shape", [-0.4, 0.1, 0.5])
def test_the_fit_finds_the_parameters_of_many_samples_at_once(shape: float) -> None:
    samples = stats.genpareto(shape, scale=3).rvs((5, 4000), random_state=np.random.default_rng(0))
    shapes, scales = fit_pareto(np.sort(samples, axis=1))
    assert shapes.shape == (5, 1)
    np.testing.assert_allclose(shapes, shape, atol=0.08)
    np.testing.assert_allclose(scales, 3, rtol=0.1)


def test_the_fit_agrees_with_maximum_likelihood() -> None:
    excesses = np.sort(stats.genpareto(0.2, scale=2).rvs(500, random_state=np.random.default_rng(3)))
    shape, _, scale = stats.genpareto.fit(excesses, floc=0)
    np.testing.assert_allclose(np.concatenate(fit_pareto(excesses)), [shape, scale], rtol=0.1, atol=0.03)


def test_sound_tails_are_refused_as_often_as_said() -> None:
    random = np.random.default_rng(0)
    samples = np.sort(stats.genpareto(0.1).rvs((200, 30), random_state=random), axis=1)
    refused = np.mean([goodness(sample) < 0.05 for sample in samples])
    assert refused <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 200)
    assert np.mean([goodness(sample) < 0.5 for sample in samples]) == pytest.approx(0.5, abs=0.14)


DISTRIBUTIONS = {
    "exponential": stats.expon(),
    "normal": stats.norm(),
    "gamma": stats.gamma(2),
    "Gumbel": stats.gumbel_r(),
    "lognormal": stats.lognorm(0.5),
    "t with 4 degrees": stats.t(4),
    "Pareto of shape 0.3": stats.genpareto(0.3),
}
RAREST = 1 / (REACH * 100)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("rate", [0.01, RAREST])
def test_the_limit_is_above_the_true_quantile_about_as_often_as_it_says(name: str, rate: float) -> None:
    distribution, random = DISTRIBUTIONS[name], np.random.default_rng(1)
    true = distribution.isf(rate)
    values: list[float] = []
    while len(values) < 100:
        scores = distribution.rvs(100, random_state=random).tolist()
        try:
            values.append(tail_threshold(scores, false_reject_rate=rate).value)
        except DataError:  # one in twenty
            continue
    assert np.mean(np.array(values) >= true) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 100)
    assert np.median(values) - distribution.median() < 2.2 * (true - distribution.median())


def test_a_tail_says_what_it_assumes() -> None:
    scores = stats.gamma(2).rvs(120, random_state=np.random.default_rng(0)).tolist()
    threshold = tail_threshold(scores, false_reject_rate=0.005, confidence=0.9)
    assert threshold == tail_threshold(scores, false_reject_rate=0.005, confidence=0.9)
    assert threshold.value > max(scores) * 0.9
    assert (threshold.confidence, threshold.false_reject_bound, threshold.frames) == (0.9, 0.005, 120)
    assert threshold.false_reject_rate < 0.005
    assert "generalized Pareto" in threshold.assumption
    assert "not a guarantee" in threshold.method
    assert tail_threshold(scores, false_reject_rate=0.003).value > threshold.value


def spread(count: int) -> list[float]:
    return [float(value) for value in np.random.default_rng(0).normal(size=count)]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        pytest.param([*([0.0] * 70), *([1.0] * 15), *([5.0] * 15)], "do not follow", id="two humps"),
        pytest.param([1.0] * 100, "do not follow", id="all equal"),
        pytest.param(spread(99), "99 good scores are too few", id="too few"),
        pytest.param([*spread(100), float("nan")], "score 100", id="NaN"),
    ],
)
def test_scores_that_have_no_such_tail(scores: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tail_threshold(scores, false_reject_rate=0.01)


@pytest.mark.parametrize(("rate", "remedy"), [(0.4, "conformal"), (0.0005, "capture more")])
def test_rates_that_the_tail_says_nothing_of(rate: float, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        tail_threshold(spread(100), false_reject_rate=rate)
