from __future__ import annotations

import numpy as np
import pytest

from edge_ad.data.synthetic import SyntheticProduct
from edge_ad.drift.image_statistics import COLOUR, DEPTH, image_statistics
from edge_ad.drift.quantities import QUANTITIES
from edge_ad.types import Frame, Roi

ALL = Roi(0, 0, 640, 480)


def make_frame(level: int = 100, depth: int = 500) -> Frame:
    """Grey with a little noise, 640×480, half a metre away."""
    noise = np.random.default_rng(0).integers(-2, 3, (480, 640, 1))
    rgb = np.broadcast_to(level + noise, (480, 640, 3)).astype(np.uint8)
    return Frame(rgb=rgb, depth=np.full((480, 640), depth, np.uint16), depth_unit_m=0.001)


def test_every_quantity_has_words() -> None:
    assert QUANTITIES.keys() == {*COLOUR, *DEPTH} == image_statistics(make_frame(), ALL).keys()


def test_grey_is_as_bright_as_it_is_and_has_no_colour() -> None:
    found = image_statistics(make_frame(100), ALL)
    assert found["brightness"] == pytest.approx(100, abs=0.1)
    assert found["red_green"] == found["blue_green"] == 1
    assert found["overexposed"] == found["underexposed"] == 0
    assert found["depth_fill"] == 1
    assert found["distance_m"] == pytest.approx(0.5)


def test_shares_count_pixels() -> None:
    frame = make_frame()
    assert frame.rgb is not None and frame.depth is not None
    rgb, depth = frame.rgb.copy(), frame.depth.copy()
    rgb[:, :160, 0] = 255
    rgb[:, 320:640] = 0
    depth[:, :320] = 0
    found = image_statistics(Frame(rgb=rgb, depth=depth, depth_unit_m=0.001), ALL)
    assert found["overexposed"] == pytest.approx(0.25)
    assert found["underexposed"] == pytest.approx(0.5)
    assert found["depth_fill"] == pytest.approx(0.5)
    assert found["distance_m"] == pytest.approx(0.5)
    assert found["red_green"] > 1.5


def test_few_rows_tell_what_all_pixels_tell() -> None:
    """Against the whole image in floating point, on rendered parts."""
    frame = SyntheticProduct(512, seed=3).render(1).frame
    assert frame.rgb is not None
    found = image_statistics(frame, Roi(0, 0, 512, 512))
    whole = frame.rgb.astype(float)
    luminance = whole @ [0.299, 0.587, 0.114]
    assert found["brightness"] == pytest.approx(luminance.mean(), rel=0.02)
    assert found["red_green"] == pytest.approx(whole[..., 0].mean() / whole[..., 1].mean(), rel=0.02)
    assert found["sharpness"] == pytest.approx(np.abs(np.diff(luminance)).mean() / luminance.mean(), rel=0.1)
    assert found["distance_m"] == pytest.approx(np.median(frame.depth_m()[frame.depth_m() > 0]), rel=0.002)


def test_blur_is_seen() -> None:
    sharp = make_frame()
    assert sharp.rgb is not None
    blurred = Frame(rgb=(sharp.rgb // 2 + np.roll(sharp.rgb, 1, axis=1) // 2).astype(np.uint8))
    assert image_statistics(blurred, ALL)["sharpness"] < 0.8 * image_statistics(sharp, ALL)["sharpness"]


def test_only_the_roi_counts() -> None:
    frame = make_frame()
    assert frame.rgb is not None
    rgb = frame.rgb.copy()
    rgb[:, 320:] = 255
    assert image_statistics(Frame(rgb=rgb), Roi(0, 0, 320, 480))["brightness"] == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize(
    "depth",
    [np.zeros((4, 4), np.uint16), np.full((4, 4), np.nan, np.float32), np.full((4, 4), -1, np.float32)],
    ids=["zero", "nan", "negative"],
)
def test_depth_without_a_return_has_no_distance(depth: np.ndarray) -> None:
    assert image_statistics(Frame(depth=depth), Roi(0, 0, 4, 4)) == {"depth_fill": 0}


def test_what_is_not_there_is_not_measured() -> None:
    assert image_statistics(Frame(rgb=np.zeros((1, 1, 3), np.uint8)), Roi(0, 0, 1, 1)).keys() == set(COLOUR)
    assert image_statistics(make_frame(), Roi(700, 500, 10, 10)) == {}
