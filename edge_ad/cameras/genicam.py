"""GenICam cameras of any vendor (GigE Vision, USB3 Vision, …), through the GenTL producer that comes with them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from edge_ad.cameras.base import CameraDriver
from edge_ad.cameras.genicam_devices import (
    close_harvester,
    devices_of,
    find_device,
    incomplete_counter,
    interrupt_kept,
    open_harvester,
    own_description,
    sdk_errors,
)
from edge_ad.cameras.genicam_features import Features, RangeScale, choose_trigger, enable_images, read_range_scale
from edge_ad.cameras.genicam_frames import USABLE, Numbers, Part, frame_of, sensor_time_s
from edge_ad.cameras.steady_clock import SteadyClock
from edge_ad.cameras.triggered import TriggeredParts
from edge_ad.cameras.uri import CameraUri
from edge_ad.errors import CameraError
from edge_ad.settings import Settings, validated
from edge_ad.types import CameraCaps, CameraHealth, CameraInfo, Frame, ReadStatus

IMAGES = {"rgbd": ("rgb", "depth"), "rgb": ("rgb",), "depth": ("depth",)}


class GenicamSettings(Settings):
    """What can be set while the camera runs.

    Attributes:
        exposure_us: exposure time in microseconds, which ends automatic exposure; the camera's own if absent.
        gain: in the camera's unit, mostly dB; ends automatic gain.
        fps: captures per second of a camera that runs freely.
    """

    exposure_us: float | None = Field(default=None, gt=0)
    gain: float | None = None
    fps: float | None = Field(default=None, gt=0)


class GenicamOptions(GenicamSettings):
    """What may follow ``genicam://SERIAL?``.

    Attributes:
        cti: the producer's file; all those in the directories of GENICAM_GENTL64_PATH if absent.
        images: what the frames hold: colour and depth, or one of them.
        trigger: what starts a capture: ``software``, ``line0``, ``line1``, …; the camera runs freely if absent.
        features: further features by their own names, ``NAME:VALUE,NAME:VALUE``, set first and in this order.
        xml: a description to use in place of the one that the camera carries, where that has errors.
    """

    cti: Path | None = None
    images: Literal["rgbd", "rgb", "depth"] = "rgbd"
    trigger: Annotated[str, StringConstraints(pattern=r"^(software|line\d+)$")] | None = None
    features: Annotated[str, StringConstraints(pattern=r"^\w+:[^,:]+(,\w+:[^,:]+)*$")] | None = None
    xml: Path | None = None


class GenicamCamera(CameraDriver):
    """A camera by serial number or user-given name, through the vendor's GenTL producer.

    Depth is the C coordinate of its ``Range`` component, float32 in the camera's own unit.

    Args:
        serial: of the camera, or the name that its user gave it; empty takes the first one.
        options: how it is found and run.

    Attributes:
        dropped: captures not delivered, by cause: ``incomplete`` (parts were lost on the link) and
            ``sequence_gap`` (they never arrived).
    """

    def __init__(self, serial: str = "", options: GenicamOptions | None = None) -> None:
        super().__init__()
        self._serial, self._options = serial, options or GenicamOptions()
        trigger = self._options.trigger
        self.caps = CameraCaps(
            images=IMAGES[self._options.images],
            paced=trigger is None,
            software_trigger=trigger == "software",
            hardware_trigger=trigger not in (None, "software"),
            options=tuple(GenicamSettings.model_fields),
        )
        self._harvester: Any = None
        self._acquirer: Any = None
        self._features: Features | None = None
        self._scale = RangeScale()
        self._source = ""
        self._numbers = Numbers(self.dropped)
        self._parts = TriggeredParts()
        self._clock = SteadyClock()
        self._lost = False

    @classmethod
    def from_uri(cls, uri: CameraUri) -> GenicamCamera:
        """Makes the camera of ``genicam://SERIAL?cti=/path/producer.cti&trigger=software``.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        return cls(uri.path, uri.options_as(GenicamOptions))

    def open(self) -> CameraInfo:
        """Finds the camera, sets its features and starts it.

        Raises:
            CameraError: there is no producer or no such camera, it is in use, or refuses a feature.
            MissingExtraError: the SDK is not installed.
        """
        self.close()
        try:
            self.info = self._open()
            return self.info
        except sdk_errors() as error:
            self.close()
            raise CameraError(
                f"camera {self._name} cannot be used",
                why=str(error),
                remedy="end the program that has it, check its cable and power, then: edge-ad doctor",
            ) from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> CameraInfo:
        options = self._options
        self._harvester = open_harvester(options.cti)
        attached = devices_of(self._harvester)
        index = find_device(attached, self._serial)
        device = attached[index]
        with interrupt_kept():
            self._acquirer = self._harvester.create(index, config=own_description(options.xml))
        self._acquirer.add_callback(self._acquirer.Events.INCOMPLETE_BUFFER, incomplete_counter(self.dropped))
        self._source = f"genicam://{device.serial}"
        features = self._features = Features(self._acquirer.remote_device.node_map, device.serial or device.name)
        for text in (options.features or "").split(","):
            name, _, value = text.partition(":")
            if name:
                features.write(name, value)
        enable_images(features, self.caps.images, USABLE)
        choose_trigger(features, options.trigger)
        self._apply(options)
        self._scale = read_range_scale(features) if "depth" in self.caps.images else RangeScale()
        self._start()
        warnings = []
        if not self._serial and len(attached) > 1:
            warnings.append(f"{len(attached)} cameras are attached; to be sure of this one write {self._source}")
        if "depth" in self.caps.images and self._scale.focal_px is None:
            warnings.append("the camera does not tell its focal length: the frames carry no intrinsics")
        details = {"vendor": device.vendor, "images": options.images, "trigger": options.trigger or "none"}
        return CameraInfo(device.name, device.serial, live=True, warnings=tuple(warnings), details=details)

    def _apply(self, settings: GenicamSettings) -> None:
        features = self._opened()
        for automatic, name, value in (
            ("ExposureAuto", "ExposureTime", settings.exposure_us),
            ("GainAuto", "Gain", settings.gain),
        ):
            if value is not None:
                if features.has(automatic):
                    features.write(automatic, "Off")
                features.write(name, value)
        if settings.fps is not None:
            if features.has("AcquisitionFrameRateEnable"):
                features.write("AcquisitionFrameRateEnable", True)
            features.write("AcquisitionFrameRate", settings.fps)

    def _start(self) -> None:
        self._numbers.restart()
        self._parts.clear()
        self._clock = SteadyClock()
        self._acquirer.start()

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The next capture.

        After DISCONNECTED it says the same again until the camera is opened anew.

        Raises:
            CameraError: the camera is not open, or sends what cannot be read.
        """
        features = self._opened()
        deadline_s = time.monotonic() + timeout_s
        buffer = None
        while buffer is None and not self._lost:
            try:
                buffer = self._fetch(deadline_s - time.monotonic())
            except sdk_errors():
                self._lost = True
            if buffer is None and time.monotonic() >= deadline_s and not self._lost:
                self._lost = not features.is_connected()
                if not self._lost:
                    return ReadStatus.TIMEOUT
        if buffer is None:
            return ReadStatus.DISCONNECTED
        with buffer:  # its memory goes back to the SDK at the end
            part_id, arrived_ns = self._parts.captured(), self._arrival_ns(buffer)
            parts = [Part.of(component) for component in buffer.payload.components if component]
            sequence = self._numbers.next(buffer)
            return frame_of(parts, self.caps.images, self._scale, self._source, sequence, part_id, arrived_ns)

    def _arrival_ns(self, buffer: Any) -> int:
        """When a capture arrived, or would have, had it not waited here."""
        now_ns, taken_s = time.monotonic_ns(), sensor_time_s(buffer) if self.caps.paced else None
        return now_ns if taken_s is None else self._clock.arrival_ns(taken_s, now_ns)

    def _fetch(self, timeout_s: float) -> Any | None:
        """The SDK's next buffer; None when none came in time, and also, early, for an incomplete capture."""
        try:
            return self._acquirer.try_fetch(timeout=max(timeout_s, 0.001))  # no time at all means for ever
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # how the SDK fails at a vendor's own format
            raise CameraError(
                f"camera {self._name} sends images in a format that the SDK does not know",
                why=f"{type(error).__name__}: {error}",
                remedy="let it send standard ones: features=ComponentSelector:Range,PixelFormat:Coord3D_C32f",
            ) from error

    def trigger(self, part_id: str = "") -> None:
        """Takes one capture.

        Raises:
            ConfigError: the camera was not opened with ``trigger=software``.
            CameraError: it is not open, or refuses.
        """
        if not self.caps.software_trigger:
            super().trigger(part_id)
        features = self._opened()
        self._parts.triggered(part_id)
        features.execute("TriggerSoftware")

    def set(self, **options: float | str) -> None:
        """Sets ``exposure_us``, ``gain`` or ``fps``.

        Raises:
            ConfigError: there is no such option, or its value is of the wrong kind.
            CameraError: the camera is not open, or refuses the value.
        """
        self._apply(validated(GenicamSettings, options, f"camera {self._name}"))

    def health(self) -> CameraHealth:
        """Temperature, where the camera has a sensor for it, and captures that were not delivered."""
        told = None if self._features is None else self._features.read("DeviceTemperature")
        return CameraHealth(temperature_c=None if told is None else float(told), dropped=dict(self.dropped))

    def restart(self) -> None:
        """Stops and starts the stream of the open device.

        Raises:
            CameraError: it is not open, or does not start.
        """
        self._opened()
        try:
            self._acquirer.stop()
            self._start()
        except sdk_errors() as error:
            raise CameraError(f"camera {self._name} does not start", why=str(error), remedy="open it again") from error

    def reset(self) -> None:
        """Makes the open device boot; it is closed afterwards.

        Raises:
            CameraError: it is not open, or has no such command.
        """
        self._opened().execute("DeviceReset")
        self.close()

    def close(self) -> None:
        """Stops the stream and frees the device and its producer; may be called twice."""
        harvester = self._harvester
        self._harvester = self._acquirer = self._features = self.info = None
        self._lost = False
        if harvester is not None:
            close_harvester(harvester)

    def _opened(self) -> Features:
        if self._features is None:
            raise CameraError(f"camera {self._name} is not open", remedy="open it before using it")
        return self._features

    @property
    def _name(self) -> str:
        return self._serial or "genicam"
