"""Captures on disk, played as a camera: ``folder://DIRECTORY`` and ``replay://DIRECTORY``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import Field

from edge_ad.cameras.base import CameraDriver
from edge_ad.cameras.uri import CameraUri
from edge_ad.data.dataset import paired_files
from edge_ad.data.folder import CAMERA_FILE, list_captures, read_capture, read_intrinsics
from edge_ad.data.images import RGB_SUFFIXES, XYZ_SUFFIXES
from edge_ad.data.mvtec3d import camera_of_captures, read_xyz_capture
from edge_ad.errors import CameraError, ConfigError
from edge_ad.settings import Settings
from edge_ad.types import CameraCaps, CameraInfo, Frame, ReadStatus


class FolderOptions(Settings):
    """What may follow ``folder://DIRECTORY?``.

    Attributes:
        fps: frames per second; 0 plays as fast as frames are read.
        loop: begins again after the last capture.
    """

    fps: float = Field(default=0, ge=0, le=1000)
    loop: bool = False


class ReplayOptions(FolderOptions):
    """What may follow ``replay://DIRECTORY?``.

    Attributes:
        fps: frames per second.
    """

    fps: float = Field(default=30, gt=0, le=1000)


class FolderCamera(CameraDriver):
    """Plays ``DIRECTORY/{rgb,depth}/…`` in the order of the numbers in the file names.

    ``DIRECTORY/{rgb,xyz}/…`` of MVTec 3D-AD does as well: depth is then z, and the camera is estimated from
    the point clouds where no ``intrinsics.json`` says what it is.

    Every capture is delivered, however slowly it is read. One that cannot be read costs one read and
    one number in ``Frame.sequence``; the next read goes on with the next capture.

    Args:
        directory: a recording as ``edge-ad capture`` writes it, see ``edge_ad.data.folder``.
        fps: frames per second; 0 plays as fast as frames are read.
        loop: begins again after the last capture.
        live: tells the reader to treat it as a live camera, whose frames may be dropped.
    """

    def __init__(self, directory: Path, *, fps: float = 0, loop: bool = False, live: bool = False) -> None:
        super().__init__()
        self.caps = CameraCaps(live=live, paced=live)
        self._directory = directory
        self._period_s = 1 / fps if fps else 0.0
        self._loop, self._live = loop, live
        self._captures: list[Callable[[], Frame]] = []
        self._next = 0
        self._due_s = 0.0

    @classmethod
    def from_uri(cls, uri: CameraUri) -> FolderCamera:
        """Makes the camera of ``folder://DIRECTORY?fps=0&loop=0`` or ``replay://DIRECTORY?fps=30&loop=0``.

        Raises:
            ConfigError: there is no directory, or an option is unknown or out of range.
        """
        if not uri.path:
            raise ConfigError(f"camera {uri} names no directory", remedy=f"write {uri.scheme}://DIRECTORY")
        live = uri.scheme == "replay"
        options = uri.options_as(ReplayOptions if live else FolderOptions)
        return cls(Path(uri.path).expanduser(), fps=options.fps, loop=options.loop, live=live)

    def open(self) -> CameraInfo:
        """Lists the captures and reads the camera's file.

        Raises:
            CameraError: there is no such directory.
            DataError: it holds no captures, an image lacks its partner, or the camera's file is damaged.
        """
        if not self._directory.is_dir():
            raise CameraError(
                f"{self._directory} is not a directory", remedy="give the folder that holds rgb/ and depth/"
            )
        warnings = self._list_captures()
        self._next, self._due_s = 0, time.monotonic()
        self.info = CameraInfo(
            name="replay" if self._live else "folder",
            serial=str(self._directory),
            live=self._live,
            warnings=tuple(warnings),
            details={"captures": str(len(self._captures))},
        )
        return self.info

    def _list_captures(self) -> list[str]:
        """Finds what to read; what should be said of it."""
        intrinsics, depth_unit_m = read_intrinsics(self._directory)
        if (self._directory / "xyz").is_dir() and not (self._directory / "depth").is_dir():
            clouds = paired_files(self._directory, {"rgb": RGB_SUFFIXES, "xyz": XYZ_SUFFIXES})
            camera = intrinsics or camera_of_captures(self._directory)
            self._captures = [
                partial(read_xyz_capture, files.get("rgb"), files["xyz"], camera) for files in clouds.values()
            ]
            return [] if camera else [f"{self._directory / 'xyz'} is of no pinhole camera: frames carry no intrinsics"]
        self._captures = [
            partial(read_capture, capture.rgb, capture.depth, intrinsics, depth_unit_m)
            for capture in list_captures(self._directory)
        ]
        missing = f"{self._directory / CAMERA_FILE} is missing: the frames carry no intrinsics"
        return [] if intrinsics else [missing]

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The next capture, once it is due.

        Raises:
            CameraError: the camera is not open.
            DataError: this capture cannot be read; the next read goes on with the one after it.
        """
        if not self._captures:
            raise CameraError(f"the camera on {self._directory} is not open", remedy="open it before reading")
        if self._next >= len(self._captures) and not self._loop:
            return ReadStatus.END_OF_STREAM
        if not self._wait_until_due(timeout_s):
            return ReadStatus.TIMEOUT
        sequence, self._next = self._next, self._next + 1
        frame = self._captures[sequence % len(self._captures)]()
        return replace(frame, sequence=sequence, timestamp_ns=time.monotonic_ns())

    def _wait_until_due(self, timeout_s: float) -> bool:
        """Keeps the pace: early reads wait, late ones catch up by one frame at most."""
        if not self._period_s:
            return True
        wait_s = self._due_s - time.monotonic()
        time.sleep(max(0.0, min(wait_s, timeout_s)))
        if wait_s > timeout_s:
            return False
        self._due_s = max(self._due_s + self._period_s, time.monotonic())
        return True

    def close(self) -> None:
        """Forgets the captures; may be called twice."""
        self._captures, self.info = [], None
