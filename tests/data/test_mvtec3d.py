from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from edge_ad.data.mvtec3d import intrinsics_from_xyz, open_mvtec3d
from edge_ad.errors import DataError
from edge_ad.types import Float32Array, Intrinsics

SIZE = (40, 56)
CAMERA = Intrinsics(fx=81.25, fy=79.5, cx=26.5, cy=20.25, width_px=56, height_px=40)


def cloud_seen_by(camera: Intrinsics, seed: int = 0) -> Float32Array:
    """A wavy surface with a hole, as that camera sees it."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: camera.height_px, : camera.width_px]
    z = 0.5 + 0.02 * np.sin(columns / 5 + seed) + random.normal(0, 0.0005, rows.shape)
    x, y = (columns - camera.cx) * z / camera.fx, (rows - camera.cy) * z / camera.fy
    cloud = np.stack([x, y, z], axis=2).astype(np.float32)
    cloud[3:9, 4:10] = 0
    return cloud


def write_capture(folder: Path, stem: str, *, seed: int = 0, gt: bool = False) -> None:
    random = np.random.default_rng(seed)
    for kind in ("rgb", "xyz", "gt"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"rgb/{stem}.png"), random.integers(0, 256, (*SIZE, 3), np.uint8))
    tifffile.imwrite(folder / f"xyz/{stem}.tiff", cloud_seen_by(CAMERA, seed), photometric="minisblack")
    if gt:
        mask = np.zeros(SIZE, np.uint8)
        mask[10:15, 20:30] = 255
        cv2.imwrite(str(folder / f"gt/{stem}.png"), mask)


@pytest.fixture
def bagel(tmp_path: Path) -> Path:
    root = tmp_path / "bagel"
    for split, defect, count in (
        ("train", "good", 3),
        ("validation", "good", 2),
        ("test", "good", 2),
        ("test", "hole", 2),
        ("test", "crack", 1),
    ):
        for number in range(count):
            write_capture(root / split / defect, f"{number:03d}", seed=number, gt=defect not in ("good",))
    return root


def test_splits_labels_and_masks(bagel: Path) -> None:
    dataset = open_mvtec3d(bagel)
    assert (dataset.category, dataset.layout) == ("bagel", "mvtec3d")
    assert dataset.splits == ("train", "validation", "test")
    assert [len(dataset.frames(split)) for split in dataset.splits] == [3, 2, 5]
    test = list(dataset.frames("test"))
    assert [frame.defect for frame in test] == ["crack", "good", "good", "hole", "hole"]
    assert [frame.is_anomalous for frame in test] == [True, False, False, True, True]
    masks = [frame.gt_mask for frame in test]
    assert [0 if mask is None else int(mask.sum()) for mask in masks] == [50, 0, 0, 50, 50]
    assert {frame.split for frame in test} == {"test"}


def test_depth_is_z_and_zero_without_return(bagel: Path) -> None:
    labelled = open_mvtec3d(bagel).frames("train")[1]
    assert labelled.frame.depth is not None
    assert np.array_equal(labelled.frame.depth, cloud_seen_by(CAMERA, seed=1)[..., 2])
    assert labelled.frame.depth_unit_m == 1.0
    assert labelled.path == bagel / "train/good/rgb/001.png"


def test_frames_are_read_on_access_and_slices_stay_lazy(bagel: Path) -> None:
    frames = open_mvtec3d(bagel).frames("train")
    (bagel / "train/good/rgb/002.png").unlink()
    assert [frame.path.stem for frame in frames[:2]] == ["000", "001"]
    assert len(frames[1:]) == 2
    with pytest.raises(DataError, match=r"002\.png cannot be read"):
        frames[-1]


@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (1, -1)], ids=["right-down", "left-up", "right-up"])
def test_fit_recovers_the_camera_with_the_signs_of_the_data(signs: tuple[int, int]) -> None:
    camera = Intrinsics(
        signs[0] * CAMERA.fx, signs[1] * CAMERA.fy, CAMERA.cx, CAMERA.cy, CAMERA.width_px, CAMERA.height_px
    )
    fit = intrinsics_from_xyz(cloud_seen_by(camera))
    assert fit is not None
    assert (fit.width_px, fit.height_px) == (56, 40)
    found, true = (fit.fx, fit.fy, fit.cx, fit.cy), (camera.fx, camera.fy, camera.cx, camera.cy)
    assert found == pytest.approx(true, abs=1e-3)


def test_all_frames_share_one_camera_though_one_cloud_is_off(bagel: Path) -> None:
    shifted = cloud_seen_by(Intrinsics(95.0, 95.0, 20.0, 18.0, 56, 40))
    tifffile.imwrite(bagel / "train/good/xyz/001.tiff", shifted, photometric="minisblack")
    dataset = open_mvtec3d(bagel)
    cameras = {frame.frame.intrinsics for frame in dataset.frames("train")}
    assert cameras == {dataset.intrinsics}
    assert dataset.intrinsics is not None
    assert dataset.intrinsics.fx == pytest.approx(CAMERA.fx, abs=0.01)


def test_cloud_that_no_pinhole_saw_has_no_intrinsics() -> None:
    rows, columns = np.mgrid[:40, :56].astype(np.float32)
    bent = np.stack([columns, rows, 1 + (columns - 28) ** 2 / 50], axis=2)
    assert intrinsics_from_xyz(bent.astype(np.float32)) is None


def test_cloud_of_a_few_points_has_no_intrinsics() -> None:
    cloud = cloud_seen_by(CAMERA)
    cloud[2:] = 0
    cloud[0] = 0
    assert intrinsics_from_xyz(cloud) is None


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("train/good/xyz/001.tiff", r"rgb/001\.png has no partner in .*xyz"),
        ("train/good/rgb/000.png", r"xyz/000\.tiff has no partner in .*rgb"),
        ("test/hole/gt/000.png", r"rgb/000\.png has no mask"),
        ("test/hole/gt/*", r"rgb/000\.png has no mask"),
        ("validation/good/*/*", r"validation/good holds no captures"),
    ],
    ids=["xyz", "rgb", "mask", "all-masks", "split"],
)
def test_missing_file_is_found_when_opening(bagel: Path, gone: str, message: str) -> None:
    for path in bagel.glob(gone):
        path.unlink()
    with pytest.raises(DataError, match=message):
        open_mvtec3d(bagel)


def test_mask_without_capture_is_found_when_opening(bagel: Path) -> None:
    (bagel / "test/hole/gt/000.png").rename(bagel / "test/hole/gt/007.png")
    with pytest.raises(DataError, match=r"gt/007\.png has no capture"):
        open_mvtec3d(bagel)


def test_cloud_of_another_size_is_found_when_reading(bagel: Path) -> None:
    cloud = cloud_seen_by(CAMERA)[:-2]
    tifffile.imwrite(bagel / "test/hole/xyz/001.tiff", cloud, photometric="minisblack")
    frames = open_mvtec3d(bagel).frames("test")
    with pytest.raises(DataError, match=r"hole/xyz/001\.tiff is 56x38 pixels"):
        frames[4]


def test_split_that_is_not_there(bagel: Path) -> None:
    with pytest.raises(DataError, match=r"no holdout frames.*train, validation, test"):
        open_mvtec3d(bagel).frames("holdout")
