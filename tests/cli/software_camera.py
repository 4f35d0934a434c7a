"""A camera that takes a picture when it is told to: ``software://``."""

from __future__ import annotations

import time

from edge_ad.cameras import CameraUri
from edge_ad.cameras.base import CameraDriver
from edge_ad.types import CameraCaps, CameraInfo, Frame, ReadStatus
from tests.cli.scripted_camera import ScriptedCamera


class SoftwareCamera(CameraDriver):
    """Takes no picture unasked."""

    def __init__(self) -> None:
        super().__init__()
        self.caps = CameraCaps(paced=False, software_trigger=True)
        self._asked: list[str] = []

    @classmethod
    def from_uri(cls, uri: CameraUri) -> SoftwareCamera:
        return cls()

    def open(self) -> CameraInfo:
        self._asked.clear()
        self.info = CameraInfo("software", "S2", live=True)
        return self.info

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        if not self._asked:
            time.sleep(min(timeout_s, 0.005))
            return ReadStatus.TIMEOUT
        self._asked.pop(0)
        return ScriptedCamera(["good"], live=True).read(0)

    def trigger(self, part_id: str = "") -> None:
        self._asked.append(part_id)

    def close(self) -> None:
        self.info = None
