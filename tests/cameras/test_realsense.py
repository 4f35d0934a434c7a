"""The real librealsense, with its own software device and recordings in place of hardware."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri, opened
from edge_ad.cameras.realsense import RealSenseCamera, StreamMode, list_devices
from edge_ad.errors import CameraError, ConfigError, DataError, MissingExtraError
from edge_ad.types import AnyArray, Frame, Intrinsics, ReadStatus
from tests.cameras.conftest import RECORDED_FRAMES
from tests.cameras.software_realsense import (
    DEPTH_UNIT_M,
    HEIGHT_PX,
    SERIAL,
    WIDTH_PX,
    SoftwareRealSense,
    make_images,
    rs,
)

INTRINSICS = Intrinsics(fx=144, fy=144, cx=80, cy=60, width_px=160, height_px=120)


def plugged(*devices: SoftwareRealSense) -> Any:
    """A context in which these devices, and no others, are attached."""
    context = rs.context()
    for device in devices:
        device.plug_into(context)
    return context


def cold(device: SoftwareRealSense, **settings: Any) -> RealSenseCamera:
    """A camera without warm-up, so that it delivers exactly what the test sends."""
    return RealSenseCamera(context=plugged(device), warm_up_s=0, **settings)


def read_frame(camera: RealSenseCamera) -> Frame:
    frame = camera.read(2.0)
    assert isinstance(frame, Frame)
    return frame


def read_to_end(camera: RealSenseCamera, timeout_s: float = 2.0) -> list[Frame]:
    """Holds every frame: the SDK would starve if they were its own buffers."""
    frames = []
    while (outcome := camera.read(timeout_s)) is not ReadStatus.END_OF_STREAM:
        if isinstance(outcome, Frame):
            frames.append(outcome)
    return frames


def numbers(frames: list[Frame]) -> list[int]:
    return [frame.sequence for frame in frames]


# ---------------------------------------------------------------------------------- recordings


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
def test_yuyv_is_decoded_before_it_is_aligned(align: Literal["color", "depth"]) -> None:
    # Live streams are asked for rgb8, so the format comes from a recording played as one.
    gray = np.full((HEIGHT_PX, WIDTH_PX, 2), 128, dtype=np.uint8)
    gray[:, :, 0] = np.linspace(16, 235, WIDTH_PX, dtype=np.uint8)
    device = SoftwareRealSense(color_format="yuyv", baseline_m=1e-4)
    depth = np.full((HEIGHT_PX, WIDTH_PX), 10_000, dtype=np.uint16)
    frame = replayed(device, depth, gray, align)
    expected = cv2.cvtColor(gray, cv2.COLOR_YUV2RGB_YUYV)
    assert frame.rgb is not None
    np.testing.assert_allclose(frame.rgb.astype(int), expected, atol=3)
