"""The process that a camera runs in: reads it, and hands every frame over through shared memory.

Started by `edge_ad.cameras.isolated.IsolatedCamera`. It ends when it is told to, when the line's
process closes the channel, and, even inside a call that never returns, when that process dies.
"""

from __future__ import annotations

import ctypes
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict

from edge_ad.cameras import CAMERAS, camera_from_uri
from edge_ad.cameras.image_memory import images_made_by
from edge_ad.cameras.messages import error_fields, frame_fields, images_of
from edge_ad.cameras.outbox import Outbox
from edge_ad.cameras.ring import Channel, Message, Ring
from edge_ad.errors import CameraError, DataError, EdgeAdError
from edge_ad.types import Camera, Frame, ReadStatus

READ_S = 0.1
"""One wait for a frame: short, as commands wait for it, and each is a sign of life."""

TRIGGERED_READ_S = 0.005
"""The same where the next command may be a trigger."""

HEALTH_S = 1.0
"""Time between reports of the camera's health."""

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from edge_ad.cameras.capture_process import main; main(*map(int, sys.argv[2:]))"
)
_PR_SET_PDEATHSIG = 1
_log = logging.getLogger(__name__)


def command_line(channel_descriptor: int, ring: Ring) -> list[str]:
    """What runs `main` in a new process, which has to inherit the descriptors of channel and ring."""
    numbers = map(str, (channel_descriptor, ring.descriptor, ring.slots, ring.slot_bytes))
    return [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), *numbers]


def main(channel_descriptor: int, ring_descriptor: int, slots: int, slot_bytes: int) -> None:
    """Serves the line until it is told to end or the line is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the line, which then ends us
    channel = Channel(socket.socket(fileno=channel_descriptor))
    ring = Ring(ring_descriptor, slots, slot_bytes)
    try:
        start = channel.receive(10.0)
        if start is not None:
            CAMERAS.update(start["drivers"])
            outbox = Outbox(ring)
            with images_made_by(outbox.new_image):
                _Capture(camera_from_uri(start["camera"]), channel, outbox, lossless=start["lossless"]).serve()
    except EOFError:
        pass  # the line is gone, and its end of the ring with it


class _Capture:
    """Reads one camera for the line.

    Args:
        camera: not open yet.
        channel: to the line.
        outbox: for its frames, in the memory that the line reads.
        lossless: waits for a free slot; else a frame that finds none is dropped and counted.
    """

    def __init__(self, camera: Camera, channel: Channel, outbox: Outbox, *, lossless: bool) -> None:
        self._camera, self._channel, self._outbox, self._lossless = camera, channel, outbox, lossless
        self._read_s = TRIGGERED_READ_S if camera.caps.software_trigger else READ_S
        self._health_s = 0.0
        self._stream = 0
        self._reading = self._ended = self._health_failed = False

    def serve(self) -> None:
        """Until the line says ``close``."""
        try:
            while not self._ended:
                message = self._channel.receive(0 if self._reading else HEALTH_S)
                if message is not None:
                    self._obey(message)
                elif self._reading:
                    self._read()
                self._report_health()
        finally:
            self._camera.close()

    def _obey(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "free":
            self._outbox.give_back(message["slot"])
        elif kind == "close":
            self._ended = True
        else:
            try:
                self._channel.send("done", **self._done(kind, message.get("arguments", {})))
            except EOFError:
                raise
            except Exception as error:
                self._reading = self._reading and kind in ("set", "trigger")
                self._say_bug(error)
                self._channel.send("refused", **error_fields(error))

    def _done(self, command: str, arguments: Mapping[str, float | str]) -> dict[str, object]:
        if command == "open":
            self._reading = False
            self._stream += 1
            info = self._camera.open()
            self._reading = True
            return {"info": {**asdict(info), "details": dict(info.details)}}
        if command in ("restart", "reset"):
            self._reading = False
        getattr(self._camera, command)(**arguments)
        self._reading = self._reading or command == "restart"
        return {}

    def _read(self) -> None:
        self._outbox.forget()
        try:
            outcome = self._camera.read(self._read_s)
        except Exception as error:
            # The device may have failed: it is read again once the line has opened it again.
            self._reading = isinstance(error, EdgeAdError) and not isinstance(error, CameraError)
            self._say_bug(error)
            self._channel.send("failed", **error_fields(error))
            return
        if isinstance(outcome, Frame):
            self._hand_over(outcome)
        else:
            self._reading = outcome is ReadStatus.TIMEOUT
            self._channel.send("status", status=outcome.name)

    def _hand_over(self, frame: Frame) -> None:
        stream, images = self._stream, images_of(frame)
        try:
            while (put := self._outbox.put(images)) is None and self._lossless and not self._ended:
                message = self._channel.receive(HEALTH_S)
                if message is not None:
                    self._obey(message)
                if stream != self._stream:
                    return  # opened anew while it waited: the frame is of the stream before
        except DataError as error:
            self._channel.send("failed", **error_fields(error))
            return
        if put is None:
            self._channel.send("dropped")
        else:
            slot, layout = put
            self._channel.send("frame", slot=slot, layout=layout, fields=frame_fields(frame))

    def _report_health(self) -> None:
        now_s = time.monotonic()
        if now_s - self._health_s >= HEALTH_S:
            self._health_s = now_s
            try:
                health = self._camera.health()
            except Exception as error:  # a figure that is missing must not end the stream
                if not self._health_failed:
                    self._say_bug(error)
                self._health_failed = True
                return
            fields = {"temperature_c": health.temperature_c, "dropped": dict(health.dropped)}
            self._channel.send("health", health={**fields, "details": dict(health.details)})

    def _say_bug(self, error: Exception) -> None:
        if not isinstance(error, EdgeAdError):
            _log.error("the camera's driver failed", exc_info=error)
