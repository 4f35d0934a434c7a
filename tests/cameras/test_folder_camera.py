from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from edge_ad.cameras import camera_from_uri
from edge_ad.cameras.folder import FolderCamera
from edge_ad.data.mvtec3d import open_mvtec3d
from edge_ad.errors import CameraError, ConfigError, DataError
from edge_ad.types import Frame, ReadStatus
from tests.cameras.conftest import CAMERA, CAPTURES, make_capture, write_clouds


def read_all(camera: FolderCamera) -> list[Frame]:
    frames = []
    while isinstance(outcome := camera.read(1.0), Frame):
        frames.append(outcome)
    assert outcome is ReadStatus.END_OF_STREAM
    return frames


def test_every_capture_is_played_once_in_order(captures: Path) -> None:
    camera = FolderCamera(captures)
    info = camera.open()
    assert (info.live, info.serial, info.warnings) == (False, str(captures), ())
    frames = read_all(camera)
    assert [frame.sequence for frame in frames] == list(range(CAPTURES))
    for number, frame in enumerate(frames):
        wanted = make_capture(number)
        np.testing.assert_array_equal(frame.rgb, wanted.rgb)
        np.testing.assert_array_equal(frame.depth, wanted.depth)
        assert (frame.depth_unit_m, frame.intrinsics) == (0.0001, CAMERA)
        assert str(captures) in frame.source
    assert camera.read(0) is ReadStatus.END_OF_STREAM


def test_a_broken_image_costs_one_read_and_one_number(captures: Path) -> None:
    broken = sorted((captures / "rgb").iterdir())[1]
    broken.write_bytes(b"no image")
    camera = FolderCamera(captures)
    camera.open()
    first = camera.read(0)
    with pytest.raises(DataError, match=broken.name):
        camera.read(0)
    rest = read_all(camera)
    assert isinstance(first, Frame)
    assert [frame.sequence for frame in (first, *rest)] == [0, 2, 3]


def test_a_loop_goes_round_and_counts_on(captures: Path) -> None:
    camera = FolderCamera(captures, loop=True)
    camera.open()
    frames = [camera.read(0) for _ in range(2 * CAPTURES + 1)]
    assert [frame.sequence for frame in frames if isinstance(frame, Frame)] == list(range(2 * CAPTURES + 1))
    one, other = frames[0], frames[CAPTURES]
    assert isinstance(one, Frame) and isinstance(other, Frame)
    np.testing.assert_array_equal(one.rgb, other.rgb)


def test_a_replay_keeps_its_pace(captures: Path) -> None:
    camera = FolderCamera(captures, fps=20, live=True)
    assert camera.open().live
    frames = read_all(camera)
    steps_s = np.diff([frame.timestamp_ns for frame in frames]) / 1e9
    # Late is the machine's affair, but the whole cannot be shorter than its periods.
    assert steps_s.sum() > 3 / 20 - 0.045
    assert all(steps_s > 0)


def test_a_late_reader_gets_the_next_capture_at_once_and_no_burst(
    captures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock_s = 100.0
    slept_s: list[float] = []

    def sleep(duration_s: float) -> None:
        nonlocal clock_s
        slept_s.append(duration_s)
        clock_s += duration_s

    monkeypatch.setattr(time, "monotonic", lambda: clock_s)
    monkeypatch.setattr(time, "sleep", sleep)
    camera = FolderCamera(captures, fps=10, live=True)
    camera.open()
    for late_s in (0.0, 0.55, 0.0, 0.0):
        clock_s += late_s
        assert isinstance(camera.read(1.0), Frame)
    assert slept_s == pytest.approx([0, 0, 0, 0.1])


def test_a_capture_that_is_not_due_is_a_timeout(captures: Path) -> None:
    camera = FolderCamera(captures, fps=0.1, live=True)
    camera.open()
    assert isinstance(camera.read(0), Frame)
    assert camera.read(0.01) is ReadStatus.TIMEOUT


@pytest.mark.parametrize(("scheme", "live"), [("folder", False), ("replay", True)])
def test_the_scheme_says_whether_it_is_live(captures: Path, scheme: str, live: bool) -> None:
    info = camera_from_uri(f"{scheme}://{captures}").open()
    assert (info.name, info.live) == (scheme, live)


def test_missing_intrinsics_are_said(captures: Path) -> None:
    (captures.parent.parent / "intrinsics.json").unlink()
    camera = FolderCamera(captures)
    assert "intrinsics.json is missing" in camera.open().warnings[0]
    frame = camera.read(0)
    assert isinstance(frame, Frame) and frame.intrinsics is None


@pytest.mark.parametrize("scheme", ["folder", "replay"])
def test_point_clouds_become_depth_in_metres_seen_by_the_camera_of_their_category(tmp_path: Path, scheme: str) -> None:
    category = tmp_path / "bagel"
    clouds = write_clouds(category / "train/good", 6)
    for split in ("validation", "test"):
        write_clouds(category / split / "good", 2)
    camera = camera_from_uri(f"{scheme}://{category}/train/good?fps=100")
    assert camera.open().warnings == ()
    dataset = open_mvtec3d(category)
    for number, cloud in enumerate(clouds):
        frame = camera.read(1.0)
        assert isinstance(frame, Frame) and frame.depth is not None and frame.intrinsics is not None
        assert frame.depth.dtype == np.float32 and frame.depth_unit_m == 1.0
        np.testing.assert_array_equal(frame.depth, cloud[..., 2])
        np.testing.assert_array_equal(frame.rgb, dataset.frames("train")[number].frame.rgb)
        assert frame.intrinsics == dataset.intrinsics
        assert frame.intrinsics.fx == pytest.approx(CAMERA.fx, rel=1e-4)
    other = FolderCamera(category / "test/good")
    other.open()
    tested = other.read(1.0)
    assert isinstance(tested, Frame) and tested.intrinsics == dataset.intrinsics


def test_point_clouds_alone_are_depth_without_colour(tmp_path: Path) -> None:
    write_clouds(tmp_path / "scans", 2)
    shutil.rmtree(tmp_path / "scans/rgb")
    camera = FolderCamera(tmp_path / "scans")
    assert camera.open().warnings == ()
    frame = camera.read(1.0)
    assert isinstance(frame, Frame) and frame.rgb is None and frame.depth is not None


def test_point_clouds_of_no_pinhole_camera_are_said(tmp_path: Path) -> None:
    write_clouds(tmp_path / "scans", 1)
    cloud = np.random.default_rng(0).uniform(0.4, 0.6, (24, 32, 3)).astype(np.float32)
    tifffile.imwrite(tmp_path / "scans/xyz/000.tiff", cloud, photometric="minisblack")
    camera = FolderCamera(tmp_path / "scans")
    assert "no pinhole camera" in camera.open().warnings[0]
    frame = camera.read(1.0)
    assert isinstance(frame, Frame) and frame.intrinsics is None


def test_depth_images_come_before_point_clouds(captures: Path) -> None:
    (captures / "xyz").mkdir()
    camera = FolderCamera(captures)
    camera.open()
    frame = camera.read(0)
    assert isinstance(frame, Frame)
    np.testing.assert_array_equal(frame.depth, make_capture(0).depth)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="nowhere is not a directory"):
        FolderCamera(tmp_path / "nowhere").open()


def test_a_directory_without_captures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no captures"):
        FolderCamera(tmp_path).open()


def test_no_directory_is_not_the_current_one() -> None:
    with pytest.raises(ConfigError, match="names no directory"):
        camera_from_uri("folder://?loop=1")
