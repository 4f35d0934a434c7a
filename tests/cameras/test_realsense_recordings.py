"""Recordings, which the real librealsense writes and plays."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri, opened
from edge_ad.cameras.realsense import RealSenseCamera, RealSenseOptions
from edge_ad.errors import CameraError, DataError
from edge_ad.types import AnyArray, Frame, ReadStatus
from tests.cameras.conftest import RECORDED_FRAMES
from tests.cameras.software_realsense import (
    DEPTH_UNIT_M,
    HEIGHT_PX,
    INTRINSICS,
    WIDTH_PX,
    SoftwareRealSense,
    make_images,
    read_frame,
)


def read_to_end(camera: RealSenseCamera, timeout_s: float = 2.0) -> list[Frame]:
    """Holds every frame: the SDK would starve if they were its own buffers."""
    frames = []
    while (outcome := camera.read(timeout_s)) is not ReadStatus.END_OF_STREAM:
        if isinstance(outcome, Frame):
            frames.append(outcome)
    return frames


def numbers(frames: list[Frame]) -> list[int]:
    return [frame.sequence for frame in frames]


@pytest.mark.parametrize("timeout_s", [2.0, 0.001], ids=["patient", "impatient"])
def test_a_recording_is_played_whole_in_order_and_bit_by_bit(recording: Path, timeout_s: float) -> None:
    camera = RealSenseCamera(path=recording)
    info = camera.open()
    assert (info.live, info.serial) == (False, str(recording))
    frames = read_to_end(camera, timeout_s)
    assert numbers(frames) == list(range(1, RECORDED_FRAMES + 1))
    for frame in frames:
        depth, rgb = make_images(frame.sequence)
        np.testing.assert_array_equal(frame.depth, depth)
        np.testing.assert_array_equal(frame.rgb, rgb)
        assert (frame.depth_unit_m, frame.intrinsics) == (DEPTH_UNIT_M, INTRINSICS)
        assert frame.source == str(recording)
    assert camera.read(0) is ReadStatus.END_OF_STREAM
    assert not camera.dropped


def test_a_recording_that_is_closed_half_way_begins_anew(recording: Path) -> None:
    camera = RealSenseCamera(path=recording)
    for _ in range(3):
        camera.open()
        assert [read_frame(camera).sequence for _ in range(4)] == [1, 2, 3, 4]
        camera.close()


@pytest.mark.parametrize(
    ("color_format", "to_rgb"),
    [
        ("bgr8", lambda image: image[..., ::-1]),
        ("rgba8", lambda image: image[..., :3]),
        ("bgra8", lambda image: image[..., 2::-1]),
    ],
    ids=["bgr8", "rgba8", "bgra8"],
)
def test_other_colour_formats_become_rgb(
    tmp_path: Path, color_format: str, to_rgb: Callable[[AnyArray], AnyArray]
) -> None:
    path = SoftwareRealSense(color_format=color_format).record(tmp_path / "a.db3", 3)
    camera = RealSenseCamera(path=path)
    camera.open()
    for frame in read_to_end(camera):
        np.testing.assert_array_equal(frame.rgb, to_rgb(make_images(frame.sequence, color_format)[1]))
    camera.close()


@pytest.mark.parametrize("align", ["color", "depth"])
def test_yuyv_is_decoded_before_it_is_aligned(tmp_path: Path, align: Literal["color", "depth"]) -> None:
    yuyv = np.full((HEIGHT_PX, WIDTH_PX, 2), 128, dtype=np.uint8)
    yuyv[:, :, 0] = np.linspace(16, 235, WIDTH_PX).astype(np.uint8)
    yuyv[:, ::2, 1], yuyv[:, 1::2, 1] = 90, 170
    depth = np.full((HEIGHT_PX, WIDTH_PX), 10_000, dtype=np.uint16)
    device = SoftwareRealSense(color_format="yuyv", baseline_m=1e-4)
    path = device.record(tmp_path / "a.db3", 1, how=lambda number: {"depth": depth, "color": yuyv})
    camera = RealSenseCamera(path=path, options=RealSenseOptions(align=align))
    with opened(camera) as info:
        assert info.details["align"] == align
        rgb = read_frame(camera).rgb
    assert rgb is not None
    expected = cv2.cvtColor(yuyv, cv2.COLOR_YUV2RGB_YUYV).astype(int)
    np.testing.assert_allclose(rgb[5:-5, 5:-5].astype(int), expected[5:-5, 5:-5], atol=4)


BAD_FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "junk": lambda content: b"junk" * 1000,
    "cut-in-half": lambda content: content[: len(content) // 2],
    "cut-tail": lambda content: content[:-20_000],
}


@pytest.mark.parametrize("spoil", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_recording_is_named(tmp_path: Path, recording: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "bad.db3"
    path.write_bytes(spoil(recording.read_bytes()))
    with pytest.raises(CameraError, match=r"bad\.db3 cannot be played"):
        RealSenseCamera(path=path).open()


def test_a_recording_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"gone\.db3 does not exist"):
        camera_from_uri(f"realsense://{tmp_path / 'gone.db3'}").open()


def test_damage_inside_a_recording_is_not_taken_for_its_end(tmp_path: Path) -> None:
    path = SoftwareRealSense().record(tmp_path / "a.db3", 90)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE messages SET data = zeroblob(99) WHERE timestamp > 1e9")
    camera = RealSenseCamera(path=path)
    camera.open()
    frames = []
    with pytest.raises(DataError, match=r"a\.db3 breaks off after 1\.\d of 3\.0 s"):
        while isinstance(outcome := camera.read(1.0), Frame):
            frames.append(outcome)
    assert 20 < len(frames) < 40
    assert camera.read(1.0) is ReadStatus.END_OF_STREAM


def test_a_recording_without_colour_is_refused(tmp_path: Path) -> None:
    path = SoftwareRealSense().record(tmp_path / "a.db3", 3, how=lambda number: {"streams": "depth"})
    with pytest.raises(CameraError, match=r"a\.db3 does not say how its depth and colour.*both streams were on"):
        RealSenseCamera(path=path).open()


def test_a_colour_format_that_is_none_is_named(tmp_path: Path) -> None:
    path = SoftwareRealSense(color_format="y8").record(tmp_path / "a.db3", 1)
    with pytest.raises(CameraError, match=r"a\.db3 has depth as z16 and colour as y8.*bgr8"):
        RealSenseCamera(path=path).open()


UNPAIRED: dict[str, tuple[dict[int, dict[str, Any]], list[int], dict[str, int]]] = {
    "no-colour": ({3: {"streams": "depth"}, 4: {"streams": "depth"}}, [1, 2, 5, 6], {"mispaired": 2}),
    "no-depth": ({3: {"streams": "color"}}, [1, 2, 4, 5, 6], {"sequence_gap": 1, "mispaired": 1}),
    "depth-again": ({3: {"color_late_ms": -33.4}}, [1, 2, 4, 5, 6], {"repeated": 1, "mispaired": 1}),
}


@pytest.mark.parametrize(("oddly", "delivered", "dropped"), UNPAIRED.values(), ids=UNPAIRED)
def test_two_captures_never_make_one_frame(
    tmp_path: Path, oddly: dict[int, dict[str, Any]], delivered: list[int], dropped: dict[str, int]
) -> None:
    path = SoftwareRealSense().record(tmp_path / "a.db3", 6, how=lambda number: oddly.get(number, {}))
    camera = RealSenseCamera(path=path)
    camera.open()
    frames = read_to_end(camera)
    assert numbers(frames) == delivered
    assert camera.dropped == dropped
    for frame in frames:
        depth, rgb = make_images(frame.sequence)
        np.testing.assert_array_equal(frame.depth, depth)
        np.testing.assert_array_equal(frame.rgb, rgb)
