from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri
from edge_ad.cameras.folder import FolderCamera
from edge_ad.errors import CameraError, ConfigError, DataError
from edge_ad.types import Frame, ReadStatus
from tests.cameras.conftest import CAMERA, CAPTURES, make_capture


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


def test_point_clouds_that_are_not_read_are_said(captures: Path, tmp_path: Path) -> None:
    shutil.copytree(captures / "rgb", tmp_path / "rgb")
    (tmp_path / "xyz").mkdir()
    assert any("xyz is not read" in warning for warning in FolderCamera(tmp_path).open().warnings)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="nowhere is not a directory"):
        FolderCamera(tmp_path / "nowhere").open()


def test_a_directory_without_captures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no captures"):
        FolderCamera(tmp_path).open()


def test_no_directory_is_not_the_current_one() -> None:
    with pytest.raises(ConfigError, match="names no directory"):
        camera_from_uri("folder://?loop=1")
