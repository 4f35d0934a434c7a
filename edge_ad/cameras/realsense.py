"""Intel RealSense cameras and their recordings, through librealsense."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

from edge_ad.cameras.base import CameraDriver
from edge_ad.cameras.realsense_controls import OPTIONS, Controls
from edge_ad.cameras.realsense_devices import find_device, hardware_reset, list_devices, load_sdk
from edge_ad.cameras.realsense_frames import FrameMaker
from edge_ad.cameras.realsense_options import RealSenseOptions
from edge_ad.cameras.realsense_settling import SETTLED_WITHIN, Settled, exposure_for_level, settle
from edge_ad.cameras.realsense_streams import LiveStream, RecordingStream
from edge_ad.cameras.steady_clock import SteadyClock
from edge_ad.cameras.uri import CameraUri
from edge_ad.errors import CameraError
from edge_ad.types import CameraCaps, CameraHealth, CameraInfo, Frame, ReadStatus

__all__ = ["RealSenseCamera", "RealSenseOptions", "list_devices"]

WAIT_S = 0.2
"""One wait inside the SDK: short, as closing has to wait for it, and a loss is noticed only after it."""

LOCK_CHANGED = 5 * SETTLED_WITHIN[0]
"""Fixing the exposure should not change the picture; by so many grey levels is a change worth a word."""


class RealSenseCamera(CameraDriver):
    """A camera by serial number, or a recording by path; colour and depth of a frame are one capture.

    Where one of the two streams falls silent for half a second, frames hold the other image alone, until
    both are back; see ``FrameMaker`` for when they cannot. A stream that is silent from the start stops
    both, so do not ``restart`` a camera that still delivers one.

    Args:
        serial: of the camera; empty takes the first one.
        path: a ``.db3`` or ``.bag`` file to play in place of a camera.
        options: what may also be given in a URI.
        warm_up_s: at most so long are frames discarded, until exposure and depth have settled; 0 for none.
        context: a ``pyrealsense2.context`` to find devices in; None makes one whenever it opens.

    Attributes:
        dropped: sets not delivered, by cause, over the camera's life; see ``Pairing``.
    """

    def __init__(
        self,
        serial: str = "",
        path: Path | None = None,
        options: RealSenseOptions | None = None,
        *,
        warm_up_s: float = 3.0,
        context: Any = None,
    ) -> None:
        super().__init__()
        live = path is None
        self.caps = CameraCaps(live=live, paced=live, can_reset=live, options=OPTIONS if live else ())
        self._serial, self._path = serial, path
        self._options = options or RealSenseOptions()
        self._warm_up_s = warm_up_s
        self._context = context
        self._stream: LiveStream | RecordingStream | None = None
        self._maker: FrameMaker | None = None
        self._controls: Controls | None = None
        self._locked: dict[str, float] = {}
        self._end: ReadStatus | None = None

    @classmethod
    def from_uri(cls, uri: CameraUri) -> RealSenseCamera:
        """Makes the camera of ``realsense://SERIAL?depth=848x480@30&ae=lock&…`` or ``realsense://FILE.db3?repeat=1``.

        Raises:
            ConfigError: an option is unknown or malformed, or asks a recording for what only a camera has.
        """
        path, options = RealSenseOptions.of_uri(uri)
        return cls("" if path else uri.path, path, options)

    def open(self) -> CameraInfo:
        """Starts the stream; a live one is read until exposure and depth have settled.

        Raises:
            CameraError: there is no such camera, it is in use, has no such modes or sends nothing; or
                the recording cannot be played.
            ConfigError: the camera lacks a setting that was asked for.
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
        self._maker = FrameMaker(sdk, stream.profile, str(path), self._options.align, self.dropped)
        details = {"recorded with": stream.device.get_info(sdk.camera_info.name), **self._maker.details}
        return CameraInfo("RealSense recording", str(path), live=False, details=details)

    def _open_live(self, sdk: Any, context: Any) -> CameraInfo:
        options = self._options
        attached = list_devices(context)
        device = find_device(attached, self._serial)
        stream = self._stream = LiveStream(sdk, context, device.serial, options.depth, options.color, options.sync)
        source = f"realsense://{device.serial}"
        self._maker = FrameMaker(sdk, stream.profile, source, options.align, self.dropped, SteadyClock())
        controls = self._controls = Controls(sdk, stream.device, device.serial)
        details = {"firmware": device.firmware, "usb": device.usb, **self._maker.details}
        warnings = []
        if not self._serial and len(attached) > 1:
            warnings.append(f"{len(attached)} cameras are attached; to be sure of this one write {source}")
        if device.usb.startswith("2"):
            warnings.append(f"the link is USB {device.usb}: use a USB 3 port and cable for full size and rate")
        if options.preset:
            details["preset"] = controls.choose_preset(options.preset)
        if options.ae is not None and not self._locked:
            controls.automatic()
        controls.set({**options.controls, **self._locked})
        settled = settle(self.read, self._name, self._warm_up_s) if self._warm_up_s else None
        if settled is not None and not settled.still:
            warnings.append(f"exposure or depth had not settled after {self._warm_up_s:g} s, or the scene moves")
        if options.ae == "lock" and not self._locked:
            period_us = 1e6 / stream.profile.get_stream(sdk.stream.color).fps()
            warnings += self._lock(controls, settled, longest_us=period_us)
        details |= {name: f"{value:g} (locked)" for name, value in self._locked.items()}
        return CameraInfo(device.name, device.serial, live=True, warnings=tuple(warnings), details=details)

    def _lock(self, controls: Controls, settled: Settled | None, longest_us: float) -> list[str]:
        """Fixes exposure, gain and white balance; what should be said of it.

        Most colour sensors do not tell what their automatics have found, so the picture is looked at as well.
        """
        self._locked, warnings = controls.lock({} if settled is None else settled.frame.metadata)
        if settled is None:
            return warnings
        wanted = settled.level
        level = settle(self.read, self._name, self._warm_up_s).level
        # A scene that moves shows nothing of the exposure, and each look at it would take the whole warm-up.
        if abs(level - wanted) > LOCK_CHANGED and settled.still and "exposure_us" in self._locked:
            shortest_us, allowed_us, _ = controls.range_of("exposure_us")

            def level_at(exposure_us: float) -> float:
                controls.set({"exposure_us": exposure_us})
                return settle(self.read, self._name, self._warm_up_s).level

            _, level = exposure_for_level(level_at, wanted, shortest_us, min(allowed_us, longest_us))
            self._locked["exposure_us"] = controls.get("exposure_us") or self._locked["exposure_us"]
        if abs(level - wanted) > LOCK_CHANGED:
            warnings.append(
                f"ae=lock changed the picture: its mean level went from {wanted:.0f} to {level:.0f} of 255, as the "
                "camera does not tell what its automatics had found; set exposure_us and gain instead"
            )
        return warnings

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
            raise self._not_open("reading")
        deadline_s = time.monotonic() + timeout_s
        try:
            while True:
                images = self._next_images(self._stream, deadline_s - time.monotonic())
                if isinstance(images, ReadStatus):
                    if not (self._options.repeat and isinstance(self._stream, RecordingStream)):
                        self._finish(images)
                        return images
                    self._stream.rewind()
                    self._maker.pairing.forget()
                    images = None
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

    def set(self, **options: float | str) -> None:
        """Changes settings of a camera while it runs; ``caps.options`` names them.

        Exposure, gain and white balance turn the automatic off that would change them. What is set stays
        set when the camera is closed, until it loses power.

        Raises:
            ConfigError: an option is unknown, the camera lacks it, or the value is out of range.
            CameraError: the camera is not open, or refuses.
        """
        super().set(**{name: value for name, value in options.items() if name not in self.caps.options})
        if self._controls is None:
            raise self._not_open("setting it")
        try:
            self._controls.set(options)
        except RuntimeError as error:
            raise CameraError(f"camera {self._name} failed", why=str(error), remedy="open it again") from error

    def health(self) -> CameraHealth:
        """Its temperatures and the captures that were not delivered."""
        temperatures_c = {} if self._controls is None else self._controls.temperatures_c()
        return CameraHealth(max(temperatures_c.values(), default=None), dict(self.dropped), temperatures_c)

    def restart(self) -> None:
        """Stops and starts the stream of an open camera, in milliseconds; a recording begins anew.

        Raises:
            CameraError: it is gone, or does not start.
        """
        if self._maker is None or not isinstance(self._stream, LiveStream):
            super().restart()
            return
        try:
            self._stream.restart()
        except RuntimeError as error:
            raise CameraError(
                f"camera {self._name} does not restart", why=str(error), remedy="open it again"
            ) from error
        self._maker.pairing.forget()

    def reset(self) -> None:
        """Makes the camera boot: it leaves the USB and comes back some seconds later. Closed afterwards.

        Raises:
            CameraError: it is not attached, or cannot be reset.
        """
        if self._path is not None:
            super().reset()
        serial = self._serial if self.info is None else self.info.serial
        self.close()
        hardware_reset(serial, self._context)

    def close(self) -> None:
        """Stops the stream and frees the device; may be called twice."""
        # The pipeline itself must go too: one that lost its device goes on listing it.
        stream, self._stream, self._maker, self._end = self._stream, None, None, None
        self._controls, self.info = None, None
        if stream is not None:
            with contextlib.suppress(RuntimeError):  # the device is gone, there is nothing to stop
                stream.stop()

    def _not_open(self, doing: str) -> CameraError:
        return CameraError(f"camera {self._name} is not open", remedy=f"open it before {doing}")

    @property
    def _name(self) -> str:
        return str(self._path or self._serial or "realsense")
