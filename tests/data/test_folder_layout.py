import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_ad.data import FolderWriter
from edge_ad.data.folder import list_captures, open_folder, read_capture, read_intrinsics
from edge_ad.errors import ConfigError, DataError, OutputError
from edge_ad.types import Frame, Intrinsics

CAMERA = Intrinsics(fx=610.125, fy=-609.5, cx=math.pi * 10, cy=24.0, width_px=64, height_px=48)


def make_frame(seed: int = 0, depth: str = "uint16", *, rgb: bool = True) -> Frame:
    random = np.random.default_rng(seed)
    images = {
        "uint16": random.integers(0, 65536, (48, 64), np.uint16),
        "float32": random.uniform(0.3, 0.9, (48, 64)).astype(np.float32),
    }
    return Frame(
        rgb=random.integers(0, 256, (48, 64, 3), np.uint8) if rgb else None,
        depth=images.get(depth),
        depth_unit_m=0.0001 if depth == "uint16" else 1.0,
        intrinsics=CAMERA,
        sequence=seed,
    )


def write_dataset(root: Path) -> None:
    for split, defect, count in (("train", "good", 4), ("validation", "good", 1), ("test", "good", 2)):
        writer = FolderWriter(root, split, defect)
        for seed in range(count):
            writer.write(make_frame(seed))
    mask = np.zeros((48, 64), np.bool_)
    mask[5:9, 7:20] = True
    FolderWriter(root, "test", "dent").write(make_frame(9), mask)


@pytest.mark.parametrize(
    ("depth", "rgb"),
    [("uint16", True), ("float32", True), ("none", True), ("uint16", False), ("float32", False)],
    ids=["uint16", "float32", "rgb-only", "uint16-only", "float32-only"],
)
def test_what_is_written_is_read_bit_by_bit(tmp_path: Path, depth: str, rgb: bool) -> None:
    frames = [make_frame(seed, depth, rgb=rgb) for seed in range(3)]
    writer = FolderWriter(tmp_path / "part")
    paths = [writer.write(frame) for frame in frames]
    assert [path.stem for path in paths] == ["000000", "000001", "000002"]
    read = [labelled.frame for labelled in open_folder(tmp_path / "part").frames("train")]
    for before, after in zip(frames, read, strict=True):
        for name in ("rgb", "depth"):
            wanted, found = getattr(before, name), getattr(after, name)
            assert (wanted is None) == (found is None)
            if wanted is not None:
                assert wanted.dtype == found.dtype
                assert np.array_equal(wanted, found)
        assert after.intrinsics == CAMERA
        if depth != "none":
            assert after.depth_unit_m == before.depth_unit_m


def test_float_depth_in_other_units_is_kept_in_metres(tmp_path: Path) -> None:
    frame = make_frame(0, "float32")
    assert frame.depth is not None
    millimetres = replace(frame, depth=frame.depth * np.float32(1000), depth_unit_m=0.001)
    FolderWriter(tmp_path / "part").write(millimetres)
    read = open_folder(tmp_path / "part").frames("train")[0].frame
    assert read.depth_m() == pytest.approx(frame.depth, rel=1e-6)


def test_splits_labels_and_masks(tmp_path: Path) -> None:
    write_dataset(tmp_path / "part")
    dataset = open_folder(tmp_path / "part")
    assert (dataset.category, dataset.layout, dataset.intrinsics) == ("part", "folder", CAMERA)
    assert [len(dataset.frames(split)) for split in dataset.splits] == [4, 1, 2 + 1]
    dent, good = dataset.frames("test")[0], dataset.frames("test")[1]
    assert (dent.defect, good.defect) == ("dent", "good")
    assert dent.gt_mask is not None
    assert good.gt_mask is not None
    assert (dent.gt_mask.sum(), good.gt_mask.sum()) == (4 * 13, 0)


def test_defects_may_come_without_masks(tmp_path: Path) -> None:
    FolderWriter(tmp_path, "test", "dent").write(make_frame())
    assert open_folder(tmp_path).frames("test")[0].gt_mask is None


def test_plain_recording_is_split_and_never_tested(tmp_path: Path) -> None:
    writer = FolderWriter(tmp_path / "all")
    for seed in range(11):
        writer.write(make_frame(seed))
    recording = tmp_path / "all/train/good"
    dataset = open_folder(recording)
    assert [frame.path.stem for frame in dataset.frames("validation")] == ["000009", "000010"]
    assert len(dataset.frames("train")) == 9
    assert dataset.intrinsics == CAMERA
    with pytest.raises(DataError, match="no test frames.*it has train, validation"):
        dataset.frames("test")


def test_captures_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    FolderWriter(tmp_path).write(make_frame())
    rgb, depth = tmp_path / "train/good/rgb", tmp_path / "train/good/depth"
    for folder in (rgb, depth):
        content = (folder / "000000.png").read_bytes()
        for name in ("9.png", "10.png", ".hidden.png"):
            (folder / name).write_bytes(content)
    (rgb / "notes.txt").write_text("not an image")
    assert [capture.stem for capture in list_captures(rgb.parent)] == ["000000", "9", "10"]


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("train/good/depth/000002.png", r"rgb/000002\.png has no partner in .*depth"),
        ("train/good/rgb/000000.png", r"depth/000000\.png has no partner in .*rgb"),
        ("train/good/*/*", r"good holds no captures"),
    ],
    ids=["depth", "rgb", "split"],
)
def test_missing_file_is_found_when_opening(tmp_path: Path, gone: str, message: str) -> None:
    write_dataset(tmp_path)
    for path in tmp_path.glob(gone):
        path.unlink()
    with pytest.raises(DataError, match=message):
        open_folder(tmp_path)


def test_two_images_of_one_number_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "train/good/rgb/000001.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"000001\.(png|jpg) have the same number"):
        open_folder(tmp_path)


def test_defect_that_some_captures_have_no_mask_of_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "test/dent/gt/000000.png").rename(tmp_path / "test/dent/gt/000001.png")
    with pytest.raises(DataError, match=r"gt/000001\.png has no capture"):
        open_folder(tmp_path)


def test_defects_in_training_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "test/dent").rename(tmp_path / "train/dent")
    with pytest.raises(DataError, match="train/dent holds defects"):
        open_folder(tmp_path)


def test_split_with_other_images_is_refused(tmp_path: Path) -> None:
    FolderWriter(tmp_path, "train").write(make_frame())
    FolderWriter(tmp_path, "test").write(make_frame(depth="none"))
    with pytest.raises(DataError, match=r"test/good/rgb/000000\.png has no depth image"):
        open_folder(tmp_path)


def test_camera_is_found_up_to_two_levels_above(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    for folder in (tmp_path, tmp_path / "train", tmp_path / "train/good"):
        assert read_intrinsics(folder) == (CAMERA, 0.0001)
    assert read_intrinsics(tmp_path / "train/good/rgb") == (None, 0.001)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fx": 0}, "fx is not valid.*cannot be 0"),
        ({"depth_unit_m": -1}, "depth_unit_m is not valid"),
        ({"cx": None}, "cx is not valid"),
        ({"skew": 1}, "there is no setting skew"),
    ],
    ids=["zero-focal", "negative-unit", "null", "unknown"],
)
def test_damaged_camera_file_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_dataset(tmp_path)
    path = tmp_path / "intrinsics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=rf"intrinsics\.json: {message}"):
        open_folder(tmp_path)


def test_capture_of_another_size_than_the_camera_is_refused(tmp_path: Path) -> None:
    path = FolderWriter(tmp_path).write(make_frame())
    with pytest.raises(DataError, match=r"000000\.png is 64x48 pixels.*are 32x24"):
        read_capture(path, None, replace(CAMERA, width_px=32, height_px=24), 0.001)


def test_writer_goes_on_after_what_is_there_and_overwrites_nothing(tmp_path: Path) -> None:
    FolderWriter(tmp_path).write(make_frame(1))
    (tmp_path / "train/good/rgb/000007.png").write_bytes(b"another recording's")
    path = FolderWriter(tmp_path).write(make_frame(2))
    assert path == tmp_path / "train/good/rgb/000008.png"
    assert (tmp_path / "train/good/rgb/000007.png").read_bytes() == b"another recording's"


def test_second_writer_cannot_overwrite(tmp_path: Path) -> None:
    first, second = FolderWriter(tmp_path), FolderWriter(tmp_path)
    content = first.write(make_frame(1)).read_bytes()
    with pytest.raises(OutputError, match="is there already.*one folder at a time"):
        second.write(make_frame(2))
    assert (tmp_path / "train/good/rgb/000000.png").read_bytes() == content


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (make_frame(1, "none"), "frame 1 has rgb.*have depth and rgb"),
        (replace(make_frame(1), intrinsics=replace(CAMERA, cx=1.0)), "another camera"),
        (replace(make_frame(1), depth_unit_m=0.001), "another camera"),
        (replace(make_frame(1), intrinsics=None, depth_unit_m=0.001), "another camera"),
    ],
    ids=["no-depth", "intrinsics", "unit", "no-intrinsics"],
)
def test_frame_unlike_those_before_is_refused(tmp_path: Path, frame: Frame, message: str) -> None:
    writer = FolderWriter(tmp_path)
    writer.write(make_frame())
    with pytest.raises(DataError, match=message):
        writer.write(frame)
    assert len(list_captures(tmp_path / "train/good")) == 1


def test_unit_that_could_not_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no intrinsics"):
        FolderWriter(tmp_path).write(replace(make_frame(), intrinsics=None))


@pytest.mark.parametrize(
    ("split", "defect"),
    [("holdout", "good"), ("train", "dent"), ("test", "../dent"), ("test", ""), ("test", ".dent")],
)
def test_folder_that_no_data_set_has_is_refused(tmp_path: Path, split: str, defect: str) -> None:
    with pytest.raises(ConfigError):
        FolderWriter(tmp_path, split, defect)


@contextmanager
def files_limited_to(size_bytes: int) -> Iterator[None]:
    """Makes the operating system refuse longer files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_no_half_capture(tmp_path: Path) -> None:
    writer = FolderWriter(tmp_path)
    writer.write(make_frame(0))
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    with files_limited_to(8_000), pytest.raises(OutputError, match="000001.*free space"):
        writer.write(make_frame(1))
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    writer.write(make_frame(1))
    assert len(open_folder(tmp_path).frames("train")) == 2


def test_path_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written.*permissions"):
        FolderWriter(tmp_path / "file").write(make_frame())


def test_without_a_validation_split_the_last_fifth_of_training_validates(tmp_path: Path) -> None:
    writer = FolderWriter(tmp_path, "train")
    for number in range(10):
        writer.write(make_frame(number))
    dataset = open_folder(tmp_path)
    assert [frame.path.stem for frame in dataset.frames("validation")] == ["000008", "000009"]
    assert len(dataset.frames("train")) == 8
    FolderWriter(tmp_path, "validation").write(make_frame(10))
    assert (len(open_folder(tmp_path).frames("train")), len(open_folder(tmp_path).frames("validation"))) == (10, 1)
