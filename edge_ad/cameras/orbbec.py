"""Orbbec cameras (Femto, Gemini, …) and their recordings, through Orbbec's SDK."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from edge_ad.cameras.base import CameraDriver
from edge_ad.cameras.orbbec_devices import Bus, find_device, load_sdk
from edge_ad.cameras.orbbec_frames import FrameMaker
from edge_ad.cameras.orbbec_streams import RecordingStream, Stream
from edge_ad.cameras.realsense_options import StreamMode
from edge_ad.cameras.steady_clock import SteadyClock
from edge_ad.cameras.triggered import TriggeredParts
from edge_ad.cameras.uri import CameraUri
from edge_ad.errors import CameraError, ConfigError
from edge_ad.settings import Settings
from edge_ad.types import CameraCaps, CameraHealth, CameraInfo, Frame, ReadStatus

WAIT_S = 0.2
"""One wait inside the SDK: a loss is noticed only after it."""


class OrbbecOptions(Settings):
    """What may follow ``orbbec://SERIAL?``.

    Attributes:
        depth: size and rate, e.g. ``640x576@30``; the camera's default if absent.
        color: the same for colour.
        align: the image that keeps its pixels; the other one is resampled to it.
        trigger: what starts a capture: ``software``, or ``hardware`` for the camera's sync port; the camera
            runs freely if absent.
    """

    depth: Annotated[StreamMode | None, BeforeValidator(StreamMode.parse)] = None
    color: Annotated[StreamMode | None, BeforeValidator(StreamMode.parse)] = None
    align: Literal["color", "depth"] = "color"
    trigger: Literal["software", "hardware"] | None = None


class OrbbecCamera(CameraDriver):
    """A camera by serial number, or a recording by path; colour and depth of a frame are one capture.

    Args:
        serial: of the camera; empty takes the first one.
        path: a ``.bag`` file to play in place of a camera.
        options: how it is run.
        bus: where cameras are attached.

    Attributes:
        dropped: sets not delivered, by cause, over the camera's life; see ``FrameMaker``.
    """

    def __init__(
        self, serial: str = "", path: Path | None = None, options: OrbbecOptions | None = None, bus: Bus | None = None
    ) -> None:
        super().__init__()
        self._bus = bus or Bus()
        self._serial, self._path, self._options = serial, path, options or OrbbecOptions()
        trigger = self._options.trigger
        self.caps = CameraCaps(
            live=path is None,
            paced=path is None and trigger is None,
            software_trigger=trigger == "software",
            hardware_trigger=trigger == "hardware",
        )
        self._stream: Stream | None = None
        self._recording: RecordingStream | None = None
        self._maker: FrameMaker | None = None
        self._parts = TriggeredParts()
        self._lost = False

    @classmethod
    def from_uri(cls, uri: CameraUri) -> OrbbecCamera:
        """Makes the camera of ``orbbec://SERIAL?depth=…&color=…&align=color&trigger=software`` or ``orbbec://FILE.bag``.

        Raises:
            ConfigError: an option is unknown or malformed, or asks a recording for a mode or a trigger.
        """
        options = uri.options_as(OrbbecOptions)
        path = Path(uri.path).expanduser()
        if path.suffix.lower() == ".bag":
            if options.depth or options.color or options.trigger:
                raise ConfigError(
                    f"camera {uri} asks a recording for a mode or a trigger",
                    why="a recording is played as it was made",
                    remedy="leave out depth, color and trigger",
                )
            return cls(path=path, options=options)
        if "/" in uri.path:
            raise ConfigError(
                f"camera {uri} is neither a serial number nor a recording", remedy="name a file that ends in .bag"
            )
        return cls(uri.path, options=options)

    def open(self) -> CameraInfo:
        """Starts the stream.

        Raises:
            CameraError: there is no such camera, it is in use, or has no such modes or trigger; or the
                recording cannot be played.
            MissingExtraError: the SDK is not installed.
        """
        self.close()
        sdk = load_sdk()
        try:
            self.info = self._open_live(sdk) if self._path is None else self._open_recording(sdk, self._path)
            return self.info
        except (RuntimeError, sdk.OBError) as error:
            self.close()
            raise CameraError(
                f"camera {self._name} cannot be used",
                why=str(error),
                remedy="end the program that has it, plug it in again, then: edge-ad doctor",
            ) from error
        except BaseException:
            self.close()
            raise

    def _open_recording(self, sdk: Any, path: Path) -> CameraInfo:
        recording = self._recording = RecordingStream(sdk, path)
        stream = recording.stream
        maker = FrameMaker(sdk, stream.depth, stream.color, str(path), self._options.align, self.dropped)
        recording.start(maker.frame)
        details = {"recorded with": recording.device.get_device_info().get_name(), **maker.details}
        return CameraInfo("Orbbec recording", str(path), live=False, details=details)

    def _open_live(self, sdk: Any) -> CameraInfo:
        options = self._options
        # Never a pipeline without a device: it would look for one for 2 s and let nobody else run meanwhile.
        attached = self._bus.devices()
        found = find_device(attached, self._serial)
        device = self._bus.open(found.serial)
        _choose_trigger(sdk, device, found.serial, options.trigger)
        source = f"orbbec://{found.serial}"
        stream = Stream(sdk, device, found.serial, options.depth, options.color)
        clock = SteadyClock() if self.caps.paced else None
        self._maker = FrameMaker(sdk, stream.depth, stream.color, source, options.align, self.dropped, clock)
        stream.start()
        self._stream = stream
        self._parts.clear()
        warnings = []
        if not self._serial and len(attached) > 1:
            warnings.append(f"{len(attached)} cameras are attached; to be sure of this one write {source}")
        if found.connection.startswith("USB2"):
            warnings.append(f"the link is {found.connection}: use a USB 3 port and cable for full size and rate")
        firmware = device.get_device_info().get_firmware_version()
        details = {"firmware": firmware, "connection": found.connection, **self._maker.details}
        return CameraInfo(found.name, found.serial, live=True, warnings=tuple(warnings), details=details)

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The next set of depth and colour that belong together, registered, in memory of its own.

        After END_OF_STREAM or DISCONNECTED it says the same again until the camera is opened anew.

        Raises:
            CameraError: the camera is not open, or the SDK failed.
        """
        if self._recording is not None:
            frame = self._recording.take(timeout_s)
            if frame is not None:
                return frame
            return ReadStatus.END_OF_STREAM if self._recording.is_over() else ReadStatus.TIMEOUT
        if self._stream is None or self._maker is None:
            raise CameraError(f"camera {self._name} is not open", remedy="open it before reading")
        try:
            return self._read_live(self._stream, self._maker, time.monotonic() + timeout_s)
        except (RuntimeError, load_sdk().OBError) as error:
            raise CameraError(f"camera {self._name} failed", why=str(error), remedy="open it again") from error

    def _read_live(self, stream: Stream, maker: FrameMaker, deadline_s: float) -> Frame | ReadStatus:
        while not self._lost:
            wait_s = min(max(deadline_s - time.monotonic(), 0), WAIT_S)
            images = stream.wait(round(1000 * wait_s))
            while self.caps.paced and (newer := stream.wait(0)) is not None:  # who reads late sees what is there now
                images = newer
            if images is not None:
                frame = maker.frame(images, self._parts.captured())
                if frame is not None:
                    return frame
            elif not any(device.serial == self._opened_serial for device in self._bus.devices()):
                self._lost = True
            if time.monotonic() >= deadline_s and not self._lost:
                return ReadStatus.TIMEOUT
        return ReadStatus.DISCONNECTED

    @property
    def _opened_serial(self) -> str:
        return self._serial if self.info is None else self.info.serial

    def trigger(self, part_id: str = "") -> None:
        """Takes one capture.

        Raises:
            ConfigError: the camera was not opened with ``trigger=software``.
            CameraError: it is not open, or refuses.
        """
        if not self.caps.software_trigger:
            super().trigger(part_id)
        if self._stream is None:
            raise CameraError(f"camera {self._name} is not open", remedy="open it before triggering")
        self._parts.triggered(part_id)
        try:
            self._stream.device.trigger_capture()
        except (RuntimeError, load_sdk().OBError) as error:
            raise CameraError(
                f"camera {self._name} was not triggered", why=str(error), remedy="open it again"
            ) from error

    def health(self) -> CameraHealth:
        """Temperature of its processor, and sets that were not delivered."""
        temperature_c = None
        if self._stream is not None:
            with contextlib.suppress(RuntimeError, load_sdk().OBError):  # not every model has a sensor
                temperature_c = float(self._stream.device.get_temperature().cpu_temperature)
        return CameraHealth(temperature_c=temperature_c, dropped=dict(self.dropped))

    def reset(self) -> None:
        """Makes the open device boot; it is closed afterwards.

        Raises:
            CameraError: it is not open, or refuses.
        """
        if self._stream is None:
            super().reset()
            return
        try:
            self._stream.device.reboot()
        except (RuntimeError, load_sdk().OBError) as error:
            raise CameraError(f"camera {self._name} does not boot", why=str(error), remedy="unplug it") from error
        finally:
            self.close()

    def close(self) -> None:
        """Stops the stream and frees the device; may be called twice."""
        stream = self._recording or self._stream
        self._stream = self._recording = self._maker = self.info = None
        self._lost = False
        if stream is not None:
            with contextlib.suppress(RuntimeError, load_sdk().OBError):  # the device is gone, there is nothing to stop
                stream.stop()

    @property
    def _name(self) -> str:
        return str(self._path or self._serial or "orbbec")


def _choose_trigger(sdk: Any, device: Any, serial: str, trigger: str | None) -> None:
    """Makes each signal give one capture, or lets the camera run freely.

    Raises:
        CameraError: the camera has no such trigger.
    """
    modes = sdk.OBMultiDeviceSyncMode
    wanted = {None: modes.FREE_RUN, "software": modes.SOFTWARE_TRIGGERING, "hardware": modes.HARDWARE_TRIGGERING}
    try:
        config = device.get_multi_device_sync_config()
        if trigger is None and config.mode not in (modes.SOFTWARE_TRIGGERING, modes.HARDWARE_TRIGGERING):
            return
        config.mode = wanted[trigger]
        config.frames_per_trigger = 1
        device.set_multi_device_sync_config(config)
    except (RuntimeError, sdk.OBError) as error:
        if trigger is None:  # a camera that cannot be synchronised always runs freely
            return
        raise CameraError(
            f"camera {serial} has no {trigger} trigger",
            why=str(error),
            remedy="leave out trigger=, and use the policy 'trigger', which picks the first frame after each signal",
        ) from error
