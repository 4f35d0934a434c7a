"""A camera that does what its URI says: ``scripted://?steps=good,blind,damaged,lost&live=1``."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np

from edge_ad.cameras import CameraUri
from edge_ad.cameras.base import CameraDriver
from edge_ad.errors import CameraError, DataError
from edge_ad.types import CameraCaps, CameraInfo, Frame, Intrinsics, ReadStatus

INTRINSICS = Intrinsics(fx=60.0, fy=60.0, cx=31.5, cy=31.5, width_px=64, height_px=64)


class ScriptedCamera(CameraDriver):
    """Plays its steps, the last one of a live camera for ever; once lost, it does not open again."""

    opened = 0

    def __init__(self, steps: list[str], *, live: bool) -> None:
        super().__init__()
        self.caps = CameraCaps(live=live, paced=False)
        self.dropped = Counter({"mispaired": 2, "incomplete": 0})
        self._steps, self._live = steps, live
        self._next = 0

    @classmethod
    def from_uri(cls, uri: CameraUri) -> ScriptedCamera:
        return cls(uri.options["steps"].split(","), live="live" in uri.options)

    def open(self) -> CameraInfo:
        ScriptedCamera.opened += 1
        if self._next:
            raise CameraError("the scripted camera is gone", remedy="write another script")
        return CameraInfo("scripted", "S1", live=self._live, warnings=("the link is [USB 2]",))

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        number, self._next = self._next, self._next + 1
        if number >= len(self._steps) and not self._live:
            return ReadStatus.END_OF_STREAM
        step = self._steps[min(number, len(self._steps) - 1)]
        if step == "damaged":
            raise DataError("the scripted image is damaged", remedy="write it again")
        if step in ("lost", "silent"):
            time.sleep(0.001)
            return ReadStatus.DISCONNECTED if step == "lost" else ReadStatus.TIMEOUT
        random = np.random.default_rng(number)
        depth = random.integers(300, 900, (64, 64), dtype=np.uint16)
        return Frame(
            rgb=random.integers(0, 256, (64, 64, 3), dtype=np.uint8),
            depth=depth if step == "good" else np.zeros_like(depth),
            depth_unit_m=0.001,
            intrinsics=INTRINSICS,
            timestamp_ns=time.monotonic_ns(),
            sequence=number,
            source=f"scripted {number}",
        )

    def close(self) -> None:
        """Nothing is held."""
