from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.errors import DataError, OutputError
from edge_ad.types import BoolArray, Decision, Float32Array, UInt8Array
from edge_ad.visualization import (
    DECISION_COLOURS,
    SheetRow,
    contact_sheet,
    depth_to_rgb,
    display_range,
    heat_map,
    heat_overlay,
    write_png,
)


def make_picture(value: int = 120, size: tuple[int, int] = (48, 64)) -> UInt8Array:
    return np.full((*size, 3), value, dtype=np.uint8)


def make_map(size: tuple[int, int] = (48, 64)) -> Float32Array:
    """0 everywhere but a block of 2 in the upper left corner."""
    anomaly_map = np.zeros(size, dtype=np.float32)
    anomaly_map[: size[0] // 4, : size[1] // 4] = 2.0
    return anomaly_map


def make_row(
    decision: Decision = Decision.NG, gt_mask: BoolArray | None = None, geometry: int = 2, caption: str = "dent"
) -> SheetRow:
    return SheetRow(make_picture(), (make_picture(60),) * geometry, make_map(), gt_mask, caption, decision)


def make_sheet(*rows: SheetRow, tile_px: int = 96) -> UInt8Array:
    return contact_sheet(rows, title="widget", threshold=1.0, geometry_titles=("Depth", "Normals"), tile_px=tile_px)


def has_colour(image: UInt8Array, colour: tuple[int, int, int]) -> bool:
    return bool((image == np.array(colour, dtype=np.uint8)).all(axis=2).any())


def test_overlay_changes_only_where_there_is_heat() -> None:
    picture, anomaly_map = make_picture(), make_map()
    overlay = heat_overlay(picture, anomaly_map, 0.0, 2.0)
    assert overlay.dtype == np.uint8
    assert (overlay[24:, 32:] == picture[24:, 32:]).all()
    assert (overlay[:8, :8] != picture[:8, :8]).any(axis=2).all()


def test_overlay_brings_the_map_to_the_size_of_the_picture() -> None:
    overlay = heat_overlay(make_picture(size=(30, 50)), make_map(size=(12, 20)), 0.0, 2.0)
    assert overlay.shape == (30, 50, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_drawn_as_the_hottest(value: float) -> None:
    anomaly_map = make_map()
    anomaly_map[40, 40] = value
    heat = heat_map(anomaly_map, 0.0, 2.0)
    assert (heat[40, 40] == heat[0, 0]).all()
    assert heat[0, 0].sum() > heat[30, 30].sum()


def test_heat_grows_brighter_with_the_score() -> None:
    brightness = heat_map(np.linspace(0, 1, 32, dtype=np.float32)[None], 0, 1).astype(int) @ [299, 587, 114]
    assert (np.diff(brightness[0]) > 0).all()


def test_an_empty_colour_scale_is_refused() -> None:
    with pytest.raises(DataError, match="colour scale from 1.0 to 1.0 is empty"):
        heat_map(make_map(), 1.0, 1.0)


@pytest.mark.parametrize("threshold", [1.0, 0.0, -3.0, 5.0])
def test_threshold_is_in_the_middle_of_the_range(threshold: float) -> None:
    low, high = display_range([make_map(), make_map((20, 20))], threshold)
    assert low < threshold < high
    assert (low + high) / 2 == pytest.approx(threshold)


def test_range_of_maps_without_a_single_number() -> None:
    assert display_range([np.full((4, 4), np.nan, dtype=np.float32)], 2.0) == (1.0, 3.0)


def test_near_is_brighter_than_far_and_holes_are_set_apart() -> None:
    depth_m = np.linspace(0.5, 0.6, 100, dtype=np.float32).reshape(10, 10)
    depth_m[4, 4], depth_m[5, 5] = 0.0, np.nan
    picture = depth_to_rgb(depth_m)
    assert picture[0, 0].min() > picture[9, 9].max()
    assert (picture[4, 4] == picture[5, 5]).all()
    assert picture[4, 4, 2] > picture[4, 4, 0]  # holes are bluish, depth is grey


def test_one_stray_pixel_does_not_flatten_the_relief() -> None:
    depth_m = np.linspace(0.5, 0.6, 400, dtype=np.float32).reshape(20, 20)
    depth_m[19, 19] = 60.0
    assert int(np.ptp(depth_to_rgb(depth_m)[:, :, 0])) > 150


@pytest.mark.parametrize("depth_m", [np.zeros((5, 5)), np.full((5, 5), 0.7)], ids=["no return", "flat"])
def test_depth_without_a_relief(depth_m: Float32Array) -> None:
    picture = depth_to_rgb(depth_m.astype(np.float32))
    assert picture.shape == (5, 5, 3)
    assert (picture == picture[0, 0]).all()


def test_sheet_has_a_card_for_each_row_and_a_colour_for_each_decision() -> None:
    one, three = make_sheet(make_row()), make_sheet(*(make_row(decision) for decision in Decision))
    assert one.dtype == np.uint8
    assert one.shape[1:] == three.shape[1:]
    card_px = (three.shape[0] - one.shape[0]) / 2
    assert card_px > 96
    assert all(has_colour(three, DECISION_COLOURS[decision]) for decision in Decision)
    assert not has_colour(one, DECISION_COLOURS[Decision.OK])


def test_the_true_defect_is_outlined() -> None:
    mask = np.zeros((48, 64), dtype=bool)
    mask[20:40, 20:40] = True
    changed = (make_sheet(make_row(gt_mask=mask)) != make_sheet(make_row())).any(axis=2)
    rows, columns = np.nonzero(changed)
    # A ring of the defect's size at twice the scale, in the last column only.
    assert np.ptp(rows) == pytest.approx(40, abs=3)
    assert np.ptp(columns) == pytest.approx(40, abs=3)
    assert columns.min() > 0.7 * changed.shape[1]
    assert changed.sum() < 0.35 * 40 * 40


def test_a_mask_without_a_defect_draws_nothing() -> None:
    empty = np.zeros((48, 64), dtype=bool)
    assert np.array_equal(make_sheet(make_row(gt_mask=empty)), make_sheet(make_row()))


def test_long_captions_stay_inside() -> None:
    sheet = make_sheet(make_row(caption="a very long caption " * 20))
    assert (sheet[:, -28:] == sheet[0, 0]).all()


@pytest.mark.parametrize("size", [(10, 200), (200, 10)], ids=["wide", "tall"])
def test_odd_shapes_and_small_tiles(size: tuple[int, int]) -> None:
    row = SheetRow(make_picture(size=size), (), make_map(size), None, "", Decision.OK)
    sheet = contact_sheet([row], title="a title that is too long for so small a sheet", threshold=1.0, tile_px=32)
    assert sheet.ndim == 3


@pytest.mark.parametrize("rows", [(), (make_row(geometry=1),)], ids=["no rows", "geometry without a title"])
def test_rows_that_make_no_sheet(rows: tuple[SheetRow, ...]) -> None:
    with pytest.raises(DataError, match="contact sheet"):
        make_sheet(*rows)


def test_png_is_read_back_as_written(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    path = tmp_path / "made" / "on demand" / "picture.png"
    write_png(path, picture)
    write_png(path, picture)
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]
    image = cv2.imread(str(path))
    assert image is not None
    assert np.array_equal(image[..., ::-1], picture)


def test_png_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    (tmp_path / "taken.png" / "file").touch()
    with pytest.raises(OutputError, match=r"taken\.png cannot be written"):
        write_png(tmp_path / "taken.png", make_picture())
    assert [file.name for file in tmp_path.iterdir()] == ["taken.png"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_png(tmp_path / "file" / "picture.png", make_picture())
