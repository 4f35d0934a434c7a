"""One quantity, watched: an alarm needs evidence and a change that matters, and ends when the change is gone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_ad.drift.exchangeability import ExchangeabilityTest
from edge_ad.types import AnyArray

OVER = 0.7
"""An alarm ends below this share of the smallest change that raises it."""

Effect = Callable[[AnyArray, AnyArray], float]
"""From values as they should be and recent ones to the size of the change, signed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A change that matters.

    Attributes:
        before: values as they should be, float64 (N,).
        recent: the newest values since the change, float64 (M,).
        effect: the size of the change, signed.
        parts: how many parts it has lasted.
    """

    before: AnyArray
    recent: AnyArray
    effect: float
    parts: int


class Watch:
    """Takes a quantity's values part by part.

    While nothing changes it raises no more alarms than ``test`` promises, as it never raises one without it.

    Args:
        test: gives the evidence.
        effect: measures the change.
        smallest: the least effect, up or down, that is worth an alarm.
        window: at most so many of the newest values are compared; so many must be normal to end an alarm.
        normal: what values should be like, float64 (N,); None for those before the change.

    Attributes:
        finding: the alarm; None while there is none.
        recent: the newest values.
    """

    def __init__(
        self,
        test: ExchangeabilityTest,
        effect: Effect,
        *,
        smallest: float,
        window: int,
        normal: AnyArray | None = None,
    ) -> None:
        self.test = test
        self.finding: Finding | None = None
        self.recent: deque[float] = deque(maxlen=window)
        self._effect, self._smallest, self._window, self._normal = effect, smallest, window, normal

    def add(self, value: float) -> bool:
        """Takes the next value, which must be finite; True if an alarm just ended."""
        self.recent.append(value)
        if self.finding is None:
            self.test.add(value)
            self._look()
            return False
        before, parts = self.finding.before, self.finding.parts + 1
        self.finding = self._measured(before, self._window, parts)
        over = abs(self.finding.effect) < OVER * self._smallest and len(self.recent) == self._window
        if over:
            self.finding = None
            self.test.restart()
        return over

    def _look(self) -> None:
        change = self.test.change
        if change is None:
            return
        parts = self.test.parts - change.start
        before = change.before if self._normal is None else self._normal
        found = self._measured(before, parts, parts)
        if abs(found.effect) >= self._smallest:
            self.finding = found
            self.recent = deque(found.recent.tolist(), maxlen=self._window)

    def _measured(self, before: AnyArray, newest: int, parts: int) -> Finding:
        recent = np.array(self.recent)[-newest:]
        effect = self._effect(before, recent) if len(before) else 0.0
        return Finding(before, recent, effect, parts)


def relative_change(before: AnyArray, recent: AnyArray) -> float:
    """Of the median, as a share of it."""
    middle = float(np.median(before))
    return (float(np.median(recent)) - middle) / max(abs(middle), 1e-9)


def absolute_change(before: AnyArray, recent: AnyArray) -> float:
    """Of the median."""
    return float(np.median(recent) - np.median(before))


def standard_change(before: AnyArray, recent: AnyArray) -> float:
    """Of the median, in standard deviations as the quartiles of ``before`` give them for normal values."""
    low, middle, high = np.quantile(before, (0.25, 0.5, 0.75))
    deviation = max(float(high - low) / 1.349, 1e-6 * abs(float(middle)), 1e-12)
    return float(np.median(recent) - middle) / deviation


def rise_of_share(before: AnyArray, recent: AnyArray) -> float:
    """Of the mean; 0 where it fell."""
    return max(0.0, float(np.mean(recent) - np.mean(before)))
