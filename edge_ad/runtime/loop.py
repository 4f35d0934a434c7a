"""The line: takes frames from a camera, judges each, and hands each inspection to every sink.

Whatever fails, a frame that was taken ends in exactly one inspection, and so does a part that was
triggered; one that could not be judged, or not in time, is ERROR, never OK.

    camera ─ capture thread ─► policy ─► this thread: judge ─► a thread for each sink
                                 ▲                     ▲
                              triggers             watchdog: deadlines, silence, alarms
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any, Protocol

from edge_ad.alarms import Alarm, Alarms
from edge_ad.errors import EdgeAdError
from edge_ad.runtime.acquisition import Acquisition, Take, every, latest, on_demand, triggered
from edge_ad.runtime.delivery import Delivery
from edge_ad.runtime.judging import Inspector
from edge_ad.runtime.parts import Fate, Part, PartTracker
from edge_ad.runtime.reader import Commands, EndReason, Reader, Reading, Recovery, black_frame
from edge_ad.runtime.signals import stopped_by_signals
from edge_ad.runtime.stats import Statistics
from edge_ad.runtime.survival import survived
from edge_ad.runtime.watchdog import Watchdog
from edge_ad.triggers import TriggerSource
from edge_ad.types import Camera, CameraInfo, Frame, Inspection, Sink

OnUpdate = Callable[[Inspection, Statistics], None]

_log = logging.getLogger(__name__)


class Notifier(Protocol):
    """Who is told that the line lives, such as systemd."""

    def ready(self) -> None:
        """The line takes frames and triggers from now on."""

    def alive(self) -> None:
        """The thread that judges has come round."""

    def stopping(self) -> None:
        """The line ends."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run went.

    Attributes:
        ended: why it ended.
        duration_s: from the first attempt to read to the last inspection.
        statistics: as `edge_ad.runtime.stats.Statistics.summary` gives them.
        camera_error: what re-opening the camera failed with, when it was lost for good.
        alarms: how often each alarm was raised.
        refused_triggers: lines from the source of triggers that named no part.
    """

    ended: EndReason
    duration_s: float
    statistics: dict[str, Any]
    camera_error: str = ""
    alarms: dict[str, int] = field(default_factory=dict)
    refused_triggers: int = 0


@dataclass
class Line:
    """Everything that a run needs beside its camera.

    Attributes:
        inspector_for: gives what judges a recipe's parts, ``""`` being the recipe in force; raises
            EdgeAdError where it cannot.
        sinks: receive every inspection; closed at the end.
        acquisition: what is inspected, and by when.
        triggers: where triggers come from; None for none.
        recovery: how a lost camera is brought back.
        prepare_camera: called each time it was opened again, by the thread that reads it,
        camera_commands: as is all that is put in here.
        check_camera: called with its info and first frame each time it was opened; raises where it must not be
            used.
        on_update: called after each inspection with the figures so far; counted like a sink when it fails.
        every_second: called about once a second, from the watchdog's thread.
        notifier: is told that the line lives.
        alarms: are raised and cleared while it runs.
        statistics: receives all figures.
    """

    inspector_for: Callable[[str], Inspector]
    sinks: Sequence[Sink] = ()
    acquisition: Acquisition = field(default_factory=Acquisition)
    triggers: TriggerSource | None = None
    recovery: Recovery = field(default_factory=Recovery)
    prepare_camera: Callable[[], None] | None = None
    camera_commands: Commands = field(default_factory=SimpleQueue)
    check_camera: Callable[[CameraInfo, Frame], None] | None = None
    on_update: OnUpdate | None = None
    every_second: Sequence[Callable[[], None]] = ()
    notifier: Notifier | None = None
    alarms: Alarms = field(default_factory=Alarms)
    statistics: Statistics = field(default_factory=Statistics)


def run(
    camera: Camera,
    info: CameraInfo,
    line: Line,
    *,
    max_frames: int | None = None,
    duration_s: float | None = None,
    stop: threading.Event | None = None,
) -> RunSummary:
    """Runs the line until the source ends, a limit is reached, or it is told to stop.

    The camera stays the caller's: it is opened before and closed after. The sinks are closed here.
    SIGINT and SIGTERM end the run after the frame in hand; a second one acts as it would without us.

    Args:
        camera: an opened camera.
        info: what ``camera.open()`` returned.
        line: all the rest.
        max_frames: inspections to make; None for no limit.
        duration_s: seconds to run; None for no limit.
        stop: ends the run when set, from any thread.

    Returns:
        How it went; losing the camera for good is an end too, not an exception.

    Raises:
        ConfigError: the policy needs triggers and there are none, or the other way round, or a camera that takes
            pictures when told to.
    """
    running = _Running(camera, info, line, stop or threading.Event())
    started_s = time.monotonic()
    deadline_s = math.inf if duration_s is None else started_s + duration_s
    ended = running.until_the_end(max_frames, deadline_s)
    return RunSummary(
        ended,
        time.monotonic() - started_s,
        line.statistics.summary(),
        running.reader.problem if ended in (EndReason.CAMERA_LOST, EndReason.CAMERA_REFUSED) else "",
        line.alarms.raised(),
        0 if line.triggers is None else line.triggers.refused,
    )


class _Running:
    """One run of a line."""

    def __init__(self, camera: Camera, info: CameraInfo, line: Line, stop: threading.Event) -> None:
        self._camera, self._line, self._stop = camera, line, stop
        self._policy = line.acquisition.policy_for(camera.caps, live=info.live, triggered=line.triggers is not None)
        # A live camera's thread ends with the run, which must not set the caller's event to end it.
        self._halt = stop if self._policy == "every" else threading.Event()
        name, self._statistics, self._alarms = info.serial or info.name, line.statistics, line.alarms
        check = None if line.check_camera is None else self._check_camera
        self.reader = Reader(
            camera,
            name,
            self._statistics,
            self._halt,
            line.recovery,
            line.prepare_camera,
            line.camera_commands,
            check,
        )
        self._tracker: PartTracker | None = None
        if self._policy in ("trigger", "software"):
            rules = line.acquisition.rules(self._policy)
            self._tracker = PartTracker(rules, self._emit, self._statistics.event)
        sinks = [*line.sinks, *([] if line.triggers is None else [line.triggers])]
        self._delivery = Delivery(sinks, self._statistics, stop if self._policy == "every" else None)
        self._inspected = 0
        self._judging_since_s: float | None = None

    def until_the_end(self, max_frames: int | None, deadline_s: float) -> EndReason:
        line = self._line
        every_second = [self._heartbeat, self._gauge, *line.every_second]
        watchdog = Watchdog(
            self.reader, self._statistics, self._alarms, lambda: self._judging_since_s, self._tracker, every_second
        )
        try:
            with ExitStack() as stack:
                stack.enter_context(self._alarms.listening(_log_alarm))
                if line.triggers is not None:
                    stack.enter_context(self._alarms.listening(line.triggers.alarm))
                take = stack.enter_context(self._taking())
                stack.enter_context(stopped_by_signals(self._stop))
                stack.enter_context(watchdog.watching())
                if line.triggers is not None and self._tracker is not None:
                    line.triggers.start(self._tracker_triggers(self._tracker))
                if self._tracker is not None:
                    stack.callback(self._tracker.close)  # at once: a driver that hangs makes no open part late
                if line.notifier is not None:
                    line.notifier.ready()
                return self._drive(take, max_frames, deadline_s)
        finally:
            if line.notifier is not None:
                line.notifier.stopping()
            self._delivery.close()

    @contextmanager
    def _taking(self) -> Iterator[Take]:
        reader, halt, tracker = self.reader, self._halt, self._tracker
        if tracker is None:
            age_ms = self._line.acquisition.max_age_ms
            taking = every(reader) if self._policy == "every" else latest(reader, halt, self._statistics, age_ms)
        elif self._policy == "software":
            taking = on_demand(reader, self._camera, halt, tracker)
        else:
            taking = triggered(reader, halt, tracker)
        with taking as take:
            yield take

    def _drive(self, take: Take, max_frames: int | None, deadline_s: float) -> EndReason:
        notifier, triggers = self._line.notifier, self._line.triggers
        while True:
            if notifier is not None:
                notifier.alive()
            if self._stop.is_set():
                return EndReason.STOPPED
            if max_frames is not None and self._inspected >= max_frames:
                return EndReason.MAX_FRAMES
            if time.monotonic() >= deadline_s:
                return EndReason.DURATION
            # Looked at before taking: the last frame may arrive between an empty take and the end.
            ended = self.reader.ended
            if triggers is not None and triggers.is_over and self._tracker is not None and not len(self._tracker):
                ended = ended or EndReason.END_OF_STREAM
            job = take()
            if job is not None:
                self._process(job.reading, job.part)
            elif ended is not None and not (self._tracker and len(self._tracker)):
                return ended

    def _process(self, reading: Reading, part: Part | None) -> None:
        self._judging_since_s = time.monotonic()
        try:
            inspection = self._inspection(reading, part)
        finally:
            self._judging_since_s = None
        if part is not None and self._tracker is not None:
            self._tracker.answer(part, inspection)
        else:
            self._deliver(inspection)

    def _inspection(self, reading: Reading, part: Part | None) -> Inspection:
        frame, recipe = reading.frame, "" if part is None else part.recipe
        times = {} if part is None else {"triggered_ns": part.triggered_ns, "deadline_ns": part.deadline_ns}
        inspector: Inspector | None = None
        try:
            inspector = self._line.inspector_for(recipe)
            if reading.error is not None:
                raise reading.error
            result, verdict = inspector(frame, self._statistics, self._alarms)
        except Exception as error:
            if error is not reading.error:
                survived(error, "judging a frame", self._statistics)
            return self._error(frame, _text(error), inspector, recipe, **times)
        return Inspection(frame, verdict, result, inspector.model_id, inspector.recipe, **times)

    def _error(self, frame: Frame, reason: str, inspector: Inspector | None, recipe: str, **times: int) -> Inspection:
        if inspector is None:
            try:
                inspector = self._line.inspector_for(recipe)
            except Exception as error:
                survived(error, "finding a part's model", self._statistics)
                return Inspection(frame, Inspector.nobody(reason), None, "", recipe, **times)
        return Inspection(frame, inspector.error(reason), None, inspector.model_id, inspector.recipe, **times)

    def _emit(self, part: Part, inspection: Inspection | None, fate: Fate | None, frame: Frame | None) -> None:
        """Answers a part; called by the tracker, in order."""
        if inspection is None:
            assert fate is not None
            self._statistics.event(fate.value)
            shown = black_frame("no frame", part.number) if frame is None else frame
            shown = replace(shown, part_id=part.part_id)
            times = {"triggered_ns": part.triggered_ns, "deadline_ns": part.deadline_ns}
            inspection = self._error(shown, self._why(fate, frame), None, part.recipe, **times)
        self._statistics.record("answer", (time.monotonic_ns() - part.triggered_ns) / 1e6)
        if time.monotonic_ns() >= part.deadline_ns:
            self._statistics.event("answered_late")
        self._deliver(inspection)

    def _why(self, fate: Fate, frame: Frame | None) -> str:
        acquisition = self._line.acquisition
        problem = f": {self.reader.problem}" if self.reader.is_lost and self.reader.problem else ""
        if fate is Fate.OVERRUN:
            return f"trigger overrun: {acquisition.queue} parts were waiting already"
        if fate is Fate.LATE:
            lacking = "verdict" if frame is not None else "frame"
            cause = "" if frame is not None else problem
            return f"late: no {lacking} within {acquisition.budget_ms:g} ms of the trigger{cause}"
        if fate is Fate.STALLED:
            return "the line stood still: when this part was triggered is not known"
        if fate is Fate.STOPPED:
            return "the line was stopped before the part was judged"
        return f"no frame shows this part{problem}"

    def _deliver(self, inspection: Inspection) -> None:
        frame = inspection.frame
        if frame.timestamp_ns:
            self._statistics.record("age", (time.monotonic_ns() - frame.timestamp_ns) / 1e6)
        self._delivery.put(inspection)
        self._inspected += 1
        self._statistics.inspected(inspection.verdict.decision)
        if self._line.on_update is not None:
            try:
                self._line.on_update(inspection, self._statistics)
            except Exception as error:
                name = getattr(self._line.on_update, "__name__", type(self._line.on_update).__name__)
                if self._statistics.sink_failed(name) == 1:
                    _log.error("%s failed: %s", name, error, exc_info=not isinstance(error, EdgeAdError))

    def _tracker_triggers(self, tracker: PartTracker) -> Callable[[str, str], None]:
        def on_trigger(part_id: str, recipe: str) -> None:
            try:
                tracker.trigger(part_id, recipe or self._recipe_in_force())
            except Exception as error:  # in the thread of a source, which must go on
                survived(error, "a trigger", self._statistics)

        return on_trigger

    def _recipe_in_force(self) -> str:
        """Of now: a change over between a part's trigger and its judgement is not for this part."""
        try:
            return self._line.inspector_for("").recipe
        except EdgeAdError:  # told when the part is judged
            return ""

    def _check_camera(self, frame: Frame) -> None:
        info = self._camera.info
        if self._line.check_camera is not None and info is not None:
            self._line.check_camera(info, frame)

    def _heartbeat(self) -> None:
        if self._line.triggers is not None:
            self._line.triggers.heartbeat(self._alarms.active())
        # Here the thread that judges also brings the camera back, which may take longer than a service manager waits.
        if self._line.notifier is not None and self._policy == "every" and self.reader.is_being_mended:
            self._line.notifier.alive()

    def _gauge(self) -> None:
        for name, waiting in self._delivery.depths().items():
            self._statistics.gauge(name, waiting)
        if self._tracker is not None:
            self._statistics.gauge("parts", len(self._tracker))
        temperature_c = self.reader.health.temperature_c
        if temperature_c is not None:
            self._statistics.temperature("camera", temperature_c)


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, EdgeAdError) else f"{type(error).__name__}: {error}"


def _log_alarm(alarm: Alarm, raised: bool) -> None:
    if raised:
        _log.warning("alarm %s: %s", alarm.name, alarm.text)
    else:
        _log.warning("alarm %s is over after %.0f s", alarm.name, time.time() - alarm.since_s)
