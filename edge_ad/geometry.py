"""What is learned from the geometry of good frames: one camera, and the plane the parts lie on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_ad.types import BoolArray, Float32Array, Intrinsics

BORDER_SHARE = 0.06
"""Width of the frame's border in which the plane is looked for, as a share of its side."""
MIN_COVERAGE = 0.6
"""Share of the border that must return depth for there to be a plane."""

Plane = tuple[float, float, float]


def fit_plane(
    depths_m: Sequence[Float32Array], intrinsics: Intrinsics, tolerance_m: float, region: BoolArray | None = None
) -> Plane | None:
    """Fits the plane around the part by reweighted least squares in inverse depth.

    On a plane 1/z = α·x/z + β·y/z + γ is linear, with unit normal (α, β, γ)·d at distance d = 1/‖(α, β, γ)‖.
    By default the fit sees only a border around the image, as the part is in its middle.

    Args:
        depths_m: depth of some good frames, float32 (H, W) in metres, 0 without return.
        intrinsics: of those frames.
        tolerance_m: how far from the plane its surface may be.
        region: bool (H, W), where to look instead of the border.

    Returns:
        (α, β, γ) in 1/m, or None where there is no plane: too little of the border returns depth, or
        less than half of it lies on one plane.
    """
    inverse = _median_inverse_depth(depths_m)
    region = border_of(inverse.shape) if region is None else region
    seen = region & (inverse > 0)
    if seen.sum() < max(3, MIN_COVERAGE * region.sum()):
        return None
    v, u = np.nonzero(seen)
    rays = np.stack([(u - intrinsics.cx) / intrinsics.fx, (v - intrinsics.cy) / intrinsics.fy, np.ones(len(u))], axis=1)
    target = inverse[seen]
    weight = np.ones(len(u))
    plane = np.zeros(3)
    for _ in range(15):
        root = np.sqrt(weight)
        plane = np.linalg.lstsq(rays * root[:, None], target * root, rcond=None)[0]
        residual_m = np.abs(1 - rays @ plane / target) / np.linalg.norm(plane)
        weight = 1 / np.maximum(residual_m / tolerance_m, 0.1) ** 2
    if np.mean(residual_m < tolerance_m) < 0.5:
        return None
    alpha, beta, gamma = (float(value) for value in plane)
    return alpha, beta, gamma


def border_of(shape: tuple[int, ...]) -> BoolArray:
    """Where a frame of ``shape`` (H, W) is its border, bool (H, W)."""
    margin = max(1, round(BORDER_SHARE * min(shape)))
    border = np.ones(shape, np.bool_)
    border[margin:-margin, margin:-margin] = False
    return border


def _median_inverse_depth(depths_m: Sequence[Float32Array]) -> NDArray[np.float64]:
    """Median over the frames of 1/z, 0 where fewer than half of them returned."""
    stack = np.stack(depths_m).astype(np.float64)
    inverse = np.divide(1, stack, out=np.full(stack.shape, np.nan), where=stack > 0)
    enough = (stack > 0).mean(0) >= 0.5
    result = np.zeros(stack.shape[1:])
    result[enough] = np.nanmedian(inverse[:, enough], axis=0)
    return result
