"""Looks after the line from a thread of its own: overdue parts, a silent camera, a model that hangs, late results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edge_ad.alarms import Alarms
from edge_ad.runtime.parts import PartTracker
from edge_ad.runtime.reader import Reader
from edge_ad.runtime.stats import Statistics
from edge_ad.runtime.survival import survived

TICK_S = 0.05
"""Time between looks, where nothing is due earlier."""

SECOND_S = 1.0
JOIN_S = 2.0

INFERENCE_LIMIT_S = 5.0
"""One frame may be judged for so long before that is an alarm."""

CAMERA, INFERENCE = "camera", "inference"


class Watchdog:
    """What has to happen whether or not the camera, the model and the sinks do.

    An error in one of its looks or actions is counted, and the next is taken all the same.

    Args:
        reader: of the camera.
        statistics: receives the counts.
        alarms: are raised and cleared.
        judging_since_s: when the frame in hand was begun, on the monotonic clock; None while there is none.
        tracker: gives up its overdue parts; None where there are no triggers.
        every_second: called about once a second, from a second thread: one that takes its time makes no part late.
    """

    def __init__(
        self,
        reader: Reader,
        statistics: Statistics,
        alarms: Alarms,
        judging_since_s: Callable[[], float | None],
        tracker: PartTracker | None = None,
        every_second: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._reader, self._statistics, self._alarms = reader, statistics, alarms
        self._judging_since_s, self._tracker, self._every_second = judging_since_s, tracker, every_second
        self._stop = threading.Event()
        self._silent = self._hanging = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks after the line for the length of a ``with`` block."""
        works = {"watchdog": self._watch, "every second": self._act}
        threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in works.items()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(JOIN_S)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._attempt(self._look_at_the_camera)
            self._attempt(self._look_at_the_model)
            if self._tracker is None or not self._attempt(lambda tracker=self._tracker: tracker.watch(TICK_S)):  # type: ignore[misc]
                self._stop.wait(TICK_S)

    def _act(self) -> None:
        while not self._stop.is_set():
            for action in self._every_second:
                self._attempt(action)
            self._stop.wait(SECOND_S)

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:
            survived(error, "the watchdog", self._statistics)
            return False
        return True

    def _look_at_the_camera(self) -> None:
        reader = self._reader
        if reader.is_silent:
            if not self._silent:
                self._statistics.event("camera_losses")
            self._silent = True
            problem = f": {reader.problem}" if reader.problem else ""
            self._alarms.alert(CAMERA, f"no frame for {reader.silent_s:.1f} s{problem}")
        elif self._silent:
            self._silent = False
            self._alarms.clear(CAMERA)

    def _look_at_the_model(self) -> None:
        since_s = self._judging_since_s()
        busy_s = 0.0 if since_s is None else time.monotonic() - since_s
        if busy_s > INFERENCE_LIMIT_S:
            if not self._hanging:
                self._statistics.event("inference_stalls")
            self._hanging = True
            self._alarms.alert(INFERENCE, f"one frame has been in the model for {busy_s:.0f} s: the device may hang")
        elif self._hanging:
            self._hanging = False
            self._alarms.clear(INFERENCE)
