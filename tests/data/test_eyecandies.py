from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.data.eyecandies import open_eyecandies
from edge_ad.errors import DataError

SIZE = (32, 32)
KINDS = ("bumps", "dents", "colors", "normals")


def write_capture(data: Path, stem: str, defects: tuple[str, ...] | None = None) -> None:
    """One capture; with ``defects`` (empty for a good part) the labels of the public test split too."""
    data.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(int(stem))
    for light in range(6):
        cv2.imwrite(str(data / f"{stem}_image_{light}.png"), np.full((*SIZE, 3), (0, 10, 40 * light), np.uint8))
    cv2.imwrite(str(data / f"{stem}_depth.png"), random.integers(0, 65536, SIZE, np.uint16))
    cv2.imwrite(str(data / f"{stem}_normals.png"), np.full((*SIZE, 3), (255, 127, 128), np.uint8))
    (data / f"{stem}_info_depth.yaml").write_text("normalization:\n  max: 1.25\n  min: 7.5e-01\n")
    if defects is None:
        return
    (data / f"{stem}_metadata.yaml").write_text(f"anomalous: {int(bool(defects))}\n")
    union = np.zeros(SIZE, np.uint8)
    for row, kind in enumerate(KINDS):
        mask = np.zeros(SIZE, np.uint8)
        mask[row, :4] = 255 if kind in defects else 0
        union |= mask
        cv2.imwrite(str(data / f"{stem}_{kind}_mask.png"), mask)
    cv2.imwrite(str(data / f"{stem}_mask.png"), union)


@pytest.fixture
def lollipop(tmp_path: Path) -> Path:
    root = tmp_path / "Lollipop"
    for stem in ("000", "001", "010"):
        write_capture(root / "train/data", stem)
    write_capture(root / "val/data", "00")
    for number, defects in enumerate([(), ("dents",), ("bumps", "colors"), ()]):
        write_capture(root / "test_public/data", f"{number:02d}", defects)
    write_capture(root / "test_private/data", "00")
    return root


def test_splits_defects_and_masks(lollipop: Path) -> None:
    dataset = open_eyecandies(lollipop)
    assert [len(dataset.frames(split)) for split in dataset.splits] == [3, 1, 4]
    test = list(dataset.frames("test"))
    assert [frame.defect for frame in test] == ["good", "dents", "combined", "good"]
    masks = [frame.gt_mask for frame in test]
    assert [-1 if mask is None else int(mask.sum()) for mask in masks] == [0, 4, 8, 0]


def test_depth_is_scaled_to_metres(lollipop: Path) -> None:
    frame = open_eyecandies(lollipop).frames("train")[1].frame
    stored = np.random.default_rng(1).integers(0, 65536, SIZE, np.uint16)
    assert frame.depth is not None
    assert frame.depth == pytest.approx(0.75 + stored / 65535 * 0.5, abs=1e-6)


def test_light_normals_and_documented_camera(lollipop: Path) -> None:
    dataset = open_eyecandies(lollipop)
    frame = dataset.frames("validation")[0].frame
    assert frame.rgb is not None
    assert frame.normals is not None
    assert frame.rgb[0, 0].tolist() == [160, 10, 0]
    assert frame.normals[0, 0].tolist() == [128, 127, 255]
    camera = dataset.intrinsics
    assert camera is not None
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (711.11, 711.11, 16, 16)
    assert frame.intrinsics == camera


def test_defect_without_masks_by_kind_is_anomalous(lollipop: Path) -> None:
    for kind in KINDS:
        (lollipop / f"test_public/data/01_{kind}_mask.png").unlink()
    assert open_eyecandies(lollipop).frames("test")[1].defect == "anomalous"


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("train/data/001_depth.png", r"001_depth\.png is missing"),
        ("train/data/001_normals.png", r"001_normals\.png is missing"),
        ("train/data/001_info_depth.yaml", r"001_info_depth\.yaml is missing"),
        ("test_public/data/02_mask.png", r"02_mask\.png is missing"),
        ("test_public/data/02_metadata.yaml", r"02_metadata\.yaml cannot be read"),
        ("val/data/*_image_4.png", r"val/data is empty"),
    ],
    ids=["depth", "normals", "range", "mask", "label", "split"],
)
def test_missing_file_is_found_when_opening(lollipop: Path, gone: str, message: str) -> None:
    for path in lollipop.glob(gone):
        path.unlink()
    with pytest.raises(DataError, match=message):
        open_eyecandies(lollipop)


def test_label_that_is_no_number_is_refused(lollipop: Path) -> None:
    (lollipop / "test_public/data/02_metadata.yaml").write_text("anomalous: maybe\n")
    with pytest.raises(DataError, match=r"02_metadata\.yaml gives no number for anomalous"):
        open_eyecandies(lollipop)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("normalization: {min: 2.0, max: 1.0}", "depth range 2.0 to 1.0"),
        ("normalization: {min: 2.0}", "no number for max"),
    ],
    ids=["reversed", "half"],
)
def test_wrong_depth_range_is_found_when_reading(lollipop: Path, text: str, message: str) -> None:
    (lollipop / "val/data/00_info_depth.yaml").write_text(text)
    frames = open_eyecandies(lollipop).frames("validation")
    with pytest.raises(DataError, match=message):
        frames[0]
