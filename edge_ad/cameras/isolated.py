"""A camera in a process of its own, which may crash, hang or be killed without harm to the line."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from typing import Any

from edge_ad.cameras import CAMERAS, camera_from_uri
from edge_ad.cameras.base import CameraDriver
from edge_ad.cameras.capture_process import command_line
from edge_ad.cameras.messages import error_from, frame_from, health_from, info_from
from edge_ad.cameras.ring import Channel, Message, Ring
from edge_ad.errors import CameraError
from edge_ad.types import CameraHealth, CameraInfo, Frame, ReadStatus

OPEN_S = 40.0
"""So long may opening take: librealsense alone may take 15 s to see that a camera does not start, and then warms up."""

TELL_S = 3.0
"""So long may a trigger or a setting take."""

RESTART_S = 15.0
"""So long may restarting a stream take, where a driver can only close and open."""

HANG_S = 3.0
"""Without a sign of life for so long while it is read, the process hangs and is killed."""

CLOSE_S = 2.0

MOST_STARTS = 5
"""So many processes at most are started"""
STARTS_WITHIN_S = 60.0
"""within so long: a driver that crashes at once must not keep the box busy."""


def can_isolate() -> bool:
    """Whether this system has what it takes: Linux."""
    return sys.platform == "linux"


class IsolatedCamera(CameraDriver):
    """Runs the camera of a URI in a new process, and gives what that one gives.

    A process that dies or hangs ends in DISCONNECTED, and the next ``open`` starts a new one. The frames
    come through shared memory, where each stays while it, or a view of it, is in use; when too many are, it is copied.

    Args:
        uri: of the camera.
        lossless: no frame is lost on the way, and the camera waits while none is read; by default for
            cameras that are not live.

    Attributes:
        events: how often the process had to be started (``starts``), died (``crashes``) or hung and was
            killed (``hangs``).
        problem: what the last process ended with.

    Raises:
        ConfigError: the URI is not right.
    """

    def __init__(self, uri: str, *, lossless: bool | None = None) -> None:
        super().__init__()
        self.caps = camera_from_uri(uri).caps
        self.events: Counter[str] = Counter()
        self.problem = ""
        self._uri = uri
        self._lossless = not self.caps.live if lossless is None else lossless
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._ring: Ring | None = None
        self._pending: deque[Message] = deque()
        self._health = CameraHealth()
        self._left_s = self._heard_s = 0.0
        self._starts_s: deque[float] = deque(maxlen=MOST_STARTS)
        self._end: ReadStatus | None = None

    @property
    def process_id(self) -> int | None:
        """Of the capture process; None while there is none."""
        return None if self._process is None else self._process.pid

    def open(self) -> CameraInfo:
        """Opens the camera in its process, which is started where there is none.

        Raises:
            CameraError: as the camera's own; or its process ended or did not answer.
            ConfigError, MissingExtraError: as the camera's own.
        """
        self.info, self._end = None, None
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            self.info = info_from(self._command("open", OPEN_S)["info"])
        except EOFError as error:
            why = self._died()
            raise CameraError(
                f"the process of camera {self._uri} ended while it opened", why=why, remedy="run: edge-ad doctor"
            ) from error
        self._give_back(*(message["slot"] for message in self._pending if message["kind"] == "frame"))
        self._pending.clear()  # of the stream before
        return self.info

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The next frame.

        Raises:
            CameraError: the camera is not open, or failed.
            DataError: this capture is lost; the next read may be good.
        """
        if self._end is not None:
            return self._end
        if self.info is None:
            raise CameraError(f"camera {self._uri} is not open", remedy="open it before reading")
        now_s = time.monotonic()
        deadline_s = now_s + timeout_s
        if now_s - self._left_s > HANG_S / 2:
            self._heard_s = now_s  # nobody listened
        self._give_back()
        try:
            while True:
                message = self._pending.popleft() if self._pending else self._receive(deadline_s - time.monotonic())
                outcome = None if message is None else self._outcome(message)
                if outcome is not None:
                    return outcome
                if message is None and time.monotonic() >= deadline_s:
                    break
        except EOFError:
            self._died()
            self._end = ReadStatus.DISCONNECTED
            return self._end
        finally:
            self._left_s = time.monotonic()
        if time.monotonic() - self._heard_s > HANG_S:
            self.events["hangs"] += 1
            self._kill(f"it gave no sign of life for {HANG_S:g} s and was killed")
            self._end = ReadStatus.DISCONNECTED
            return self._end
        return ReadStatus.TIMEOUT

    def trigger(self, part_id: str = "") -> None:
        """Takes one capture."""
        self._ask("trigger", TELL_S, part_id=part_id)

    def set(self, **options: float | str) -> None:
        """Changes settings."""
        self._ask("set", TELL_S, **options)

    def restart(self) -> None:
        """Restarts the stream of the open device.

        Raises:
            CameraError: it does not start; or the process hangs, and was killed.
        """
        self._await_life()
        self._ask("restart", RESTART_S)
        self._end = None

    def reset(self) -> None:
        """Makes the device boot, open or not."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        self._ask("reset")
        self.info = None

    def respawn(self) -> None:
        """Ends the process, for ``open`` to start a new one."""
        if self._process is not None and self._process.poll() is None and self._starts_s:
            self._starts_s.pop()  # it lived: were it counted, a camera that is away for long would end in a rest
        self._kill("it was ended to start anew")

    def health(self) -> CameraHealth:
        """What the process reported last, and its own end."""
        dropped = {**self._health.dropped, **self.dropped}
        details = {**self._health.details, **{f"process_{name}": float(n) for name, n in self.events.items()}}
        return CameraHealth(self._health.temperature_c, dropped, details)

    def close(self) -> None:
        """Ends the process; may be called twice, and from another thread."""
        process, channel = self._process, self._channel
        if process is not None and channel is not None:
            with contextlib.suppress(EOFError):
                channel.send("close")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(CLOSE_S)
        self._kill("")
        self._end = None

    def _start(self) -> None:
        now_s = time.monotonic()
        if len(self._starts_s) == MOST_STARTS and now_s - self._starts_s[0] < STARTS_WITHIN_S:
            raise CameraError(
                f"the process of camera {self._uri} was started {MOST_STARTS} times within {STARTS_WITHIN_S:g} s",
                why=f"the last one: {self.problem}" if self.problem else "",
                remedy=f"it is tried again in {STARTS_WITHIN_S - now_s + self._starts_s[0]:.0f} s; run: edge-ad doctor",
            )
        self._starts_s.append(now_s)
        self._kill(self.problem)
        with contextlib.ExitStack() as undo:  # where no process can be started, nothing stays open
            ring = Ring.create()
            undo.callback(ring.close)
            ours, theirs = map(undo.enter_context, Channel.pair())
            self._process = subprocess.Popen(
                command_line(theirs.fileno(), ring),
                pass_fds=(theirs.fileno(), ring.descriptor),
                stdin=subprocess.DEVNULL,
                stdout=2,  # SDKs print; standard output may be the results'
            )
            undo.pop_all()
            theirs.close()
        self.events["starts"] += 1
        self._ring, self._channel = ring, Channel(ours)
        self._pending.clear()
        self._channel.send("start", camera=self._uri, lossless=self._lossless, drivers=CAMERAS)

    def _ask(self, command: str, timeout_s: float = OPEN_S, /, **arguments: Any) -> None:
        if command != "reset" and self.info is None:
            raise CameraError(f"camera {self._uri} is not open", remedy="open it first")
        try:
            self._command(command, timeout_s, **arguments)
        except EOFError as error:
            why = self._died()
            raise CameraError(f"the process of camera {self._uri} ended", why=why, remedy="open it again") from error

    def _command(self, command: str, timeout_s: float, /, **arguments: Any) -> Message:
        """Sends a command and waits for what it comes to; what else arrives meanwhile is kept."""
        channel = self._channel
        if channel is None:
            raise EOFError
        channel.send(command, arguments=arguments)
        deadline_s = time.monotonic() + timeout_s
        while (remaining_s := deadline_s - time.monotonic()) > 0:
            message = self._receive(remaining_s)
            if message is None:
                continue
            if message["kind"] == "done":
                return message
            if message["kind"] == "refused":
                raise error_from(message)
            self._pending.append(message)
        self.events["hangs"] += 1
        self._kill(f"it did not answer to {command!r} within {timeout_s:g} s and was killed")
        raise CameraError(
            f"camera {self._uri} hangs", why=self.problem, remedy="unplug it and plug it in again, then: edge-ad doctor"
        )

    def _await_life(self) -> None:
        """Waits for anything from the process: one that reads says something all the time, whatever the camera does."""
        deadline_s = max(self._heard_s, self._left_s - HANG_S / 2) + HANG_S
        while self.info is not None:
            try:
                message = self._receive(max(0.0, deadline_s - time.monotonic()))
            except EOFError:
                return  # what is asked next tells
            if message is not None:
                self._pending.append(message)
                return
            if time.monotonic() >= deadline_s:
                self.events["hangs"] += 1
                self._kill(f"it gave no sign of life for {HANG_S:g} s and was killed")
                raise CameraError(f"camera {self._uri} hangs", why=self.problem, remedy="it is started anew")

    def _receive(self, timeout_s: float) -> Message | None:
        if self._channel is None:
            raise EOFError
        message = self._channel.receive(timeout_s)
        if message is not None:
            self._heard_s = time.monotonic()
        return message

    def _outcome(self, message: Message) -> Frame | ReadStatus | None:
        """What a message means to a reader; None where it means nothing."""
        kind = message["kind"]
        if kind == "frame":
            assert self._ring is not None
            images = self._ring.take(message["slot"], message["layout"])
            return frame_from(message["fields"], images)
        if kind == "failed":
            raise error_from(message)
        if kind == "dropped":
            self.dropped["ring"] += 1
        elif kind == "health":
            self._health = health_from(message["health"])
        elif kind == "status" and message["status"] != ReadStatus.TIMEOUT.name:
            self._end = ReadStatus[message["status"]]
            return self._end
        return None

    def _give_back(self, *slots: int) -> None:
        """Gives slots back to the process, and those that were taken and are in use no more."""
        if self._channel is not None and self._ring is not None:
            with contextlib.suppress(EOFError):  # which receiving tells, after what was sent before
                for slot in (*slots, *self._ring.freed()):
                    self._channel.send("free", slot=slot)

    def _died(self) -> str:
        """Notes that the process ended by itself; what with."""
        process = self._process
        if process is None:
            return self.problem
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CLOSE_S)
        self.events["crashes"] += 1
        self._kill(_ending(process.poll()))
        return self.problem

    def _kill(self, problem: str) -> None:
        process, channel, ring = self._process, self._channel, self._ring
        self._process = self._channel = self._ring = None
        self.info = None
        self.problem = problem
        if process is not None:
            process.kill()
            process.wait()
        if channel is not None:
            channel.close()
        if ring is not None:
            ring.close()


def _ending(code: int | None) -> str:
    if code is None:
        return "it closed the channel and was killed"
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}"
