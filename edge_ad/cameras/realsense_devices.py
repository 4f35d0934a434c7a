"""librealsense itself, and the cameras that it lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_ad.errors import CameraError
from edge_ad.extras import require


@dataclass(frozen=True, slots=True)
class RealSenseDevice:
    """A camera as the SDK lists it; what it does not say is empty.

    Attributes:
        name: the model.
        serial: its serial number.
        firmware: version.
        usb: version of the USB link, ``"3.2"`` or ``"2.1"``.
    """

    name: str
    serial: str
    firmware: str
    usb: str


def load_sdk() -> Any:
    """The ``pyrealsense2`` module.

    Raises:
        MissingExtraError: it, or the libusb that it needs, is not installed.
    """
    return require(
        "pyrealsense2",
        extra="realsense",
        remedy="pip install 'edge-ad[realsense]', and on Debian or Ubuntu: apt-get install libusb-1.0-0",
    )


def list_devices(context: Any = None) -> list[RealSenseDevice]:
    """The cameras that are attached; takes milliseconds.

    Args:
        context: a ``pyrealsense2.context``; None makes one.

    Raises:
        MissingExtraError: the SDK is not installed.
        CameraError: a camera is attached and cannot be opened.
    """
    sdk = load_sdk()
    keys = (
        sdk.camera_info.name,
        sdk.camera_info.serial_number,
        sdk.camera_info.firmware_version,
        sdk.camera_info.usb_type_descriptor,
    )
    try:
        return [
            RealSenseDevice(*(device.get_info(key) if device.supports(key) else "" for key in keys))
            for device in (sdk.context() if context is None else context).query_devices()
        ]
    except RuntimeError as error:
        raise CameraError(
            "a RealSense camera is attached but cannot be opened",
            why=str(error),
            remedy="install librealsense's udev rules, or plug the camera in again",
        ) from error


def find_device(attached: list[RealSenseDevice], serial: str) -> RealSenseDevice:
    """The camera with this serial number, or the first one when ``serial`` is empty.

    Raises:
        CameraError: it is not attached.
    """
    if not attached:
        raise CameraError(
            f"RealSense camera {serial} not found" if serial else "no RealSense camera found",
            why="none is attached, or the system does not let us see it",
            remedy="check the cable, use a USB 3 port, install librealsense's udev rules; then: edge-ad doctor",
        )
    for device in attached:
        if serial in ("", device.serial):
            return device
    raise CameraError(
        f"RealSense camera {serial} not found",
        why=f"attached are {', '.join(device.serial for device in attached)}",
        remedy="correct the serial number, or check that camera's cable",
    )


def hardware_reset(serial: str, context: Any = None) -> None:
    """Makes an attached camera boot; it takes some seconds until it is listed again.

    Args:
        serial: its serial number; empty takes the first one.
        context: a ``pyrealsense2.context``; None makes one.

    Raises:
        CameraError: it is not attached, or cannot be reset.
    """
    sdk = load_sdk()
    context = sdk.context() if context is None else context
    found = find_device(list_devices(context), serial)
    try:
        for device in context.query_devices():
            if device.get_info(sdk.camera_info.serial_number) == found.serial:
                device.hardware_reset()
    except RuntimeError as error:
        raise CameraError(
            f"RealSense camera {found.serial} cannot be reset", why=str(error), remedy="unplug it and plug it in again"
        ) from error


def stream_sensors(sdk: Any, device: Any) -> dict[str, Any]:
    """The sensors that make ``depth`` and ``color``, which are one and the same in some models (D405).

    They are found by what they stream, as the SDK's own ``first_color_sensor()`` goes by their class, which
    recordings and some models lack.
    """
    sensors = device.query_sensors()
    kinds = [{profile.stream_type() for profile in sensor.get_stream_profiles()} for sensor in sensors]
    found: dict[str, Any] = {}
    for name, stream in (("depth", sdk.stream.depth), ("color", sdk.stream.color)):
        making = [(len(kind), place) for place, kind in enumerate(kinds) if stream in kind]
        if making:
            found[name] = sensors[min(making)[1]]  # one that makes only this, where there is one
    return found


def color_exposure_unit_us(sdk: Any, device: Any) -> float:
    """Microseconds in one unit of the colour sensor's exposure.

    A colour sensor of its own speaks UVC, whose unit is 100 us (librealsense issue 8243); depth sensors
    count microseconds.
    """
    depth = {profile.stream_type() for profile in stream_sensors(sdk, device)["color"].get_stream_profiles()}
    return 1.0 if sdk.stream.depth in depth else 100.0
