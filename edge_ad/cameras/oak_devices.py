"""Luxonis's SDK itself, and the cameras that it lists."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from edge_ad.errors import CameraError
from edge_ad.extras import require


@dataclass(frozen=True, slots=True)
class OakDevice:
    """A camera as the SDK lists it.

    Attributes:
        serial: its identifier (MXID).
        address: its USB port or network address.
        state: ``UNBOOTED`` or ``BOOTLOADER`` when it is free, ``BOOTED`` when a program has it.
    """

    serial: str
    address: str
    state: str


def load_sdk() -> Any:
    """The ``depthai`` module.

    Raises:
        MissingExtraError: it is not installed.
    """
    # Its handlers for signals end the process at what Python survives, such as a file that may not grow any more.
    os.environ.setdefault("DEPTHAI_INSTALL_SIGNAL_HANDLER", "0")
    return require("depthai", extra="oak", chatty=True)


def list_devices() -> list[OakDevice]:
    """The cameras that are attached, also those that are in use; takes a second.

    Raises:
        MissingExtraError: the SDK is not installed.
    """
    found = load_sdk().Device.getAllConnectedDevices()
    return [
        OakDevice(str(item.deviceId), str(item.name), str(item.state.name).removeprefix("X_LINK_")) for item in found
    ]


def find_device(attached: list[OakDevice], serial: str) -> OakDevice:
    """The camera with this identifier or address, or the first one that is free when ``serial`` is empty.

    Raises:
        CameraError: it is not attached, or is in use.
    """
    fitting = [device for device in attached if serial in ("", device.serial, device.address)]
    for device in fitting:
        if device.state != "BOOTED":
            return device
    if fitting:
        raise CameraError(
            f"OAK camera {fitting[0].serial} is in use",
            why="another program has it",
            remedy="end that program, another edge-ad among them",
        )
    others = ", ".join(device.serial for device in attached)
    raise CameraError(
        f"OAK camera {serial} not found" if serial else "no OAK camera found",
        why=f"attached are {others}" if others else "none is attached, or the system does not let us see it",
        remedy="check the identifier, cable and power; install Luxonis's udev rules; then: edge-ad doctor",
    )
