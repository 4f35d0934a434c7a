from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from edge_ad.alarms import Alarms
from edge_ad.errors import ConfigError
from edge_ad.runtime.latency_alarm import LatencyAlarm
from edge_ad.runtime.stats import Statistics


class Watched:
    """A line whose alarm is at 100 ms."""

    def __init__(self, limit_ms: float = 100.0) -> None:
        self.statistics, self.alarms = Statistics(), Alarms()
        self.alarm = LatencyAlarm(self.statistics, self.alarms, limit_ms)

    def text(self) -> str:
        self.alarm.check()
        return " / ".join(alarm.text for alarm in self.alarms.active() if alarm.name == "latency")


@pytest.fixture
def pass_s(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])

    def wait(seconds: float) -> None:
        now_s[0] += seconds

    return wait


def test_quiet_while_there_is_nothing_or_all_is_quick() -> None:
    line = Watched()
    assert line.text() == ""
    for _ in range(100):
        line.statistics.record("age", 95.0)
        line.statistics.record("read", 900.0)
    assert line.text() == ""


def test_one_frame_in_a_thousand_is_no_alarm_and_two_in_a_hundred_are() -> None:
    line = Watched()
    for number in range(1000):
        line.statistics.record("age", 300.0 if number == 500 else 50.0)
    assert line.text() == ""
    for _ in range(20):
        line.statistics.record("age", 300.0)
    assert "1 in 100 took" in line.text()


def test_it_names_the_slowest_part_and_not_the_wait_for_the_camera() -> None:
    line = Watched()
    stages_ms = {"age": 180.0, "read": 500.0, "predict": 150.0, "judge": 5.0, "sinks": 20.0}
    for stage, value_ms in {**stages_ms, "predict.feed": 30.0, "predict.engine": 120.0}.items():
        line.statistics.record(stage, value_ms)
    text = line.text()
    assert "the limit is 100 ms" in text
    assert "The slowest stage is predict.engine (inference)" in text


def test_a_stage_of_ones_own_is_named() -> None:
    line = Watched()
    for stage, value_ms in {"age": 180.0, "predict": 15.0, "polish": 160.0}.items():
        line.statistics.record(stage, value_ms)
    assert "The slowest stage is polish: 1" in line.text()


def test_waiting_that_takes_longer_than_any_stage_is_said() -> None:
    line = Watched()
    for stage, value_ms in {"age": 180.0, "predict": 30.0, "judge": 1.0, "sinks": 900.0}.items():
        line.statistics.record(stage, value_ms)
    assert "Most of it is waiting for the frames before; the slowest stage is predict" in line.text()


def test_without_stages_the_age_is_said_alone() -> None:
    line = Watched()
    line.statistics.record("age", 180.0)
    assert line.text().endswith("No stage was measured")


def test_it_ends_only_well_below_the_limit(pass_s: Callable[[float], None]) -> None:
    line = Watched()

    def now_ages(value_ms: float) -> str:
        pass_s(61)
        line.statistics.record("age", value_ms)
        return line.text()

    assert now_ages(95) == ""
    assert now_ages(120) != ""
    assert now_ages(95) != "", "within a tenth of the limit it stays"
    assert now_ages(85) == ""
    assert now_ages(95) == "", "and does not come back there"
    assert line.alarms.raised() == {"latency": 1}
    assert now_ages(130) != ""
    assert line.alarms.raised() == {"latency": 2}
    pass_s(61)
    assert line.text() == "", "where nothing was judged nothing is late"


@pytest.mark.parametrize("limit_ms", [0.0, -5.0, math.nan, math.inf])
def test_a_limit_that_is_none(limit_ms: float) -> None:
    with pytest.raises(ConfigError, match="latency limit"):
        Watched(limit_ms)
