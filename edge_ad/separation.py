"""Thresholds and defective parts: the one that separates best, and what a threshold catches.

Where a rate of false rejects is asked for, defects have nothing to add: the lowest threshold that keeps the
promise catches the most of them. Where none is, they can choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_ad.bundle import Threshold
from edge_ad.errors import DataError
from edge_ad.thresholding import CONFIDENCE, binomial_bound, checked_scores


@dataclass(frozen=True, slots=True)
class Detection:
    """How many of the defective parts score above a threshold.

    Attributes:
        found: defective parts above it.
        parts: all defective parts.
        rate_bound: lower limit of the share that is found of defects like these.
        confidence: with which it is.
    """

    found: int
    parts: int
    rate_bound: float
    confidence: float


def separating_threshold(
    good: Sequence[float], defective: Sequence[float], *, confidence: float = CONFIDENCE
) -> Threshold:
    """The threshold with the best balanced accuracy, in the middle of the gap between the scores beside it.

    Its promise comes from the good parts alone. As the scores choose the rank, the rank k gets the share
    1 / k(k + 1) of the risk (they add up to 1), so that the limits of all ranks hold together.

    Args:
        good: scores of good parts kept apart from training.
        defective: scores of defective parts.
        confidence: of the bound.

    Raises:
        DataError: there are fewer than ``MIN_SCORES`` good scores or no defective ones, one is not finite, or no
            threshold tells the two apart.
    """
    good_scores, bad_scores = checked_scores(good), checked_scores(defective, "defective", 1)
    values = np.unique(np.concatenate([good_scores, bad_scores]))
    rejected, found = (
        scores.size - np.searchsorted(np.sort(scores), values, side="right") for scores in (good_scores, bad_scores)
    )
    merit = found * good_scores.size - rejected * bad_scores.size  # Youden's index in whole numbers
    best = int(values.size - 1 - np.argmax(merit[::-1]))  # of equals the one that rejects fewest good parts
    if merit[best] <= 0:
        raise DataError(
            "no threshold tells the defective parts from the good ones",
            why=f"the {bad_scores.size} defective parts do not score higher than the {good_scores.size} good ones",
            remedy="look at them with 'edge-ad evaluate'; train longer or with other modalities",
        )
    low, high = float(values[best]), float(values[best + 1])
    middle = low + (high - low) / 2
    above = int(rejected[best])
    return Threshold(
        value=middle if middle < high else low,
        method=(
            f"best balanced accuracy on {good_scores.size} good and {bad_scores.size} defective frames: rejects "
            f"{above} and {int(found[best])} of them; bound corrected for the choice"
        ),
        frames=good_scores.size,
        false_reject_rate=(above + 1) / (good_scores.size + 1),
        confidence=confidence,
        false_reject_bound=_bound_of_any(good_scores.size, above, confidence),
    )


def detection(
    value: float, defective: Sequence[float], *, confidence: float = CONFIDENCE, chosen_on_them: bool = False
) -> Detection:
    """What a threshold catches of defective parts.

    Args:
        value: the threshold.
        defective: scores of defective parts.
        confidence: of the lower limit.
        chosen_on_them: whether these scores had a say in ``value``; the limit is then lower, see
            ``separating_threshold``.

    Raises:
        DataError: there are no scores, or one is not finite.
    """
    scores = checked_scores(defective, "defective", 1)
    found = int(np.count_nonzero(scores > value))
    bound = _bound_of_any if chosen_on_them else binomial_bound
    return Detection(found, scores.size, 1 - bound(scores.size, scores.size - found, confidence), confidence)


def _bound_of_any(trials: int, events: int, confidence: float) -> float:
    """As ``binomial_bound``, and true of all numbers of events at once."""
    return binomial_bound(trials, events, 1 - (1 - confidence) / ((events + 1) * (events + 2)))
