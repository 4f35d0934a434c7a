from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_ad.geometry import fit_plane
from edge_ad.types import Float32Array, Intrinsics

CAMERA = Intrinsics(fx=120.0, fy=130.0, cx=58.0, cy=41.0, width_px=120, height_px=90)
PLANE = (0.4, -0.2, 1.6)
TOLERANCE_M = 0.005

Depths = list[Float32Array]


def depth_of(plane: tuple[float, float, float]) -> Float32Array:
    v, u = np.mgrid[:90, :120]
    inverse = plane[0] * (u - CAMERA.cx) / CAMERA.fx + plane[1] * (v - CAMERA.cy) / CAMERA.fy + plane[2]
    return np.asarray(1 / inverse, np.float32)


def plain(generator: np.random.Generator) -> Depths:
    return [depth_of(PLANE)]


def with_a_part(generator: np.random.Generator) -> Depths:
    depth = depth_of(PLANE)
    depth[20:70, 30:90] -= 0.1
    return [depth]


def noisy(generator: np.random.Generator) -> Depths:
    return [depth + generator.normal(0, 0.002, depth.shape).astype(np.float32) for depth in [depth_of(PLANE)] * 8]


def with_holes(generator: np.random.Generator) -> Depths:
    depths = noisy(generator)
    for depth in depths:
        depth[generator.random(depth.shape) < 0.3] = 0
    return depths


def with_a_clamp_in_the_border(generator: np.random.Generator) -> Depths:
    """A quarter of the border stands above the plane, the same in every frame."""
    depths = noisy(generator)
    for depth in depths:
        depth[:75, :30] -= 0.15
    return depths


@pytest.mark.parametrize(
    ("make", "relative"),
    [(plain, 1e-5), (with_a_part, 1e-5), (noisy, 0.01), (with_holes, 0.01), (with_a_clamp_in_the_border, 0.01)],
)
def test_the_plane_is_found(make: Callable[[np.random.Generator], Depths], relative: float) -> None:
    plane = fit_plane(make(np.random.default_rng(0)), CAMERA, TOLERANCE_M)
    assert plane is not None
    np.testing.assert_allclose(plane, PLANE, atol=relative * PLANE[2])


def mostly_nothing(generator: np.random.Generator) -> Depths:
    depth = depth_of(PLANE)
    depth[generator.random(depth.shape) < 0.6] = 0
    return [depth]


def no_background(generator: np.random.Generator) -> Depths:
    """Only the part in the middle returns depth, as in MVTec 3D-AD."""
    depth = np.zeros((90, 120), np.float32)
    depth[20:70, 30:90] = 0.5
    return [depth]


def rubble(generator: np.random.Generator) -> Depths:
    return [generator.uniform(0.4, 0.8, (90, 120)).astype(np.float32)]


def a_bowl(generator: np.random.Generator) -> Depths:
    v, u = np.mgrid[:90, :120]
    return [np.asarray(0.5 + 0.1 * np.sin(u / 9) * np.cos(v / 7), np.float32)]


@pytest.mark.parametrize("make", [mostly_nothing, no_background, rubble, a_bowl])
def test_no_plane_is_no_plane(make: Callable[[np.random.Generator], Depths]) -> None:
    assert fit_plane(make(np.random.default_rng(0)), CAMERA, TOLERANCE_M) is None


def test_an_empty_table_is_fitted_where_it_is_told_to() -> None:
    """Its border is torn away, its middle is whole."""
    depth = np.zeros((90, 120), np.float32)
    depth[20:70, 30:90] = depth_of(PLANE)[20:70, 30:90]
    assert fit_plane([depth], CAMERA, TOLERANCE_M) is None
    region = np.zeros(depth.shape, np.bool_)
    region[15:75, 25:95] = True
    plane = fit_plane([depth], CAMERA, TOLERANCE_M, region)
    assert plane is not None
    np.testing.assert_allclose(plane, PLANE, atol=1e-5 * PLANE[2])
