"""From a camera's frame to the arrays that a graph takes, and from its map back to the frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from edge_ad.bundle import InputSpec
from edge_ad.errors import DataError
from edge_ad.types import AnyArray, Float32Array, Frame, Intrinsics, Roi

FOCAL_TOLERANCE = 0.05
"""Share by which a camera's focal length may differ from the training camera's."""

REMEDY = "use a camera that delivers it, or train without it"
"""Where a frame lacks an image."""


def feeds_from_frame(
    frame: Frame, spec: InputSpec, names: Sequence[str], remedy_without: Callable[[str], str] = lambda name: REMEDY
) -> dict[str, AnyArray]:
    """Crops a frame to the ROI and lays it out as the graph's inputs.

    Args:
        frame: one capture.
        spec: what the model was trained on.
        names: the graph's inputs, of ``rgb``, ``depth``, ``normals``.
        remedy_without: of an input's name, what to do where a frame lacks it.

    Returns:
        ``rgb`` and ``normals`` uint8 (1, H, W, 3); ``depth`` float32 (1, H, W) in metres, or uint8
        (1, H, W, 2), the low and high byte of the uint16 image in units of ``spec.depth_unit_m``, which
        is not copied where it can be helped.

    Raises:
        DataError: the frame lacks an image, has another size than the training frames, comes from a
            camera with another focal length, or its depth is empty.
    """
    if frame.size_px != spec.frame_size_px:
        raise DataError(
            f"frame {frame.source or frame.sequence} is {_size(frame.size_px)}",
            why=f"the model was trained on {_size(spec.frame_size_px)}",
            remedy="set the camera to that size, or train on frames of this one",
        )
    if frame.intrinsics is not None and spec.intrinsics is not None:
        _check_focal_length(frame, frame.intrinsics, spec.intrinsics)
    feeds: dict[str, AnyArray] = {}
    for name in names:
        image = getattr(frame, name)
        if image is None:
            raise DataError(
                f"frame {frame.source or frame.sequence} has no {name}",
                why="the model needs it",
                remedy=remedy_without(name),
            )
        crop = spec.roi.crop(image)
        feeds[name] = (_depth(frame, crop, spec) if name == "depth" else np.ascontiguousarray(crop))[None]
    return feeds


def map_on_frame(network_map: Float32Array, roi: Roi, frame_size_px: tuple[int, int]) -> Float32Array:
    """Puts a map at the network's size (h, w) where its pixels are in the frame.

    Returns:
        float32 (H, W); what is outside the ROI gets the map's lowest value.
    """
    resized = cv2.resize(network_map, (roi.width_px, roi.height_px), interpolation=cv2.INTER_LINEAR)
    if (roi.height_px, roi.width_px) == frame_size_px:
        return np.asarray(resized, np.float32)
    full = np.full(frame_size_px, resized.min(), np.float32)
    roi.crop(full)[:] = resized
    return full


def _depth(frame: Frame, crop: AnyArray, spec: InputSpec) -> AnyArray:
    if not np.any((crop > 0) & np.isfinite(crop)):
        raise DataError(
            f"frame {frame.source or frame.sequence} has no valid depth",
            why="every pixel of it is 0, NaN or infinite",
            remedy="check the sensor's range, its emitter and its lens",
        )
    if spec.depth == "float32_m":
        metres = np.ascontiguousarray(crop, np.float32)
        return metres * np.float32(frame.depth_unit_m) if frame.depth_unit_m != 1 else metres
    if crop.dtype != np.uint16 or frame.depth_unit_m != spec.depth_unit_m:
        units = np.nan_to_num(crop.astype(np.float64), nan=0, posinf=0, neginf=0) * (
            frame.depth_unit_m / spec.depth_unit_m
        )
        crop = np.clip(np.rint(units), 0, 65535).astype(np.uint16)
    planes = np.ascontiguousarray(crop, dtype="<u2").view(np.uint8)
    return planes.reshape(*crop.shape, 2)


def _check_focal_length(frame: Frame, here: Intrinsics, trained: Intrinsics) -> None:
    for name in ("fx", "fy"):
        value, expected = getattr(here, name), getattr(trained, name)
        value, expected = abs(value), abs(expected)  # fitted to mirrored point clouds it is negative
        if abs(value - expected) > FOCAL_TOLERANCE * expected:
            raise DataError(
                f"frame {frame.source or frame.sequence} has {name} {value:.1f} px",
                why=f"the model was trained with {expected:.1f} px",
                remedy="use the camera and resolution of the training data, or train again",
            )


def _size(size_px: tuple[int, int]) -> str:
    return f"{size_px[1]}×{size_px[0]} px"
