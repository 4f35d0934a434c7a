"""Video devices of Linux (webcams, frame grabbers, MIPI cameras): colour alone, through OpenCV."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Protocol

import cv2
from pydantic import AfterValidator, Field, StringConstraints

from edge_ad.cameras.base import CameraDriver
from edge_ad.cameras.image_memory import own_rgb
from edge_ad.cameras.steady_clock import SteadyClock
from edge_ad.cameras.uri import CameraUri
from edge_ad.errors import CameraError, ConfigError
from edge_ad.settings import Settings
from edge_ad.types import AnyArray, CameraCaps, CameraInfo, Frame, ReadStatus

DEVICES = Path("/dev")
NANOSECONDS = 1_000_000_000


def _size(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[1-9]\d{1,4}x[1-9]\d{1,4}", text):
        raise ValueError("write WIDTHxHEIGHT, such as 640x480")
    return text


class V4l2Options(Settings):
    """What may follow ``v4l2:///dev/video0?``.

    Attributes:
        size: ``WIDTHxHEIGHT``; the device's default if absent.
        fps: captures per second; the device's default if absent.
        fourcc: how the device sends its images, e.g. ``MJPG`` or ``YUYV``; its default if absent.
    """

    size: Annotated[str | None, AfterValidator(_size)] = None
    fps: float | None = Field(default=None, gt=0, le=1000)
    fourcc: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{4}$")] | None = None


class Capture(Protocol):
    """An opened video device."""

    def wait(self, timeout_s: float) -> bool:
        """Whether an image is ready, at the latest after ``timeout_s``."""

    def read(self) -> AnyArray | None:
        """The image that is ready, uint8 (H, W, 3) in BGR order; None when the device has failed."""

    def get(self, name: int) -> float:
        """A property, by OpenCV's number."""

    def release(self) -> None:
        """Frees the device."""


class DeviceCapture:
    """A video device through OpenCV's own V4L2 driver.

    Args:
        path: of the device.
        options: size, rate and format to ask for.

    Raises:
        CameraError: it is absent, in use, or no camera.
    """

    def __init__(self, path: Path, options: V4l2Options) -> None:
        if not path.is_char_device():
            raise CameraError(
                f"video device {path} {'is no device' if path.exists() else 'does not exist'}",
                why=f"there {_count_of_devices()}",
                remedy="check the camera's cable, then: ls -l /dev/video*",
            )
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise CameraError(
                f"video device {path} cannot be opened",
                why="another program has it, we may not use it, or it is a camera's second node, without images",
                remedy=f"end that program, add this user to the group video, or try the node before {path}",
            )
        if options.fourcc is not None:
            self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.fourcc))
        if options.size is not None:
            width, _, height = options.size.partition("x")
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, int(width))
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, int(height))
        if options.fps is not None:
            self._capture.set(cv2.CAP_PROP_FPS, options.fps)

    def wait(self, timeout_s: float) -> bool:
        """Whether an image is ready, at the latest after ``timeout_s``; also true when the device has failed."""
        try:
            # Reading alone would wait for ten seconds.
            return bool(cv2.VideoCapture.waitAny([self._capture], max(round(timeout_s * NANOSECONDS), 1))[0])
        except cv2.error:
            return True

    def read(self) -> AnyArray | None:
        """The image that is ready, uint8 (H, W, 3) in BGR order; None when the device has failed."""
        good, image = self._capture.read()
        return image if good else None

    def get(self, name: int) -> float:
        """A property, by OpenCV's number."""
        return float(self._capture.get(name))

    def release(self) -> None:
        """Frees the device."""
        self._capture.release()


class V4l2Camera(CameraDriver):
    """A video device by path.

    Args:
        path: of the device, ``/dev/video0``.
        options: size, rate and format to ask for.
        open_capture: opens the device.
    """

    caps = CameraCaps(images=("rgb",))

    def __init__(
        self,
        path: Path,
        options: V4l2Options | None = None,
        open_capture: Callable[[Path, V4l2Options], Capture] = DeviceCapture,
    ) -> None:
        super().__init__()
        self._path, self._options, self._open_capture = path, options or V4l2Options(), open_capture
        self._capture: Capture | None = None
        self._clock = SteadyClock()
        self._sequence = -1
        self._lost = False

    @classmethod
    def from_uri(cls, uri: CameraUri) -> V4l2Camera:
        """Makes the camera of ``v4l2:///dev/video0?size=640x480&fps=30``; ``v4l2`` alone is ``/dev/video0``.

        Raises:
            ConfigError: it is no device, or an option is unknown or out of range.
        """
        options = uri.options_as(V4l2Options)
        path = DEVICES / (uri.path or "video0")
        if DEVICES not in path.parents or ".." in path.parts:
            raise ConfigError(
                f"camera {uri} is no video device",
                why="v4l2:// is for the devices in /dev; a film has no depth and no calibrated colour to judge by",
                remedy="write v4l2:///dev/video0, or play captures from disk: folder://DIRECTORY",
            )
        return cls(path, options)

    def open(self) -> CameraInfo:
        """Starts the stream.

        Raises:
            CameraError: the device is absent, in use, or cannot stream as asked.
        """
        self.close()
        capture = self._capture = self._open_capture(self._path, self._options)
        width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        fps, wanted = capture.get(cv2.CAP_PROP_FPS), self._options
        if wanted.size not in (None, f"{width}x{height}"):
            self.close()
            raise CameraError(
                f"video device {self._path} has no images of {wanted.size}",
                why=f"it would send {width}x{height}",
                remedy=f"write size={width}x{height}, or see what it has: v4l2-ctl -d {self._path} --list-formats-ext",
            )
        warnings = []
        if wanted.fps is not None and abs(fps - wanted.fps) > 0.5:
            warnings.append(f"it sends {fps:g} images a second, not {wanted.fps:g}")
        self._clock, self._lost = SteadyClock(), False
        details = {"size": f"{width}x{height}", "fps": f"{fps:g}"}
        self.info = CameraInfo(_name(self._path), str(self._path), True, tuple(warnings), details)
        return self.info

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The next image.

        After DISCONNECTED it says the same again until the camera is opened anew.

        Raises:
            CameraError: the camera is not open.
        """
        if self._capture is None:
            raise CameraError(f"video device {self._path} is not open", remedy="open it before reading")
        if self._lost:
            return ReadStatus.DISCONNECTED
        if not self._capture.wait(timeout_s):
            self._lost = not self._path.exists()
            return ReadStatus.DISCONNECTED if self._lost else ReadStatus.TIMEOUT
        image = self._capture.read()
        if image is None:
            self._lost = True
            return ReadStatus.DISCONNECTED
        self._sequence += 1
        arrived_ns, taken_ms = time.monotonic_ns(), self._capture.get(cv2.CAP_PROP_POS_MSEC)
        return Frame(
            rgb=own_rgb(image, cv2.COLOR_BGR2RGB),
            timestamp_ns=self._clock.arrival_ns(taken_ms / 1000, arrived_ns),
            sequence=self._sequence,
            source=f"v4l2://{self._path}",
        )

    def close(self) -> None:
        """Frees the device; may be called twice."""
        capture, self._capture, self.info = self._capture, None, None
        self._lost = False
        if capture is not None:
            capture.release()


def _count_of_devices() -> str:
    found = sorted(path.name for path in DEVICES.glob("video*"))
    return f"are {', '.join(found)}" if found else "is no video device"


def _name(path: Path) -> str:
    """What the kernel calls the camera; the file's name where it does not tell."""
    told = Path("/sys/class/video4linux") / path.name / "name"
    return told.read_text(errors="replace").strip() if told.is_file() else path.name
