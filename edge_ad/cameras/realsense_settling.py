"""Waiting until a camera's exposure and depth stand still, judged by its frames and not by a fixed time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_ad.errors import CameraError
from edge_ad.types import Frame, ReadStatus

SETTLED_FRAMES = 10
"""So many frames must look alike before warm-up ends."""

SETTLED_WITHIN = np.array([2.0, 0.005])
"""What looks alike: mean colour in grey levels (of 255), mean depth in metres."""

EXPOSURE_STEPS = 10
"""From 100 us to 33 ms these end within 1 % of the exposure that is looked for."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The last frame before frames are delivered, its mean colour in grey levels, and whether it stood still."""

    frame: Frame
    level: float
    still: bool


def settle(read: Callable[[float], Frame | ReadStatus], name: str, limit_s: float) -> Settled:
    """Discards frames until colour and depth stand still, or the time is over.

    Args:
        read: of the camera.
        name: of the camera, for errors.
        limit_s: give up after so long.

    Raises:
        CameraError: the camera is lost, or sends nothing usable.
    """
    levels: deque[tuple[float, float]] = deque(maxlen=SETTLED_FRAMES)
    last: Frame | None = None
    deadline_s = time.monotonic() + limit_s
    while (remaining_s := deadline_s - time.monotonic()) > 0:
        outcome = read(remaining_s)
        if isinstance(outcome, Frame):
            if outcome.rgb is None or outcome.depth is None:
                continue
            last = outcome
            levels.append(_levels(outcome))
            if len(levels) == SETTLED_FRAMES and (np.ptp(levels, axis=0) <= SETTLED_WITHIN).all():
                return Settled(outcome, levels[-1][0], still=True)
        elif outcome is ReadStatus.DISCONNECTED:
            raise CameraError(f"camera {name} was lost while it warmed up", remedy="check its cable")
    if last is None:
        raise CameraError(
            f"camera {name} sends no pairs of depth and colour",
            why=f"it started, and within {limit_s:g} s no usable pair came",
            remedy="unplug it and plug it in again, into a USB 3 port",
        )
    return Settled(last, levels[-1][0], still=False)


def exposure_for_level(
    level_at: Callable[[float], float], wanted: float, low_us: float, high_us: float
) -> tuple[float, float]:
    """The exposure that makes a picture of this mean level, by bisection, as a picture grows brighter with it.

    Args:
        level_at: sets an exposure and tells the mean level in grey levels that comes of it.
        wanted: mean level.
        low_us: shortest exposure.
        high_us: longest exposure.

    Returns:
        The last exposure that was set, and its level: within 2 grey levels of ``wanted``, or as near as
        the range allows.
    """
    for _ in range(EXPOSURE_STEPS):
        exposure_us = math.sqrt(low_us * high_us)
        level = level_at(exposure_us)
        if abs(level - wanted) <= SETTLED_WITHIN[0]:
            break
        low_us, high_us = (exposure_us, high_us) if level < wanted else (low_us, exposure_us)
    return exposure_us, level


def _levels(frame: Frame) -> tuple[float, float]:
    """Mean colour in grey levels and mean valid depth in metres, of every eighth pixel each way."""
    assert frame.rgb is not None and frame.depth is not None
    depth = frame.depth[::8, ::8]
    valid = depth[depth > 0]
    return float(frame.rgb[::8, ::8].mean()), float(valid.mean() if valid.size else 0) * frame.depth_unit_m
