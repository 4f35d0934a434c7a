"""The whole line with triggers and its own threads: each part is answered once, in order, and never OK late."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from edge_ad.errors import CameraError, ConfigError, DataError
from edge_ad.runtime.acquisition import Acquisition, Policy
from edge_ad.runtime.judging import Inspector, Judge
from edge_ad.runtime.loop import Line, run
from edge_ad.runtime.reader import EndReason
from edge_ad.sinks.memory import MemorySink
from edge_ad.types import AnomalyResult, CameraInfo, Frame, Inspection, ReadStatus
from tests.runtime.live_line import INFO, LONG_S, Announcer, LiveCamera, make_frame, predict, running, until

RULES = {"deadline_ms": 5000, "frame_within_ms": 3000}
SLOW = {"deadline_ms": 300, "guard_ms": 150}


@pytest.mark.parametrize("policy", ["trigger", "software"])
def test_each_part_gets_one_answer_in_the_order_of_the_triggers(policy: Policy) -> None:
    triggers, sink = Announcer(), MemorySink()
    camera = LiveCamera(software=policy == "software", paced=policy != "software")
    with running(camera, rules={**RULES, "policy": policy, "queue": 30}, triggers=triggers, sinks=[sink]) as line:
        for number in range(20):
            triggers.trigger(f"p{number}")
            camera.passes_by()
        until(lambda: len(triggers.answers) == 20)
        summary = line.end()
    assert triggers.outcome == [(f"p{number}", "OK") for number in range(20)]
    assert [inspection.frame.part_id for inspection in sink.inspections] == [f"p{number}" for number in range(20)]
    assert all(answer.triggered_ns < answer.frame.timestamp_ns < answer.deadline_ns for answer in triggers.answers)
    assert triggers.closed and summary.ended is EndReason.STOPPED
    assert summary.statistics["latency_ms"]["answer"]["max"] > 0


def test_a_part_too_many_is_an_error_that_says_so() -> None:
    triggers, judging, go_on = Announcer(), threading.Event(), threading.Event()

    def held(frame: Frame) -> AnomalyResult:
        judging.set()
        assert go_on.wait(LONG_S)
        return predict(frame)

    with running(LiveCamera(), judge=held, rules={**RULES, "queue": 2}, triggers=triggers) as line:
        triggers.trigger("a")
        assert judging.wait(LONG_S)
        triggers.trigger("b")
        triggers.trigger("c")
        go_on.set()
        until(lambda: len(triggers.answers) == 3)
        assert triggers.outcome[0] == ("a", "OK") and triggers.outcome[2] == ("c", "ERROR")
        assert triggers.answers[2].verdict.reason == "trigger overrun: 2 parts were waiting already"
        assert line.events["overrun"] == 1


def test_a_model_that_takes_too_long_is_answered_for_while_it_runs() -> None:
    triggers, go_on = Announcer(), threading.Event()

    def held(frame: Frame) -> AnomalyResult:
        assert go_on.wait(LONG_S)
        return predict(frame)

    with running(LiveCamera(), judge=held, rules=SLOW, triggers=triggers) as line:
        triggers.trigger("a")
        until(lambda: triggers.answers)
        assert not go_on.is_set()
        assert triggers.outcome == [("a", "ERROR")]
        assert triggers.answers[0].verdict.reason == "late: no verdict within 300 ms of the trigger"
        go_on.set()
        until(lambda: line.events.get("discarded"))
        assert len(triggers.answers) == 1 and line.events["late"] == 1


@pytest.mark.parametrize("policy", ["trigger", "software"])
def test_while_the_camera_is_lost_each_part_is_an_error_with_the_reason_and_then_it_goes_on(policy: Policy) -> None:
    triggers = Announcer()
    camera = LiveCamera(software=policy == "software", paced=policy != "software")
    camera.fault, camera.absent = ReadStatus.DISCONNECTED, CameraError("the cable is out")
    rules = {"deadline_ms": 400, "guard_ms": 100, "policy": policy}
    with running(camera, rules=rules, triggers=triggers) as line:
        until(lambda: line.events["reopens"] > 1)
        triggers.trigger("a")
        triggers.trigger("b")
        until(lambda: len(triggers.answers) == 2)
        assert triggers.outcome == [("a", "ERROR"), ("b", "ERROR")]
        assert all("the cable is out" in answer.verdict.reason for answer in triggers.answers)
        camera.fault = camera.absent = None
        until(lambda: line.events["reconnects"])
        until(lambda: _passes(triggers))
        names = [name for name, _ in triggers.outcome]
        assert len(names) == len(set(names))


def _passes(triggers: Announcer) -> bool:
    """Whether one more part is OK."""
    count = len(triggers.answers)
    triggers.trigger(f"again {count}")
    until(lambda: len(triggers.answers) > count)
    return triggers.outcome[-1][1] == "OK"


def test_parts_that_are_open_at_the_end_are_errors() -> None:
    triggers, judging, go_on = Announcer(), threading.Event(), threading.Event()

    def held(frame: Frame) -> AnomalyResult:
        judging.set()
        assert go_on.wait(LONG_S)
        return predict(frame)

    with running(LiveCamera(), judge=held, rules={**RULES, "deadline_ms": 60_000}, triggers=triggers) as line:
        triggers.trigger("a")
        assert judging.wait(LONG_S)
        triggers.trigger("b")
        time.sleep(0.02)
        triggers.trigger("c")
        line.stop.set()
        go_on.set()
        summary = line.end()
    assert [name for name, _ in triggers.outcome] == ["a", "b", "c"]
    assert triggers.outcome[0][1] == "OK"
    assert {answer.verdict.decision.value for answer in triggers.answers[1:]} == {"ERROR"}
    assert "stopped before the part was judged" in triggers.answers[2].verdict.reason
    assert summary.statistics["inspected"] == 3


def test_a_recipe_that_a_trigger_names_judges_that_part_alone() -> None:
    triggers = Announcer()
    books = {name: Inspector({"full": _judge(limit)}, recipe=name, model_id=f"m-{name}") for name, limit in LIMITS}

    def inspector_for(recipe: str) -> Inspector:
        if (recipe or "lid") not in books:
            raise ConfigError(f"there is no recipe {recipe!r}", remedy="use one of: cap, lid")
        return books[recipe or "lid"]

    camera = LiveCamera()
    with running(camera, rules=RULES, triggers=triggers, inspector_for=inspector_for):
        for part_id, recipe in (("a", ""), ("b", "cap"), ("c", "bolt"), ("d", "")):
            triggers.trigger(part_id, recipe)
            camera.passes_by()
        until(lambda: len(triggers.answers) == 4)
    assert [decision for _, decision in triggers.outcome] == ["OK", "NG", "ERROR", "OK"]
    told = [(found.recipe, found.model_id, found.verdict.threshold) for found in triggers.answers[:2]]
    assert told == [("lid", "m-lid", 5.0), ("cap", "m-cap", 0.5)]
    assert "there is no recipe 'bolt'" in triggers.answers[2].verdict.reason
    assert triggers.answers[2].recipe == "bolt"


def test_a_change_over_is_not_for_parts_that_were_triggered_before() -> None:
    triggers, judging, go_on = Announcer(), threading.Event(), threading.Event()

    def held(frame: Frame) -> AnomalyResult:
        judging.set()
        assert go_on.wait(LONG_S)
        return predict(frame)

    books = {name: Inspector({"full": Judge(held, limit)}, recipe=name) for name, limit in LIMITS}
    active = ["lid"]
    camera = LiveCamera()
    with running(camera, rules=RULES, triggers=triggers, inspector_for=lambda name: books[name or active[0]]):
        triggers.trigger("a")
        assert judging.wait(LONG_S)
        triggers.trigger("b")
        active[0] = "cap"
        triggers.trigger("c")
        go_on.set()
        until(lambda: len(triggers.answers) == 3)
    assert [answer.recipe for answer in triggers.answers] == ["lid", "lid", "cap"]


LIMITS = (("lid", 5.0), ("cap", 0.5))


def _judge(limit: float) -> Any:
    return Judge(predict, limit)


def test_a_bug_in_finding_a_model_costs_its_parts_alone_wherever_it_strikes() -> None:
    triggers, camera = Announcer(), LiveCamera()
    inspector = Inspector.of(predict, 5.0)

    def inspector_for(recipe: str) -> Inspector:
        if recipe:
            raise ZeroDivisionError(recipe)
        return inspector

    rules = {"deadline_ms": 1000, "frame_within_ms": 50}
    with running(camera, rules=rules, triggers=triggers, inspector_for=inspector_for) as line:
        triggers.trigger("judged", "broken")
        until(lambda: triggers.answers)
        camera.fault = ReadStatus.TIMEOUT
        triggers.trigger("given up", "broken")
        until(lambda: len(triggers.answers) == 2)
        camera.fault = None
        until(lambda: _passes(triggers))
        assert line.events["bugs"] >= 2
    assert triggers.outcome[:2] == [("judged", "ERROR"), ("given up", "ERROR")]
    assert all(answer.recipe == "broken" for answer in triggers.answers[:2])


def test_a_part_that_is_late_with_its_frame_still_has_its_name_and_its_picture() -> None:
    triggers, go_on = Announcer(), threading.Event()

    def held(frame: Frame) -> AnomalyResult:
        assert go_on.wait(LONG_S)
        return predict(frame)

    with running(LiveCamera(), judge=held, rules=SLOW, triggers=triggers):
        triggers.trigger("A-17")
        until(lambda: triggers.answers)
        go_on.set()
    answer = triggers.answers[0]
    assert (answer.frame.part_id, answer.frame.source, answer.frame.size_px) == ("A-17", "live", (4, 6))


def test_a_picture_of_one_part_that_comes_too_late_is_never_taken_for_the_next() -> None:
    class Slow(LiveCamera):
        """Delivers without names, and the first picture long after its part's deadline."""

        pictures = 0

        def read(self, timeout_s: float) -> Frame | ReadStatus:
            if not self.told:
                time.sleep(min(timeout_s, 0.003))
                return ReadStatus.TIMEOUT
            self.pictures += 1
            time.sleep(0.5 if self.pictures == 1 else 0.001)
            shown = self.told.pop(0)
            return Frame(rgb=make_frame().rgb, timestamp_ns=time.monotonic_ns(), source=f"shows {shown}")

    triggers = Announcer()
    rules = {"policy": "software", "deadline_ms": 250, "guard_ms": 100}
    with running(Slow(software=True, paced=False), rules=rules, triggers=triggers):
        triggers.trigger("a")
        until(lambda: triggers.answers)
        triggers.trigger("b")
        until(lambda: len(triggers.answers) == 2)
        until(lambda: _passes(triggers))
    assert triggers.outcome[0] == ("a", "ERROR")
    for answer in triggers.answers:
        if answer.verdict.decision.value == "OK":
            assert answer.frame.source == f"shows {answer.frame.part_id}"


def test_a_camera_that_takes_no_picture_when_told_to_is_brought_back() -> None:
    class Deaf(LiveCamera):
        def trigger(self, part_id: str = "") -> None:
            if self.opened:
                super().trigger(part_id)

    triggers, camera = Announcer(), Deaf(software=True, paced=False)
    with running(camera, rules={"policy": "software", "deadline_ms": 200}, triggers=triggers) as line:
        triggers.trigger("a")
        until(lambda: camera.opened)
        assert triggers.outcome == [("a", "ERROR")]
        until(lambda: _passes(triggers))
        assert line.events["reconnects"] == 1


def test_a_driver_whose_trigger_has_a_bug_does_not_end_the_line() -> None:
    class Broken(LiveCamera):
        def trigger(self, part_id: str = "") -> None:
            if not self.opened:
                raise KeyError("driver")
            super().trigger(part_id)

    triggers = Announcer()
    rules = {"policy": "software", "deadline_ms": 1000}
    with running(Broken(software=True, paced=False), rules=rules, triggers=triggers):
        triggers.trigger("a")
        until(lambda: triggers.answers)
        assert triggers.outcome == [("a", "ERROR")]
        until(lambda: _passes(triggers))


def test_a_damaged_capture_costs_its_part_alone() -> None:
    triggers, camera = Announcer(), LiveCamera(software=True, paced=False)
    with running(camera, rules={"policy": "software", "deadline_ms": 1000}, triggers=triggers) as line:
        camera.fault = DataError("colour and depth do not belong together")
        triggers.trigger("a")
        until(lambda: triggers.answers)
        camera.fault = None
        until(lambda: _passes(triggers))
        assert triggers.outcome[0] == ("a", "ERROR")
        assert line.events["reconnects"] == 0


def test_an_offset_delays_the_picture_that_the_camera_is_told_to_take() -> None:
    triggers = Announcer()
    rules = {**RULES, "policy": "software", "offset_ms": 120}
    with running(LiveCamera(software=True, paced=False), rules=rules, triggers=triggers):
        triggers.trigger("a")
        until(lambda: triggers.answers)
    assert triggers.outcome == [("a", "OK")]
    answer = triggers.answers[0]
    assert answer.frame.timestamp_ns - answer.triggered_ns >= 120_000_000


def test_frames_that_are_too_old_are_dropped_and_counted() -> None:
    sink, camera = MemorySink(), LiveCamera()
    camera.age_s = 3.0
    with running(camera, rules={"policy": "latest", "max_age_ms": 1000}, sinks=[sink]) as line:
        until(lambda: line.line.statistics.summary()["dropped"]["stale"] >= 3)
        assert sink.inspections == []
        camera.age_s = 0.0
        until(lambda: sink.inspections)


class Slow(MemorySink):
    def write(self, inspection: Inspection) -> None:
        time.sleep(0.002)
        super().write(inspection)


def test_every_frame_reaches_a_slow_sink() -> None:
    class Hundred(LiveCamera):
        def read(self, timeout_s: float) -> Frame | ReadStatus:
            self._sequence += 1
            return make_frame(self._sequence) if self._sequence <= 100 else ReadStatus.END_OF_STREAM

    sink = Slow()
    inspector = Inspector.of(predict, 5.0)
    line = Line(lambda recipe: inspector, [sink], acquisition=Acquisition(policy="every"))
    summary = run(Hundred(paced=False), INFO, line)
    assert [inspection.frame.sequence for inspection in sink.inspections] == list(range(1, 101))
    assert summary.statistics["dropped"].get("undelivered to Slow", 0) == 0


class Hanging(MemorySink):
    """Takes one inspection and does not return until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def write(self, inspection: Inspection) -> None:
        assert self.let_go.wait(LONG_S)
        super().write(inspection)


def test_a_sink_that_hangs_costs_the_newest_frames_nothing() -> None:
    hanging, good = Hanging(), MemorySink()
    with running(LiveCamera(), rules={"policy": "latest"}, sinks=[hanging, good]) as line:
        until(lambda: line.line.statistics.summary()["dropped"].get("undelivered to Hanging", 0) >= 5)
        assert len(good.inspections) > 32
        hanging.let_go.set()


def test_a_sink_that_hangs_does_not_keep_every_frame_from_ending() -> None:
    hanging = Hanging()
    with running(LiveCamera(paced=False), rules={"policy": "every"}, sinks=[hanging]) as line:
        until(lambda: line.line.statistics.summary()["inspected"] >= 32)
        line.stop.set()
        time.sleep(0.3)
        hanging.let_go.set()
        assert line.end().ended is EndReason.STOPPED


class Manager:
    """Counts how often it is told that the line lives."""

    def __init__(self) -> None:
        self.told = 0

    def ready(self) -> None: ...

    def alive(self) -> None:
        self.told += 1

    def stopping(self) -> None: ...


class SlowToOpen(LiveCamera):
    """Waits in ``open`` for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.opening, self.go_on = threading.Event(), threading.Event()

    def open(self) -> CameraInfo:
        self.opening.set()
        assert self.go_on.wait(LONG_S)
        self.fault = None
        return super().open()


def test_with_every_frame_judged_a_long_recovery_is_no_hang() -> None:
    manager, camera = Manager(), SlowToOpen()
    camera.fault = ReadStatus.DISCONNECTED
    with running(camera, rules={"policy": "every"}, notifier=manager) as line:
        assert camera.opening.wait(LONG_S)
        before = manager.told
        until(lambda: manager.told > before)
        camera.go_on.set()
        until(lambda: line.line.statistics.summary()["inspected"])


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    for _ in range(3):
        triggers = Announcer()
        with running(LiveCamera(), rules=RULES, triggers=triggers):
            triggers.trigger("a")
            until(lambda: triggers.answers)  # noqa: B023
    until(lambda: threading.active_count() <= before)


@pytest.mark.parametrize(
    ("policy", "triggers", "software", "words"),
    [
        pytest.param("trigger", None, False, "has no source of triggers", id="none"),
        pytest.param("latest", Announcer(), False, "does not go together with triggers", id="not answered"),
        pytest.param("every", Announcer(), False, "does not go together with triggers", id="nor here"),
        pytest.param("software", Announcer(), False, "takes no pictures when told to", id="camera cannot"),
    ],
)
def test_policies_that_cannot_be(policy: Policy, triggers: Announcer | None, software: bool, words: str) -> None:
    before = threading.active_count()
    line = Line(lambda recipe: Inspector.of(predict, 5.0), acquisition=Acquisition(policy=policy), triggers=triggers)
    with pytest.raises(ConfigError, match=words) as refused:
        run(LiveCamera(software=software), INFO, line)
    assert refused.value.remedy
    assert threading.active_count() == before
