"""Reads a camera for the line: counts what was lost, brings it back, and never raises."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from queue import SimpleQueue

import numpy as np

from edge_ad.errors import CameraError, EdgeAdError
from edge_ad.runtime.stats import Statistics
from edge_ad.runtime.survival import survived
from edge_ad.types import Camera, CameraHealth, Frame, ReadStatus

READ_TIMEOUT_S = 0.3
"""How long one read may wait: short, as stopping waits for it."""

SILENCE_S = 0.8
"""A camera that keeps a pace and sends nothing for so long, or for four of its periods, is lost."""
FIRST_FRAME_S = 5.0
"""The same before it has sent anything since it was opened."""

HEALTH_S = 1.0

Commands = SimpleQueue[Callable[[], None]]

PAUSE_S = 0.1
"""After an error that should not be: were it to come back at once, it must not take the whole processor."""

_log = logging.getLogger(__name__)


class EndReason(str, Enum):
    """Why a run ended."""

    END_OF_STREAM = "end of stream"
    STOPPED = "stopped"
    MAX_FRAMES = "max frames"
    DURATION = "duration"
    CAMERA_LOST = "camera lost"
    CAMERA_REFUSED = "camera refused"


@dataclass(frozen=True, slots=True)
class Reading:
    """A frame, or the error in its place with a black frame of one pixel that stands for it."""

    frame: Frame
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a lost camera is brought back.

    Attributes:
        delays_s: waits before the attempts; the last one repeats.
        give_up_s: without a frame for so long it is lost for good; None never gives up.
    """

    delays_s: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0)
    give_up_s: float | None = None


RUNGS = ("restarts", "reopens", "reopens", "resets", "respawns")
"""What the attempts do, from the mildest cure on: the stream, the device, its firmware, the process that has it.

Those that a camera cannot have are left out. All but the first then come round again, and a device that
is gone begins with the second.
"""

RESPAWN_AFTER_S = 20.0
"""A process whose camera has been away for less is opened again instead: to start one anew takes longer."""

BOOT_S = 5.0
"""A device that was reset may take so long to be listed again."""


ATTEMPT_S = 60.0
"""No attempt to bring a camera back takes longer: one that does hangs."""


class Reader:
    """Turns everything that a camera may do into readings, counts and an end.

    Args:
        camera: an opened camera.
        name: names the source of a frame that could not be read.
        statistics: receives the counts and the time spent reading.
        halt: when set, waiting to bring it back ends.
        recovery: how it is brought back.
        prepare: called after it was brought back; what it raises is logged.
        commands: what else the thread that reads it does with it, before the next read.
        check: called with the first frame after each opening; raises where this camera must not be used, which
            ends everything at the first opening, and is a failed attempt to bring it back later.

    Attributes:
        ended: why there will be no more readings; None while there may be.
        problem: what the last attempt to read it or bring it back failed with; empty once a frame has come.
        health: of the camera, about a second old at most while it is read.
    """

    def __init__(
        self,
        camera: Camera,
        name: str,
        statistics: Statistics,
        halt: threading.Event,
        recovery: Recovery | None = None,
        prepare: Callable[[], None] | None = None,
        commands: Commands | None = None,
        check: Callable[[Frame], None] | None = None,
    ) -> None:
        self.ended: EndReason | None = None
        self.problem = ""
        self.health = CameraHealth()
        self._health_s = 0.0
        self._camera, self._name, self._statistics, self._halt = camera, name, statistics, halt
        self._recovery = recovery or Recovery()
        self._prepare, self._check = prepare, check
        self._commands = commands or SimpleQueue()
        self._must_check, self._is_accepted = check is not None, False
        self._last_sequence: int | None = None
        self._lost = False
        able = {"resets": camera.caps.can_reset, "respawns": hasattr(camera, "respawn")}
        self._rungs = [rung for rung in RUNGS if able.get(rung, True)]
        self._attempt = self._rung = 0
        self._period_s: float | None = None
        self._arrived_s = time.monotonic()
        # Seconds of reading without a frame before this read, and when this read began: one attribute, as the
        # watchdog looks at it from its own thread.
        self._silence: tuple[float, float | None] = (0.0, None)
        self._silent_before_s = 0.0

    @property
    def silent_s(self) -> float:
        """How long it has been read without a frame; a slow consumer's own time does not count."""
        waited_s, entered_s = self._silence
        return waited_s + (0.0 if entered_s is None else time.monotonic() - entered_s)

    @property
    def is_lost(self) -> bool:
        """Whether it is being brought back; each `read` makes an attempt."""
        return self._lost

    @property
    def is_being_mended(self) -> bool:
        """Whether an attempt to bring it back is under way, and takes no longer than any should."""
        entered_s = self._silence[1]
        return self._lost and entered_s is not None and time.monotonic() - entered_s < ATTEMPT_S

    def lose(self, problem: str) -> None:
        """Has it brought back: it did not do as it was told."""
        self._lose(problem, rung=1)

    @property
    def is_silent(self) -> bool:
        """Whether a camera that keeps a pace has sent nothing for too long, or is lost."""
        paced = self._camera.caps.paced
        if self._lost or (self._attempt and paced):  # opened again is not back: that takes a frame
            return self.silent_s > SILENCE_S
        return paced and self._is_overdue

    def read(self, timeout_s: float) -> Reading | None:
        """The next reading, or None when there is none within ``timeout_s`` or ever again."""
        self._silence = (self._silence[0], time.monotonic())
        reading = self._read(timeout_s)
        heard = reading is not None and reading.error is None
        idle = not (self._lost or self._camera.caps.paced)  # no frame was due
        self._silence = (0.0 if heard or idle else self.silent_s, None)
        if time.monotonic() - self._health_s > HEALTH_S:
            self._health_s = time.monotonic()
            self._ask_health()
        return reading

    def _ask_health(self) -> None:
        try:
            self.health = self._camera.health()
        except Exception as error:  # not logged each second
            survived(error, f"asking {self._name} how it is", self._statistics)

    def _read(self, timeout_s: float) -> Reading | None:
        while not self._commands.empty():
            self._attempted(self._commands.get())
        if self._lost:
            self._recover()
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
            if self._camera.caps.paced and self._is_overdue:
                self._lose(f"it has sent nothing for {self.silent_s:.1f} s", rung=0)
        elif outcome is ReadStatus.DISCONNECTED:
            self._statistics.event("disconnects")
            self._lose(getattr(self._camera, "problem", "") or "the camera is disconnected", rung=1)
        else:
            self.ended = EndReason.END_OF_STREAM
        return None

    def feed(self, receive: Callable[[Reading], None]) -> None:
        """Reads until the end or ``halt``: the work of a capture thread."""

        def step() -> None:
            reading = self.read(READ_TIMEOUT_S)
            if reading is not None:
                receive(reading)

        self.repeat(step)

    def repeat(self, step: Callable[[], object]) -> None:
        """Does ``step`` over and over until the end or ``halt``, whatever it raises."""
        while self.ended is None and not self._halt.is_set():
            try:
                step()
            except Exception as error:
                survived(error, f"taking frames of {self._name}", self._statistics)
                self._halt.wait(PAUSE_S)

    @property
    def _is_overdue(self) -> bool:
        """Whether the next frame should have come, since the camera was opened or sent the last one."""
        shortest_s = FIRST_FRAME_S if self._period_s is None or self._last_sequence is None else SILENCE_S
        return self.silent_s - self._silent_before_s > max(shortest_s, 4 * (self._period_s or 0.0))

    def _arrived(self, frame: Frame) -> Reading | None:
        if self._must_check and not self._passes(frame):
            return None
        # A number that does not rise is a camera that began to count again, not a loss.
        if self._last_sequence is not None and frame.sequence > self._last_sequence + 1:
            self._statistics.dropped("camera", frame.sequence - self._last_sequence - 1)
        now_s = time.monotonic()
        if self._last_sequence is not None:
            self._period_s = now_s - self._arrived_s if self._period_s is None else self._smoothed(now_s)
        if self._attempt:
            self._statistics.record("camera away", 1000 * (now_s - self._arrived_s))
            _log.warning("camera %s: back after %.1f s", self._name, now_s - self._arrived_s)
        self._last_sequence = frame.sequence
        self._attempt, self._rung, self._arrived_s = 0, 0, now_s
        self.problem, self._silent_before_s = "", 0.0
        return Reading(frame)

    def _passes(self, frame: Frame) -> bool:
        """Whether the camera that was opened may be used."""
        assert self._check is not None
        try:
            self._check(frame)
        except Exception as error:
            survived(error, f"checking {self._name}", self._statistics)
            self._lose(str(error) or type(error).__name__, rung=1)
            if not self._is_accepted:
                self.ended = EndReason.CAMERA_REFUSED
            return False
        self._must_check, self._is_accepted = False, True
        return True

    def _smoothed(self, now_s: float) -> float:
        assert self._period_s is not None
        return 0.9 * self._period_s + 0.1 * min(now_s - self._arrived_s, 10 * self._period_s)

    def _failed(self, error: Exception) -> Reading:
        """The frame that should have come is an ERROR; the device itself is brought back if it may be at fault."""
        self._statistics.event("read_errors")
        survived(error, f"reading from {self._name}", self._statistics)
        if isinstance(error, CameraError) or not isinstance(error, EdgeAdError):
            self._lose(str(error) or type(error).__name__, rung=1)
        elif self._camera.caps.paced and self._is_overdue:
            self._lose(str(error), rung=0)  # not one whole capture in all this time
        else:
            self.problem = str(error)
        self._last_sequence = 0 if self._last_sequence is None else self._last_sequence + 1
        return Reading(black_frame(self._name, self._last_sequence), error)

    def _lose(self, problem: str, rung: int) -> None:
        self._lost, self.problem = True, problem
        self._rung = max(rung, self._rung) if self._attempt else rung
        _log.warning("camera %s: %s", self._name, problem)

    def _recover(self) -> None:
        """One attempt, after the wait that is due before it."""
        delays_s, give_up_s = self._recovery.delays_s, self._recovery.give_up_s
        if give_up_s is not None and time.monotonic() - self._arrived_s > give_up_s and self._attempt >= len(delays_s):
            self.ended = EndReason.CAMERA_LOST
            return
        if self._halt.wait(delays_s[min(self._attempt, len(delays_s) - 1)]):
            return
        name = self._rungs[self._rung]
        self._attempt += 1
        self._rung = self._rung + 1 if self._rung + 1 < len(self._rungs) else 1
        if name == "respawns" and time.monotonic() - self._arrived_s < RESPAWN_AFTER_S:
            name = "reopens"
        self._statistics.event(name)
        try:
            if not self._cure(name):
                return
        except Exception as error:
            survived(error, f"bringing back {self._name}", self._statistics)
            self.problem = str(error) or type(error).__name__
            return
        if self._prepare is not None:
            self._attempted(self._prepare)
        self._statistics.event("reconnects")
        self._lost, self._last_sequence, self._silent_before_s = False, None, self.silent_s
        self._must_check = self._check is not None

    def _attempted(self, command: Callable[[], None]) -> None:
        try:
            command()
        except Exception as error:
            _log.warning("camera %s: %s", self._name, error, exc_info=not isinstance(error, EdgeAdError))

    def _cure(self, name: str) -> bool:
        """Whether it was carried out, and not stopped on the way."""
        if name == "restarts":
            self._camera.restart()
            return True
        if name == "resets":
            self._camera.reset()
            if self._halt.wait(BOOT_S):
                return False
        elif name == "respawns":
            self._camera.respawn()  # type: ignore[attr-defined]
        self._camera.open()
        return True


def black_frame(source: str, sequence: int = 0, part_id: str | None = None) -> Frame:
    """A black pixel that stands for a frame that there is none of."""
    return Frame(
        rgb=np.zeros((1, 1, 3), dtype=np.uint8),
        timestamp_ns=time.monotonic_ns(),
        sequence=sequence,
        source=source,
        part_id=part_id,
    )
