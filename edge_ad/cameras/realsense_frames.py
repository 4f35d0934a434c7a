"""From the SDK's sets of depth and colour to frames: paired, registered, copied."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import cv2
import numpy as np

from edge_ad.cameras.image_memory import own_image, own_rgb
from edge_ad.cameras.realsense_devices import color_exposure_unit_us
from edge_ad.cameras.realsense_pairing import Pairing
from edge_ad.cameras.steady_clock import SteadyClock
from edge_ad.errors import CameraError
from edge_ad.types import Frame, Intrinsics

RGB_CONVERSIONS = {
    "rgb8": None,
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
}
"""What OpenCV must do to make RGB of a colour format; yuyv goes through the SDK's own decoder first."""


METADATA = (
    ("color", "exposure_us", ("actual_exposure",)),
    ("color", "gain", ("gain_level",)),
    ("color", "white_balance_k", ("white_balance", "manual_white_balance")),
    ("depth", "depth_exposure_us", ("actual_exposure",)),
    ("depth", "depth_gain", ("gain_level",)),
    ("depth", "emitter", ("frame_laser_power_mode", "frame_emitter_mode")),
    ("depth", "laser_power_mw", ("frame_laser_power",)),
    ("depth", "temperature_c", ("temperature",)),
    ("depth", "gpio", ("gpio_input_data",)),
)
"""The image that tells, what it is in ``Frame.metadata``, and in the SDK, the first that is there."""


class FrameMaker:
    """Makes frames of one started stream, and counts what it refuses.

    Where one stream falls silent and the other goes on, frames with one image follow, as long as that
    image has a place: registered to colour (``align="color"``) both have, as depth needs only the two
    cameras' calibration; registered to depth, colour without depth has none, and is refused.

    ``Frame.metadata`` holds what ``METADATA`` names and the camera tells; Linux needs a patched kernel
    for all of it.

    Args:
        sdk: the ``pyrealsense2`` module.
        profile: of the started pipeline.
        source: becomes ``Frame.source``.
        align: the image that keeps its pixels; the other one is resampled to it.
        dropped: counts by cause, see ``Pairing``.
        clock: of a live camera: tells when a frame arrived that the SDK has kept; None for recordings.

    Raises:
        CameraError: depth or colour come in a format that cannot be used, or cannot be registered.
    """

    def __init__(
        self,
        sdk: Any,
        profile: Any,
        source: str,
        align: str,
        dropped: Counter[str],
        clock: SteadyClock | None = None,
    ) -> None:
        depth = profile.get_stream(sdk.stream.depth).as_video_stream_profile()
        color = profile.get_stream(sdk.stream.color).as_video_stream_profile()
        self._source, self._align_to, self._clock = source, align, clock
        self._decoder = sdk.yuy_decoder() if color.format() == sdk.format.yuyv else None
        self._rgb_conversion = _rgb_conversion(source, depth, color, decoded=self._decoder is not None)
        # Registering what is registered already would only widen edges: the SDK paints rectangles.
        same = _are_registered(source, depth, color)
        self._align = None if same else sdk.align(getattr(sdk.stream, align))
        alone = ("depth",) if align == "depth" and not same else ("depth", "color")
        # The SDK pairs images less than half a period apart; when none is that near, it hands out the
        # last one it had, which shows an earlier part.
        self.pairing = Pairing(500 / min(depth.fps(), color.fps()), alone, dropped)
        self._intrinsics = _intrinsics(color if align == "color" else depth)
        kinds = sdk.frame_metadata_value
        self._metadata = [(image, name, [getattr(kinds, each) for each in tells]) for image, name, tells in METADATA]
        self._color_exposure_us = color_exposure_unit_us(sdk, profile.get_device())
        self.details = {"depth": _mode(depth), "color": _mode(color), "align": "registered" if same else align}

    def frame(self, images: Any) -> Frame | None:
        """Makes a frame that owns its memory, or counts why the set cannot be one.

        Args:
            images: a set from the SDK; the caller must let go of it at once, as the SDK has few.
        """
        arrived_ns = time.monotonic_ns()
        depth, color = images.get_depth_frame(), images.get_color_frame()
        accepted = self.pairing.accept(depth, color)
        if accepted is None:
            return None
        if self._clock is not None:
            shown = depth if "depth" in accepted.streams else color
            arrived_ns = self._clock.arrival_ns(shown.get_timestamp() / 1000, arrived_ns)
        metadata = self._told_by({"depth": depth, "color": color}, accepted.streams)
        unit_m = round(depth.get_units(), 9)  # float32 in the SDK: 0.0001 would be 0.0000999999975
        if self._decoder is not None and "color" in accepted.streams:
            images = self._decoder.process(images).as_frameset()
        # An image that is moved takes its partner's calibration from the set, even where the partner is an old one.
        if self._align is not None and tuple(accepted.streams) != (self._align_to,):
            images = self._align.process(images)
        depth, color = images.get_depth_frame(), images.get_color_frame()
        return Frame(
            rgb=own_rgb(color.get_data(), self._rgb_conversion) if "color" in accepted.streams else None,
            depth=own_image(depth.get_data(), np.uint16) if "depth" in accepted.streams else None,
            depth_unit_m=unit_m,
            intrinsics=self._intrinsics,
            timestamp_ns=arrived_ns,
            sequence=accepted.sequence,
            source=self._source,
            skew_ms=accepted.skew_ms,
            metadata=metadata,
        )

    def _told_by(self, images: Mapping[str, Any], streams: Collection[str]) -> dict[str, float]:
        told = {}
        for stream, name, kinds in self._metadata:
            image = images[stream]
            kind = next((each for each in kinds if image.supports_frame_metadata(each)), None)
            if stream in streams and kind is not None:
                unit = self._color_exposure_us if name == "exposure_us" else 1
                told[name] = float(image.get_frame_metadata(kind)) * unit
        return told


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
