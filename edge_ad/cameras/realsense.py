"""Intel RealSense cameras and their recordings, through librealsense."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from edge_ad.cameras.base import CameraDriver
from edge_ad.cameras.realsense_devices import find_device, list_devices, load_sdk
from edge_ad.cameras.realsense_frames import FrameMaker
from edge_ad.cameras.realsense_streams import LiveStream, RecordingStream, StreamMode
from edge_ad.cameras.uri import CameraUri
from edge_ad.errors import CameraError, ConfigError
from edge_ad.settings import Settings
from edge_ad.types import CameraCaps, CameraInfo, Frame, ReadStatus

__all__ = ["RealSenseCamera", "RealSenseOptions", "StreamMode", "list_devices"]

RECORDING_SUFFIXES = (".db3", ".bag")

WAIT_S = 0.2
"""One wait inside the SDK: short, as closing has to wait for it, and a loss is noticed only after it."""

SETTLED_FRAMES = 10
"""So many frames must look alike before warm-up ends."""

SETTLED_WITHIN = np.array([2.0, 0.005])
"""What looks alike: mean colour in grey levels (of 255), mean depth in metres."""


class RealSenseOptions(Settings):
    """What may follow ``realsense://SERIAL?``.

    Attributes:
        depth: size and rate, e.g. ``848x480@30``; the camera's default if absent.
        color: the same for colour.
        align: the image that keeps its pixels; the other one is resampled to it.
    """

    depth: Annotated[StreamMode | None, BeforeValidator(StreamMode.parse)] = None
    color: Annotated[StreamMode | None, BeforeValidator(StreamMode.parse)] = None
    align: Literal["color", "depth"] = "color"


class RealSenseCamera(CameraDriver):
    """A camera by serial number, or a recording by path; colour and depth of a frame are one capture.

    Args:
        serial: of the camera; empty takes the first one.
        path: a ``.db3`` or ``.bag`` file to play in place of a camera.
        depth: mode of the depth stream, None for the camera's default.
        color: mode of the colour stream, None for the camera's default.
        align: the image that keeps its pixels, ``"color"`` or ``"depth"``.
        warm_up_s: at most so long are frames discarded, until exposure and depth have settled; 0 for none.
        context: a ``pyrealsense2.context`` to find devices in; None makes one whenever it opens.

    Attributes:
        dropped: sets not delivered, by cause, over the camera's life; see ``FrameMaker``.
    """

    def __init__(
        self,
        serial: str = "",
        path: Path | None = None,
        *,
        depth: StreamMode | None = None,
        color: StreamMode | None = None,
        align: Literal["color", "depth"] = "color",
        warm_up_s: float = 3.0,
        context: Any = None,
    ) -> None:
        super().__init__()
        self.caps = CameraCaps(live=path is None, paced=path is None)
        self._serial, self._path = serial, path
        self._depth, self._color, self._align = depth, color, align
        self._warm_up_s = warm_up_s
        self._context = context
        self._stream: LiveStream | RecordingStream | None = None
        self._maker: FrameMaker | None = None
        self._end: ReadStatus | None = None

    @classmethod
    def from_uri(cls, uri: CameraUri) -> RealSenseCamera:
        """Makes the camera of ``realsense://SERIAL?depth=…&color=…&align=color`` or ``realsense://FILE.db3``.

        Raises:
            ConfigError: an option is unknown or malformed, or asks a recording for another mode.
        """
        options = uri.options_as(RealSenseOptions)
        path = Path(uri.path).expanduser()
        if path.suffix.lower() in RECORDING_SUFFIXES:
            if options.depth or options.color:
                raise ConfigError(
                    f"camera {uri} asks a recording for a mode",
                    why="a recording is played in the sizes and rates that it was made with",
                    remedy="leave out depth and color",
                )
            return cls(path=path, align=options.align)
        if "/" in uri.path:
            raise ConfigError(
                f"camera {uri} is neither a serial number nor a recording",
                remedy=f"name a file that ends in {' or '.join(RECORDING_SUFFIXES)}",
            )
        return cls(uri.path, depth=options.depth, color=options.color, align=options.align)

    def open(self) -> CameraInfo:
        """Starts the stream; a live one is read until exposure and depth have settled.

        Raises:
            CameraError: there is no such camera, it is in use, has no such modes or sends nothing; or
                the recording cannot be played.
            MissingExtraError: the SDK is not installed.
        """
        self.close()
        sdk = load_sdk()
        context = sdk.context() if self._context is None else self._context
        try:
            if self._path is not None:
                self.info = self._open_recording(sdk, context, self._path)
            else:
                self.info = self._open_live(sdk, context)
            return self.info
        except RuntimeError as error:
            self.close()
            raise CameraError(
                f"camera {self._name} cannot be used", why=str(error), remedy="run: edge-ad doctor"
            ) from error
        except BaseException:
            self.close()
            raise

    def _open_recording(self, sdk: Any, context: Any, path: Path) -> CameraInfo:
        stream = self._stream = RecordingStream(sdk, context, path)
        self._maker = FrameMaker(sdk, stream.profile, str(path), self._align, self.dropped)
        details = {"recorded with": stream.device.get_info(sdk.camera_info.name), **self._maker.details}
        return CameraInfo("RealSense recording", str(path), live=False, details=details)

    def _open_live(self, sdk: Any, context: Any) -> CameraInfo:
        attached = list_devices(context)
        device = find_device(attached, self._serial)
        stream = self._stream = LiveStream(sdk, context, device.serial, self._depth, self._color)
        source = f"realsense://{device.serial}"
        self._maker = FrameMaker(sdk, stream.profile, source, self._align, self.dropped)
        warnings = []
        if not self._serial and len(attached) > 1:
            warnings.append(f"{len(attached)} cameras are attached; to be sure of this one write {source}")
        if device.usb.startswith("2"):
            warnings.append(f"the link is USB {device.usb}: use a USB 3 port and cable for full size and rate")
        if self._warm_up_s:
            warnings += self._warm_up()
        details = {"firmware": device.firmware, "usb": device.usb, **self._maker.details}
        return CameraInfo(device.name, device.serial, live=True, warnings=tuple(warnings), details=details)

    def _warm_up(self) -> list[str]:
        """Discards frames until colour and depth stand still; what should be said if they do not."""
        levels: deque[tuple[float, float]] = deque(maxlen=SETTLED_FRAMES)
        deadline_s = time.monotonic() + self._warm_up_s
        while (remaining_s := deadline_s - time.monotonic()) > 0:
            outcome = self.read(remaining_s)
            if isinstance(outcome, Frame):
                levels.append(_levels(outcome))
                if len(levels) == SETTLED_FRAMES and (np.ptp(levels, axis=0) <= SETTLED_WITHIN).all():
                    return []
            elif outcome is ReadStatus.DISCONNECTED:
                raise CameraError(f"camera {self._name} was lost while it warmed up", remedy="check its cable")
        if not levels:
            raise CameraError(
                f"camera {self._name} sends no pairs of depth and colour",
                why=f"it started, and within {self._warm_up_s:g} s no usable pair came",
                remedy="unplug it and plug it in again, into a USB 3 port",
            )
        return [f"exposure or depth had not settled after {self._warm_up_s:g} s, or the scene moves"]

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The next set of depth and colour that belong together, registered, in memory of its own.

        At the end of a stream it may take 0.2 s longer than ``timeout_s``. After END_OF_STREAM or
        DISCONNECTED it says the same again until the camera is opened anew.

        Raises:
            CameraError: the camera is not open, or the SDK failed.
            DataError: a recording breaks off; the next read says END_OF_STREAM.
        """
        if self._end is not None:
            return self._end
        if self._stream is None or self._maker is None:
            raise CameraError(f"camera {self._name} is not open", remedy="open it before reading")
        deadline_s = time.monotonic() + timeout_s
        try:
            while True:
                images = self._next_images(self._stream, deadline_s - time.monotonic())
                if isinstance(images, ReadStatus):
                    self._finish(images)
                    return images
                frame = None if images is None else self._maker.frame(images)
                if frame is not None:
                    return frame
                if time.monotonic() >= deadline_s:
                    return ReadStatus.TIMEOUT
        except RuntimeError as error:
            raise CameraError(f"camera {self._name} failed", why=str(error), remedy="open it again") from error

    @staticmethod
    def _next_images(stream: LiveStream | RecordingStream, timeout_s: float) -> Any | ReadStatus | None:
        """A set of images, None for none yet, or why there will be no more."""
        wait_s = min(max(timeout_s, 0), WAIT_S)
        images = stream.wait(math.ceil(1000 * wait_s))
        if images is not None or not stream.is_over():
            return images
        # The SDK may say that it has stopped while it still hands out the last frames.
        images = stream.wait(math.ceil(1000 * WAIT_S))
        return stream.end() if images is None else images

    def _finish(self, end: ReadStatus) -> None:
        self.close()
        self._end = end

    def close(self) -> None:
        """Stops the stream and frees the device; may be called twice."""
        # The pipeline itself must go too: one that lost its device goes on listing it.
        stream, self._stream, self._maker, self._end = self._stream, None, None, None
        self.info = None
        if stream is not None:
            with contextlib.suppress(RuntimeError):  # the device is gone, there is nothing to stop
                stream.stop()

    @property
    def _name(self) -> str:
        return str(self._path or self._serial or "realsense")


def _levels(frame: Frame) -> tuple[float, float]:
    """Mean colour in grey levels and mean valid depth in metres, of every eighth pixel each way."""
    assert frame.rgb is not None and frame.depth is not None
    depth = frame.depth[::8, ::8]
    valid = depth[depth > 0]
    return float(frame.rgb[::8, ::8].mean()), float(valid.mean() if valid.size else 0) * frame.depth_unit_m
