from __future__ import annotations

import numpy as np
import pytest

from edge_ad.cameras.genicam_features import RangeScale
from edge_ad.cameras.genicam_frames import C_PLANES, Part, frame_of, sensor_time_s
from edge_ad.errors import CameraError
from edge_ad.types import AnyArray, Frame

RED, GREEN, BLUE = 200, 100, 50
HEIGHT, WIDTH = 6, 8
MOSAICS = {
    "BayerRG8": [[RED, GREEN], [GREEN, BLUE]],
    "BayerGR8": [[GREEN, RED], [BLUE, GREEN]],
    "BayerGB8": [[GREEN, BLUE], [RED, GREEN]],
    "BayerBG8": [[BLUE, GREEN], [GREEN, RED]],
}
"""The first two rows and columns, as the Pixel Format Naming Convention names them."""


def full(*color: int, dtype: type = np.uint8) -> AnyArray:
    return np.tile(np.array(color, dtype=dtype), (HEIGHT, WIDTH, 1)).squeeze()


def frame(*parts: Part, images: tuple[str, ...], scale: RangeScale | None = None) -> Frame:
    return frame_of(parts, images, scale or RangeScale(), "genicam://1", 3, "p", 7)


@pytest.mark.parametrize(
    ("pixel_format", "pixels"),
    [
        ("RGB8", full(RED, GREEN, BLUE)),
        ("BGR8", full(BLUE, GREEN, RED)),
        ("RGBa8", full(RED, GREEN, BLUE, 255)),
        ("BGRa8", full(BLUE, GREEN, RED, 255)),
        *((name, np.tile(np.array(tile, dtype=np.uint8), (HEIGHT // 2, WIDTH // 2))) for name, tile in MOSAICS.items()),
    ],
)
def test_colour_is_rgb(pixel_format: str, pixels: AnyArray) -> None:
    rgb = frame(Part(pixel_format, pixels), images=("rgb",)).rgb
    assert rgb is not None and rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb[2:4, 2:6].reshape(-1, 3), np.tile([RED, GREEN, BLUE], (8, 1)))


@pytest.mark.parametrize(
    ("pixel_format", "white"), [("Mono8", 255), ("Mono10", 1023), ("Mono12", 4095), ("Mono16", 65535)]
)
def test_white_is_white_in_any_depth_of_grey(pixel_format: str, white: int) -> None:
    pixels = full(white, dtype=np.uint8 if pixel_format == "Mono8" else np.uint16)
    rgb = frame(Part(pixel_format, pixels), images=("rgb",)).rgb
    assert rgb is not None and (rgb == 255).all()


@pytest.mark.parametrize("pixel_format", C_PLANES)
def test_depth_is_coordinate_c(pixel_format: str) -> None:
    dtype = np.uint16 if "16" in pixel_format else np.float32
    coordinates = np.dstack([full(1, dtype=dtype), full(2, dtype=dtype), full(40, dtype=dtype)])
    pixels = coordinates if "ABC" in pixel_format else coordinates[..., 2]
    scale = RangeScale(unit_m=0.0254, scale=0.5, offset=100)
    made = frame(Part(pixel_format, pixels), images=("depth",), scale=scale)
    assert made.rgb is None and made.depth is not None and made.depth.dtype == np.float32
    assert (made.depth == 120).all()
    np.testing.assert_allclose(made.depth_m(), 120 * 0.0254, rtol=1e-6)


def test_no_return_is_zero() -> None:
    values = np.array([[1.0, np.nan, -5.0, -9999.0, np.inf, 2.0]], dtype=np.float32)
    part = Part("Coord3D_C32f", values)
    depth = frame(part, images=("depth",), scale=RangeScale(invalid=-9999.0, offset=10)).depth
    assert depth is not None and depth.tolist() == [[11, 0, 5, 0, 0, 12]]
    depth = frame(part, images=("depth",), scale=RangeScale(offset=-1.5)).depth
    assert depth is not None and depth.tolist() == [[0, 0, 0, 0, 0, 0.5]]
    assert values[0, 0] == 1.0, "the camera's memory stays as it is"


def test_a_capture_without_an_image_is_refused_with_what_it_holds() -> None:
    grey = Part("Mono8", full(1))
    with pytest.raises(CameraError, match="sends no depth that can be read.*Mono8"):
        frame(grey, images=("rgb", "depth"))
    with pytest.raises(CameraError, match="sends no rgb.*nothing"):
        frame(images=("rgb",))


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(CameraError, match="colour of 8x6 and depth of 4x2"):
        frame(Part("Mono8", full(1)), Part("Coord3D_C32f", np.ones((2, 4), dtype=np.float32)), images=("rgb", "depth"))


class Told:
    def __init__(self, timestamp_ns: int | None) -> None:
        self.timestamp_ns = timestamp_ns


def test_a_captures_time_is_the_cameras_where_the_producer_tells_it() -> None:
    assert sensor_time_s(Told(2_500_000_000)) == 2.5
    assert sensor_time_s(Told(None)) is None
    assert sensor_time_s(object()) is None
