"""Reads a camera for the line: counts what was lost, re-opens it, and never raises."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from edge_ad.errors import CameraError, EdgeAdError
from edge_ad.runtime.latest import LatestSlot
from edge_ad.runtime.stats import Statistics
from edge_ad.types import Camera, Frame, ReadStatus

READ_TIMEOUT_S = 0.3
"""How long one read may wait: short, as stopping waits for it."""

REOPEN_DELAYS_S = (0.1, 0.2, 0.5, 1.0, *(2.0,) * 29)
"""Waits before each attempt to re-open a lost camera; after the last, about a minute on, it is given up."""

_log = logging.getLogger(__name__)


class EndReason(str, Enum):
    """Why a run ended."""

    END_OF_STREAM = "end of stream"
    STOPPED = "stopped"
    MAX_FRAMES = "max frames"
    DURATION = "duration"
    CAMERA_LOST = "camera lost"


@dataclass(frozen=True, slots=True)
class Reading:
    """A frame, or the error in its place with a black frame of one pixel that stands for it."""

    frame: Frame
    error: Exception | None = None


class Reader:
    """Turns everything that a camera may do into readings, counts and an end.

    Args:
        camera: an opened camera.
        name: names the source of a frame that could not be read.
        statistics: receives the counts and the time spent reading.
        halt: when set, waiting to re-open ends.
        reopen_delays_s: waits before the attempts to re-open; as many attempts as delays without a
            frame in between.

    Attributes:
        ended: why there will be no more readings; None while there may be.
        problem: what the last attempt to read or re-open failed with.
    """

    def __init__(
        self,
        camera: Camera,
        name: str,
        statistics: Statistics,
        halt: threading.Event,
        reopen_delays_s: Sequence[float] = REOPEN_DELAYS_S,
    ) -> None:
        self.ended: EndReason | None = None
        self.problem = ""
        self._camera, self._name, self._statistics, self._halt = camera, name, statistics, halt
        self._reopen_delays_s = reopen_delays_s
        self._remaining_delays_s = iter(reopen_delays_s)
        self._last_sequence: int | None = None
        self._lost = False

    def read(self, timeout_s: float) -> Reading | None:
        """The next reading, or None when there is none within ``timeout_s`` or ever again."""
        if self._lost:
            self._reopen()
        if self.ended is not None or self._lost:
            return None
        started_s = time.perf_counter()
        try:
            outcome = self._camera.read(timeout_s)
        except Exception as error:
            return self._failed(error)
        if isinstance(outcome, Frame):
            self._statistics.record("read", 1000 * (time.perf_counter() - started_s))
            return self._arrived(outcome)
        if outcome is ReadStatus.TIMEOUT:
            self._statistics.event("timeouts")
        elif outcome is ReadStatus.DISCONNECTED:
            self._statistics.event("disconnects")
            self._lost, self.problem = True, "the camera is disconnected"
        else:
            self.ended = EndReason.END_OF_STREAM
        return None

    def feed(self, slot: LatestSlot[Reading]) -> None:
        """Reads into ``slot`` until the end or ``halt``: the work of a capture thread."""
        while self.ended is None and not self._halt.is_set():
            reading = self.read(READ_TIMEOUT_S)
            if reading is not None and slot.put(reading):
                self._statistics.dropped("queue")

    def _arrived(self, frame: Frame) -> Reading:
        # A number that does not rise is a camera that began to count again, not a loss.
        if self._last_sequence is not None and frame.sequence > self._last_sequence + 1:
            self._statistics.dropped("camera", frame.sequence - self._last_sequence - 1)
        self._last_sequence = frame.sequence
        self._remaining_delays_s = iter(self._reopen_delays_s)
        return Reading(frame)

    def _failed(self, error: Exception) -> Reading:
        """The frame that should have come is an ERROR; the device itself is re-opened if it may be at fault."""
        self._statistics.event("read_errors")
        if not isinstance(error, EdgeAdError) and self._statistics.event("bugs") == 1:
            _log.error("reading from %s failed", self._name, exc_info=error)
        self.problem = str(error)
        self._lost = isinstance(error, CameraError) or not isinstance(error, EdgeAdError)
        self._last_sequence = 0 if self._last_sequence is None else self._last_sequence + 1
        black = Frame(
            rgb=np.zeros((1, 1, 3), dtype=np.uint8),
            timestamp_ns=time.monotonic_ns(),
            sequence=self._last_sequence,
            source=self._name,
        )
        return Reading(black, error)

    def _reopen(self) -> None:
        for delay_s in self._remaining_delays_s:
            if self._halt.wait(delay_s):
                return
            try:
                self._camera.close()
                self._camera.open()
            except Exception as error:
                self.problem = str(error)
                continue
            self._statistics.event("reconnects")
            self._lost, self._last_sequence = False, None
            return
        self.ended = EndReason.CAMERA_LOST
