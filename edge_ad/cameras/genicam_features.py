"""Features of a GenICam camera by their names in the Standard Features Naming Convention (SFNC)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_ad.cameras.genicam_devices import sdk_errors
from edge_ad.errors import CameraError
from edge_ad.types import Intrinsics

METRES = {"Millimeter": 0.001, "Inch": 0.0254, "Meter": 1.0}
"""``Scan3dDistanceUnit`` in metres."""

MEASURED = ("CalibratedABC_Grid", "CalibratedC", "RectifiedC")
"""The values of ``Scan3dOutputMode`` whose C coordinate is a distance at each pixel of an image."""

COMPONENTS = {"rgb": "Intensity", "depth": "Range"}
"""What must be switched on for an image of a frame."""


@dataclass(frozen=True, slots=True)
class RangeScale:
    """How coordinate C becomes distance: ``value * scale + offset`` in units of ``unit_m`` metres.

    Attributes:
        unit_m: metres per unit.
        scale: of one step of the value.
        offset: of value 0, in units.
        invalid: the value that says that there was no return; None where there is none.
        focal_px: focal length in pixels; None where the camera does not tell its geometry.
        center_px: principal point (u, v) in pixels.
    """

    unit_m: float = 0.001
    scale: float = 1.0
    offset: float = 0.0
    invalid: float | None = None
    focal_px: float | None = None
    center_px: tuple[float, float] = (0.0, 0.0)

    def intrinsics(self, width_px: int, height_px: int) -> Intrinsics | None:
        """Of an image of this size; None where the camera does not tell."""
        if not self.focal_px:
            return None
        return Intrinsics(self.focal_px, self.focal_px, *self.center_px, width_px, height_px)


class Features:
    """Reads and writes the features of one open camera.

    Args:
        nodes: the SDK's node map of the device.
        camera: its name, for errors.
    """

    def __init__(self, nodes: Any, camera: str) -> None:
        self._nodes = nodes
        self.camera = camera
        self._errors = sdk_errors()

    def read(self, name: str) -> Any | None:
        """The value, None where the camera has no such feature or cannot tell now."""
        try:
            return self._nodes.get_node(name).value
        except (*self._errors, AttributeError):
            return None

    def has(self, name: str) -> bool:
        """Whether the camera describes this feature."""
        try:
            return self._nodes.get_node(name) is not None
        except self._errors:
            return False

    def write(self, name: str, value: object) -> None:
        """Sets a feature of any kind; one that has the value already may be locked.

        Raises:
            CameraError: the camera has no such feature, or refuses the value.
        """
        current, text = self.read(name), str(value)
        if isinstance(current, bool):
            text = text.lower()
        if str(current) in (text, text.capitalize()):
            return
        try:
            self._nodes.get_node(name).from_string(text)
        except (*self._errors, AttributeError) as error:
            raise self._refused(f"feature {name} to {value}", name, error) from error

    def execute(self, name: str) -> None:
        """Runs a command.

        Raises:
            CameraError: the camera has no such command, or refuses.
        """
        try:
            self._nodes.get_node(name).execute()
        except (*self._errors, AttributeError) as error:
            raise self._refused(f"command {name}", name, error) from error

    def _refused(self, what: str, name: str, error: Exception) -> CameraError:
        if not self.has(name):
            return CameraError(
                f"camera {self.camera} has no feature {name}",
                why="it is not in the description that the camera carries",
                remedy="leave out the option that needs it, or use the camera's own name for it: features=NAME:VALUE",
            )
        choices = self.choices(name)
        return CameraError(
            f"camera {self.camera} refuses {what}",
            why=str(error).split(" : ")[0],
            remedy=f"use one of {', '.join(choices)}" if choices else "use a value that its manual allows",
        )

    def choices(self, name: str) -> list[str]:
        """The values that an enumeration can have now; empty for other features."""
        try:
            return list(self._nodes.get_node(name).symbolics)
        except (*self._errors, AttributeError):
            return []

    def is_connected(self) -> bool:
        """Whether the device answers: reads one register of it anew."""
        try:
            node = self._nodes.get_node("Width")
            node.node.invalidate_node()
            return node.value is not None
        except (*self._errors, AttributeError):
            return False


def enable_images(features: Features, images: tuple[str, ...], usable: Mapping[str, tuple[str, ...]]) -> None:
    """Switches on the components that frames are made of, in formats that can be read.

    Args:
        features: of the camera.
        images: ``rgb``, ``depth`` or both.
        usable: the pixel formats that can be read, best first, by image.

    Raises:
        CameraError: the camera has no such component, or no such format.
    """
    components = features.choices("ComponentSelector")
    for image, component in COMPONENTS.items():
        if not components:  # a camera with one kind of image only; its frames will tell which
            continue
        if component not in components:
            if image in images:
                raise _no_component(features, image, component, components)
            continue
        features.write("ComponentSelector", component)
        if image not in images:
            with contextlib.suppress(CameraError):  # some cannot leave it out
                features.write("ComponentEnable", False)
            continue
        features.write("ComponentEnable", True)
        if features.read("PixelFormat") not in usable[image]:
            offered = features.choices("PixelFormat")
            fitting = [name for name in usable[image] if name in offered]
            if offered:
                features.write("PixelFormat", fitting[0] if fitting else usable[image][0])


def _no_component(features: Features, image: str, component: str, components: list[str]) -> CameraError:
    other = "rgb" if image == "depth" else "depth"
    return CameraError(
        f"camera {features.camera} has no component {component}, so no {image}",
        why=f"it has {', '.join(components)}",
        remedy=f"use a camera that measures depth, or write images={other}" if image == "depth" else f"images={other}",
    )


def choose_trigger(features: Features, trigger: str | None) -> None:
    """Makes each signal at ``trigger`` give one capture: ``software``, ``line0``, ``line1``, …; None for free running.

    Raises:
        CameraError: the camera has no such trigger.
    """
    if features.has("TriggerSelector") and "FrameStart" in features.choices("TriggerSelector"):
        features.write("TriggerSelector", "FrameStart")
    if trigger is None:
        if features.has("TriggerMode"):
            features.write("TriggerMode", "Off")
        return
    features.write("TriggerMode", "On")
    features.write("TriggerSource", trigger.capitalize())


def read_range_scale(features: Features) -> RangeScale:
    """How depth is coded; the camera's ``Range`` component must be on.

    Raises:
        CameraError: its depth is no distance, or has an unknown unit.
    """
    if features.choices("ComponentSelector"):
        features.write("ComponentSelector", "Range")
    mode, unit = features.read("Scan3dOutputMode"), features.read("Scan3dDistanceUnit") or "Millimeter"
    if (mode is not None and mode not in MEASURED) or unit not in METRES:
        raise CameraError(
            f"camera {features.camera} sends depth as {mode} in {unit}",
            why="that is no distance at each pixel",
            remedy="write features=Scan3dOutputMode:CalibratedABC_Grid, or another calibrated mode of its manual",
        )
    if features.has("Scan3dCoordinateSelector"):
        features.write("Scan3dCoordinateSelector", "CoordinateC")

    def figure(name: str, otherwise: float) -> float:
        value = features.read(name)
        return otherwise if value is None else float(value)

    return RangeScale(
        unit_m=METRES[unit],
        scale=figure("Scan3dCoordinateScale", 1.0),
        offset=figure("Scan3dCoordinateOffset", 0.0),
        invalid=features.read("Scan3dInvalidDataValue") if features.read("Scan3dInvalidDataFlag") else None,
        focal_px=features.read("Scan3dFocalLength"),
        center_px=(figure("Scan3dPrincipalPointU", 0.0), figure("Scan3dPrincipalPointV", 0.0)),
    )
