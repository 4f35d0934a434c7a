from __future__ import annotations

import numpy as np
import pytest

from edge_ad.rig.picture import TILES, Shift, detail, image_shift, overlapping, sharpness_left
from edge_ad.rig.surface import found_roi
from edge_ad.types import BoolArray, Float32Array, Roi
from tests.rig.scenes import HEIGHT_PX, WIDTH_PX, Scene


@pytest.mark.parametrize("shift_px", [(0, 0), (1, 0), (0, -3), (7, 5), (-20, 11)], ids=str)
@pytest.mark.parametrize("gain", [1.0, 0.3], ids=["bright", "dark"])
def test_the_shift_is_found_at_any_brightness(shift_px: tuple[int, int], gain: float) -> None:
    shift = image_shift(Scene(seed=3).grey(), Scene(seed=3, shift_px=shift_px, gain=gain).grey())
    assert (shift.x_px, shift.y_px) == pytest.approx(shift_px, abs=0.2)
    assert shift.is_certain


def test_fractions_of_a_pixel_are_found() -> None:
    grey = Scene(seed=3).grey()
    half = (grey + np.roll(grey, 1, axis=1)) / 2
    shift = image_shift(grey, half.astype(np.float32))
    assert (shift.x_px, shift.y_px) == pytest.approx((0.5, 0.0), abs=0.15)


def test_only_what_is_seen_counts() -> None:
    before, now = Scene(seed=3).grey(), Scene(seed=3).grey()
    now[30:90, 40:120] = Scene(seed=9, shift_px=(9, 9)).grey()[30:90, 40:120]
    seen = np.ones(before.shape, np.bool_)
    seen[25:95, 35:125] = False
    shift = image_shift(before, now, seen)
    assert shift.length_px < 0.2 and shift.likeness > 0.95


@pytest.mark.parametrize("now", [Scene(seed=8).grey(), np.full((HEIGHT_PX, WIDTH_PX), 90, np.float32)])
def test_another_scene_is_not_taken_for_a_shifted_one(now: Float32Array) -> None:
    assert not image_shift(Scene(seed=3).grey(), now).is_certain


def test_the_overlap_of_shifted_pictures_shows_the_same() -> None:
    image = np.arange(30 * 40).reshape(30, 40)
    for x, y in ((4, 3), (-4, 3), (4, -3), (-2, -5), (0, 0)):
        moved = np.roll(image, (y, x), (0, 1))
        there, here = overlapping(Roi(5, 6, 30, 20), Shift(x, y, 1.0), (30, 40))
        assert np.array_equal(there.crop(image), here.crop(moved))
        assert there.width_px >= 30 - abs(x) and there.height_px >= 20 - abs(y)


def test_noise_is_no_detail() -> None:
    noise = np.random.default_rng(0).normal(100, 2, (HEIGHT_PX, WIDTH_PX)).astype(np.float32)
    assert not detail(noise, 4.0).any()
    assert sharpness_left(np.zeros((TILES, TILES), np.float32), np.ones((TILES, TILES), np.float32)) is None


def brute_force(good: BoolArray) -> int:
    """Area of the largest rectangle, by trying all."""
    total = np.zeros((good.shape[0] + 1, good.shape[1] + 1), int)
    total[1:, 1:] = good.cumsum(0).cumsum(1)
    best = 0
    for top in range(good.shape[0]):
        for bottom in range(top + 1, good.shape[0] + 1):
            for left in range(good.shape[1]):
                for right in range(left + 1, good.shape[1] + 1):
                    area = (bottom - top) * (right - left)
                    filled = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
                    best = max(best, area if filled == area else 0)
    return best


@pytest.mark.parametrize("seed", range(8))
def test_the_roi_is_the_largest_rectangle(seed: int) -> None:
    cells = np.random.default_rng(seed).random((9, 11)) < 0.93
    valid = np.kron(cells, np.ones((8, 8))).astype(np.float32)
    roi = found_roi(valid, np.zeros(valid.shape, np.float32), 0.005)
    largest = brute_force(cells)
    if roi is None:
        assert largest < 16 * 11
    else:
        assert roi.width_px * roi.height_px == 64 * largest
        assert roi.crop(valid).all()
