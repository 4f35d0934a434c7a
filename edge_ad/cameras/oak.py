"""Luxonis OAK-D cameras, which compute depth themselves, through depthai."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from edge_ad.cameras.base import CameraDriver
from edge_ad.cameras.image_memory import own_image, own_rgb
from edge_ad.cameras.oak_devices import load_sdk
from edge_ad.cameras.oak_pipeline import Connect, OakLink, connect
from edge_ad.cameras.pairing import PairCheck
from edge_ad.cameras.realsense_options import StreamMode
from edge_ad.cameras.steady_clock import SteadyClock
from edge_ad.cameras.uri import CameraUri
from edge_ad.errors import CameraError
from edge_ad.settings import Settings
from edge_ad.types import CameraCaps, CameraHealth, CameraInfo, Frame, ReadStatus


def _size(text: object) -> StreamMode:
    mode = text if isinstance(text, StreamMode) else StreamMode.parse(text)
    if mode.fps or not (mode.width_px and mode.height_px):
        raise ValueError("write WIDTHxHEIGHT, such as 640x400, and the rate as fps=30")
    return mode


class OakOptions(Settings):
    """What may follow ``oak://MXID?``.

    Attributes:
        size: ``WIDTHxHEIGHT`` of colour, which depth is registered to.
        fps: captures per second.
        trigger: ``external`` for a signal at the camera's sync input; the camera runs freely if absent.
    """

    size: Annotated[StreamMode, BeforeValidator(_size)] = StreamMode(640, 400)
    fps: int = Field(default=30, ge=1, le=240)
    trigger: Literal["external"] | None = None


class OakCamera(CameraDriver):
    """A camera by identifier (MXID) or address; colour and depth of a frame are one capture.

    Args:
        serial: of the camera; empty takes the first one that is free.
        options: how it is run.
        open_link: opens the camera and starts its pipeline.

    Attributes:
        dropped: sets not delivered, by cause, over the camera's life; see ``PairCheck``.
    """

    def __init__(self, serial: str = "", options: OakOptions | None = None, open_link: Connect = connect) -> None:
        super().__init__()
        self._serial, self._options, self._open_link = serial, options or OakOptions(), open_link
        triggered = self._options.trigger is not None
        self.caps = CameraCaps(paced=not triggered, hardware_trigger=triggered)
        self._link: OakLink | None = None
        self._pairs = PairCheck(0, self.dropped)
        self._clock: SteadyClock | None = None
        self._source = ""
        self._lost = False

    @classmethod
    def from_uri(cls, uri: CameraUri) -> OakCamera:
        """Makes the camera of ``oak://MXID?size=640x400&fps=30&trigger=external``.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        return cls(uri.path, uri.options_as(OakOptions))

    def open(self) -> CameraInfo:
        """Starts the stream.

        Raises:
            CameraError: there is no such camera, it is in use, or cannot stream as asked.
            MissingExtraError: the SDK is not installed.
        """
        self.close()
        options = self._options
        mode = StreamMode(options.size.width_px, options.size.height_px, options.fps)
        try:
            link = self._link = self._open_link(load_sdk(), self._serial, mode, options.trigger is not None)
        except RuntimeError as error:
            raise CameraError(
                f"camera {self._name} cannot be used",
                why=str(error),
                remedy="choose another size= or fps=, plug it in again, then: edge-ad doctor",
            ) from error
        self._pairs = PairCheck(500 / options.fps, self.dropped)
        self._clock = SteadyClock() if self.caps.paced else None
        self._source = f"oak://{link.serial}"
        details = {"size": f"{mode.width_px}x{mode.height_px}", "fps": str(mode.fps), **link.details}
        self.info = CameraInfo(link.name, link.serial, live=True, warnings=link.warnings, details=details)
        return self.info

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The next pair of colour and depth, in memory of its own.

        After DISCONNECTED it says the same again until the camera is opened anew.

        Raises:
            CameraError: the camera is not open.
        """
        if self._link is None:
            raise CameraError(f"camera {self._name} is not open", remedy="open it before reading")
        deadline_s = time.monotonic() + timeout_s
        while not self._lost:
            left_s = max(deadline_s - time.monotonic(), 0)
            try:
                group = self._link.groups.get(timedelta(seconds=left_s))
            except (RuntimeError, load_sdk().MessageQueue.QueueException):  # how a lost device ends the queue
                self._lost = True
                break
            if group is None:
                self._lost = not self._link.pipeline.isRunning()
                if not self._lost:
                    return ReadStatus.TIMEOUT
            elif (frame := self._frame(group)) is not None:
                return frame
        return ReadStatus.DISCONNECTED

    def _frame(self, group: Any) -> Frame | None:
        """Makes a frame of a message group, or counts why it cannot be one."""
        arrived_ns = time.monotonic_ns()
        rgb, depth = group["rgb"], group["depth"]
        number, exposed = depth.getSequenceNum(), depth.getTimestamp()
        skew_ms = abs(rgb.getTimestamp() - exposed) / timedelta(milliseconds=1)
        if not self._pairs.is_new_capture(number, skew_ms):
            return None
        facts = {
            "exposure_us": rgb.getExposureTime() / timedelta(microseconds=1),
            "iso": float(rgb.getSensitivity()),
            "transfer_ms": arrived_ns / 1e6 - exposed / timedelta(milliseconds=1),
        }
        return Frame(
            rgb=own_rgb(rgb.getFrame()),
            depth=own_image(depth.getFrame(), np.uint16),
            depth_unit_m=0.001,
            intrinsics=None if self._link is None else self._link.intrinsics,
            timestamp_ns=self._clock.arrival_ns(exposed.total_seconds(), arrived_ns) if self._clock else arrived_ns,
            sequence=number,
            source=self._source,
            skew_ms=skew_ms,
            metadata={name: value for name, value in facts.items() if value > 0},
        )

    def health(self) -> CameraHealth:
        """Temperature of its processor, and sets that were not delivered."""
        temperature_c = None
        if self._link is not None and self._link.device is not None:
            with contextlib.suppress(RuntimeError):
                temperature_c = float(self._link.device.getChipTemperature().average)
        return CameraHealth(temperature_c=temperature_c, dropped=dict(self.dropped))

    def close(self) -> None:
        """Stops the pipeline and frees the device; may be called twice."""
        link, self._link, self.info, self._lost = self._link, None, None, False
        if link is None:
            return
        with contextlib.suppress(RuntimeError):  # the device is gone, there is nothing to stop
            link.pipeline.stop()
            # Without it the interpreter crashes at its end: the SDK's threads are still at work.
            link.pipeline.wait()
        if link.device is not None:
            link.device.close()

    @property
    def _name(self) -> str:
        return self._serial or "oak"
