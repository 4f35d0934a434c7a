"""From the parts of a GenICam payload, in the formats of the Pixel Format Naming Convention, to a frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from edge_ad.cameras.genicam_devices import sdk_errors
from edge_ad.cameras.genicam_features import RangeScale
from edge_ad.cameras.image_memory import own_image, own_rgb
from edge_ad.errors import CameraError
from edge_ad.types import AnyArray, Float32Array, Frame, UInt8Array

RGB_CONVERSIONS: dict[str, int | None] = {
    "RGB8": None,
    "BGR8": cv2.COLOR_BGR2RGB,
    "RGBa8": cv2.COLOR_RGBA2RGB,
    "BGRa8": cv2.COLOR_BGRA2RGB,
    "BayerRG8": cv2.COLOR_BayerRGGB2RGB,
    "BayerGR8": cv2.COLOR_BayerGRBG2RGB,
    "BayerGB8": cv2.COLOR_BayerGBRG2RGB,
    "BayerBG8": cv2.COLOR_BayerBGGR2RGB,
    "Mono8": cv2.COLOR_GRAY2RGB,
    "Mono10": cv2.COLOR_GRAY2RGB,
    "Mono12": cv2.COLOR_GRAY2RGB,
    "Mono16": cv2.COLOR_GRAY2RGB,
    "Mono10p": cv2.COLOR_GRAY2RGB,
    "Mono12p": cv2.COLOR_GRAY2RGB,
}
"""What OpenCV must do to make RGB of a format; best first."""

EXCESS_BITS = {"Mono10": 2, "Mono10p": 2, "Mono12": 4, "Mono12p": 4, "Mono16": 8}
"""The low bits that 8-bit grey has no room for."""

C_PLANES = {
    "Coord3D_C32f": 0,
    "Coord3D_C16": 0,
    "Coord3D_ABC32f_Planar": 2,
    "Coord3D_ABC32f": 2,
    "Coord3D_ABC16": 2,
    "Coord3D_ABC16_Planar": 2,
}
"""Which of a part's coordinates is the distance; best format first, as the fewest bytes are sent."""

USABLE = {"rgb": tuple(RGB_CONVERSIONS), "depth": tuple(C_PLANES)}
"""Formats that can be read, by image."""


@dataclass(frozen=True, slots=True)
class Part:
    """One image of a payload.

    Attributes:
        pixel_format: its name.
        pixels: (H, W) or (H, W, channels), of the format's type; a view of the SDK's memory.
    """

    pixel_format: str
    pixels: AnyArray

    @classmethod
    def of(cls, component: Any) -> Part:
        """Takes a component of the SDK's payload apart; what cannot be read is empty."""
        name, data = str(component.data_format), component.data
        if name not in RGB_CONVERSIONS and name not in C_PLANES:
            return cls(name, np.empty((0, 0), dtype=np.uint8))
        height, width = int(component.height), int(component.width)
        channels = int(component.num_components_per_pixel)
        if name.endswith("_Planar"):
            return cls(name, np.moveaxis(data.reshape(channels, height, width), 0, 2))
        row = width * channels + int(component.x_padding) // data.itemsize
        rows = data[: height * row].reshape(height, row)[:, : width * channels]
        return cls(name, rows.reshape(height, width, channels) if channels > 1 else rows)


def frame_of(
    parts: Sequence[Part],
    images: tuple[str, ...],
    scale: RangeScale,
    source: str,
    sequence: int,
    part_id: str | None,
    arrived_ns: int,
) -> Frame:
    """Makes a frame that owns its memory.

    Args:
        parts: of one payload.
        images: ``rgb``, ``depth`` or both: what the frame must hold.
        scale: of the camera's depth.
        source: becomes ``Frame.source``.
        sequence: becomes ``Frame.sequence``.
        part_id: becomes ``Frame.part_id``.
        arrived_ns: becomes ``Frame.timestamp_ns``.

    Raises:
        CameraError: an image is not among the parts, or they differ in size.
    """
    rgb = next((_rgb(part) for part in parts if "rgb" in images and part.pixel_format in RGB_CONVERSIONS), None)
    depth = next((_depth(part, scale) for part in parts if "depth" in images and part.pixel_format in C_PLANES), None)
    for image, array in (("rgb", rgb), ("depth", depth)):
        if image in images and array is None:
            raise CameraError(
                f"camera {source} sends no {image} that can be read",
                why=f"a capture holds {', '.join(part.pixel_format for part in parts) or 'nothing'}",
                remedy=f"let it send one of {', '.join(USABLE[image])}, or name what it has: images=rgb, images=depth",
            )
    if rgb is not None and depth is not None and rgb.shape[:2] != depth.shape:
        raise CameraError(
            f"camera {source} sends colour of {rgb.shape[1]}x{rgb.shape[0]} and depth of "
            f"{depth.shape[1]}x{depth.shape[0]} pixels",
            why="they must lie on the same pixels",
            remedy="let the camera send both from the same sensor and in one size: features=NAME:VALUE",
        )
    height, width = next(array.shape[:2] for array in (rgb, depth) if array is not None)
    return Frame(
        rgb=rgb,
        depth=depth,
        depth_unit_m=scale.unit_m,
        intrinsics=scale.intrinsics(width, height),
        timestamp_ns=arrived_ns,
        sequence=sequence,
        source=source,
        part_id=part_id,
    )


def _rgb(part: Part) -> UInt8Array:
    pixels = part.pixels
    if part.pixel_format in EXCESS_BITS:
        pixels = np.right_shift(pixels, EXCESS_BITS[part.pixel_format]).astype(np.uint8)
    return own_rgb(pixels, RGB_CONVERSIONS[part.pixel_format])


def _depth(part: Part, scale: RangeScale) -> Float32Array:
    """Distance in the camera's units, float32 (H, W), 0 where there was no return."""
    plane = C_PLANES[part.pixel_format]
    values = part.pixels if part.pixels.ndim == 2 else part.pixels[..., plane]
    depth: Float32Array = own_image(values, np.float32)
    no_return = ~np.isfinite(depth)
    if scale.invalid is not None:
        no_return |= depth == np.float32(scale.invalid)
    if (scale.scale, scale.offset) != (1.0, 0.0):
        depth *= np.float32(scale.scale)
        depth += np.float32(scale.offset)
    depth[no_return | (depth < 0)] = 0
    return depth


def sensor_time_s(buffer: Any) -> float | None:
    """When a capture was taken, by the camera's clock; None where its producer does not tell."""
    try:
        told = buffer.timestamp_ns
    except (*sdk_errors(), AttributeError):
        return None
    return None if told is None else float(told) / 1e9


class Numbers:
    """Frame numbers of one stream: the camera's own, made to rise always.

    Args:
        dropped: counts, as ``sequence_gap``, captures that never arrived.
    """

    def __init__(self, dropped: Counter[str]) -> None:
        self._dropped = dropped
        self._sequence = self._seen = -1

    def restart(self) -> None:
        """A stream begins, and its camera may count from anywhere."""
        self._seen = -1

    def next(self, buffer: Any) -> int:
        """The number of this capture; counts those that are missing before it."""
        try:
            number = int(buffer.module.frame_id)
        except sdk_errors():  # this producer does not count
            number = -1
        # Older cameras count to 65535 and begin again; some do not count at all.
        missed = number - self._seen - 1 if 0 <= self._seen < number else 0
        self._seen = number
        if missed:
            self._dropped["sequence_gap"] += missed
        self._sequence += 1 + missed
        return self._sequence
