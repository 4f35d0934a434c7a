"""The camera of the soak run: the synthetic product, and every fault that its control file asks for."""

from __future__ import annotations

import ctypes
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_ad.cameras import CameraUri, camera_from_uri
from edge_ad.cameras.base import CameraDriver
from edge_ad.errors import CameraError
from edge_ad.types import CameraInfo, Frame, ReadStatus

FAULTS = ("stall", "unplug", "junk", "no_depth", "hang", "crash")


class SoakCamera(CameraDriver):
    """``soak://CONTROL?OPTIONS`` is ``synthetic://?OPTIONS`` that fails as the file CONTROL says, until it is empty."""

    def __init__(self, control: Path, inner: str) -> None:
        super().__init__()
        self._control, self._camera = control, camera_from_uri(inner)
        self.caps = self._camera.caps
        self._random = np.random.default_rng()

    @classmethod
    def from_uri(cls, uri: CameraUri) -> SoakCamera:
        return cls(Path(uri.path), str(CameraUri("synthetic", "", uri.options)))

    def open(self) -> CameraInfo:
        if self._fault() == "unplug":
            raise CameraError("the soak camera is not attached", remedy="plug it in")
        self.info = self._camera.open()
        return self.info

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        fault = self._fault()
        if fault == "stall":
            time.sleep(timeout_s)
            return ReadStatus.TIMEOUT
        if fault == "unplug":
            return ReadStatus.DISCONNECTED
        if fault == "hang":
            ctypes.PyDLL(None).sleep(600)  # with the GIL held
        if fault == "crash":
            self._control.write_text("")  # the next one lives
            ctypes.string_at(0)
        frame = self._camera.read(timeout_s)
        if isinstance(frame, Frame) and fault == "junk":
            return self._junk(frame)
        if isinstance(frame, Frame) and fault == "no_depth":
            return replace(frame, depth=None)
        return frame

    def close(self) -> None:
        self._camera.close()
        self.info = None

    def _fault(self) -> str:
        try:
            return self._control.read_text().strip()
        except OSError:
            return ""

    def _junk(self, frame: Frame) -> Frame:
        """Wrong sizes, wrong types, no content: all that a driver may hand out and that is still a frame."""
        assert frame.rgb is not None and frame.depth is not None
        height, width = frame.size_px
        kinds = (
            {"depth": np.zeros_like(frame.depth)},
            {"depth": np.full((height, width), np.nan, np.float32), "depth_unit_m": 1.0},
            {"depth": np.full((height, width), np.inf, np.float32), "depth_unit_m": 1.0},
            {"rgb": frame.rgb[: height // 2].copy(), "depth": frame.depth[: height // 2].copy()},
            {"rgb": np.zeros((1, 1, 3), np.uint8), "depth": np.zeros((1, 1), np.uint16)},
            {"rgb": self._random.integers(0, 256, frame.rgb.shape, dtype=np.uint8)},
            {"skew_ms": 400.0},
        )
        chosen = kinds[int(self._random.integers(len(kinds)))]
        return replace(frame, **chosen)
