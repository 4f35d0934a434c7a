"""Orbbec's SDK itself, and the cameras that it lists."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from typing import Any

from edge_ad.errors import CameraError
from edge_ad.extras import require

INSTALL = "pip install --no-deps pyorbbecsdk2"
"""Without its dependencies: they are those of its examples, gigabytes, and an older NumPy."""

SETTINGS = """<?xml version="1.0" encoding="utf-8"?>
<Config version="1.1"><Memory><PipelineFrameQueueSize>300</PipelineFrameQueueSize></Memory></Config>
"""
"""So many sets wait to be fetched; by default ten, and a recording would lose captures in a stall of 0.3 s."""


@dataclass(frozen=True, slots=True)
class OrbbecDevice:
    """A camera as the SDK lists it.

    Attributes:
        name: the model.
        serial: its serial number.
        connection: ``"USB3.2"``, ``"USB2.0"``, ``"Ethernet"``, …
    """

    name: str
    serial: str
    connection: str


@functools.cache
def load_sdk() -> Any:
    """The ``pyorbbecsdk`` module.

    Raises:
        MissingExtraError: it is not installed.
    """
    sdk = require("pyorbbecsdk", extra="orbbec", remedy=INSTALL, chatty=True)
    sdk.Context.set_logger_level(sdk.OBLogLevel.NONE)  # else it writes a directory Log wherever it is started
    return sdk


@functools.cache
def sdk_context() -> Any:
    """The SDK's context, which goes on looking for cameras.

    Raises:
        MissingExtraError: the SDK is not installed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as settings:
        settings.write(SETTINGS)
        settings.flush()
        return load_sdk().Context(settings.name)


def list_devices() -> list[OrbbecDevice]:
    """The cameras that are attached.

    Raises:
        MissingExtraError: the SDK is not installed.
        CameraError: the SDK cannot look for cameras.
    """
    sdk = load_sdk()
    try:
        found = sdk_context().query_devices()
        return [
            OrbbecDevice(
                found.get_device_name_by_index(index),
                found.get_device_serial_number_by_index(index),
                found.get_device_connection_type_by_index(index),
            )
            for index in range(found.get_count())
        ]
    except (RuntimeError, sdk.OBError) as error:
        raise CameraError(
            "Orbbec cameras cannot be looked for", why=str(error), remedy="install Orbbec's udev rules"
        ) from error


def find_device(attached: list[OrbbecDevice], serial: str) -> OrbbecDevice:
    """The camera with this serial number, or the first one when ``serial`` is empty.

    Raises:
        CameraError: it is not attached.
    """
    for device in attached:
        if serial in ("", device.serial):
            return device
    others = ", ".join(device.serial for device in attached)
    raise CameraError(
        f"Orbbec camera {serial} not found" if serial else "no Orbbec camera found",
        why=f"attached are {others}" if others else "none is attached, or the system does not let us see it",
        remedy="check the serial number, cable and power; install Orbbec's udev rules; then: edge-ad doctor",
    )


class Bus:
    """Where cameras are attached: what the SDK sees."""

    def devices(self) -> list[OrbbecDevice]:
        """See ``list_devices``."""
        return list_devices()

    def open(self, serial: str) -> Any:
        """The SDK's device with this serial number, which must be attached."""
        return sdk_context().query_devices().get_device_by_serial_number(serial)
