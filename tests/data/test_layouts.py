from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from edge_ad.data import FolderWriter, open_dataset
from edge_ad.errors import DataError
from edge_ad.types import Frame


def write_folder(root: Path) -> None:
    FolderWriter(root).write(Frame(rgb=np.zeros((16, 16, 3), np.uint8)))


def write_mvtec3d(root: Path) -> None:
    folder = root / "train/good"
    (folder / "rgb").mkdir(parents=True)
    (folder / "xyz").mkdir()
    cv2.imwrite(str(folder / "rgb/000.png"), np.zeros((16, 16, 3), np.uint8))
    tifffile.imwrite(folder / "xyz/000.tiff", np.ones((16, 16, 3), np.float32), photometric="minisblack")


def write_eyecandies(root: Path) -> None:
    data = root / "val/data"
    data.mkdir(parents=True)
    for name in ("image_4", "normals"):
        cv2.imwrite(str(data / f"00_{name}.png"), np.zeros((16, 16, 3), np.uint8))
    cv2.imwrite(str(data / "00_depth.png"), np.ones((16, 16), np.uint16))
    (data / "00_info_depth.yaml").write_text("normalization: {min: 0.5, max: 1.0}")


WRITERS = {"folder": write_folder, "mvtec3d": write_mvtec3d, "eyecandies": write_eyecandies}


@pytest.mark.parametrize("layout", WRITERS)
def test_layout_is_recognised(tmp_path: Path, layout: str) -> None:
    WRITERS[layout](tmp_path / "part")
    dataset = open_dataset(tmp_path / "part")
    assert (dataset.layout, dataset.category) == (layout, "part")
    assert dataset.frames(dataset.splits[0])[0].frame.size_px == (16, 16)
    assert open_dataset(tmp_path, category="part").root == dataset.root
    assert open_dataset(tmp_path / "part", layout=layout).entries == dataset.entries


def test_root_of_several_categories_lists_them(tmp_path: Path) -> None:
    write_mvtec3d(tmp_path / "carrot")
    write_folder(tmp_path / "bagel")
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match="several categories: bagel, carrot"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="has no category rope.*bagel, carrot"):
        open_dataset(tmp_path, category="rope")


def test_layout_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(DataError, match="not in the mvtec3d layout.*looks like folder"):
        open_dataset(tmp_path, layout="mvtec3d")


def test_unknown_layout_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'coco' is unknown.*auto, mvtec3d, eyecandies, folder"):
        open_dataset(tmp_path, layout="coco")


@pytest.mark.parametrize(("name", "message"), [("gone", "gone is not a directory"), (".", "is not a data set")])
def test_path_without_data_set(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / name)
