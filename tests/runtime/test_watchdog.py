"""The watchdog notices what hangs or is overdue, and nothing that fails in it ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from edge_ad.alarms import Alarm, Alarms
from edge_ad.runtime import watchdog as module
from edge_ad.runtime.parts import Fate, Part, PartRules, PartTracker
from edge_ad.runtime.reader import Reader
from edge_ad.runtime.stats import Statistics
from edge_ad.runtime.watchdog import CAMERA, INFERENCE, Watchdog
from edge_ad.types import Frame, Inspection
from tests.runtime.live_line import LiveCamera, until


class StubbornReader(Reader):
    """One whose silence is in the test's hands."""

    quiet_s = 0.0

    def __init__(self) -> None:
        super().__init__(LiveCamera(), "SN1", Statistics(), threading.Event())

    @property
    def silent_s(self) -> float:
        return self.quiet_s

    @property
    def is_silent(self) -> bool:
        return self.quiet_s > 1


class Bench:
    def __init__(self, tracker: PartTracker | None = None, *every_second: Callable[[], None]) -> None:
        self.reader, self.statistics, self.alarms = StubbornReader(), Statistics(), Alarms()
        self.judging_since_s: float | None = None
        since = lambda: self.judging_since_s  # noqa: E731
        self.watchdog = Watchdog(self.reader, self.statistics, self.alarms, since, tracker, every_second)

    @property
    def events(self) -> dict[str, int]:
        found: dict[str, int] = self.statistics.summary()["events"]
        return found

    @property
    def active(self) -> dict[str, str]:
        return {alarm.name: alarm.text for alarm in self.alarms.active()}


def test_a_silent_camera_is_an_alarm_that_is_counted_once_and_ends() -> None:
    bench = Bench()
    with bench.watchdog.watching():
        bench.reader.problem, bench.reader.quiet_s = "the cable is out", 1.5
        until(lambda: bench.active == {CAMERA: "no frame for 1.5 s: the cable is out"})
        bench.reader.quiet_s = 2.5
        until(lambda: bench.active[CAMERA].startswith("no frame for 2.5 s"))
        bench.reader.quiet_s = 0.0
        until(lambda: not bench.active)
    assert bench.events["camera_losses"] == 1 and bench.alarms.raised() == {CAMERA: 1}


def test_a_model_that_hangs_is_an_alarm_until_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INFERENCE_LIMIT_S", 0.05)
    bench = Bench()
    with bench.watchdog.watching():
        bench.judging_since_s = time.monotonic()
        until(lambda: "device may hang" in bench.active.get(INFERENCE, ""))
        bench.judging_since_s = None
        until(lambda: not bench.active)
    assert bench.events["inference_stalls"] == 1


def make_tracker(budget_ms: float, guard_ms: float = 5.0) -> tuple[PartTracker, list[Fate | None]]:
    fates: list[Fate | None] = []

    def emit(part: Part, inspection: Inspection | None, fate: Fate | None, frame: Frame | None) -> None:
        fates.append(fate)

    budget_ns, guard_ns = round(budget_ms * 1e6), round(guard_ms * 1e6)
    rules = PartRules(budget_ns=budget_ns, guard_ns=guard_ns, frame_within_ns=10 * budget_ns)
    return PartTracker(rules, emit), fates


def test_overdue_parts_are_given_up_though_nothing_else_happens() -> None:
    tracker, fates = make_tracker(30.0)
    with Bench(tracker).watchdog.watching():
        for _ in range(3):
            tracker.trigger()
        until(lambda: fates == [Fate.LATE] * 3)
    assert len(tracker) == 0


def test_a_trigger_wakes_the_watchdog_so_that_a_short_deadline_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 30.0)
    tracker, fates = make_tracker(100.0)
    bench = Bench(tracker)
    with bench.watchdog.watching():
        time.sleep(0.2)
        tracker.trigger("a")
        until(lambda: fates == [Fate.LATE])
        tracker.close()


def test_what_fails_every_second_is_counted_and_all_else_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECOND_S", 0.01)
    done: list[str] = []

    def fails() -> None:
        raise ZeroDivisionError

    tracker, fates = make_tracker(30.0)
    bench = Bench(tracker, fails, lambda: done.append("next"))
    with bench.watchdog.watching():
        until(lambda: len(done) >= 3)
        tracker.trigger("a")
        until(lambda: fates == [Fate.LATE])
    assert bench.events["bugs"] >= 3


def test_what_takes_its_time_every_second_makes_no_part_late() -> None:
    go_on, entered = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        go_on.wait(20)

    tracker, fates = make_tracker(30.0)
    with Bench(tracker, slow).watchdog.watching():
        assert entered.wait(20)
        tracker.trigger("a")
        until(lambda: fates == [Fate.LATE])
        assert not go_on.is_set()
        go_on.set()


def test_a_listener_that_fails_does_not_end_it() -> None:
    def fails(alarm: Alarm, raised: bool) -> None:
        raise ZeroDivisionError

    tracker, fates = make_tracker(30.0)
    bench = Bench(tracker)
    with bench.alarms.listening(fails), bench.watchdog.watching():
        bench.reader.quiet_s = 2.0
        until(lambda: bench.events["bugs"] >= 1)
        tracker.trigger("a")
        until(lambda: fates == [Fate.LATE])


def test_a_tracker_that_fails_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, _ = make_tracker(30.0)
    calls: list[float] = []

    def fails(timeout_s: float) -> None:
        calls.append(timeout_s)
        raise ZeroDivisionError

    monkeypatch.setattr(tracker, "watch", fails)
    bench = Bench(tracker)
    with bench.watchdog.watching():
        until(lambda: len(calls) >= 3)
        bench.reader.quiet_s = 2.0
        until(lambda: CAMERA in bench.active)


def test_it_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with Bench(make_tracker(30.0)[0]).watchdog.watching():
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
