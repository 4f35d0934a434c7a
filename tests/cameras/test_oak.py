from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri
from edge_ad.cameras.oak import OakCamera, OakOptions
from edge_ad.cameras.oak_devices import OakDevice, find_device, list_devices
from edge_ad.cameras.oak_pipeline import intrinsics_of
from edge_ad.cameras.realsense_options import StreamMode
from edge_ad.errors import CameraError, ConfigError
from edge_ad.types import Frame, Intrinsics, ReadStatus
from tests.cameras.host_oak import Event, HostOak, dai, make_images, steady

SIZE = StreamMode(32, 24)
OPTIONS = OakOptions(size=SIZE, fps=50)


def host_camera(events: Iterator[Event]) -> OakCamera:
    return OakCamera(options=OPTIONS, open_link=HostOak(lambda: events))


def read_until(camera: OakCamera, wanted: int) -> list[Frame]:
    """Frames up to the one with this number."""
    frames: list[Frame] = []
    while not frames or frames[-1].sequence < wanted:
        outcome = camera.read(3.0)
        assert isinstance(outcome, Frame)
        frames.append(outcome)
    return frames


def test_a_message_group_becomes_a_frame() -> None:
    camera = host_camera(steady(1000))
    info = camera.open()
    assert (info.name, info.live, info.details["size"]) == ("Host OAK", True, "32x24")
    for frame in read_until(camera, 3):
        rgb, depth = make_images(frame.sequence, SIZE)
        np.testing.assert_array_equal(frame.rgb, rgb)
        np.testing.assert_array_equal(frame.depth, depth)
        assert (frame.depth_unit_m, frame.skew_ms, frame.source) == (0.001, 0, "oak://HOST0001")
        assert 0 < frame.metadata["transfer_ms"] < 5000
        assert "exposure_us" not in frame.metadata
    camera.close()


def test_images_of_two_captures_are_never_paired() -> None:
    """Capture 3 lost its colour, capture 5 its depth; the last one makes the pairing node go on."""

    def events() -> Iterator[Event]:
        start_s = time.monotonic()
        for number in range(1, 9):
            for name in ("rgb", "depth"):
                if (name, number) not in {("rgb", 3), ("depth", 5)}:
                    yield name, number, start_s + 0.02 * number
            time.sleep(0.02)

    camera = host_camera(events())
    camera.open()
    frames = read_until(camera, 8)
    assert [frame.sequence for frame in frames] == [1, 2, 4, 6, 7, 8]
    for frame in frames:
        np.testing.assert_array_equal(frame.rgb, make_images(frame.sequence, SIZE)[0])
    assert camera.health().dropped == {"sequence_gap": 2}
    camera.close()


def test_silence_is_a_timeout_and_a_pipeline_that_ended_a_loss() -> None:
    camera = host_camera(steady(1))
    camera.open()
    assert isinstance(camera.read(3.0), Frame)
    assert camera.read(0.01) is ReadStatus.TIMEOUT
    assert camera._link is not None
    camera._link.pipeline.stop()
    camera._link.pipeline.wait()
    assert camera.read(0.01) is ReadStatus.DISCONNECTED
    assert camera.read(0.01) is ReadStatus.DISCONNECTED
    camera.close()


def test_intrinsics_come_from_the_calibration_at_the_size_of_the_frames() -> None:
    calibration = dai.CalibrationHandler()
    matrix = [[1000, 0, 640], [0, 1000, 400], [0, 0, 1]]
    calibration.setCameraIntrinsics(dai.CameraBoardSocket.CAM_A, matrix, 1280, 800)
    assert intrinsics_of(dai, calibration, 640, 400) == Intrinsics(500, 500, 320, 200, 640, 400)


def test_without_a_camera_the_error_names_it() -> None:
    if list_devices():
        pytest.skip("an OAK camera is attached")
    with pytest.raises(CameraError, match="OAK camera X1 not found. none is attached"):
        camera_from_uri("oak://X1").open()


def test_a_camera_is_found_by_identifier_or_address_if_it_is_free() -> None:
    attached = [OakDevice("A", "1.1", "BOOTED"), OakDevice("B", "192.168.0.9", "BOOTLOADER")]
    assert find_device(attached, "").serial == "B"
    assert find_device(attached, "192.168.0.9").serial == "B"
    with pytest.raises(CameraError, match="OAK camera A is in use"):
        find_device(attached, "A")
    with pytest.raises(CameraError, match="OAK camera C not found. attached are A, B"):
        find_device(attached, "C")


@pytest.mark.parametrize(
    ("query", "says"),
    [("size=large", "WIDTHxHEIGHT"), ("size=640x400@30", "fps=30"), ("fps=0", "fps"), ("trigger=software", "trigger")],
)
def test_wrong_options_are_refused(query: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        camera_from_uri(f"oak://?{query}")


def test_an_outside_trigger_makes_no_pace() -> None:
    caps = camera_from_uri("oak://X1?trigger=external&size=1280x720").caps
    assert caps.hardware_trigger and not caps.paced and not caps.software_trigger


def test_the_interpreter_ends_well_after_a_camera_and_keeps_standard_output() -> None:
    """The SDK's threads crash it, unless they were waited for."""
    code = """
from edge_ad.cameras.oak import OakCamera, OakOptions
from edge_ad.cameras.oak_devices import load_sdk

load_sdk()
from tests.cameras.host_oak import HostOak, steady

camera = OakCamera(options=OakOptions(size="32x24", fps=50), open_link=HostOak(lambda: steady(1000)))
camera.open()
print(camera.read(3.0).sequence)
camera.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


FULL_DISK = """
import resource
from pathlib import Path
from edge_ad.cameras.oak_devices import load_sdk
load_sdk()
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    Path("large").write_bytes(bytes(100))
except OSError as error:
    print("survived", error.strerror)
"""


def test_the_sdk_does_not_end_the_process_where_python_goes_on(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "survived File too large\n", (done.returncode, done.stderr)


def test_a_capture_that_waited_in_the_sdk_is_as_old_as_it_is() -> None:
    camera = host_camera(steady(20))
    camera.open()
    read_until(camera, 3)
    time.sleep(1.0)  # all are sent by then, and the newest four kept
    waited_ns = time.monotonic_ns()
    frame = read_until(camera, 20)[-1]
    assert frame.timestamp_ns < waited_ns - 300_000_000
    camera.close()
