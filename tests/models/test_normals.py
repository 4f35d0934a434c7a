"""Normals against analytic ones: which way they point, and how well noise and holes are borne."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.types import Roi
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


def decoded(image: FloatArray) -> FloatArray:
    """Unit vectors (3, H, W) from an image (1, 3, H, W) in [0, 1]."""
    vectors = image[0] * 2 - 1
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, atol=1e-5)
    return np.asarray(vectors)


@pytest.mark.parametrize("roi", [FULL, Roi(40, 24, 200, 150)], ids=["full", "roi"])
@pytest.mark.parametrize("tilt", TILTS, ids=str)
@pytest.mark.parametrize(
    ("noise_m", "holes", "median_deg", "worst_deg"),
    [pytest.param(0, 0, 0.02, 0.1, id="clean"), pytest.param(0.0005, 0.1, 0.6, 1.5, id="noise and holes")],
)
def test_a_tilted_plane(
    tilt: tuple[float, float], roi: Roi, noise_m: float, holes: float, median_deg: float, worst_deg: float
) -> None:
    plane = plane_through(*tilt)
    depth = roi.crop(spoiled(plane_depth(plane), noise_m, holes) if noise_m else plane_depth(plane))
    (image,) = images_of(make_preprocess("normals", roi=roi, background="keep"), depth=batch(depth))
    normal = np.array(plane)[:, None, None] / np.linalg.norm(plane)
    errors = angles_deg(decoded(image), seen(normal))
    assert np.median(errors) < median_deg
    assert errors.max() < worst_deg


@pytest.mark.parametrize(
    ("noise_m", "holes", "worst_deg"),
    [pytest.param(0, 0, 1.5, id="clean"), pytest.param(0.0003, 0.1, 3.0, id="noise and holes")],
)
def test_a_sphere(noise_m: float, holes: float, worst_deg: float) -> None:
    centre_m, radius_m = np.array([0.02, -0.01, 0.6]), 0.18
    depth = sphere(*rays(), centre_m, radius_m)[0].astype(np.float32)
    depth = spoiled(depth, noise_m, holes) if noise_m else depth
    (image,) = images_of(make_preprocess("normals", background="keep"), depth=batch(depth))
    _, normals = sphere(*rays(size_px=128), centre_m, radius_m)
    errors = angles_deg(image[0] * 2 - 1, seen(normals))
    inside = -normals[2, EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX] > np.cos(np.radians(50))
    assert inside.sum() > 2000
    assert np.median(errors[inside]) < 1.0
    assert errors[inside].max() < worst_deg


def test_what_is_not_there_is_flat() -> None:
    depth = plane_depth(plane_through(30, 0))
    depth[:, 160:] = 0
    (image,) = images_of(make_preprocess("normals", background="keep"), depth=batch(depth))
    np.testing.assert_allclose(
        image[0, :, :, 90:], np.array([0.5, 0.5, 1])[:, None, None] * np.ones((1, 128, 38)), atol=1e-6
    )


def test_distance_does_not_change_normals() -> None:
    near, far = (
        images_of(make_preprocess("normals", background="keep"), depth=batch(plane_depth(plane_through(20, 10, z))))[0]
        for z in (0.4, 0.9)
    )
    np.testing.assert_allclose(near, far, atol=1e-4)
