from pathlib import Path

import numpy as np
import pytest

from edge_ad.data import open_dataset
from edge_ad.data.defects import DEFECTS
from edge_ad.data.synthetic import DEPTH_UNIT_M, SyntheticProduct, write_synthetic
from edge_ad.errors import ConfigError, OutputError
from edge_ad.types import AnyArray, Frame

SIZE = 96


@pytest.fixture(scope="module")
def product() -> SyntheticProduct:
    return SyntheticProduct(SIZE, seed=3)


def images(frame: Frame) -> tuple[AnyArray, AnyArray]:
    assert frame.rgb is not None
    assert frame.depth is not None
    return frame.rgb, frame.depth


def rendered(product: SyntheticProduct, part: int, defect: str | None = None) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Colour, depth and mask."""
    result = product.render(part, defect)
    return *images(result.frame), result.gt_mask


def test_frame_is_an_rgbd_capture(product: SyntheticProduct) -> None:
    frame = product.render(7, "dent").frame
    assert frame.size_px == (SIZE, SIZE)
    assert frame.depth is not None
    assert frame.depth.dtype == np.uint16
    assert frame.depth_unit_m == DEPTH_UNIT_M
    assert frame.source == "synthetic://0007/dent"
    assert frame.intrinsics == product.intrinsics
    assert 0.48 < float(np.median(frame.depth_m())) < 0.51
    assert 0 < (frame.depth == 0).mean() < 0.15


@pytest.mark.parametrize("defect", [None, *DEFECTS])
def test_same_part_is_the_same_bit_by_bit(product: SyntheticProduct, defect: str | None) -> None:
    again = SyntheticProduct(SIZE, seed=3)
    for first, second in zip(rendered(product, 5, defect), rendered(again, 5, defect), strict=True):
        assert np.array_equal(first, second)


def test_other_parts_and_other_products_differ(product: SyntheticProduct) -> None:
    rgb, depth, _ = rendered(product, 5)
    for other, part in ((product, 6), (SyntheticProduct(SIZE, seed=4), 5)):
        other_rgb, other_depth, _ = rendered(other, part)
        assert (rgb != other_rgb).mean() > 0.5
        assert (depth != other_depth).mean() > 0.2


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("part", range(6))
def test_mask_is_exact(product: SyntheticProduct, defect: str, part: int) -> None:
    good_rgb, good_depth, empty = rendered(product, part)
    rgb, depth, mask = rendered(product, part, defect)
    assert not empty.any()
    assert mask.sum() >= 4
    changed_rgb, changed_depth = (rgb != good_rgb).any(axis=2), depth != good_depth
    assert not (changed_rgb & ~mask).any()
    assert not (changed_depth & ~mask).any()
    kind = DEFECTS[defect]
    assert changed_rgb.any() == kind.in_colour
    assert changed_depth.any() == kind.in_depth


@pytest.mark.parametrize(("defect", "sign"), [("dent", 1), ("bulge", -1)])
def test_dents_are_farther_and_bulges_nearer(product: SyntheticProduct, defect: str, sign: int) -> None:
    for part in range(4):
        _, good, _ = rendered(product, part)
        _, bad, mask = rendered(product, part, defect)
        both = mask & (good > 0) & (bad > 0)
        difference = sign * (bad[both].astype(int) - good[both])
        assert difference.min() >= 0
        assert difference.max() >= 5  # half a millimetre, several times the noise


def test_size_and_seed_are_checked() -> None:
    for arguments in ((32, 0), (4096, 0), (128, -1)):
        with pytest.raises(ConfigError):
            SyntheticProduct(*arguments)


def test_unknown_defect_names_the_known(product: SyntheticProduct) -> None:
    with pytest.raises(ConfigError, match="'rust' is unknown.*stain, misprint"):
        product.render(0, "rust")


def test_data_set_reads_back_as_rendered(tmp_path: Path) -> None:
    seen = []
    write_synthetic(
        tmp_path / "housing",
        train=3,
        validation=2,
        test_good=2,
        test_per_defect=1,
        size_px=SIZE,
        seed=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 14) for done in range(1, 15)]
    dataset = open_dataset(tmp_path / "housing")
    assert [len(dataset.frames(split)) for split in ("train", "validation", "test")] == [3, 2, 9]
    assert {frame.defect for frame in dataset.frames("test")} == {"good", *DEFECTS}
    product = SyntheticProduct(SIZE, seed=3)
    assert dataset.intrinsics == product.intrinsics
    number = 3 + 2 + 2 + list(DEFECTS).index("scratch")
    read = next(frame for frame in dataset.frames("test") if frame.defect == "scratch")
    assert read.gt_mask is not None
    before, after = rendered(product, number, "scratch"), (*images(read.frame), read.gt_mask)
    for wanted, found in zip(before, after, strict=True):
        assert np.array_equal(wanted, found)
    assert read.frame.depth_unit_m == DEPTH_UNIT_M


def test_data_set_is_not_written_twice(tmp_path: Path) -> None:
    def write() -> None:
        write_synthetic(tmp_path, train=1, validation=0, test_good=0, test_per_defect=0, size_px=SIZE)

    write()
    with pytest.raises(OutputError, match="holds a data set already"):
        write()
