"""What one frame looks like, in a few numbers that are cheap enough for every frame.

The same function measures the training frames and those of the line, so the numbers compare.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from edge_ad.types import AnyArray, Frame, Roi, UInt8Array

COLOUR = ("brightness", "overexposed", "underexposed", "red_green", "blue_green", "sharpness")
DEPTH = ("depth_fill", "distance_m")

COLOUR_PIXELS, DEPTH_PIXELS = 40_000, 20_000
"""About so many are looked at, however large the frame is: whole rows of colour, a grid of depth."""

BLACK, WHITE = 5, 250
"""Luminance (ITU-R BT.601) up to which a pixel is noise, and the value from which a channel is cut off."""


def image_statistics(frame: Frame, roi: Roi) -> dict[str, float]:
    """Measures a frame inside ``roi``.

    Args:
        frame: the capture; what it lacks is not in the answer.
        roi: the part of it that the model looks at.

    Returns:
        For colour: ``brightness``, the mean luminance, 0 to 255; ``overexposed`` and ``underexposed``, shares of
        the pixels; ``red_green`` and ``blue_green``, ratios of the channels' means; ``sharpness``, the mean
        difference of neighbours in a row as a share of the brightness. For depth: ``depth_fill``, the share of
        pixels with a return; ``distance_m``, the median of these in metres, where there are any. Empty where the
        ROI lies outside the frame.
    """
    colour = {} if frame.rgb is None else _of_colour(roi.crop(frame.rgb))
    depth = {} if frame.depth is None else _of_depth(roi.crop(frame.depth), frame.depth_unit_m)
    return colour | depth


def _of_colour(rgb: UInt8Array) -> dict[str, float]:
    if not rgb.size:
        return {}
    height, width = rgb.shape[:2]
    rows = np.ascontiguousarray(rgb[:: max(1, min(height, height * width // COLOUR_PIXELS))])
    pixels = rows.shape[0] * width
    luminance = cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY)
    brightness = cv2.mean(luminance)[0]
    red, green, blue = (max(mean, 1.0) for mean in cv2.mean(rows)[:3])
    steps = cv2.mean(cv2.absdiff(luminance[:, 1:], luminance[:, :-1]))[0] if width > 1 else 0.0
    return {
        "brightness": brightness,
        "overexposed": 1 - cv2.countNonZero(cv2.inRange(rows, (0, 0, 0), (WHITE - 1,) * 3)) / pixels,
        "underexposed": cv2.countNonZero(cv2.inRange(luminance, (0,), (BLACK,))) / pixels,
        "red_green": red / green,
        "blue_green": blue / green,
        "sharpness": steps / max(brightness, 1.0),
    }


def _of_depth(depth: AnyArray, unit_m: float) -> dict[str, float]:
    if not depth.size:
        return {}
    step = max(1, round(math.sqrt(depth.size / DEPTH_PIXELS)))
    grid = depth[::step, ::step]
    returns = grid[np.isfinite(grid) & (grid > 0)]
    filled = {"depth_fill": returns.size / grid.size}
    return filled | ({"distance_m": float(np.median(returns)) * unit_m} if returns.size else {})
