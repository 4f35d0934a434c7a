"""A threshold beyond the scores that were seen: a generalized Pareto tail.

Order statistics promise nothing below about 3 / n. What lies further out needs a model: above a high level u,
the excess of almost any distribution is nearly generalized Pareto, P(excess > x) = (1 + ξx/σ)^(-1/ξ)
(Pickands 1975; Coles, "An Introduction to Statistical Modeling of Extreme Values", 2001, chapter 4).

This is an assumption and no guarantee: no test on 30 excesses can see what the tail does ten times further out.
A fit that the excesses contradict is refused.

The upper limit is the quantile of the posterior where ξ is normal about 0 with deviation 0.4 beforehand (ξ is
0 for normal, exponential and gamma tails, 0.25 for Student's t with 4 degrees of freedom) and σ is unknown.
Over sets of 100 frames, at the rarest rate that is answered, it covers the true quantile at a nominal 0.95 in
0.98 of the sets for normal and exponential scores, 0.95 for lognormal ones and Student's t with 4 degrees, 0.9
at ξ = 0.3, but 0.83 at ξ = 0.5: few excesses do not tell so heavy a tail from a light one. See
``tests/test_tail.py``. Percentiles of a parametric bootstrap, tried first, did worse on light tails too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_ad.bundle import Threshold
from edge_ad.errors import ConfigError, DataError
from edge_ad.thresholding import CONFIDENCE, check_share, checked_scores
from edge_ad.types import AnyArray

MIN_TAIL_SCORES = 100
"""Fewer would make half of the scores a tail, or leave too few excesses to fit."""

MIN_EXCESSES, MAX_EXCESSES = 30, 250

REACH = 3
"""How many times rarer than one in all frames the rejects may be that are asked for."""

SIGNIFICANCE = 0.05
"""A fit less probable than this is refused, and so is this share of the sound ones."""

REPLICATES = 499
DRAWS = 20_000
SHAPES = np.linspace(-1, 1, 100)
"""Without 0, where the formulas would need their limits."""
SHAPE_DEVIATION = 0.4
LOG_SCALES = np.linspace(-2.5, 2.5, 121)
"""About the scale that the median excess has at shape 0."""


def tail_threshold(scores: Sequence[float], *, false_reject_rate: float, confidence: float = CONFIDENCE) -> Threshold:
    """The upper confidence limit of the score that a share of good parts exceeds, by a generalized Pareto tail.

    Args:
        scores: of good parts kept apart from training.
        false_reject_rate: the share of good parts that may be rejected.
        confidence: with which no more are, if the tail is as modelled.

    Raises:
        ConfigError: the rate is beyond what these scores can say, or so high that it needs no model.
        DataError: there are fewer than ``MIN_TAIL_SCORES`` scores, one is not finite, or the tail does not fit them.
    """
    check_share("the false-reject rate", false_reject_rate)
    check_share("the confidence", confidence)
    values = np.sort(checked_scores(scores, fewest=MIN_TAIL_SCORES))
    count = values.size
    excesses = int(np.clip(count // 5, MIN_EXCESSES, MAX_EXCESSES))
    if not 1 / (REACH * count) <= false_reject_rate < excesses / count:
        raise ConfigError(
            f"a tail fitted to {count} good scores says nothing of {100 * false_reject_rate:.6g} % false rejects",
            why=f"it starts at {100 * excesses / count:.3g} % and is trusted down to {100 / (REACH * count):.3g} %",
            remedy="take --method conformal" if false_reject_rate >= excesses / count else "capture more good frames",
        )
    level = float(values[-excesses - 1])
    beyond = values[-excesses:] - level
    fit = goodness(beyond)
    if fit < SIGNIFICANCE:
        raise DataError(
            f"the {excesses} largest good scores do not follow a generalized Pareto tail",
            why=f"so bad a fit has probability {fit:.3f} (Anderson-Darling)",
            remedy="take --method conformal; equal scores or a mixture of products can be the cause",
        )
    random = np.random.default_rng(0)
    shape, scale = posterior_draws(beyond, random)
    above_level = random.beta(excesses + 1, count - excesses, DRAWS)  # as order statistics have it
    rarity = np.maximum(above_level / false_reject_rate, 1)
    limit = float(np.quantile(scale * np.expm1(shape * np.log(rarity)) / shape, confidence))
    remaining = above_level * np.maximum(1 + shape * limit / scale, 0) ** (-1 / shape)
    return Threshold(
        value=level + limit,
        method=(
            f"generalized Pareto tail of the {excesses} largest of {count} good scores, upper limit "
            f"(fit: p = {fit:.2f}); a model, not a guarantee"
        ),
        frames=count,
        false_reject_rate=float(remaining.mean()),
        confidence=confidence,
        false_reject_bound=false_reject_rate,
        assumption="their tail is generalized Pareto and light (shape below 0.3)",
    )


def goodness(excesses: AnyArray) -> float:
    """Probability of a fit as bad as this, were the tail generalized Pareto.

    Anderson and Darling's statistic with fitted parameters, compared with that of samples from the fit
    (parametric bootstrap; Choulakian and Stephens, Technometrics 2001, tabulate it).

    Args:
        excesses: (K,), rising.

    Returns:
        0 where more than a quarter of them are 0, as they cannot be fitted.
    """
    if excesses[_quartile(excesses.size)] <= 0:
        return 0.0
    shape, scale = fit_pareto(excesses)
    uniform = np.random.default_rng(0).random((REPLICATES, excesses.size))
    samples = np.sort(scale * np.expm1(-shape * np.log(uniform)) / shape, axis=-1)
    worse = _anderson_darling(samples, *fit_pareto(samples)) >= _anderson_darling(excesses, shape, scale)
    return float((1 + np.count_nonzero(worse)) / (1 + REPLICATES))


def fit_pareto(excesses: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Shape and scale of a generalized Pareto distribution (Zhang and Stephens, Technometrics 2009).

    Args:
        excesses: (…, K), rising, at least three quarters of them above 0.

    Returns:
        Shape ξ and scale σ, each (…, 1).
    """
    count = excesses.shape[-1]
    trials = 20 + int(count**0.5)
    spread = 1 - np.sqrt(trials / (np.arange(trials) + 0.5))
    inverse = 1 / excesses[..., -1:] + spread / (3 * excesses[..., _quartile(count), None])
    shape = np.log1p(-inverse[..., None] * excesses[..., None, :]).mean(-1)
    likelihood = count * (np.log(-inverse / shape) - shape - 1)
    weights = np.exp(likelihood - likelihood.max(-1, keepdims=True))
    inverse = (inverse * weights).sum(-1, keepdims=True) / weights.sum(-1, keepdims=True)
    shape = np.log1p(-inverse * excesses).mean(-1, keepdims=True)
    return shape, -shape / inverse


def posterior_draws(excesses: AnyArray, random: np.random.Generator) -> tuple[AnyArray, AnyArray]:
    """Shapes and scales (``DRAWS``,) that the excesses (K,) leave possible."""
    shape = SHAPES[:, None]
    scale = np.median(excesses) / np.log(2) * np.exp(LOG_SCALES)
    likelihood = -excesses.size * np.log(scale) - 0.5 * (shape / SHAPE_DEVIATION) ** 2
    for excess in excesses:
        inside = np.maximum(1 + shape * excess / scale, 1e-300)
        likelihood -= (1 + 1 / shape) * np.log(inside)
    beyond_the_end = 1 + shape * excesses[-1] / scale <= 0
    likelihood[beyond_the_end] = -np.inf
    weights = np.exp(likelihood - likelihood.max()).ravel()
    drawn = random.choice(weights.size, DRAWS, p=weights / weights.sum())
    return SHAPES[drawn // scale.size], scale[drawn % scale.size]


def _anderson_darling(excesses: AnyArray, shape: AnyArray, scale: AnyArray) -> AnyArray:
    """A² of excesses (…, K), rising, from the distribution with these parameters."""
    count = excesses.shape[-1]
    above = np.maximum(1 + shape * excesses / scale, 0) ** (-1 / shape)
    above = np.clip(above, 1e-12, 1 - 1e-12)
    odd = 2 * np.arange(count) + 1
    return np.asarray(-count - (odd * (np.log1p(-above) + np.log(above[..., ::-1]))).mean(-1))


def _quartile(count: int) -> int:
    return int(count / 4 + 0.5) - 1
