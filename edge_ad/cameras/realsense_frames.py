"""From the SDK's sets of depth and colour to frames: paired, registered, copied."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import cv2
import numpy as np

from edge_ad.errors import CameraError
from edge_ad.types import Frame, Intrinsics, UInt8Array

RGB_CONVERSIONS = {
    "rgb8": None,
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
}
"""What OpenCV must do to make RGB of a colour format; yuyv goes through the SDK's own decoder first."""


class FrameMaker:
    """Makes frames of one started stream, and counts what it refuses.

    Args:
        sdk: the ``pyrealsense2`` module.
        profile: of the started pipeline.
        source: becomes ``Frame.source``.
        align: the image that keeps its pixels; the other one is resampled to it.
        dropped: counts by cause: ``sequence_gap`` (depth frames that never arrived), ``incomplete`` (a
            set without depth or without colour), ``mispaired`` (two captures in one set), ``repeated``
            (a depth image that was delivered before).

    Raises:
        CameraError: depth or colour come in a format that cannot be used, or cannot be registered.
    """

    def __init__(self, sdk: Any, profile: Any, source: str, align: str, dropped: Counter[str]) -> None:
        depth = profile.get_stream(sdk.stream.depth).as_video_stream_profile()
        color = profile.get_stream(sdk.stream.color).as_video_stream_profile()
        self._source = source
        self._dropped = dropped
        self._decoder = sdk.yuy_decoder() if color.format() == sdk.format.yuyv else None
        self._rgb_conversion = _rgb_conversion(source, depth, color, decoded=self._decoder is not None)
        # The SDK pairs images less than half a period apart; when none is that near, it hands out the
        # last one it had, which shows an earlier part.
        self._max_skew_ms = 500 / min(depth.fps(), color.fps())
        # Registering what is registered already would only widen edges: the SDK paints rectangles.
        same = _are_registered(source, depth, color)
        self._align = None if same else sdk.align(getattr(sdk.stream, align))
        self._intrinsics = _intrinsics(color if align == "color" else depth)
        self._seen: int | None = None
        self._delivered: int | None = None
        self.details = {"depth": _mode(depth), "color": _mode(color), "align": "registered" if same else align}

    def frame(self, images: Any) -> Frame | None:
        """Makes a frame that owns its memory, or counts why the set cannot be one.

        Args:
            images: a set from the SDK; the caller must let go of it at once, as the SDK has few.
        """
        arrived_ns = time.monotonic_ns()
        depth, color = images.get_depth_frame(), images.get_color_frame()
        cause = self._refusal(depth, color)
        if cause:
            self._dropped[cause] += 1
            return None
        if self._decoder is not None:
            images = self._decoder.process(images).as_frameset()
        if self._align is not None:
            images = self._align.process(images)
        depth, color = images.get_depth_frame(), images.get_color_frame()
        return Frame(
            rgb=self._rgb(color),
            depth=np.array(depth.get_data(), dtype=np.uint16, order="C"),
            depth_unit_m=round(depth.get_units(), 9),  # float32 in the SDK: 0.0001 would be 0.0000999999975
            intrinsics=self._intrinsics,
            timestamp_ns=arrived_ns,
            sequence=depth.get_frame_number(),
            source=self._source,
        )

    def _refusal(self, depth: Any, color: Any) -> str:
        if not depth or not color:
            return "incomplete"
        number = depth.get_frame_number()
        if self._seen is not None and number > self._seen + 1:
            self._dropped["sequence_gap"] += number - self._seen - 1
        self._seen = number
        same_clock = depth.get_frame_timestamp_domain() == color.get_frame_timestamp_domain()
        if not same_clock or abs(depth.get_timestamp() - color.get_timestamp()) > self._max_skew_ms:
            return "mispaired"
        if number == self._delivered:
            return "repeated"
        self._delivered = number
        return ""

    def _rgb(self, color: Any) -> UInt8Array:
        image = np.asanyarray(color.get_data())
        if self._rgb_conversion is None:
            return np.array(image, dtype=np.uint8, order="C")
        return np.asarray(cv2.cvtColor(image, self._rgb_conversion), dtype=np.uint8)


def _rgb_conversion(source: str, depth: Any, color: Any, *, decoded: bool) -> int | None:
    depth_format, color_format = depth.format().name, "rgb8" if decoded else color.format().name
    if depth_format != "z16" or color_format not in RGB_CONVERSIONS:
        raise CameraError(
            f"{source} has depth as {depth_format} and colour as {color_format}",
            why=f"depth must be z16 and colour one of {', '.join(sorted((*RGB_CONVERSIONS, 'yuyv')))}",
            remedy="record again in these formats",
        )
    return RGB_CONVERSIONS[color_format]


def _are_registered(source: str, depth: Any, color: Any) -> bool:
    """Whether a point in space has the same pixel in both images."""
    try:
        motion = depth.get_extrinsics_to(color)
    except RuntimeError as error:
        raise CameraError(
            f"{source} does not say how its depth and colour sensors are placed",
            why=f"{error} A recording has that only if both streams were on",
            remedy="record it again with depth and colour",
        ) from error
    one, other = _intrinsics(depth), _intrinsics(color)
    if (one.width_px, one.height_px) != (other.width_px, other.height_px):
        return False
    return (
        np.allclose([one.fx, one.fy, one.cx, one.cy], [other.fx, other.fy, other.cx, other.cy], rtol=1e-5)
        and np.allclose(motion.rotation, np.eye(3).ravel(), atol=1e-6)
        and np.allclose(motion.translation, 0, atol=1e-6)
    )


def _intrinsics(profile: Any) -> Intrinsics:
    camera = profile.get_intrinsics()
    return Intrinsics(camera.fx, camera.fy, camera.ppx, camera.ppy, camera.width, camera.height)


def _mode(profile: Any) -> str:
    return f"{profile.width()}x{profile.height()}@{profile.fps()} {profile.format().name}"
