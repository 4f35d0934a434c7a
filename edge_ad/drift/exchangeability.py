"""A test that never stops: are new values drawn like those before them?

Each value gets a smoothed conformal p-value: its rank from the top, divided by their number, among the reference
values, all values since and itself, with ties broken at random. If all of these are exchangeable (drawn in any
order equally likely, for instance independently from one distribution, whatever that is), the p-values are independent
and uniform on [0, 1] (Vovk, Nouretdinov and Gammerman, "Testing exchangeability on-line", ICML 2003).

A capital of 1 is bet on them. With z = Φ⁻¹(1 - p), which is standard normal then, the bet f(p) = exp(δz - δ²/2)
is the likelihood ratio of a shift by δ standard deviations. Its mean over uniform p is 1, so the product of bets from
any part on is a martingale: a fair game. The capital is a fixed mixture of such games, over several shifts up and
down, and over all parts at which the change may have come (Shiryaev's and Roberts' idea; for conformal tests see Vovk
et al., "Retrain or not retrain: conformal test martingales for change-point detection", COPA 2021): half of it bets
from the first part on, the other half is spread evenly over the others. A mixture of fair games is a fair game, so
by Ville's inequality the capital ever reaches 1/α with probability at most α, whenever one looks.

Ranks need the values before, and memory must not grow for months. So after ``PROMISE_PARTS`` parts the game starts
anew with a capital of 1 against the reference and up to ``MEMORY`` of the first values of the line. Which values are
kept depends on their place, not their size, so the new game is fair too. Hence the promise: while nothing changes, the
first alarm comes within any one game with probability at most α, and within k of them with at most k·α. Forgetting old
values one by one instead would make the p-values dependent, and void it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from edge_ad.types import AnyArray

PROMISE_PARTS = 10_000
MEMORY = 2_000
SHIFTS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
"""What is bet on, in standard deviations; negative for falling values."""

AT_ONCE = 0.5
"""Share of the capital that bets on a change before the first part, such as one made while the line stood."""

NEVER_P = 1e-15
"""Keeps a p-value from being exactly 0 or 1; too small to touch the promise."""

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Change:
    """What the test found when it rejected.

    Attributes:
        rose: whether the values rose; else they fell.
        before: the reference and the values up to the change, float64 (N,).
        start: how many parts of this game came before the change, by maximum likelihood.
    """

    rose: bool
    before: AnyArray
    start: int


class ExchangeabilityTest:
    """Takes values one by one; see the module's docstring for the promise.

    Args:
        reference: values to compare with from the first part on; may be empty.
        false_alarm_rate: α, the most that the probability of rejecting in one game may be though nothing changed.
        shifts: what to bet on; positive ones only where a fall is of no interest.
        seed: of the random numbers that break ties.

    Attributes:
        change: what was found; None while nothing has been in this game.
        parts: values taken in this game.
        capital: what 1 has become; ``change`` is set when it reaches 1/α, and the betting then stops.
    """

    def __init__(
        self,
        reference: Sequence[float],
        *,
        false_alarm_rate: float,
        shifts: Sequence[float] = SHIFTS,
        seed: int = 0,
    ) -> None:
        self._wanted = 1 / false_alarm_rate
        self._shifts = tuple(shifts)
        self._random = random.Random(seed)
        self._kept = list(reference)
        self._room = len(self._kept) + MEMORY
        # All that a game will need, filled now: memory that grows from part to part would look like a leak.
        self._sorted = np.full(self._room + PROMISE_PARTS, np.nan)
        self._values, self._z = np.full((2, PROMISE_PARTS), np.nan)
        self.restart()

    @property
    def compared(self) -> int:
        """How many values the next one is compared with."""
        return self._count

    def restart(self) -> None:
        """Begins a new game against what is kept."""
        self.change: Change | None = None
        self.parts, self.capital = 0, 1.0
        self._count, self._taken = len(self._kept), 0
        self._sorted[: self._count] = sorted(self._kept)
        self._games = [AT_ONCE] * len(self._shifts)

    def add(self, value: float) -> None:
        """Takes the next value, which must be finite."""
        if self.parts == PROMISE_PARTS:
            if self.change is None:
                self._kept += self._values[: min(self._taken, self._room - len(self._kept))].tolist()
            self.restart()
        self.parts += 1
        if self.change is None:
            self._bet(value)

    def _bet(self, value: float) -> None:
        p, place = self._p_value_and_place(value)
        z = _NORMAL.inv_cdf(1 - p)
        self._sorted[place + 1 : self._count + 1] = self._sorted[place : self._count]
        self._sorted[place] = value
        self._values[self._taken], self._z[self._taken] = value, z
        self._count, self._taken = self._count + 1, self._taken + 1
        enters = 0.0 if self.parts == 1 else (1 - AT_ONCE) / (PROMISE_PARTS - 1)
        self._games = [
            (game + enters) * _ratio(shift, z) for game, shift in zip(self._games, self._shifts, strict=True)
        ]
        waiting = (1 - AT_ONCE) * (PROMISE_PARTS - self.parts) / (PROMISE_PARTS - 1)
        self.capital = sum(self._games) / len(self._games) + waiting
        if self.capital >= self._wanted:
            self.change = self._found()

    def _p_value_and_place(self, value: float) -> tuple[float, int]:
        """Of a value: its smoothed p-value, and where it belongs among the sorted ones."""
        known = self._sorted[: self._count]
        below, up_to = (int(np.searchsorted(known, value, side)) for side in ("left", "right"))
        p = (self._count - up_to + self._random.random() * (up_to - below + 1)) / (self._count + 1)
        return min(max(p, NEVER_P), 1 - NEVER_P), up_to

    def _found(self) -> Change:
        """The shift that won the most, and the part from which it won."""
        best = max(range(len(self._shifts)), key=self._games.__getitem__)
        shift = self._shifts[best]
        won = np.cumsum(shift * self._z[: self._taken] - shift**2 / 2)
        start = int(np.argmin(np.concatenate([[0.0], won[:-1]])))
        return Change(shift > 0, np.concatenate([self._kept, self._values[:start]]), start)


def _ratio(shift: float, z: float) -> float:
    """Likelihood of z under N(shift, 1) by that under N(0, 1)."""
    return math.exp(shift * z - shift * shift / 2)
