"""The line: takes frames from a camera, judges each, and hands each inspection to every sink.

Whatever fails, a frame that was taken ends in exactly one inspection, and one that could not be
judged is ERROR, never OK. A live camera is read by a thread of its own into a one-slot buffer, so
that the frame judged next is always the newest; files are read in turn, and none is skipped.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from edge_ad.errors import ConfigError, EdgeAdError
from edge_ad.runtime.latest import LatestSlot
from edge_ad.runtime.reader import READ_TIMEOUT_S, REOPEN_DELAYS_S, EndReason, Reader, Reading
from edge_ad.runtime.signals import stopped_by_signals
from edge_ad.runtime.stats import Statistics
from edge_ad.scoring import judge
from edge_ad.types import AnomalyResult, Camera, CameraInfo, Decision, Frame, Inspection, Sink, Verdict

Predict = Callable[[Frame], AnomalyResult]
OnUpdate = Callable[[Inspection, Statistics], None]

_POLL_S = 0.1
_JOIN_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run went.

    Attributes:
        ended: why it ended.
        duration_s: from the first attempt to read to the last inspection.
        statistics: as `edge_ad.runtime.stats.Statistics.summary` gives them.
        camera_error: what re-opening the camera failed with, when it was lost for good.
    """

    ended: EndReason
    duration_s: float
    statistics: dict[str, Any]
    camera_error: str = ""


def run(
    camera: Camera,
    info: CameraInfo,
    predict: Predict,
    threshold: float,
    sinks: Sequence[Sink],
    *,
    max_frames: int | None = None,
    duration_s: float | None = None,
    on_update: OnUpdate | None = None,
    stop: threading.Event | None = None,
    reopen_delays_s: Sequence[float] = REOPEN_DELAYS_S,
) -> RunSummary:
    """Runs the line until the source ends, a limit is reached, or it is told to stop.

    The camera stays the caller's: it is opened before and closed after. The sinks are closed here.
    SIGINT and SIGTERM end the run after the frame in hand; a second one acts as it would without us.

    Args:
        camera: an opened camera.
        info: what ``camera.open()`` returned.
        predict: gives the model's answer to a frame; called from this thread only.
        threshold: a score above it is NG.
        sinks: receive every inspection, in this order.
        max_frames: inspections to make; None for no limit.
        duration_s: seconds to run; None for no limit.
        on_update: called after each inspection with the figures so far, from this thread; counted like
            a sink when it fails.
        stop: ends the run when set, from any thread.
        reopen_delays_s: waits before the attempts to re-open a lost camera.

    Returns:
        How it went; losing the camera for good is an end too, not an exception.

    Raises:
        ConfigError: the threshold is not a number.
    """
    if not math.isfinite(threshold):
        raise ConfigError(f"the threshold is {threshold}", why="nothing can be above it", remedy="set a number")
    stop = stop or threading.Event()
    statistics = Statistics()
    line = _Line(predict, threshold, sinks, on_update, statistics)
    # A live camera's thread ends with the run, which must not set the caller's event to end it.
    halt = threading.Event() if info.live else stop
    reader = Reader(camera, info.serial or info.name, statistics, halt, reopen_delays_s)
    started_s = time.monotonic()
    deadline_s = math.inf if duration_s is None else started_s + duration_s
    try:
        with _capturing(reader, halt) if info.live else _inline(reader) as take, stopped_by_signals(stop):
            ended = _drive(line, take, reader, stop, max_frames, deadline_s)
    finally:
        line.close()
    return RunSummary(
        ended,
        time.monotonic() - started_s,
        statistics.summary(),
        reader.problem if ended is EndReason.CAMERA_LOST else "",
    )


class _Line:
    """Judges readings and hands the inspections out; nothing that fails on the way stops it."""

    def __init__(
        self,
        predict: Predict,
        threshold: float,
        sinks: Sequence[Sink],
        on_update: OnUpdate | None,
        statistics: Statistics,
    ) -> None:
        self._predict, self._threshold, self._sinks = predict, threshold, sinks
        self._on_update, self._statistics = on_update, statistics
        self.inspected = 0

    def process(self, reading: Reading) -> None:
        frame = reading.frame
        result, verdict = self._judged(reading)
        if frame.timestamp_ns:
            self._statistics.record("age", (time.monotonic_ns() - frame.timestamp_ns) / 1e6)
        inspection = Inspection(frame, verdict, result)
        with self._timed("sinks"):
            for sink in self._sinks:
                self._attempt(sink, partial(sink.write, inspection))
        self.inspected += 1
        self._statistics.inspected(verdict.decision)
        if self._on_update is not None:
            self._attempt(self._on_update, partial(self._on_update, inspection, self._statistics))

    def close(self) -> None:
        for sink in self._sinks:
            self._attempt(sink, sink.close)

    def _judged(self, reading: Reading) -> tuple[AnomalyResult | None, Verdict]:
        if reading.error is not None:
            return None, self._error_verdict(reading.error)
        try:
            with self._timed("predict"):
                result = self._predict(reading.frame)
            for stage, stage_ms in result.latency_ms.items():
                self._statistics.record(f"predict.{stage}", stage_ms)
            with self._timed("judge"):
                return result, judge(result, self._threshold)
        except Exception as error:
            if not isinstance(error, EdgeAdError) and self._statistics.event("bugs") == 1:
                _log.error("judging a frame failed", exc_info=error)
            return None, self._error_verdict(error)

    def _error_verdict(self, error: Exception) -> Verdict:
        reason = str(error) if isinstance(error, EdgeAdError) else f"{type(error).__name__}: {error}"
        return Verdict(Decision.ERROR, self._threshold, reason=reason)

    def _attempt(self, receiver: object, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            name = getattr(receiver, "__name__", type(receiver).__name__)
            if self._statistics.sink_failed(name) == 1:
                # Once: a full disk fails at every frame, and the log may be on it.
                _log.error("%s failed: %s", name, error, exc_info=not isinstance(error, EdgeAdError))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        self._statistics.record(stage, 1000 * (time.perf_counter() - started_s))


def _drive(
    line: _Line,
    take: Callable[[], Reading | None],
    reader: Reader,
    stop: threading.Event,
    max_frames: int | None,
    deadline_s: float,
) -> EndReason:
    while True:
        if stop.is_set():
            return EndReason.STOPPED
        if max_frames is not None and line.inspected >= max_frames:
            return EndReason.MAX_FRAMES
        if time.monotonic() >= deadline_s:
            return EndReason.DURATION
        # Looked at before taking: the last frame may arrive between an empty take and the end.
        ended = reader.ended
        reading = take()
        if reading is not None:
            line.process(reading)
        elif ended is not None:
            return ended


@contextmanager
def _inline(reader: Reader) -> Iterator[Callable[[], Reading | None]]:
    yield lambda: reader.read(READ_TIMEOUT_S)


@contextmanager
def _capturing(reader: Reader, halt: threading.Event) -> Iterator[Callable[[], Reading | None]]:
    slot: LatestSlot[Reading] = LatestSlot()
    # A daemon, as a driver that hangs must not keep the process alive.
    thread = threading.Thread(target=reader.feed, args=(slot,), name="capture", daemon=True)
    thread.start()
    try:
        yield lambda: slot.get(_POLL_S)
    finally:
        halt.set()
        thread.join(_JOIN_S)
        if thread.is_alive():
            _log.error("the camera's driver does not return; its thread is left behind")
