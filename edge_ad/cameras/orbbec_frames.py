"""From Orbbec's sets of depth and colour to frames: one capture, registered, copied."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Literal

import numpy as np

from edge_ad.cameras.image_memory import own_image, own_rgb
from edge_ad.cameras.pairing import PairCheck
from edge_ad.cameras.steady_clock import SteadyClock
from edge_ad.types import Frame, Intrinsics


class FrameMaker:
    """Makes frames of one stream.

    Args:
        sdk: the ``pyorbbecsdk`` module.
        depth: profile of the depth stream.
        color: profile of the colour stream.
        source: becomes ``Frame.source``.
        align: the image that keeps its pixels; the other one is resampled to it.
        dropped: counts by cause, see ``PairCheck``; and ``incomplete`` (a set without depth or without colour).
        clock: of a camera that runs freely: tells when a set arrived that the SDK has kept.
    """

    def __init__(
        self,
        sdk: Any,
        depth: Any,
        color: Any,
        source: str,
        align: Literal["color", "depth"],
        dropped: Counter[str],
        clock: SteadyClock | None = None,
    ) -> None:
        self._source, self._dropped, self._clock = source, dropped, clock
        # Captures are half a period apart or nearer; what is farther shows another part.
        self._pairs = PairCheck(500 / min(depth.get_fps(), color.get_fps()), dropped)
        self._align = None
        # Registering what is registered already would only blur edges.
        registered = _are_registered(depth, color)
        if not registered:
            streams = sdk.OBStreamType
            target = streams.COLOR_STREAM if align == "color" else streams.DEPTH_STREAM
            self._align = sdk.AlignFilter(align_to_stream=target)
        self._intrinsics = _intrinsics(color if align == "color" else depth)
        self.details = {"depth": _mode(depth), "color": _mode(color), "align": "registered" if registered else align}

    def frame(self, images: Any, part_id: str | None = None) -> Frame | None:
        """Makes a frame that owns its memory, or counts why the set cannot be one.

        Args:
            images: a set from the SDK.
            part_id: becomes ``Frame.part_id``.
        """
        arrived_ns = time.monotonic_ns()
        depth, color = images.get_depth_frame(), images.get_color_frame()
        if depth is None or color is None:
            self._dropped["incomplete"] += 1
            return None
        number, skew_ms = depth.get_index(), abs(color.get_timestamp_us() - depth.get_timestamp_us()) / 1000
        if not self._pairs.is_new_capture(number, skew_ms):
            return None
        if self._clock is not None:
            arrived_ns = self._clock.arrival_ns(depth.get_timestamp_us() / 1e6, arrived_ns)
        if self._align is not None:
            aligned = self._align.process(images)
            if aligned is None:
                self._dropped["incomplete"] += 1
                return None
            registered = aligned.as_frame_set()
            depth, color = registered.get_depth_frame(), registered.get_color_frame()
        height, width = color.get_height(), color.get_width()
        millimetres = np.asarray(depth.get_data()).view(np.uint16)
        return Frame(
            rgb=own_rgb(np.asarray(color.get_data()).reshape(height, width, 3)),
            depth=own_image(millimetres.reshape(depth.get_height(), depth.get_width()), np.uint16),
            depth_unit_m=round(depth.get_depth_scale() / 1000, 9),
            intrinsics=self._intrinsics,
            timestamp_ns=arrived_ns,
            sequence=number,
            source=self._source,
            part_id=part_id,
            skew_ms=abs(skew_ms),
        )


def _are_registered(depth: Any, color: Any) -> bool:
    """Whether a point in space has the same pixel in both images."""
    motion = depth.get_extrinsic_to(color)
    one, other = _intrinsics(depth), _intrinsics(color)
    if (one.width_px, one.height_px) != (other.width_px, other.height_px):
        return False
    return (
        np.allclose([one.fx, one.fy, one.cx, one.cy], [other.fx, other.fy, other.cx, other.cy], rtol=1e-5)
        and np.allclose(motion.rot, np.eye(3), atol=1e-6)
        and np.allclose(motion.transform, 0, atol=1e-3)  # millimetres
    )


def _intrinsics(profile: Any) -> Intrinsics:
    camera = profile.get_intrinsic()
    return Intrinsics(camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height)


def _mode(profile: Any) -> str:
    return f"{profile.get_width()}x{profile.get_height()}@{profile.get_fps()}"
