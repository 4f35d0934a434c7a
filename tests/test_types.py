"""What a frame refuses, and that it says what would be right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_ad.errors import DataError
from edge_ad.types import Frame


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ({"rgb": np.zeros((4, 6, 3), np.float32)}, r"rgb of belt is float32\(4, 6, 3\)\. it must be uint8 \(H, W, 3\)"),
        ({"rgb": np.zeros((4, 6), np.uint8)}, r"rgb of belt is uint8\(4, 6\)"),
        ({"rgb": np.zeros((4, 6, 4), np.uint8)}, r"rgb of belt is uint8\(4, 6, 4\)"),
        ({"rgb": np.zeros((0, 6, 3), np.uint8)}, "not empty"),
        ({"depth": np.zeros((4, 6), np.float64)}, r"depth of belt is float64\(4, 6\)\. it must be uint16 or float32"),
        ({"depth": np.zeros((4, 6), ">u2")}, r"depth of belt is >u2\(4, 6\)"),
        ({"depth": np.zeros((4, 6, 1), np.uint16)}, r"it must be uint16 or float32 \(H, W\)"),
        ({"rgb": np.zeros((4, 6, 3), np.uint8), "depth": np.zeros((4, 5), np.uint16)}, "must share one size"),
        ({}, "one of them must be there"),
        ({"depth": np.ones((4, 6), np.uint16), "depth_unit_m": float("nan")}, "metres per depth unit must be positive"),
        ({"depth": np.ones((4, 6), np.uint16), "depth_unit_m": 0}, "metres per depth unit must be positive"),
    ],
)
def test_a_frame_that_cannot_be_is_refused(images: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Frame(**images, source="belt")


def test_a_frame_with_all_images_is_fine() -> None:
    rgb, depth = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.float32)
    assert Frame(rgb, depth, normals=rgb).size_px == (4, 6)
