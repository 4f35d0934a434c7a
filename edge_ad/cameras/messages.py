"""What goes over the channel between the capture process and the line: frames, errors, infos."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from edge_ad import errors
from edge_ad.cameras.ring import Message
from edge_ad.errors import CameraError, EdgeAdError
from edge_ad.types import AnyArray, CameraHealth, CameraInfo, Frame, Intrinsics

_INTRINSICS = tuple(field.name for field in fields(Intrinsics))

Fields = list[Any]
"""Of a frame all but its images, in plain types and in the order of `frame_from`."""


def images_of(frame: Frame) -> dict[str, AnyArray]:
    """The images that a frame has, by name."""
    images = {"rgb": frame.rgb, "depth": frame.depth, "normals": frame.normals}
    return {name: image for name, image in images.items() if image is not None}


def frame_fields(frame: Frame) -> Fields:
    """All of a frame but its images."""
    camera = frame.intrinsics
    # Not by asdict, which copies deeply and takes as long as all the rest.
    intrinsics = None if camera is None else [getattr(camera, name) for name in _INTRINSICS]
    return [
        frame.depth_unit_m,
        intrinsics,
        frame.timestamp_ns,
        frame.sequence,
        frame.source,
        frame.part_id,
        frame.skew_ms,
        dict(frame.metadata),
    ]


def frame_from(fields: Fields, images: dict[str, AnyArray]) -> Frame:
    """The frame again."""
    depth_unit_m, intrinsics, timestamp_ns, sequence, source, part_id, skew_ms, metadata = fields
    return Frame(
        images.get("rgb"),
        images.get("depth"),
        depth_unit_m,
        images.get("normals"),
        None if intrinsics is None else Intrinsics(*intrinsics),
        timestamp_ns,
        sequence,
        source,
        part_id,
        skew_ms,
        metadata,
    )


def info_from(fields: dict[str, Any]) -> CameraInfo:
    """A camera's info again."""
    return CameraInfo(**{**fields, "warnings": tuple(fields["warnings"])})


def health_from(fields: dict[str, Any]) -> CameraHealth:
    """A camera's health again."""
    return CameraHealth(**fields)


def error_fields(error: Exception) -> dict[str, str]:
    """What is sent of an error; one that is none of ours is said to be a fault of the driver."""
    if isinstance(error, EdgeAdError):
        return {"error": type(error).__name__, "what": error.what, "why": error.why, "remedy": error.remedy}
    return {
        "error": CameraError.__name__,
        "what": "the camera's driver failed",
        "why": f"{type(error).__name__}: {error}",
        "remedy": "run: edge-ad doctor",
    }


def error_from(message: Message) -> EdgeAdError:
    """The error again, of its own class."""
    kind = getattr(errors, message["error"])
    error: EdgeAdError = kind(message["what"], why=message["why"], remedy=message["remedy"])
    return error
