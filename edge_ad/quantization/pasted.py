"""Defects pasted into good frames, so that an engine can be judged where nobody has defective parts.

After CutPaste (Li et al., CVPR 2021) and DRÆM (Zavrtanik et al., ICCV 2021): an irregular patch of the image comes from
elsewhere in it, its colours shifted; in depth the surface rises or sinks softly over the same area.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from edge_ad.types import AnyArray, BoolArray, Float32Array

Feeds = dict[str, AnyArray]

RADIUS_SHARE = (0.03, 0.08)
"""Of a patch, of the image's shorter side."""

DEPTH_SHARE = (0.004, 0.015)
"""How far the surface moves, of the distance to the camera."""


def pasted_defect(feeds: Mapping[str, AnyArray], place: BoolArray, seed: int) -> tuple[Feeds, BoolArray]:
    """Pastes one defect.

    Args:
        feeds: the graph's inputs of a good frame, batch 1, see :mod:`edge_ad.feeds`.
        place: bool (H, W), where its centre may lie.
        seed: of everything random about it.

    Returns:
        The changed inputs, and bool (H, W), True on the defect.
    """
    random = np.random.default_rng(seed)
    height, width = place.shape
    radius = max(2.0, random.uniform(*RADIUS_SHARE) * min(height, width))
    rows, columns = np.nonzero(place)
    centre = random.integers(len(rows))
    shape = _blob((height, width), (rows[centre], columns[centre]), radius, random)
    mask = shape > 0.5
    changed: Feeds = {}
    for name, array in feeds.items():
        image = array[0].copy()
        if name == "depth":
            move = float(random.uniform(*DEPTH_SHARE) * random.choice([-1, 1]))
            image = _moved(image, shape, move)
        else:
            shift = random.integers(-height // 3, height // 3), random.integers(-width // 3, width // 3)
            patch = np.roll(image, shift, (0, 1)).astype(np.float32)
            tint = random.uniform(-40, 40, 3)
            blend = shape[..., None]
            image = np.clip(image * (1 - blend) + (patch + tint) * blend, 0, 255).astype(np.uint8)
        changed[name] = image[None]
    return changed, mask


def _blob(size: tuple[int, int], centre: tuple[int, int], radius: float, random: np.random.Generator) -> Float32Array:
    """Soft-edged irregular disc: float32 (H, W), 1 inside."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    angle = np.arctan2(y - centre[0], x - centre[1])
    wobble = sum(random.uniform(0, 0.2) * np.cos(order * angle + random.uniform(0, 2 * np.pi)) for order in (1, 2, 3))
    distance = np.hypot(y - centre[0], x - centre[1]) / (radius * (1 + wobble))
    return np.asarray(cv2.GaussianBlur((distance < 1).astype(np.float32), (0, 0), 1.0), np.float32)


def _moved(depth: AnyArray, shape: Float32Array, share: float) -> AnyArray:
    """Depth (H, W) float32 metres or (H, W, 2) byte planes, nearer or farther by ``share`` under the shape."""
    planes = depth.dtype == np.uint8
    values = np.ascontiguousarray(depth).view("<u2")[..., 0].astype(np.float32) if planes else depth
    there = np.isfinite(values) & (values > 0)
    moved = np.where(there, values * (1 + share * shape), values)
    if not planes:
        return np.asarray(moved, np.float32)
    units = np.where(there, np.clip(np.rint(moved), 1, 65535), 0).astype("<u2")
    return np.ascontiguousarray(units)[..., None].view(np.uint8)
