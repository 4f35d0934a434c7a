"""Live cameras: librealsense's own software device, through its real pipeline."""

from __future__ import annotations

import sys
import time
from typing import Literal

import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri, opened
from edge_ad.cameras.realsense import RealSenseCamera, list_devices
from edge_ad.errors import CameraError, ConfigError, MissingExtraError
from edge_ad.types import AnyArray, Frame, Intrinsics, ReadStatus
from tests.cameras.software_realsense import (
    DEPTH_UNIT_M,
    HEIGHT_PX,
    INTRINSICS,
    SERIAL,
    WIDTH_PX,
    SoftwareRealSense,
    cold,
    make_images,
    plugged,
    read_frame,
    rs,
)

# --- alignment

STEP_PX = 80
NEAR_M, FAR_M, BASELINE_M = 0.5, 1.0, 0.05
NEAR_SHIFT_PX, FAR_SHIFT_PX = 144 * BASELINE_M / NEAR_M, 144 * BASELINE_M / FAR_M


def step_images(scale: int = 1) -> tuple[AnyArray, AnyArray]:
    """Two walls, the near one on the left; the red of a colour pixel is its column."""
    depth = np.full((HEIGHT_PX, WIDTH_PX), round(FAR_M / DEPTH_UNIT_M), dtype=np.uint16)
    depth[:, :STEP_PX] = round(NEAR_M / DEPTH_UNIT_M)
    color = np.zeros((scale * HEIGHT_PX, scale * WIDTH_PX, 3), dtype=np.uint8)
    color[..., 0] = np.arange(scale * WIDTH_PX) // scale
    return depth, color


def aligned(device: SoftwareRealSense, align: Literal["color", "depth"], scale: int = 1) -> Frame:
    depth, color = step_images(scale)
    camera = cold(device, align=align)
    with opened(camera) as info:
        assert info.details["align"] == align
        device.push(1, depth=depth, color=color)
        return read_frame(camera)


def test_depth_moves_to_the_colour_image_by_focal_length_times_baseline_over_distance() -> None:
    frame = aligned(SoftwareRealSense(baseline_m=BASELINE_M), "color")
    assert frame.depth is not None and frame.rgb is not None
    row = frame.depth[HEIGHT_PX // 2] * frame.depth_unit_m
    edge_px = STEP_PX + NEAR_SHIFT_PX
    assert not row[: int(NEAR_SHIFT_PX) - 1].any()
    np.testing.assert_allclose(row[int(NEAR_SHIFT_PX) + 1 : int(edge_px) - 1], NEAR_M)
    np.testing.assert_allclose(row[int(edge_px) + 2 :], FAR_M)
    np.testing.assert_array_equal(frame.rgb, step_images()[1])


def test_colour_moves_to_the_depth_image() -> None:
    frame = aligned(SoftwareRealSense(baseline_m=BASELINE_M), "depth")
    assert frame.depth is not None and frame.rgb is not None
    np.testing.assert_array_equal(frame.depth, step_images()[0])
    red = frame.rgb[HEIGHT_PX // 2, :, 0]
    columns = np.arange(WIDTH_PX)
    np.testing.assert_allclose(red[:STEP_PX], columns[:STEP_PX] + NEAR_SHIFT_PX, atol=1)
    far = columns[STEP_PX : WIDTH_PX - 10]
    np.testing.assert_allclose(red[far], far + FAR_SHIFT_PX, atol=1)


@pytest.mark.parametrize("align", ["color", "depth"])
def test_images_of_two_sizes_become_one_size_with_its_intrinsics(align: Literal["color", "depth"]) -> None:
    frame = aligned(SoftwareRealSense(color_scale=2), align, scale=2)
    double = Intrinsics(fx=288, fy=288, cx=160, cy=120, width_px=320, height_px=240)
    camera = double if align == "color" else INTRINSICS
    assert frame.intrinsics == camera
    assert frame.size_px == (camera.height_px, camera.width_px)
    assert frame.depth is not None and np.unique(frame.depth).tolist() == [5_000, 10_000]


# --- live


def test_a_live_camera_delivers_what_the_sensors_sent() -> None:
    device = SoftwareRealSense(depth_unit_m=0.001)
    camera = cold(device, serial=SERIAL, depth="160x120@30")
    with opened(camera) as info:
        assert (info.name, info.serial, info.live, info.warnings) == ("Software D400", SERIAL, True, ())
        assert info.details["firmware"] == "1.2.3"
        assert info.details["depth"] == "160x120@30 z16"
        for number in (1, 2, 3):
            device.push(number)
            frame = read_frame(camera)
            depth, rgb = make_images(number)
            np.testing.assert_array_equal(frame.depth, depth)
            np.testing.assert_array_equal(frame.rgb, rgb)
            # Views of the SDK's buffers would starve it once a line holds some frames.
            assert frame.depth is not None and frame.depth.flags.owndata
            assert frame.rgb is not None and frame.rgb.flags.owndata
            assert (frame.sequence, frame.source) == (number, f"realsense://{SERIAL}")
            assert (frame.depth_unit_m, frame.intrinsics) == (0.001, INTRINSICS)


def test_a_slow_reader_gets_the_newest_frame_and_a_count_of_the_lost() -> None:
    device = SoftwareRealSense()
    camera = cold(device)
    with opened(camera):
        device.push(1)
        assert read_frame(camera).sequence == 1
        for number in range(2, 7):
            device.push(number)
        deadline_s = time.monotonic() + 2
        while (frame := read_frame(camera)).sequence < 6 and time.monotonic() < deadline_s:
            pass
        assert frame.sequence == 6
    assert camera.dropped["sequence_gap"] > 0


def test_colour_that_comes_late_is_paired_with_the_nearest_depth() -> None:
    device = SoftwareRealSense()
    camera = cold(device)
    with opened(camera):
        device.push(1, color_late_ms=-25)
        assert camera.read(0.1) is ReadStatus.TIMEOUT
        assert camera.dropped == {"mispaired": 1}
        device.push(2, color_late_ms=-25)
        frame = read_frame(camera)
    np.testing.assert_array_equal(frame.depth, make_images(1)[0])
    np.testing.assert_array_equal(frame.rgb, make_images(2)[1])


def test_silence_is_a_timeout_and_not_the_end() -> None:
    device = SoftwareRealSense()
    camera = cold(device)
    with opened(camera):
        for number in (1, 2):
            device.push(number)
            assert read_frame(camera).sequence == number
            started_s = time.monotonic()
            assert camera.read(0.05) is ReadStatus.TIMEOUT
            assert camera.read(0) is ReadStatus.TIMEOUT
            assert 0.05 <= time.monotonic() - started_s < 1


# --- warm-up


def brightness(number: int, *, settled_at: int) -> tuple[AnyArray, AnyArray]:
    depth = np.full((HEIGHT_PX, WIDTH_PX), 5_000, dtype=np.uint16)
    return depth, np.full((HEIGHT_PX, WIDTH_PX, 3), min(number, settled_at) * 8 % 256, dtype=np.uint8)


def test_warm_up_ends_when_the_exposure_has_settled() -> None:
    device = SoftwareRealSense()
    camera = RealSenseCamera(context=plugged(device))
    with device.sending(lambda number: brightness(number, settled_at=20)), opened(camera) as info:
        assert info.warnings == ()
        frame = read_frame(camera)
    assert frame.rgb is not None and (frame.rgb == 160).all()
    assert frame.sequence >= 30


def test_warm_up_gives_up_with_a_warning() -> None:
    device = SoftwareRealSense()
    camera = RealSenseCamera(context=plugged(device), warm_up_s=0.3)
    with device.sending(lambda number: brightness(number, settled_at=1_000_000)), opened(camera) as info:
        assert "not settled after 0.3 s" in info.warnings[0]


def test_a_camera_that_sends_nothing_is_an_error() -> None:
    camera = RealSenseCamera(context=plugged(SoftwareRealSense()), warm_up_s=0.1)
    with pytest.raises(CameraError, match="sends no pairs of depth and colour"):
        camera.open()


# --- devices


def test_without_a_camera_opening_fails_at_once() -> None:
    started_s = time.monotonic()
    assert list_devices(rs.context()) == []
    with pytest.raises(CameraError, match="no RealSense camera found.*USB 3.*udev.*edge-ad doctor"):
        RealSenseCamera(context=rs.context()).open()
    with pytest.raises(CameraError, match="camera 0815 not found"):
        RealSenseCamera("0815", context=rs.context()).open()
    assert time.monotonic() - started_s < 1  # the SDK left to itself takes 15 s


def test_cameras_are_listed() -> None:
    one, other = SoftwareRealSense("A1"), SoftwareRealSense("B2", usb="2.1")
    context = rs.context()
    one.plug_into(context)
    other.plug_into(context)
    listed = {device.serial: device for device in list_devices(context)}
    assert listed.keys() == {"A1", "B2"}
    assert (listed["B2"].name, listed["B2"].firmware, listed["B2"].usb) == ("Software D400", "1.2.3", "2.1")


def test_a_serial_number_that_is_not_attached() -> None:
    with pytest.raises(CameraError, match=f"camera 0815 not found.*attached are {SERIAL}"):
        cold(SoftwareRealSense(), serial="0815").open()


def test_a_camera_in_use_is_said_to_be_and_can_be_had_later() -> None:
    device = SoftwareRealSense()
    context = plugged(device)
    first, second = (RealSenseCamera(context=context, warm_up_s=0) for _ in range(2))
    first.open()
    with pytest.raises(CameraError, match=f"camera {SERIAL} is in use"):
        second.open()
    first.close()
    second.open()
    device.push(1)
    assert read_frame(second).sequence == 1
    second.close()


def test_a_mode_that_the_camera_lacks_is_answered_with_those_it_has() -> None:
    with pytest.raises(CameraError, match="it has depth 160x120@30; color 160x120@30"):
        cold(SoftwareRealSense(), depth="848x480@30").open()


def test_a_usb_2_link_is_a_warning() -> None:
    with opened(cold(SoftwareRealSense(usb="2.1"))) as info:
        assert "USB 2.1" in info.warnings[0]


def test_the_first_of_several_cameras_is_a_warning() -> None:
    devices = SoftwareRealSense("A1"), SoftwareRealSense("B2")
    camera = RealSenseCamera(context=plugged(*devices), warm_up_s=0)
    with opened(camera) as info:
        assert f"realsense://{info.serial}" in info.warnings[0]


def test_without_the_sdk_the_error_names_the_extra_and_libusb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(MissingExtraError, match=r"edge-ad\[realsense\].*apt-get install libusb-1\.0-0"):
        RealSenseCamera().open()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("realsense://?depth=848", r"depth is not valid.*848x480@30.*'848'"),
        ("realsense://?align=both", r"align is not valid.*'color' or 'depth'"),
        ("realsense://?speed=1", r"'speed' is unknown.*align, color, depth"),
        ("realsense://?sync=sometimes", r"sync is not valid.*default, master, slave, full_slave"),
        ("realsense://?ae=lock&gain=20&depth_gain=16", r"ae=lock leaves to the camera what gain and depth_gain"),
        ("realsense://?ae=off", r"ae is not valid.*'auto' or 'lock'"),
        ("realsense://0815?repeat=1", r"no recording that could be repeated"),
        ("realsense://a.db3?color=640x480&ae=lock", r"asks a recording for ae and color.*leave out ae and color"),
        ("realsense:///data/a.mp4", r"neither a serial number nor a recording.*\.db3 or \.bag"),
    ],
    ids=["mode", "align", "unknown", "sync", "lock-fixed", "ae", "repeat", "mode-of-recording", "no-recording"],
)
def test_a_wrong_uri_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        camera_from_uri(text)
