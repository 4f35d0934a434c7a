"""What camera drivers share: everything of the protocol that a plain one has no better answer for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter

from edge_ad.errors import CameraError, ConfigError
from edge_ad.types import CameraCaps, CameraHealth, CameraInfo, Frame, ReadStatus


class CameraDriver(ABC):
    """Base of a camera: a driver writes ``open``, ``read`` and ``close``, and overrides what it can do better.

    ``open`` must leave its result in ``info``, ``close`` must set that to None.

    Attributes:
        caps: what the camera can do.
        info: what the open camera is; None while it is closed.
        dropped: captures that were not delivered, by cause, over the camera's life.
    """

    caps: CameraCaps = CameraCaps()
    info: CameraInfo | None = None

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()

    @abstractmethod
    def open(self) -> CameraInfo:
        """Starts the stream; afresh where it is open."""

    @abstractmethod
    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The next frame, which owns its memory, or why there is none within ``timeout_s``."""

    @abstractmethod
    def close(self) -> None:
        """Stops the stream and frees the device; may be called twice."""

    def trigger(self, part_id: str = "") -> None:
        """Takes one capture.

        Raises:
            ConfigError: this camera has no software trigger.
        """
        raise ConfigError(
            f"{self._called} has no software trigger",
            why="it takes its captures at its own pace" if self.caps.paced else "its driver has none",
            remedy="use the policy 'trigger', which picks the first frame after each trigger",
        )

    def set(self, **options: float | str) -> None:
        """Changes settings.

        Raises:
            ConfigError: this camera has no such option.
        """
        for name in options:
            raise ConfigError(
                f"{self._called} has no option {name!r} that can be set while it runs",
                remedy=f"use one of {', '.join(self.caps.options)}" if self.caps.options else "leave it out",
            )

    def health(self) -> CameraHealth:
        """The captures that were not delivered."""
        return CameraHealth(dropped=dict(self.dropped))

    def restart(self) -> None:
        """Closes and opens it."""
        self.close()
        self.open()

    def reset(self) -> None:
        """Refuses.

        Raises:
            CameraError: always.
        """
        raise CameraError(
            f"{self._called} cannot be reset by software",
            remedy="unplug it and plug it in again, or switch it off and on",
        )

    @property
    def _called(self) -> str:
        return "this camera" if self.info is None else f"{self.info.name} {self.info.serial}"
