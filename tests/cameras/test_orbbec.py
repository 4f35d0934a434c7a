from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri
from edge_ad.cameras.orbbec import OrbbecCamera, OrbbecOptions
from edge_ad.cameras.orbbec_devices import Bus, OrbbecDevice, find_device, list_devices, load_sdk
from edge_ad.cameras.orbbec_streams import RecordingStream
from edge_ad.cameras.pairing import PairCheck
from edge_ad.errors import CameraError, ConfigError
from edge_ad.types import Camera, Frame, ReadStatus
from tests.cameras.conftest import RECORDED_FRAMES

pytest.importorskip("pyorbbecsdk")
from tests.cameras.orbbec_bag import INTRINSICS, SERIAL, RecordedBus, make_images, write_bag  # noqa: E402

NO_SDK = """
import sys

sys.modules["pyorbbecsdk"] = None
from edge_ad.cameras import camera_from_uri
from edge_ad.errors import MissingExtraError

try:
    camera_from_uri("orbbec").open()
except MissingExtraError as error:
    print(error)
"""

QUIET = """
from edge_ad.cameras.orbbec_devices import list_devices

print(len(list_devices()))
"""


@pytest.fixture
def cameras() -> Iterator[list[Camera]]:
    """Cameras to close at the end."""
    opened: list[Camera] = []
    yield opened
    for camera in opened:
        camera.close()


def played(cameras: list[Camera], path: Path, query: str = "") -> OrbbecCamera:
    camera = camera_from_uri(f"orbbec://{path}{query}")
    assert isinstance(camera, OrbbecCamera)
    cameras.append(camera)
    camera.open()
    return camera


def read_all(camera: OrbbecCamera, pause_s: float = 0.0) -> list[Frame]:
    frames = []
    while (outcome := camera.read(3.0)) is not ReadStatus.END_OF_STREAM:
        assert isinstance(outcome, Frame)
        frames.append(outcome)
        time.sleep(pause_s)
    return frames


def test_every_capture_of_a_recording_is_played(cameras: list[Camera], orbbec_bag: Path) -> None:
    camera = played(cameras, orbbec_bag)
    assert camera.info is not None and not camera.info.live
    assert camera.info.details["recorded with"].startswith("Orbbec Femto Bolt")
    frames = read_all(camera)
    assert [frame.sequence for frame in frames] == list(range(1, RECORDED_FRAMES + 1))
    for frame in frames:
        depth, color = make_images(frame.sequence)
        np.testing.assert_array_equal(frame.depth, depth)
        np.testing.assert_array_equal(frame.rgb, color)
        assert (frame.depth_unit_m, frame.intrinsics, frame.skew_ms) == (0.001, INTRINSICS, 0)
        assert frame.source == str(orbbec_bag)
    assert camera.read(0) is ReadStatus.END_OF_STREAM
    camera.open()
    assert isinstance(camera.read(3.0), Frame)


def test_a_slow_reader_loses_nothing(cameras: list[Camera], orbbec_bag: Path) -> None:
    """Slower than the recording by half, for longer than what the SDK keeps."""
    frames = read_all(played(cameras, orbbec_bag), pause_s=0.05)
    assert [frame.sequence for frame in frames] == list(range(1, RECORDED_FRAMES + 1))


def test_a_recording_slows_down_for_its_reader(cameras: list[Camera], tmp_path: Path) -> None:
    """All of its 3 s would have come, had it not been slowed down when 32 captures were waiting."""
    camera = played(cameras, write_bag(tmp_path / "long.bag", 90))
    recording = camera._recording
    assert recording is not None
    time.sleep(4)
    assert len(recording._frames) < 60
    frames = read_all(camera)
    assert [frame.sequence for frame in frames] == list(range(1, 91))


def test_depth_is_registered_to_colour_or_colour_to_depth(cameras: list[Camera], tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "apart.bag", 5, baseline_mm=50)
    frame = played(cameras, bag).read(3.0)
    assert isinstance(frame, Frame)
    depth, color = make_images(frame.sequence)
    np.testing.assert_array_equal(frame.rgb, color)
    assert np.mean(frame.depth != depth) > 0.5
    frame = played(cameras, bag, "?align=depth").read(3.0)
    assert isinstance(frame, Frame)
    depth, color = make_images(frame.sequence)
    np.testing.assert_array_equal(frame.depth, depth)
    assert frame.rgb is not None and np.mean(frame.rgb != color) > 0.5


def test_a_capture_without_colour_is_left_out(cameras: list[Camera], tmp_path: Path) -> None:
    frames = read_all(played(cameras, write_bag(tmp_path / "gap.bag", 8, skip_color=frozenset({4}))))
    assert [frame.sequence for frame in frames] == [1, 2, 3, 5, 6, 7, 8]


def test_what_is_no_recording_is_refused(tmp_path: Path, orbbec_bag: Path) -> None:
    with pytest.raises(CameraError, match=r"none\.bag does not exist"):
        OrbbecCamera(path=tmp_path / "none.bag").open()
    content = orbbec_bag.read_bytes()
    for name, damaged in (("junk.bag", b"junk"), ("empty.bag", b""), ("cut.bag", content[: len(content) // 2])):
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(CameraError, match=f"{name} cannot be played"):
            OrbbecCamera(path=path).open()


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("orbbec:///a/b.bag?trigger=software", "asks a recording for a mode or a trigger"),
        ("orbbec:///a/b.bag?depth=640x480", "asks a recording for a mode"),
        ("orbbec:///a/b.mp4", "neither a serial number nor a recording"),
        ("orbbec://?trigger=line1", "trigger is not valid"),
        ("orbbec://?color=large", "WIDTHxHEIGHT"),
    ],
)
def test_wrong_uris_are_refused(uri: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        camera_from_uri(uri)


def test_without_a_camera_the_error_names_it() -> None:
    if list_devices():
        pytest.skip("an Orbbec camera is attached")
    with pytest.raises(CameraError, match="Orbbec camera X1 not found"):
        camera_from_uri("orbbec://X1").open()
    with pytest.raises(CameraError, match="no Orbbec camera found"):
        camera_from_uri("orbbec").open()


def test_a_camera_is_found_by_its_serial_number() -> None:
    attached = [OrbbecDevice("Femto Bolt", "A", "USB3.2"), OrbbecDevice("Gemini 335", "B", "USB2.1")]
    assert find_device(attached, "").serial == "A"
    assert find_device(attached, "B").name == "Gemini 335"
    with pytest.raises(CameraError, match="camera C not found. attached are A, B"):
        find_device(attached, "C")


def attached(cameras: list[Camera], bus: Bus, **options: object) -> OrbbecCamera:
    camera = OrbbecCamera(options=OrbbecOptions.model_validate(options), bus=bus)
    cameras.append(camera)
    return camera


def test_an_attached_camera_is_read_until_it_goes(cameras: list[Camera], orbbec_bag: Path) -> None:
    bus = RecordedBus(orbbec_bag, "USB2.1")
    camera = attached(cameras, bus, depth="160x120@30", color="160x120@30")
    info = camera.open()
    assert (info.name, info.serial, info.live, info.details["color"]) == ("Femto Bolt", SERIAL, True, "160x120@30")
    assert "USB 3" in info.warnings[0]
    frame = camera.read(3.0)
    assert isinstance(frame, Frame) and frame.source == f"orbbec://{SERIAL}"
    depth, color = make_images(frame.sequence)
    np.testing.assert_array_equal(frame.depth, depth)
    np.testing.assert_array_equal(frame.rgb, color)
    while isinstance(outcome := camera.read(0.5), Frame):  # the recording ends: the camera is silent
        assert outcome.sequence > frame.sequence
    assert outcome is ReadStatus.TIMEOUT
    bus.attached = []
    assert camera.read(0.5) is ReadStatus.DISCONNECTED
    assert camera.read(0.5) is ReadStatus.DISCONNECTED
    with pytest.raises(CameraError, match="no Orbbec camera found"):
        camera.open()


def test_who_reads_late_sees_the_newest_capture(cameras: list[Camera], orbbec_bag: Path) -> None:
    camera = attached(cameras, RecordedBus(orbbec_bag))
    camera.open()
    time.sleep(1.5)
    frame = camera.read(3.0)
    assert isinstance(frame, Frame) and frame.sequence == RECORDED_FRAMES
    assert camera.read(0.01) is ReadStatus.TIMEOUT


def test_a_capture_that_waited_in_the_sdk_is_as_old_as_it_is(cameras: list[Camera], orbbec_bag: Path) -> None:
    camera = attached(cameras, RecordedBus(orbbec_bag))
    camera.open()
    for _ in range(3):
        assert isinstance(camera.read(3.0), Frame)
    time.sleep(2.0)  # the recording is over after 1 s
    waited_ns = time.monotonic_ns()
    frame = camera.read(3.0)
    assert isinstance(frame, Frame) and frame.sequence == RECORDED_FRAMES
    assert frame.timestamp_ns < waited_ns - 500_000_000


def test_a_recording_waits_for_a_stalled_program(tmp_path: Path) -> None:
    """Longer than what the SDK keeps by itself."""
    stream = RecordingStream(load_sdk(), write_bag(tmp_path / "long.bag", 40))
    held = threading.Event()
    frames: list[int] = []

    def make_frame(images: Any) -> None:
        held.wait()
        frames.append(images.get_depth_frame().get_index())

    stream.start(make_frame)
    time.sleep(1.5)
    held.set()
    while not stream.is_over():
        stream.take(0.2)
    stream.stop()
    assert sorted(set(frames)) == list(range(1, 41))


def test_a_mode_or_a_trigger_that_a_camera_lacks_is_named(cameras: list[Camera], orbbec_bag: Path) -> None:
    bus = RecordedBus(orbbec_bag)
    with pytest.raises(CameraError, match="has no depth 640x576@30 as Y16.*depth=WIDTHxHEIGHT@FPS"):
        attached(cameras, bus, depth="640x576@30").open()
    with pytest.raises(CameraError, match=f"camera {SERIAL} has no software trigger"):
        attached(cameras, bus, trigger="software").open()


def test_several_cameras_are_told_apart(cameras: list[Camera], orbbec_bag: Path) -> None:
    bus = RecordedBus(orbbec_bag)
    bus.attached = [*bus.attached, OrbbecDevice("Gemini 335", "B", "USB3.2")]
    info = attached(cameras, bus).open()
    assert info.warnings == (f"2 cameras are attached; to be sure of this one write orbbec://{SERIAL}",)


def test_triggers_are_for_cameras(cameras: list[Camera], orbbec_bag: Path) -> None:
    caps = camera_from_uri("orbbec://X1?trigger=software").caps
    assert caps.software_trigger and not caps.paced and caps.live
    assert camera_from_uri("orbbec://X1?trigger=hardware").caps.hardware_trigger
    with pytest.raises(CameraError, match="not open"):
        camera_from_uri("orbbec://X1?trigger=software").trigger("a")
    camera = played(cameras, orbbec_bag)
    with pytest.raises(ConfigError, match=f"recording {orbbec_bag} has no software trigger"):
        camera.trigger("a")
    with pytest.raises(CameraError, match="cannot be reset"):
        camera.reset()
    assert camera.health().temperature_c is None


def test_a_missing_sdk_says_how_to_install_it() -> None:
    done = subprocess.run([sys.executable, "-c", NO_SDK], capture_output=True, text=True, check=True)
    assert "Remedy: pip install --no-deps pyorbbecsdk2" in done.stdout


def test_the_sdk_leaves_standard_output_and_the_directory_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip().isdecimal()
    assert list(tmp_path.iterdir()) == []


def test_only_new_captures_whose_images_belong_together_become_frames() -> None:
    dropped: Counter[str] = Counter()
    pairs = PairCheck(10, dropped)
    sets = [(5, 0), (6, 9), (6, 0), (9, 3), (10, 11), (11, 0)]
    assert [pairs.is_new_capture(number, skew) for number, skew in sets] == [True, True, False, True, False, True]
    assert dropped == {"repeated": 1, "sequence_gap": 2, "mispaired": 1}


def test_the_serial_number_is_in_the_recording(cameras: list[Camera], orbbec_bag: Path) -> None:
    recording = played(cameras, orbbec_bag)._recording
    assert recording is not None and recording.device.get_device_info().get_serial_number() == SERIAL
