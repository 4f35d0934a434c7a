"""The camera of ``scripts/bench loop``: noise at exactly its frame rate, waiting in the buffers of a driver.

Also the capture process that people write by hand, here because it has to be importable in a new process.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Literal

import numpy as np
from pydantic import Field

from edge_ad.cameras.base import CameraDriver
from edge_ad.cameras.image_memory import own_image
from edge_ad.cameras.uri import CameraUri
from edge_ad.errors import CameraError
from edge_ad.settings import Settings
from edge_ad.types import CameraInfo, Frame, ReadStatus

POOL = 8
RETURNED_S = "returned_s"
"""Of each frame's metadata: when ``read`` returned it, on the host's monotonic clock."""


class ReplayOptions(Settings):
    """What may follow ``bench://?``.

    Attributes:
        fps: frames per second, produced whether or not anyone reads.
        width, height: of the frames, in pixels.
        buffers: frames that wait in the driver.
        keep: what it does when all are full: ``oldest`` loses the new frame, as V4L2 and GenTL do unless
            told otherwise; ``newest`` the one that waits, as librealsense does with one buffer.
    """

    fps: float = Field(default=30, gt=0)
    width: int = Field(default=640, ge=1)
    height: int = Field(default=480, ge=1)
    buffers: int = Field(default=4, ge=1)
    keep: Literal["oldest", "newest"] = "oldest"


class ReplayCamera(CameraDriver):
    """Shows a few frames of noise over and over, each stamped with the instant it was due."""

    def __init__(self, options: ReplayOptions) -> None:
        super().__init__()
        self._options = options
        self._pool: list[tuple[Any, Any]] = []
        self._waiting: deque[int] = deque(maxlen=options.buffers)
        self._start_ns = self._next = 0

    @classmethod
    def from_uri(cls, uri: CameraUri) -> ReplayCamera:
        return cls(uri.options_as(ReplayOptions))

    def open(self) -> CameraInfo:
        random, shape = np.random.default_rng(0), (self._options.height, self._options.width)
        self._pool = [
            (random.integers(0, 256, (*shape, 3), np.uint8), random.integers(1, 2000, shape, np.uint16))
            for _ in range(POOL)
        ]
        self._waiting.clear()
        self._start_ns, self._next = time.monotonic_ns(), 0
        self.info = CameraInfo("noise", "bench", live=True)
        return self.info

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        if self.info is None:
            raise CameraError("the camera is not open", remedy="open it before reading")
        self._expose()
        if not self._waiting:
            due_s = (self._due_ns(self._next) - time.monotonic_ns()) / 1e9
            time.sleep(max(0.0, min(due_s, timeout_s)))
            self._expose()
        if not self._waiting:
            return ReadStatus.TIMEOUT
        number = self._waiting.popleft()
        rgb, depth = (own_image(image, image.dtype) for image in self._pool[number % POOL])
        told: dict[str, float] = {}
        frame = Frame(rgb, depth, depth_unit_m=0.001, timestamp_ns=self._due_ns(number), sequence=number, metadata=told)
        told[RETURNED_S] = time.monotonic()
        return frame

    def close(self) -> None:
        self._pool, self.info = [], None

    def _due_ns(self, number: int) -> int:
        return self._start_ns + round(number * 1e9 / self._options.fps)

    def _expose(self) -> None:
        """What was due since the last look goes where the driver puts it."""
        while self._due_ns(self._next) <= time.monotonic_ns():
            if self._options.keep == "newest" or len(self._waiting) < self._options.buffers:
                self._waiting.append(self._next)
            self._next += 1


def capture(uri: str, frames: Any) -> None:
    """Puts every frame into a queue, for ever: a capture process as it is written by hand."""
    camera = ReplayCamera.from_uri(CameraUri.parse(uri))
    camera.open()
    while True:
        frame = camera.read(1.0)
        if isinstance(frame, Frame):
            frames.put(frame)
