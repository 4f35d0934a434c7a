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

TICK_S = 0.05
"""Time between looks, where nothing is due earlier."""

INFERENCE_LIMIT_S = 5.0
"""One frame may be judged for so long before that is an alarm."""

CAMERA, INFERENCE = "camera", "inference"


class Watchdog:
    """What has to happen whether or not the camera, the model and the sinks do.

    Args:
        reader: of the camera.
        statistics: receives the counts.
        alarms: are raised and cleared.
        judging_since_s: when the frame in hand was begun, on the monotonic clock; None while there is none.
        tracker: gives up its overdue parts; None where there are no triggers.
        every_second: called about once a second.
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
        self._second_s = 0.0
        self._silent = self._hanging = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks after the line for the length of a ``with`` block."""
        thread = threading.Thread(target=self._work, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            due_ns = None if self._tracker is None else self._tracker.expire()
            self._look_at_the_camera()
            self._look_at_the_model()
            now_s = time.monotonic()
            if now_s - self._second_s >= 1.0:
                self._second_s = now_s
                for action in self._every_second:
                    action()
            wait_s = TICK_S if due_ns is None else min(TICK_S, max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            self._stop.wait(wait_s)

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
