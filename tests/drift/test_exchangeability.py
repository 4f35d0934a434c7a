"""The promise, in simulation; what it takes to see a change. Scores are drawn from laws the test does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge_ad.drift import exchangeability
from edge_ad.drift.exchangeability import MEMORY, Change, ExchangeabilityTest
from edge_ad.types import AnyArray

Draw = Callable[[np.random.Generator, int], AnyArray]

LAWS: dict[str, Draw] = {
    "normal": lambda random, count: random.standard_normal(count),
    "heavy tails": lambda random, count: random.standard_cauchy(count),
    "ties": lambda random, count: random.integers(0, 3, count).astype(float),
    "constant": lambda random, count: np.ones(count),
}


def rejects(reference: AnyArray, values: AnyArray, rate: float, seed: int) -> int | None:
    """How many values it took to reject; None where it did not."""
    test = ExchangeabilityTest(reference.tolist(), false_alarm_rate=rate, seed=seed)
    for count, value in enumerate(values.tolist(), start=1):
        test.add(value)
        if test.change is not None:
            return count
    return None


@pytest.mark.parametrize("law", LAWS)
def test_false_alarms_are_no_more_frequent_than_promised(law: str) -> None:
    """At a rate of 20 %, over 2,000 lines of 60 parts: with so few parts, every game has nearly all its chances."""
    random, rate, runs = np.random.default_rng(0), 0.2, 2000
    draws = (LAWS[law](random, 80) for _ in range(runs))
    alarms = sum(rejects(values[:20], values[20:], rate, seed) is not None for seed, values in enumerate(draws))
    assert alarms <= rate * runs
    # And it is a bet, not a deaf test: some lines do alarm.
    assert alarms > 0.01 * runs


def mean_capital(draws: Iterator[tuple[AnyArray, AnyArray]], shifts: tuple[float, ...]) -> tuple[float, float]:
    """What 1 becomes on average over pairs of reference and line, and the standard error of that."""
    capitals = []
    for seed, (reference, line) in enumerate(draws):
        test = ExchangeabilityTest(reference.tolist(), false_alarm_rate=1e-9, shifts=shifts, seed=seed)
        for value in line.tolist():
            test.add(value)
        capitals.append(test.capital)
    return float(np.mean(capitals)), float(np.std(capitals) / np.sqrt(len(capitals)))


def test_the_bets_are_fair() -> None:
    """The mean capital stays 1: a martingale."""
    random = np.random.default_rng(1)
    draws = ((random.standard_normal(10), random.standard_normal(10)) for _ in range(4000))
    mean, error = mean_capital(draws, (-0.5, 0.5))
    assert mean == pytest.approx(1, abs=4 * error)


@pytest.mark.parametrize("kept", ["below", "all"])
def test_a_threshold_made_of_the_reference_is_fair_to_scores_below_it(kept: str) -> None:
    """Of the OK parts; with the largest reference score, which is the threshold, they seem to fall."""
    random = np.random.default_rng(2)

    def draw() -> tuple[AnyArray, AnyArray]:
        reference, line = random.standard_normal(10), random.standard_normal(30)
        below = reference[reference < reference.max()] if kept == "below" else reference
        return below, line[line < reference.max()][:20]

    mean, error = mean_capital((draw() for _ in range(4000)), (-0.5,))
    assert (abs(mean - 1) < 4 * error) == (kept == "below")


def change_of(test: ExchangeabilityTest, random: np.random.Generator, shift: float) -> Change:
    """What it finds once the values are shifted."""
    while True:
        test.add(float(random.standard_normal() + shift))
        if test.change is not None:
            return test.change


@pytest.mark.parametrize(
    ("shift", "parts"), [(0.5, 400), (1.0, 90), (2.0, 25), (-1.0, 90)], ids=["0.5", "1", "2", "fall by 1"]
)
def test_a_shift_is_found(shift: float, parts: int) -> None:
    """In standard deviations, at a rate of 1 in 1,000, after 60 reference frames and 1,000 good parts."""
    random = np.random.default_rng(3)
    delays = []
    for seed in range(20):
        test = ExchangeabilityTest(random.standard_normal(60).tolist(), false_alarm_rate=0.001, seed=seed)
        for value in random.standard_normal(1000).tolist():
            test.add(value)
        assert test.change is None
        change = change_of(test, random, shift)
        assert change.rose == (shift > 0)
        assert abs(change.start - 1000) <= 60 / abs(shift)
        assert len(change.before) == 60 + change.start
        delays.append(test.parts - 1000)
    assert np.median(delays) <= parts


def test_a_change_made_while_the_line_stood_is_found() -> None:
    random = np.random.default_rng(4)
    delays = [rejects(random.standard_normal(60), random.standard_normal(300) + 2, 0.001, seed) for seed in range(20)]
    assert max(delay or 1000 for delay in delays) <= 30


def test_constant_values_that_jump_are_found() -> None:
    found = rejects(np.ones(20), np.full(50, 1.001), 0.01, 0)
    assert found is not None and found <= 20


def test_one_direction_only_where_asked() -> None:
    test = ExchangeabilityTest(np.arange(50.0).tolist(), false_alarm_rate=0.01, shifts=(0.5, 1.0, 2.0))
    for _ in range(200):
        test.add(-1.0)
    assert test.change is None


def test_the_same_seed_gives_the_same_capital() -> None:
    one, same, other = (ExchangeabilityTest([1.0] * 5, false_alarm_rate=0.01, seed=seed) for seed in (1, 1, 2))
    for test in (one, same, other):
        for _ in range(10):
            test.add(1.0)
    assert one.capital == same.capital != other.capital


def test_games_end_and_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a game in which nothing happened, the next one also compares with its first values."""
    monkeypatch.setattr(exchangeability, "PROMISE_PARTS", 1500)
    random = np.random.default_rng(5)
    test = ExchangeabilityTest(random.standard_normal(10).tolist(), false_alarm_rate=1e-6)
    sizes = []
    for _ in range(4):
        for value in random.standard_normal(1500).tolist():
            test.add(value)
        sizes.append(test.compared)
    assert sizes == [10 + 1500, 10 + 1500 + 1500, 10 + MEMORY + 1500, 10 + MEMORY + 1500]
    assert test.change is None


def test_a_fair_game_spends_all_its_capital() -> None:
    """With p-values that say nothing, no game wins, and what waits for later parts is still there."""
    test = ExchangeabilityTest((), false_alarm_rate=0.01, shifts=(1e-9,))
    for value in range(1000):
        test.add(float(value % 7))
    assert test.capital == pytest.approx(1, abs=1e-5)
