"""The table of a rig: its plane, what lies on it, and the part of the picture to look at."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_ad.geometry import Plane, fit_plane
from edge_ad.types import BoolArray, Float32Array, Intrinsics, Roi

GRID_PX = 4
"""The plane is fitted to every fourth pixel each way: thousands are plenty."""
FIELDS = 3
"""The largest plane is looked for in so many fields each way."""
MIN_TABLE = 0.25
"""Share of the picture that the table must fill."""
TABLE_M = 0.005
"""What is nearer to the plane belongs to the table; ``foreground_height_m`` of the preprocessing is the same."""
TABLE_SIGMAS = 3.0
"""Or what is within so many times the depth noise, where that is more."""
CELL_PX = 8
"""The ROI is looked for in cells of this size."""
CELL_FILL = 0.8
"""Share of a cell's depth that must return, from the table or from what stands on it."""


def table_plane(depth_m: Float32Array, intrinsics: Intrinsics, tolerance_m: float, region: BoolArray) -> Plane | None:
    """The plane of the table in one depth image.

    Args:
        depth_m: float32 (H, W) in metres, 0 without return.
        intrinsics: of that image.
        tolerance_m: how far from the plane its surface may be.
        region: bool (H, W), where to look.

    Returns:
        (α, β, γ) in 1/m as ``edge_ad.geometry.fit_plane``, or None where there is none.
    """
    coarse, scaled = _coarse(depth_m, intrinsics)
    return fit_plane([coarse], scaled, tolerance_m, region[::GRID_PX, ::GRID_PX])


def largest_plane(depth_m: Float32Array, intrinsics: Intrinsics, tolerance_m: float) -> Plane | None:
    """The plane that most of an empty fixture lies on; fitted in fields first, as one of them is all table.

    Arguments and result are those of ``table_plane``.
    """
    coarse, scaled = _coarse(depth_m, intrinsics)
    rows, columns = (np.linspace(0, length, FIELDS + 1).astype(int) for length in coarse.shape)
    best = np.zeros(coarse.shape, np.bool_)
    for row in range(FIELDS):
        for column in range(FIELDS):
            field = np.zeros(coarse.shape, np.bool_)
            field[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = True
            plane = fit_plane([coarse], scaled, tolerance_m, field)
            if plane is not None:
                near = on_plane(coarse, plane, scaled, tolerance_m)
                best = near if near.sum() > best.sum() else best
    return fit_plane([coarse], scaled, tolerance_m, best) if best.mean() >= MIN_TABLE else None


def on_plane(depth_m: Float32Array, plane: Plane, intrinsics: Intrinsics, tolerance_m: float) -> BoolArray:
    """Where a depth image lies on a plane, bool (H, W)."""
    return np.asarray(np.abs(np.nan_to_num(heights_m(depth_m, plane, intrinsics), nan=np.inf)) < tolerance_m)


def _coarse(depth_m: Float32Array, intrinsics: Intrinsics) -> tuple[Float32Array, Intrinsics]:
    """Every ``GRID_PX``th pixel each way, with its intrinsics."""
    coarse = np.ascontiguousarray(depth_m[::GRID_PX, ::GRID_PX])
    height, width = coarse.shape
    fx, fy, cx, cy = (value / GRID_PX for value in (intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy))
    return coarse, Intrinsics(fx, fy, cx, cy, width, height)


def table_tolerance_m(noise_m: float) -> float:
    """How far from its plane the table's surface may be seen, at this noise of depth."""
    return max(TABLE_M, TABLE_SIGMAS * noise_m)


def plane_depth_m(plane: Plane, intrinsics: Intrinsics, u: float, v: float) -> float:
    """Distance along the optical axis at which pixel (u, v) sees the plane."""
    alpha, beta, gamma = plane
    inverse = alpha * (u - intrinsics.cx) / intrinsics.fx + beta * (v - intrinsics.cy) / intrinsics.fy + gamma
    return 1 / inverse if inverse > 0 else math.inf


def tilt_deg(plane: Plane, other: Plane = (0.0, 0.0, 1.0)) -> float:
    """Angle between two planes; by default between one and the picture's plane."""
    one, two = np.array(plane), np.array(other)
    # By the cross product: the arc cosine of nearly 1 has no digits left.
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(one, two))), float(one @ two)))


def heights_m(depth_m: Float32Array, plane: Plane, intrinsics: Intrinsics) -> Float32Array:
    """Height above the plane, float32 (H, W), positive towards the camera; NaN without return."""
    v, u = np.mgrid[: depth_m.shape[0], : depth_m.shape[1]].astype(np.float32)
    alpha, beta, gamma = plane
    inverse = alpha * (u - intrinsics.cx) / intrinsics.fx + beta * (v - intrinsics.cy) / intrinsics.fy + gamma
    height = (1 - depth_m * inverse) / np.linalg.norm(plane)
    return np.asarray(np.where(depth_m > 0, height, np.nan), np.float32)


def found_roi(valid: Float32Array, height_m: Float32Array, tolerance_m: float) -> Roi | None:
    """The largest rectangle in which the table, and what stands on it, returns depth.

    Left out is what lies below the table: the floor beside it.

    Args:
        valid: float32 (H, W), share of frames with return.
        height_m: float32 (H, W) above the table, NaN without return.
        tolerance_m: how far below the plane the table may be.

    Returns:
        None where there is none of at least 4 cells each way.
    """
    good = valid * (np.nan_to_num(height_m, nan=-np.inf) > -tolerance_m)
    rows, columns = good.shape[0] // CELL_PX, good.shape[1] // CELL_PX
    cells = good[: rows * CELL_PX, : columns * CELL_PX].reshape(rows, CELL_PX, columns, CELL_PX).mean((1, 3))
    top, left, height, width = _largest_rectangle(cells >= CELL_FILL)
    if min(height, width) < 4:
        return None
    roi = Roi(left * CELL_PX, top * CELL_PX, width * CELL_PX, height * CELL_PX)
    # The last pixels, which make no whole cell, belong to a rectangle that reaches the edge.
    reach_x = good.shape[1] if left + width == columns else roi.x_px + roi.width_px
    reach_y = good.shape[0] if top + height == rows else roi.y_px + roi.height_px
    return Roi(roi.x_px, roi.y_px, reach_x - roi.x_px, reach_y - roi.y_px)


def _largest_rectangle(good: BoolArray) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the largest all-true rectangle: the largest under each row's histogram."""
    best = (0, 0, 0, 0)
    above: NDArray[np.int64] = np.zeros(good.shape[1] + 1, np.int64)  # a last column of 0 closes every rectangle
    for row, line in enumerate(good):
        above[:-1] = np.where(line, above[:-1] + 1, 0)
        open_from: list[tuple[int, int]] = []
        for column, height in enumerate(above.tolist()):
            start = column
            while open_from and open_from[-1][1] >= height:
                start, tall = open_from.pop()
                if tall * (column - start) > best[2] * best[3]:
                    best = (row - tall + 1, start, tall, column - start)
            open_from.append((start, height))
    return best
