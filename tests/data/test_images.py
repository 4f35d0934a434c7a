from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from edge_ad.data.images import read_depth, read_mask, read_rgb, read_xyz
from edge_ad.errors import DataError
from edge_ad.types import AnyArray

RANDOM = np.random.default_rng(1)
COLOUR = RANDOM.integers(0, 256, (24, 32, 3), np.uint8)
DEPTH = RANDOM.integers(1, 60_000, (24, 32), np.uint16)
METRES = RANDOM.uniform(0.4, 0.6, (24, 32)).astype(np.float32)
CLOUD = RANDOM.uniform(0.1, 0.9, (24, 32, 3)).astype(np.float32)

Reader = Callable[[Path], AnyArray]


def saved(path: Path, image: AnyArray, compression: str | None = None) -> Path:
    """Writes with the libraries themselves; colour is given as RGB."""
    if path.suffix == ".tiff":
        photometric = "rgb" if image.ndim == 3 else "minisblack"
        tifffile.imwrite(path, image, compression=compression, photometric=photometric)
    elif image.ndim == 3 and image.shape[2] == 3:
        assert cv2.imwrite(str(path), image[..., ::-1])
    else:
        assert cv2.imwrite(str(path), image)
    return path


def test_rgb_comes_in_rgb_order(tmp_path: Path) -> None:
    assert np.array_equal(read_rgb(saved(tmp_path / "a.png", COLOUR)), COLOUR)


def test_jpeg_is_read_in_rgb_order(tmp_path: Path) -> None:
    red = np.full((32, 32, 3), (200, 20, 20), np.uint8)
    assert np.abs(read_rgb(saved(tmp_path / "a.jpg", red)).astype(int) - red).max() < 5


@pytest.mark.parametrize(
    ("name", "image", "compression"),
    [
        ("a.png", DEPTH, None),
        ("a.tiff", DEPTH, None),
        ("a.tiff", METRES, None),
        ("a.tiff", METRES, "zlib"),
    ],
    ids=["png-uint16", "tiff-uint16", "tiff-float32", "tiff-zlib"],
)
def test_depth_comes_as_stored(tmp_path: Path, name: str, image: AnyArray, compression: str | None) -> None:
    depth = read_depth(saved(tmp_path / name, image, compression))
    assert depth.dtype == image.dtype
    assert np.array_equal(depth, image)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, 0.0])
def test_depth_without_return_is_zero(tmp_path: Path, hole: float) -> None:
    image = METRES.copy()
    image[3:5, 7] = hole
    depth = read_depth(saved(tmp_path / "a.tiff", image))
    assert (depth[3:5, 7] == 0).all()
    assert np.array_equal(np.delete(depth, 7, axis=1), np.delete(METRES, 7, axis=1))


def test_point_with_a_nan_is_no_return(tmp_path: Path) -> None:
    image = CLOUD.copy()
    image[2, 3, 0] = np.nan
    cloud = read_xyz(saved(tmp_path / "a.tiff", image))
    assert (cloud[2, 3] == 0).all()
    assert np.array_equal(cloud[3:], CLOUD[3:])


def test_mask_is_true_where_the_file_is_not_zero(tmp_path: Path) -> None:
    mask = RANDOM.integers(0, 3, (24, 32), np.uint8)
    assert np.array_equal(read_mask(saved(tmp_path / "grey.png", mask)), mask > 0)
    colour = np.zeros((24, 32, 3), np.uint8)
    colour[4, 5, 1] = 9
    assert np.argwhere(read_mask(saved(tmp_path / "colour.png", colour))).tolist() == [[4, 5]]


@pytest.mark.parametrize(
    ("read", "name", "image"),
    [
        (read_rgb, "a.png", COLOUR[..., 0]),
        (read_rgb, "a.png", np.dstack([COLOUR, COLOUR[..., :1]])),
        (read_rgb, "a.png", COLOUR.astype(np.uint16)),
        (read_rgb, "a.tiff", METRES),
        (read_depth, "a.png", COLOUR),
        (read_depth, "a.png", COLOUR[..., 0]),
        (read_depth, "a.tiff", METRES.astype(np.float64)),
        (read_depth, "a.tiff", CLOUD),
        (read_xyz, "a.tiff", METRES),
        (read_xyz, "a.tiff", CLOUD.astype(np.float64)),
        (read_mask, "a.png", DEPTH),
    ],
    ids=[
        "grey-as-rgb",
        "alpha-as-rgb",
        "16-bit-rgb",
        "depth-as-rgb",
        "rgb-as-depth",
        "8-bit-depth",
        "double-depth",
        "cloud-as-depth",
        "depth-as-cloud",
        "double-cloud",
        "16-bit-mask",
    ],
)
def test_image_of_the_wrong_kind_is_refused(tmp_path: Path, read: Reader, name: str, image: AnyArray) -> None:
    path = saved(tmp_path / name, image)
    with pytest.raises(DataError, match=r"a\.\w+ has \d channel.*must be there"):
        read(path)


@pytest.mark.parametrize(
    ("read", "image"),
    [
        (read_depth, np.zeros((8, 8), np.uint16)),
        (read_depth, np.full((8, 8), np.nan, np.float32)),
        (read_xyz, np.zeros((8, 8, 3), np.float32)),
        (read_xyz, np.full((8, 8, 3), np.nan, np.float32)),
    ],
    ids=["zero-depth", "nan-depth", "zero-cloud", "nan-cloud"],
)
def test_depth_without_any_return_is_refused(tmp_path: Path, read: Reader, image: AnyArray) -> None:
    path = saved(tmp_path / "a.tiff", image)
    with pytest.raises(DataError, match="a.tiff has no valid depth"):
        read(path)


@pytest.mark.parametrize(
    ("read", "name", "image"),
    [
        (read_rgb, "a.png", COLOUR),
        (read_depth, "a.png", DEPTH),
        (read_xyz, "a.tiff", CLOUD),
        (read_mask, "a.png", COLOUR[..., 0]),
    ],
    ids=["rgb", "depth", "xyz", "mask"],
)
def test_image_of_another_size_is_refused(
    tmp_path: Path, read: Callable[[Path, tuple[int, int]], AnyArray], name: str, image: AnyArray
) -> None:
    path = saved(tmp_path / name, image)
    assert read(path, (24, 32)).shape[:2] == (24, 32)
    with pytest.raises(DataError, match=r"a\.\w+ is 32x24 pixels.*are 24x32"):
        read(path, (32, 24))


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize(
    ("read", "name", "image", "compression"),
    [
        (read_rgb, "a.png", COLOUR, None),
        (read_rgb, "a.jpg", COLOUR, None),
        (read_depth, "a.png", DEPTH, None),
        (read_depth, "a.tiff", METRES, None),
        (read_depth, "a.tiff", METRES, "zlib"),
        (read_xyz, "a.tiff", CLOUD, None),
    ],
    ids=["png", "jpeg", "png-depth", "tiff", "tiff-zlib", "tiff-cloud"],
)
def test_file_that_was_cut_short_is_refused(
    tmp_path: Path, read: Reader, name: str, image: AnyArray, compression: str | None, kept: float
) -> None:
    path = saved(tmp_path / name, image, compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match=r"a\.\w+ is damaged or cut short"):
        read(path)


def test_cloud_kept_as_one_page_a_row_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, CLOUD, photometric="minisblack")
    assert np.array_equal(read_xyz(path), CLOUD)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.tiff is damaged or cut short"):
        read_xyz(path)


def test_flipped_bit_in_a_png_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", COLOUR)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match="a.png is damaged.*checksum"):
        read_rgb(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone.png cannot be read"):
        read_rgb(tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "is empty"), (b"<html>", "neither PNG, JPEG nor TIFF")], ids=["empty", "html"]
)
def test_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"a.png.*{why}"):
        read_rgb(path)
