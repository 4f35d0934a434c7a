"""A camera with every fault that a driver may have: ``troubled://?frames=3&fails=segfault``."""

from __future__ import annotations

import ctypes
import os
import time

import numpy as np

from edge_ad.cameras import CameraUri
from edge_ad.cameras.base import CameraDriver
from edge_ad.errors import DataError
from edge_ad.types import CameraCaps, CameraHealth, CameraInfo, Frame, Intrinsics, ReadStatus


def make_frame(number: int) -> Frame:
    random = np.random.default_rng(number)
    return Frame(
        rgb=random.integers(0, 256, (48, 64, 3), dtype=np.uint8),
        depth=random.integers(0, 65536, (48, 64), dtype=np.uint16),
        depth_unit_m=0.0001,
        intrinsics=Intrinsics(60, 61, 31.5, 23.5, 64, 48),
        timestamp_ns=time.monotonic_ns(),
        sequence=number,
        source=f"troubled {number} é",
        part_id=f"part {number}",
        skew_ms=1.5,
        metadata={"gain": 16.0},
    )


class TroubledCamera(CameraDriver):
    """Delivers ``frames`` frames and ends; ``fails`` is how the second one goes, or where it fails before."""

    def __init__(self, options: dict[str, str]) -> None:
        super().__init__()
        if options.get("fails") == "start" and _in_capture_process():
            os._exit(3)
        software = "software" in options
        self.caps = CameraCaps(live="live" in options, paced=False, software_trigger=software, options=("exposure_us",))
        self._frames, self._fails = int(options.get("frames", 0)), options.get("fails", "")
        self._next = 0
        self._parts: list[str] = []
        self._exposure_us = 100.0

    @classmethod
    def from_uri(cls, uri: CameraUri) -> TroubledCamera:
        return cls(dict(uri.options))

    def open(self) -> CameraInfo:
        if self._fails == "open":
            _hang()
        self._next = 0
        self.info = CameraInfo("troubled", "T1", live=self.caps.live)
        return self.info

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        if self.caps.software_trigger:
            if not self._parts:
                time.sleep(min(timeout_s, 0.01))
                return ReadStatus.TIMEOUT
            frame = make_frame(0)
            frame.metadata["exposure_us"] = self._exposure_us  # type: ignore[index]
            object.__setattr__(frame, "part_id", self._parts.pop(0))
            return frame
        number, self._next = self._next, self._next + 1
        if number >= self._frames:
            return ReadStatus.END_OF_STREAM
        if number == 1 and self._fails:
            self._fail()
        return make_frame(number)

    def trigger(self, part_id: str = "") -> None:
        self._parts.append(part_id)

    def set(self, **options: float | str) -> None:
        super().set(**{name: value for name, value in options.items() if name not in self.caps.options})
        self._exposure_us = float(options["exposure_us"])

    def health(self) -> CameraHealth:
        if self._fails == "health":
            raise KeyError("temperature")
        return super().health()

    def close(self) -> None:
        self.info = None

    def _fail(self) -> None:
        if self._fails == "damaged":
            raise DataError("frame 1 is damaged", remedy="look at it")
        if self._fails == "bug":
            raise ZeroDivisionError
        if self._fails == "exit":
            os._exit(3)
        if self._fails == "segfault":
            ctypes.string_at(0)
        if self._fails == "hang":
            _hang()


def _hang() -> None:
    """Holds the GIL, as some calls of librealsense do."""
    ctypes.PyDLL(None).sleep(60)


def _in_capture_process() -> bool:
    import sys

    return sys.argv[0] == "-c"
