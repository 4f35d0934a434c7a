"""From the scores of good parts to a threshold, with what it promises of false rejects.

Take the k-th largest of n good scores as the threshold. A good part is rejected when its score is above it.
If good parts to come are drawn like these n, then

- on average over sets of n, a share of k / (n + 1) is rejected: split conformal prediction (Vovk, Gammerman
  and Shafer, "Algorithmic Learning in a Random World", 2005; Lei et al., JASA 2018);
- over sets of n, the share is distributed as Beta(k, n + 1 - k): tolerance limits (Wilks, Annals of
  Mathematical Statistics 1941; Vovk, "Conditional validity of inductive conformal predictors", 2012). Its
  quantile is the Clopper-Pearson limit of a binomial share with k - 1 events in n.

Both hold whatever the distribution of the scores, and are exact where no two are equal; where they tie, fewer
parts are rejected than promised. Both need scores of parts that the model has not learned from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edge_ad.bundle import Threshold
from edge_ad.errors import ConfigError, DataError
from edge_ad.types import AnyArray

MIN_SCORES = 3
"""Fewer good scores would let at least one good part in three be rejected."""

CONFIDENCE = 0.95
"""Of promises where nobody asks for another."""

ROUNDING = 1e-12
"""Relative error of a binomial sum, so that 0.25 passes for 0.25."""


def binomial_bound(trials: int, events: int, confidence: float) -> float:
    """Upper limit of a share of which ``events`` were seen in ``trials`` (Clopper and Pearson, Biometrika 1934).

    Args:
        trials: at least 1.
        events: 0 to ``trials``.
        confidence: one-sided, above 0 and below 1.

    Returns:
        The share p at which ``events`` or fewer have probability 1 - confidence; 1 where all were events.
    """
    check_share("the confidence", confidence)
    if not 0 <= events <= trials or trials < 1:
        raise ValueError(f"{events} events in {trials} trials")
    if events == trials:
        return 1.0
    coefficients = _log_coefficients(trials, events)
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if _at_most(trials, coefficients, middle)[-1] > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def false_reject_bound(frames: int, rank: int, confidence: float = CONFIDENCE) -> float:
    """Upper limit of the share of good parts above the ``rank``-th largest of the scores of ``frames`` good ones.

    Args:
        frames: good frames, n.
        rank: 1 for the largest score, to n; chosen without looking at the scores.
        confidence: one-sided, above 0 and below 1.
    """
    return binomial_bound(frames, rank - 1, confidence)


def frames_needed(false_reject_rate: float, confidence: float = CONFIDENCE) -> int:
    """The fewest good frames whose largest score promises ``false_reject_rate``: 59 for 5 % at 95 %, 299 for 1 %.

    Raises:
        ConfigError: the rate or the confidence is not between 0 and 1.
    """
    check_share("the false-reject rate", false_reject_rate)
    check_share("the confidence", confidence)
    return max(1, math.ceil(math.log(1 - confidence) / math.log1p(-false_reject_rate) * (1 - ROUNDING)))


def threshold_from_scores(scores: Sequence[float], confidence: float = CONFIDENCE) -> Threshold:
    """The largest of the scores of good parts: the lowest threshold that rejects none of them.

    Args:
        scores: of good parts kept apart from training.
        confidence: of the bound.

    Raises:
        DataError: there are fewer than ``MIN_SCORES``, or one is not finite.
    """
    return _of_rank(checked_scores(scores), 1, confidence)


def conformal_threshold(
    scores: Sequence[float], *, false_reject_rate: float, confidence: float = CONFIDENCE
) -> Threshold:
    """The lowest of the scores that rejects at most a share of good parts, whatever their distribution.

    Args:
        scores: of good parts kept apart from training.
        false_reject_rate: the share of good parts that may be rejected.
        confidence: with which no more are.

    Raises:
        ConfigError: the rate or the confidence is not between 0 and 1, or needs more frames than these.
        DataError: there are fewer than ``MIN_SCORES``, or one is not finite.
    """
    values = checked_scores(scores)
    check_enough(values.size, false_reject_rate, confidence)
    # The bound of a rank is at most the rate exactly where rank - 1 rejects or fewer are that improbable.
    below = _at_most(values.size, _log_coefficients(values.size, values.size - 1), false_reject_rate)
    rank = int(np.count_nonzero(below <= (1 - confidence) * (1 + ROUNDING)))
    return _of_rank(values, max(1, rank), confidence)


def promise(threshold: Threshold) -> str:
    """What a threshold promises, in words; figures are rounded up."""
    frames = f"from {threshold.frames} frames"
    if threshold.false_reject_bound is None or threshold.confidence is None:
        return f"about {_in_1000(threshold.false_reject_rate)} false rejects in 1,000 on average, {frames}"
    condition = f", if {threshold.assumption}" if threshold.assumption else ""
    return (
        f"at most {_in_1000(threshold.false_reject_bound)} false rejects in 1,000 "
        f"at {100 * threshold.confidence:.6g} % confidence, {frames}{condition}"
    )


def check_enough(frames: int, false_reject_rate: float, confidence: float) -> None:
    """Refuses a promise that so many good frames cannot give.

    Raises:
        ConfigError: naming how many can, and what these promise.
    """
    needed = max(MIN_SCORES, frames_needed(false_reject_rate, confidence))
    if frames < needed:
        best = false_reject_bound(frames, 1, confidence) if frames else 1.0
        raise ConfigError(
            f"{frames} good frames cannot promise {100 * false_reject_rate:.6g} % false rejects "
            f"at {100 * confidence:.6g} % confidence",
            why=f"that takes {needed}; the largest score of {frames} promises {100 * best:.3g} %",
            remedy=f"capture {needed - frames} more good parts with 'edge-ad capture --split validation', add "
            "--folds 5 to score the training frames too (a run only), or ask for --false-reject-rate "
            f"{math.ceil(best * 1000) / 1000:g}",
        )


def check_share(name: str, value: float) -> None:
    """Refuses what is not strictly between 0 and 1.

    Raises:
        ConfigError: naming it and its value.
    """
    if not 0 < value < 1:
        raise ConfigError(
            f"{name} is {value:g}", why="it must be above 0 and below 1", remedy="write 0.01 for 1 %, 0.95 for 95 %"
        )


def checked_scores(scores: Sequence[float], kind: str = "good", fewest: int = MIN_SCORES) -> AnyArray:
    """The scores as float64 (N,).

    Raises:
        DataError: there are fewer than ``fewest``, or one is not finite.
    """
    values = np.asarray(scores, np.float64)
    if values.size < fewest:
        raise DataError(
            f"{values.size} {kind} scores are too few for a threshold",
            why=f"at least {fewest} are needed; the largest of n good ones rejects 1 good part in n + 1",
            remedy="add good parts to the validation split"
            if kind == "good"
            else "add defective parts to the test split",
        )
    for index in np.flatnonzero(~np.isfinite(values))[:1]:
        raise DataError(
            f"score {index} of the {kind} parts is {values[index]}",
            why="a threshold must be a number",
            remedy="look at that frame; train again if it is sound",
        )
    return values


def _of_rank(values: AnyArray, rank: int, confidence: float) -> Threshold:
    count = values.size
    name = "maximum" if rank == 1 else f"number {rank} from the top"
    return Threshold(
        value=float(np.sort(values)[count - rank]),
        method=(
            f"{name} of {count} good scores: a fresh good part exceeds it with "
            f"probability {rank}/{count + 1} (exchangeability, as in split conformal prediction)"
        ),
        frames=count,
        false_reject_rate=rank / (count + 1),
        confidence=confidence,
        false_reject_bound=false_reject_bound(count, rank, confidence),
    )


def _log_coefficients(trials: int, events: int) -> AnyArray:
    """Logarithms of the binomial coefficients of 0 to ``events`` in ``trials``."""
    whole = math.lgamma(trials + 1)
    return np.array([whole - math.lgamma(i + 1) - math.lgamma(trials - i + 1) for i in range(events + 1)])


def _at_most(trials: int, coefficients: AnyArray, share: float) -> AnyArray:
    """Probabilities of at most 0, 1, … events in ``trials``, each with probability ``share``."""
    events = np.arange(coefficients.size)
    return np.cumsum(np.exp(coefficients + events * math.log(share) + (trials - events) * math.log1p(-share)))


def _in_1000(share: float) -> str:
    """Never less than the share: whole numbers from 10 on, else one decimal."""
    scale = 1 if share >= 0.01 else 10
    return f"{math.ceil(1000 * scale * share * (1 - ROUNDING)) / scale:g}"
