"""Triggers in, verdicts out: never two, never none, never out of order, never a late OK."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from edge_ad.runtime.parts import Fate, Part, PartRules, PartTracker
from edge_ad.types import Decision, Frame, Inspection, Verdict

MS = 1_000_000
RULES = PartRules(
    budget_ns=300 * MS, guard_ns=20 * MS, offset_ns=10 * MS, frame_within_ns=80 * MS, capacity=4, duplicate_ns=500 * MS
)
TRIGGERS_WANTED = 100_000


class Line:
    """A tracker, the clock that it goes by, and what it answered."""

    def __init__(self, rules: PartRules = RULES) -> None:
        self.now_ns = 1_000_000 * MS
        self.answers: list[tuple[Part, Inspection | None, Fate | None, int]] = []
        self.counts: list[str] = []
        self.tracker = PartTracker(rules, self._emit, self.counts.append, lambda: self.now_ns)

    def _emit(self, part: Part, inspection: Inspection | None, fate: Fate | None, frame: Frame | None) -> None:
        assert (inspection is None) != (fate is None)
        self.answers.append((part, inspection, fate, self.now_ns))

    def wait(self, milliseconds: float) -> None:
        self.now_ns += round(milliseconds * MS)

    def frame(self, *, age_ms: float = 0, part_id: str | None = None) -> Frame:
        rgb = np.zeros((1, 1, 3), np.uint8)
        return Frame(rgb=rgb, timestamp_ns=self.now_ns - round(age_ms * MS), part_id=part_id)

    def trigger(self, name: str = "") -> Part:
        part = self.tracker.trigger(name)
        assert part is not None
        return part

    def judged(self, decision: Decision = Decision.OK) -> bool:
        """Takes the next part that can be judged and answers it."""
        taken = self.tracker.take(0)
        assert taken is not None
        return self.tracker.answer(taken[0], inspection(taken[1], decision))

    @property
    def outcome(self) -> list[tuple[str, str]]:
        return [
            (part.part_id, (found.verdict.decision if found is not None else fate or Fate.STOPPED).value)
            for part, found, fate, _ in self.answers
        ]


def inspection(frame: Frame, decision: Decision = Decision.OK) -> Inspection:
    return Inspection(frame, Verdict(decision, 1.0))


def test_a_part_is_judged_by_the_first_frame_after_its_trigger_and_offset() -> None:
    line = Line()
    line.trigger("a")
    line.wait(5)
    assert not line.tracker.offer(line.frame())
    line.wait(6)
    frame = line.frame()
    assert line.tracker.offer(frame)
    assert not line.tracker.offer(line.frame())
    taken = line.tracker.take(0)
    assert taken is not None and taken[1] is frame
    assert line.tracker.answer(taken[0], inspection(frame))
    assert line.outcome == [("a", "OK")]
    assert not line.tracker.answer(taken[0], inspection(frame))
    assert len(line.answers) == 1 and line.counts == ["discarded"]


def test_a_verdict_after_the_deadline_is_an_error_whatever_it_says() -> None:
    line = Line()
    line.trigger("a")
    line.wait(15)
    line.tracker.offer(line.frame())
    taken = line.tracker.take(0)
    assert taken is not None
    line.wait(300)
    assert not line.tracker.answer(taken[0], inspection(taken[1]))
    assert line.outcome == [("a", "late")]


def test_a_part_is_given_up_in_time_for_its_error_to_be_out() -> None:
    line = Line()
    part = line.trigger("a")
    line.wait(15)
    line.tracker.offer(line.frame())
    line.now_ns = line.tracker.expire() or 0
    line.tracker.expire()
    assert line.outcome == [("a", "late")]
    assert line.answers[0][3] == part.deadline_ns - RULES.guard_ns


def test_a_frame_that_comes_too_long_after_the_trigger_shows_something_else() -> None:
    line = Line()
    line.trigger("a")
    line.wait(95)
    assert not line.tracker.offer(line.frame())
    line.wait(60)
    line.tracker.expire()
    assert line.outcome == [("a", "no_frame")]


def test_a_part_without_a_frame_does_not_give_up_one_that_is_being_judged() -> None:
    line = Line()
    line.trigger("a")
    line.wait(15)
    line.tracker.offer(line.frame())
    line.trigger("b")
    line.wait(160)
    line.tracker.expire()
    assert line.outcome == []
    assert line.judged()
    assert line.outcome == [("a", "OK"), ("b", "no_frame")]


def test_two_triggers_without_a_frame_between_them_leave_the_first_without() -> None:
    line = Line()
    line.trigger("a")
    line.wait(5)
    line.trigger("b")
    line.wait(20)
    assert line.tracker.offer(line.frame())
    assert line.judged(Decision.NG)
    assert line.outcome == [("a", "no_frame"), ("b", "NG")]


def test_a_late_message_finds_the_frame_of_a_triggered_camera() -> None:
    line = Line(PartRules(offset_ns=-100 * MS, frame_within_ns=150 * MS))
    line.tracker.offer(line.frame())
    line.wait(40)
    line.trigger("a")
    assert line.judged()
    line.wait(5)
    line.trigger("b")
    assert line.tracker.take(0) is None, "one frame shows one part"


def test_a_frame_that_names_its_part_goes_to_that_part() -> None:
    line = Line(PartRules(frame_within_ns=500 * MS))
    line.trigger("a")
    line.trigger("b")
    assert not line.tracker.offer(line.frame(part_id="c"))
    assert line.tracker.offer(line.frame(part_id="a"))
    assert line.tracker.offer(line.frame(part_id="b"))
    assert line.judged() and line.judged()
    assert line.outcome == [("a", "OK"), ("b", "OK")]


def test_answers_leave_in_the_order_of_the_triggers() -> None:
    line = Line()
    taken = []
    for name in "ab":
        line.trigger(name)
        line.wait(12)
        line.tracker.offer(line.frame())
        taken.append(line.tracker.take(0))
    (first, frame), (second, other) = (pair for pair in taken if pair is not None)
    line.tracker.answer(second, inspection(other))
    assert line.outcome == []
    line.tracker.answer(first, inspection(frame, Decision.NG))
    assert line.outcome == [("a", "NG"), ("b", "OK")]


def test_more_parts_than_fit_are_answered_with_error_in_their_turn() -> None:
    line = Line()
    for name in "abcde":
        line.trigger(name)
    assert line.outcome == []
    line.tracker.close()
    assert line.outcome == [*((name, "stopped") for name in "abcd"), ("e", "overrun")]
    assert line.tracker.trigger("f") is None


def test_the_same_name_again_is_the_same_part_for_a_while() -> None:
    line = Line()
    line.trigger("a")
    assert line.tracker.trigger("a") is None
    line.wait(400)
    line.tracker.expire()
    assert line.tracker.trigger("a") is None
    line.wait(200)
    line.trigger("a")
    assert line.counts == ["duplicates"] * 2
    assert line.outcome == [("a", "late")]


def test_parts_without_names_are_numbered() -> None:
    line = Line()
    assert [line.trigger().part_id for _ in range(3)] == ["1", "2", "3"]


def test_months_of_parts_without_names_leave_nothing_behind() -> None:
    line = Line()
    for _ in range(1000):
        line.trigger()
        line.wait(400)
        line.tracker.expire()
    assert len(line.answers) == 1000
    assert len(line.tracker._recent) == len(line.tracker) == 0


@pytest.mark.parametrize("software", [False, True])
def test_a_camera_that_takes_a_frame_when_told_is_asked_for_the_oldest_part_first(software: bool) -> None:
    line = Line(PartRules(frame_within_ns=500 * MS))
    first, second = line.trigger("a"), line.trigger("b")
    assert line.tracker.wanted(0) is first
    if software:
        line.tracker.offer(line.frame(part_id="a"))
    else:
        line.tracker.fail(first)
        assert line.outcome == [("a", "no_frame")]
    assert line.tracker.wanted(0) is second


class AnyLine(RuleBasedStateMachine):
    """Whatever happens in whatever order: delays, lost frames, restarts, duplicates, late and double answers."""

    triggers = 0

    def __init__(self) -> None:
        super().__init__()
        self.line = Line()
        self.names = itertools.count()
        self.expected: list[Part] = []
        self.taken: list[tuple[Part, Frame]] = []
        self.next_expiry_ns: int | None = None

    @rule(count=st.integers(1, 40), gap_ms=st.floats(0, 120))
    def parts_pass(self, count: int, gap_ms: float) -> None:
        for _ in range(count):
            self._trigger(f"p{next(self.names)}")
            self._wait(gap_ms)

    @rule(back=st.integers(0, 3))
    def a_trigger_comes_twice(self, back: int) -> None:
        if len(self.expected) > back:
            self._trigger(self.expected[-1 - back].part_id)

    @rule(count=st.integers(1, 20), gap_ms=st.floats(0, 60), age_ms=st.floats(0, 150))
    def frames_come(self, count: int, gap_ms: float, age_ms: float) -> None:
        for _ in range(count):
            self.line.tracker.offer(self.line.frame(age_ms=age_ms))
            self._wait(gap_ms)

    @rule(
        count=st.integers(1, 40),
        gap_ms=st.floats(0, 100),
        frame_ms=st.floats(0, 40),
        judge_ms=st.floats(0, 400),
        lost=st.sets(st.integers(0, 39)),
        decision=st.sampled_from(list(Decision)),
    )
    def the_line_runs(
        self, count: int, gap_ms: float, frame_ms: float, judge_ms: float, lost: set[int], decision: Decision
    ) -> None:
        for number in range(count):
            self._trigger(f"p{next(self.names)}")
            self._wait(frame_ms)
            if number not in lost:
                self.line.tracker.offer(self.line.frame())
            self.a_part_is_taken()
            self._wait(judge_ms if number % 7 == 0 else judge_ms / 20)
            self.a_part_is_judged(decision, 0)
            self._wait(gap_ms)

    @rule()
    def a_part_is_taken(self) -> None:
        taken = self.line.tracker.take(0)
        if taken is not None:
            part, frame = taken
            assert part.due_ns <= frame.timestamp_ns <= part.frame_until_ns
            assert all(frame is not other for _, other in self.taken), "one frame shows one part"
            self.taken.append(taken)

    @rule(decision=st.sampled_from(list(Decision)), which=st.integers(0, 5))
    def a_part_is_judged(self, decision: Decision, which: int) -> None:
        if self.taken:
            part, frame = self.taken[max(0, len(self.taken) - 1 - which)]
            self.line.tracker.answer(part, inspection(frame, decision))

    @rule()
    def the_judge_is_restarted(self) -> None:
        self.taken.clear()

    @rule(milliseconds=st.floats(0, 2000))
    def time_passes(self, milliseconds: float) -> None:
        self._wait(milliseconds)

    @invariant()
    def answers_are_a_beginning_of_the_triggers(self) -> None:
        answered = [part.number for part, *_ in self.line.answers]
        assert answered == [part.number for part in self.expected[: len(answered)]]

    @invariant()
    def no_verdict_is_late_and_every_error_is_in_time(self) -> None:
        for part, _, _, at_ns in self.line.answers:
            assert at_ns < part.deadline_ns

    @invariant()
    def nothing_is_left_open_after_its_time(self) -> None:
        answered = len(self.line.answers)
        for part in self.expected[answered:]:
            assert self.line.now_ns < part.deadline_ns - RULES.guard_ns

    def teardown(self) -> None:
        self.line.tracker.close()
        assert [part.number for part, *_ in self.line.answers] == [part.number for part in self.expected]
        AnyLine.triggers += len(self.expected)

    def _trigger(self, name: str) -> None:
        part = self.line.tracker.trigger(name)
        if part is not None:
            self.expected.append(part)

    def _wait(self, milliseconds: float) -> None:
        """Lets time pass as the watchdog sees it: it looks whenever something may be overdue."""
        until_ns = self.line.now_ns + round(milliseconds * MS)
        while (at_ns := self.line.tracker.expire()) is not None and at_ns <= until_ns:
            self.line.now_ns = max(at_ns, self.line.now_ns)
            self.line.tracker.expire()
        self.line.now_ns = until_ns


@pytest.mark.slow
def test_whatever_happens_each_trigger_gets_one_answer_in_order_and_in_time() -> None:
    AnyLine.triggers = 0
    effort = settings(
        max_examples=600,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(AnyLine, settings=effort)
    assert AnyLine.triggers >= TRIGGERS_WANTED


def test_a_trigger_that_may_have_waited_while_the_process_stood_still_is_an_error() -> None:
    """Its frame would be the first one after it was read, and show another part."""
    line = Line()
    line.tracker.watch(0)
    line.wait(450)
    line.trigger("in time")
    line.tracker.watch(0)
    line.wait(600)
    line.trigger("before the watch")
    line.tracker.watch(0)
    line.wait(10)
    line.trigger("after it")
    line.wait(60)
    line.tracker.watch(0)
    line.trigger("again")
    line.wait(15)
    assert line.tracker.offer(line.frame()) and line.judged()
    told = dict(line.outcome)
    assert told == {"in time": "late", "before the watch": "stalled", "after it": "stalled", "again": "OK"}
