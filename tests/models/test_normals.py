"""Normals against analytic ones: which way they point, and how well noise and holes are borne."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.models.preprocess import Preprocess
from edge_ad.types import Float32Array, Roi
from tests.models.scenes import (
    FULL,
    FloatArray,
    batch,
    images_of,
    make_preprocess,
    plane_depth,
    plane_through,
    rays,
    sphere,
    spoiled,
)

EDGE_PX = 6
"""At the image's edge the box and the Sobel kernel see repeated pixels."""
TILTS = [(0, 0), (25, 0), (0, -35), (40, 20)]


def angles_deg(given: FloatArray, expected: FloatArray) -> FloatArray:
    """Between two fields of unit vectors (3, H, W), without the image's edge."""
    cosine = (given * expected).sum(0).clip(-1, 1)
    return np.asarray(np.degrees(np.arccos(cosine))[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX])


def seen(normal: FloatArray) -> FloatArray:
    """As the image has it: towards the camera, z counted towards the camera too."""
    facing = normal * -np.sign(normal[2])
    return np.stack([facing[0], facing[1], -facing[2]])


def normals_of(preprocess: Preprocess, depth: Float32Array) -> FloatArray:
    """The image of a depth image's normals, decoded to unit vectors (3, S, S)."""
    vectors = images_of(preprocess, depth=batch(depth))[0][0] * 2 - 1
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, atol=1e-5)
    return np.asarray(vectors)


@pytest.mark.parametrize("roi", [FULL, Roi(40, 24, 200, 150)], ids=["full", "roi"])
@pytest.mark.parametrize("tilt", TILTS, ids=str)
def test_a_tilted_plane(tilt: tuple[float, float], roi: Roi) -> None:
    plane = plane_through(*tilt)
    preprocess = make_preprocess("normals", roi=roi, background="keep")
    expected = seen(np.array(plane)[:, None, None] / np.linalg.norm(plane))
    clean = plane_depth(plane)
    assert angles_deg(normals_of(preprocess, roi.crop(clean)), expected).max() < 0.1
    errors = angles_deg(normals_of(preprocess, roi.crop(spoiled(clean, noise_m=0.0005, holes=0.02))), expected)
    assert np.median(errors) < 0.7
    assert (errors < 1.5).mean() > 0.85


def test_a_sphere() -> None:
    centre_m, radius_m = np.array([0.02, -0.01, 0.6]), 0.18
    preprocess = make_preprocess("normals", background="keep")
    view = np.stack([*rays(size_px=128), np.ones((128, 128))])
    _, normals = sphere(view[:2], centre_m, radius_m)
    incidence_deg = np.degrees(np.arccos(-(normals * view).sum(0) / np.linalg.norm(view, axis=0)))
    inside = incidence_deg[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX] < 50
    assert inside.sum() > 3000
    clean = sphere(rays(), centre_m, radius_m)[0].astype(np.float32)
    assert angles_deg(normals_of(preprocess, clean), seen(normals))[inside].max() < 1.5
    noisy = angles_deg(normals_of(preprocess, spoiled(clean, noise_m=0.0003, holes=0.02)), seen(normals))[inside]
    assert np.median(noisy) < 0.6
    assert (noisy < 1.5).mean() > 0.85


def test_what_is_not_there_is_flat() -> None:
    depth = plane_depth(plane_through(30, 0))
    depth[:, 160:] = 0
    normals = normals_of(make_preprocess("normals", background="keep"), depth)
    np.testing.assert_allclose(normals[:, :, 90:], np.broadcast_to([[[0]], [[0]], [[1]]], (3, 128, 38)), atol=1e-6)


def test_distance_does_not_change_normals() -> None:
    preprocess = make_preprocess("normals", background="keep")
    near, far = (normals_of(preprocess, plane_depth(plane_through(20, 10, distance_m))) for distance_m in (0.4, 0.9))
    np.testing.assert_allclose(near, far, atol=2e-4)
