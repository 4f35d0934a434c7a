"""GenTL producers, which vendors supply with their cameras, and the cameras that they list."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ad.errors import CameraError
from edge_ad.extras import require

PATH_VARIABLE = "GENICAM_GENTL64_PATH"
"""Where installers of producers write their directories, separated as in PATH."""


@dataclass(frozen=True, slots=True)
class GenicamDevice:
    """A camera as its producer lists it; what that does not say is empty.

    Attributes:
        vendor: who made it.
        name: the model.
        serial: its serial number.
        label: the name that its user gave it.
    """

    vendor: str
    name: str
    serial: str
    label: str


def load_sdk() -> Any:
    """The ``harvesters.core`` module.

    Raises:
        MissingExtraError: it is not installed.
    """
    sdk = require("harvesters.core", extra="genicam")
    logging.getLogger(sdk.__name__).disabled = True  # it prints a traceback for each thing that it also raises
    return sdk


def sdk_errors() -> tuple[type[Exception], type[Exception]]:
    """What the SDK raises: of the device's features, and of the link to it.

    Raises:
        MissingExtraError: it is not installed.
    """
    genapi, gentl = require("genicam.genapi", extra="genicam"), require("genicam.gentl", extra="genicam")
    return genapi.GenericException, gentl.GenericException


def find_producers(cti: Path | None = None) -> list[Path]:
    """The producer files to load.

    Args:
        cti: one file; None takes all those in the directories of GENICAM_GENTL64_PATH.

    Raises:
        CameraError: there is none.
    """
    if cti is not None:
        if not cti.is_file():
            raise CameraError(f"GenTL producer {cti} does not exist", remedy="correct the path behind cti=")
        return [cti]
    directories = [Path(part) for part in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if part]
    found = [path for directory in directories for path in sorted(directory.glob("*.cti"))]
    if not found:
        raise CameraError(
            "no GenTL producer found",
            why=f"no .cti file lies in the directories of {PATH_VARIABLE} ({os.pathsep.join(map(str, directories))})"
            if directories
            else f"the variable {PATH_VARIABLE} is not set, and no cti= is given",
            remedy="install the camera vendor's GenTL producer, or name its file: genicam://SERIAL?cti=/path/x.cti",
        )
    return found


def open_harvester(cti: Path | None = None) -> Any:
    """A ``Harvester`` that has loaded the producers and listed the cameras; for ``close_harvester`` at the end.

    One process can load a producer only once at a time.

    Raises:
        CameraError: there is no producer, or it cannot be loaded.
        MissingExtraError: the SDK is not installed.
    """
    producers = find_producers(cti)
    harvester = load_sdk().Harvester()
    try:
        for path in producers:
            harvester.add_file(str(path.absolute()), check_existence=True, check_validity=True)
        harvester.update()
    except OSError as error:
        close_harvester(harvester)
        raise CameraError(
            f"GenTL producer {path} cannot be loaded",
            why=str(error),
            remedy="install the vendor's producer for this system and processor, with what it needs",
        ) from error
    except BaseException:
        close_harvester(harvester)
        raise
    return harvester


def close_harvester(harvester: Any) -> None:
    """Frees the cameras and the producers, also those of a device that is gone."""
    for acquirer in harvester.image_acquirers:
        for _ in range(2):  # the first may fail to stop a device that is gone; the second has nothing to stop
            with contextlib.suppress(*sdk_errors()):
                acquirer.destroy()
    harvester.image_acquirers.clear()
    with contextlib.suppress(*sdk_errors()):
        harvester.reset()


def devices_of(harvester: Any) -> list[GenicamDevice]:
    """The cameras that the producers list."""
    keys = ("vendor", "model", "serial_number", "user_defined_name")
    return [GenicamDevice(*(_fact(info, key) for key in keys)) for info in harvester.device_info_list]


def _fact(info: Any, key: str) -> str:
    try:
        return str(getattr(info, key) or "")
    except sdk_errors():  # a producer need not know it
        return ""


def list_devices(cti: Path | None = None) -> list[GenicamDevice]:
    """The cameras that are attached.

    Args:
        cti: the producer to ask; None asks all those in the directories of GENICAM_GENTL64_PATH.

    Raises:
        CameraError: there is no producer, or it cannot be loaded.
        MissingExtraError: the SDK is not installed.
    """
    harvester = open_harvester(cti)
    try:
        return devices_of(harvester)
    finally:
        close_harvester(harvester)


def find_device(attached: list[GenicamDevice], wanted: str) -> int:
    """The place in the list of the camera with this serial number or label; the first when ``wanted`` is empty.

    Raises:
        CameraError: it is not attached.
    """
    for index, device in enumerate(attached):
        if wanted in ("", device.serial, device.label):
            return index
    if attached:
        why = f"attached are {', '.join(device.serial for device in attached)}"
        remedy = "correct the serial number, or check that camera's cable, power and address"
    else:
        why = "the producer lists none; a camera that this process has open through the same producer hides the others"
        remedy = "check the cable, power and network address; then: edge-ad doctor"
    what = f"GenICam camera {wanted} not found" if wanted else "no GenICam camera found"
    raise CameraError(what, why=why, remedy=remedy)


@contextlib.contextmanager
def interrupt_kept() -> Iterator[None]:
    """Keeps the process's own handler of Ctrl-C: the SDK puts one of its own in its place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def own_description(xml: Path | None) -> Any:
    """The SDK's parameters for a description from a file; None for the camera's own."""
    if xml is None:
        return None
    if not xml.is_file():
        raise CameraError(f"description {xml} does not exist", remedy="correct the path behind xml=")
    sdk = load_sdk()
    return sdk.ParameterSet({sdk.ParameterKey.REMOTE_DEVICE_SOURCE_XML_FILE_PATH: str(xml)})


def incomplete_counter(dropped: Counter[str]) -> Any:
    """What the SDK calls for each capture that it discards because parts of it were lost on the link."""

    class Incomplete(load_sdk().Callback):  # type: ignore[misc]
        def emit(self, context: object = None) -> None:
            dropped["incomplete"] += 1

    return Incomplete()
