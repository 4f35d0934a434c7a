"""A camera in a process of its own: what crosses over, and what happens when that process dies, hangs or is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge_ad import cameras
from edge_ad.cameras import isolated
from edge_ad.cameras.isolated import IsolatedCamera
from edge_ad.cameras.ring import SLOTS
from edge_ad.errors import CameraError, ConfigError, DataError, EdgeAdError
from edge_ad.types import Frame, ReadStatus

TROUBLE = "tests.cameras.troubled_camera:TroubledCamera"


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cameras.CAMERAS, "troubled", TROUBLE)


@contextmanager
def opened(uri: str, **options: bool) -> Iterator[IsolatedCamera]:
    camera = IsolatedCamera(uri, **options)
    try:
        camera.open()
        yield camera
    finally:
        camera.close()


@pytest.fixture
def synthetic() -> Iterator[IsolatedCamera]:
    with opened("synthetic://?size=64&pool=2&fps=200") as camera:
        yield camera


def next_frame(camera: IsolatedCamera) -> Frame:
    frame = camera.read(5.0)
    assert isinstance(frame, Frame)
    return frame


def outcome(camera: IsolatedCamera, seconds: float = 10.0) -> ReadStatus:
    """What reading ends in, once the frames are over."""
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        found = camera.read(0.3)
        if isinstance(found, ReadStatus) and found is not ReadStatus.TIMEOUT:
            return found
    raise AssertionError("it goes on and on")


def test_frames_cross_over_bit_for_bit(troubled: None) -> None:
    from tests.cameras.troubled_camera import make_frame

    with opened("troubled://?frames=5") as camera:
        for number in range(5):
            frame, expected = next_frame(camera), make_frame(number)
            assert frame.rgb is not None and frame.depth is not None
            np.testing.assert_array_equal(frame.rgb, expected.rgb)
            np.testing.assert_array_equal(frame.depth, expected.depth)
            assert frame.depth.dtype == np.uint16
            for field in ("sequence", "part_id", "skew_ms", "metadata", "intrinsics", "depth_unit_m", "source"):
                assert getattr(frame, field) == getattr(expected, field)
        assert camera.read(5.0) is ReadStatus.END_OF_STREAM


def test_a_slow_reader_of_files_gets_every_frame(troubled: None) -> None:
    with opened("troubled://?frames=40") as camera:
        numbers = []
        while isinstance(frame := camera.read(5.0), Frame):
            numbers.append(frame.sequence)
            time.sleep(0.005)
        assert numbers == list(range(40))


def test_a_driver_that_cannot_tell_how_it_is_goes_on(troubled: None) -> None:
    with opened("troubled://?frames=4&fails=health") as camera:
        assert [next_frame(camera).sequence for _ in range(4)] == [0, 1, 2, 3]
        assert outcome(camera) is ReadStatus.END_OF_STREAM
        assert camera.health().details["process_starts"] == 1 and not camera.events["crashes"]


def test_a_process_that_cannot_be_started_leaves_no_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    camera = IsolatedCamera("synthetic://?size=64&pool=2")
    monkeypatch.setattr(subprocess, "Popen", refused)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(OSError, match="Cannot allocate"):
            camera.open()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_frames_that_find_no_slot_are_dropped_and_counted(troubled: None) -> None:
    with opened("troubled://?live=1&frames=40") as camera:
        next_frame(camera)
        time.sleep(1.0)
        numbers = []
        while isinstance(frame := camera.read(5.0), Frame):
            numbers.append(frame.sequence)
        assert len(numbers) < 39
        assert camera.health().dropped["ring"] == 39 - len(numbers)


def test_commands_and_refusals_cross_over(troubled: None) -> None:
    with opened("troubled://?software=1") as camera:
        camera.set(exposure_us=250)
        camera.trigger("p-7")
        frame = next_frame(camera)
        assert (frame.part_id, frame.metadata["exposure_us"]) == ("p-7", 250)
        with pytest.raises(ConfigError, match="no option 'gain'"):
            camera.set(gain=3)
        camera.restart()
        camera.trigger("p-8")
        assert next_frame(camera).part_id == "p-8"


def test_errors_keep_their_class_and_their_words(troubled: None) -> None:
    with opened("troubled://?frames=3&fails=damaged") as camera:
        next_frame(camera)
        with pytest.raises(DataError, match="frame 1 is damaged. Remedy: look at it"):
            camera.read(5.0)
        assert next_frame(camera).sequence == 2


def test_a_camera_that_is_not_there_says_so_itself() -> None:
    camera = IsolatedCamera("folder:///nowhere/at/all")
    with pytest.raises(CameraError, match="/nowhere/at/all is not a directory"):
        camera.open()
    camera.close()
    with pytest.raises(ConfigError, match="unknown"):
        IsolatedCamera("nosuch://")


@pytest.mark.parametrize(
    ("way", "words"),
    [("segfault", "SIGSEGV"), ("exit", "exit code 3"), ("bug", "ZeroDivisionError")],
)
def test_a_driver_that_crashes_takes_nothing_with_it(troubled: None, way: str, words: str) -> None:
    with opened(f"troubled://?frames=3&fails={way}") as camera:
        next_frame(camera)
        if way == "bug":
            with pytest.raises(CameraError, match=words):
                camera.read(5.0)
        else:
            assert outcome(camera) is ReadStatus.DISCONNECTED
            assert words in camera.problem
            assert camera.health().details["process_crashes"] == 1
        camera.open()
        assert next_frame(camera).sequence == 0


def test_a_killed_process_is_noticed_at_once_and_replaced(synthetic: IsolatedCamera) -> None:
    first = synthetic.process_id
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert outcome(synthetic) is ReadStatus.DISCONNECTED
    assert "SIGKILL" in synthetic.problem
    with pytest.raises(CameraError, match="not open"):
        synthetic.restart()
    synthetic.open()
    next_frame(synthetic)
    assert synthetic.process_id != first


@pytest.mark.parametrize("how", ["stopped", "holding the GIL"])
def test_a_process_that_hangs_is_killed(how: str, troubled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "HANG_S", 1.0)
    uri = "synthetic://?size=64&pool=2" if how == "stopped" else "troubled://?frames=2&live=1&fails=hang"
    with opened(uri) as camera:
        process = camera.process_id
        assert process is not None
        next_frame(camera)
        if how == "stopped":
            os.kill(process, signal.SIGSTOP)
        assert outcome(camera) is ReadStatus.DISCONNECTED
        assert "no sign of life" in camera.problem
        assert not psutil.pid_exists(process)


def test_one_that_does_not_open_in_time_is_killed(troubled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "OPEN_S", 3.0)
    camera = IsolatedCamera("troubled://?fails=open")
    with pytest.raises(CameraError, match="hangs. it did not answer to 'open' within 3 s"):
        camera.open()
    assert camera.process_id is None


def test_a_driver_that_crashes_again_and_again_is_given_a_rest(troubled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "MOST_STARTS", 2)
    camera = IsolatedCamera("troubled://?fails=start")
    camera._starts_s = type(camera._starts_s)(maxlen=2)
    for _ in range(2):
        with pytest.raises(CameraError, match="ended while it opened. it ended with exit code 3"):
            camera.open()
    with pytest.raises(CameraError, match="was started 2 times within 60 s. the last one: it ended with exit code 3"):
        camera.open()
    assert camera.events["starts"] == 2


def test_a_camera_that_is_away_for_long_is_given_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "MOST_STARTS", 2)
    camera = IsolatedCamera("synthetic://?size=64&pool=2")
    camera._starts_s = type(camera._starts_s)(maxlen=2)
    try:
        for _ in range(4):
            camera.respawn()
            camera.open()  # else it could not be opened for a minute, were it back
        assert camera.events["starts"] == 4
    finally:
        camera.close()


def test_a_trigger_that_never_returns_is_a_hang_within_seconds(troubled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "TELL_S", 0.5)
    with opened("troubled://?software=1&live=1") as camera:
        assert camera.process_id is not None
        os.kill(camera.process_id, signal.SIGSTOP)
        with pytest.raises(CameraError, match="hangs"):
            camera.trigger("a")
        assert camera.events["hangs"] == 1
        camera.open()
        camera.trigger("b")
        assert next_frame(camera).part_id == "b"


def test_closing_ends_the_process_and_frees_every_handle() -> None:
    this = psutil.Process()
    camera = IsolatedCamera("synthetic://?size=64&pool=2")
    camera.open()
    camera.close()
    handles = this.num_fds()
    for _ in range(3):
        camera.open()
        process = camera.process_id
        next_frame(camera)
        camera.close()
        camera.close()
        assert process is not None and not psutil.pid_exists(process)
    assert this.num_fds() == handles
    with pytest.raises(CameraError, match="not open"):
        camera.read(0.1)


LINE = """
import sys, time
from edge_ad import cameras
from edge_ad.cameras.isolated import IsolatedCamera
cameras.CAMERAS["troubled"] = "tests.cameras.troubled_camera:TroubledCamera"
camera = IsolatedCamera(sys.argv[1])
camera.open()
camera.read(5.0)
print(camera.process_id, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "uri", ["synthetic://?size=64&pool=2", "troubled://?live=1&frames=2&fails=hang"], ids=["reading", "hanging"]
)
def test_the_process_does_not_outlive_the_line(uri: str) -> None:
    shared = set(Path("/dev/shm").iterdir())
    line = subprocess.Popen([sys.executable, "-c", LINE, uri], stdout=subprocess.PIPE, text=True)
    assert line.stdout is not None
    process = psutil.Process(int(line.stdout.readline()))
    time.sleep(0.3)
    line.kill()
    line.wait()
    line.stdout.close()
    process.wait(10)
    assert set(Path("/dev/shm").iterdir()) <= shared


def test_frames_that_are_kept_stay_as_they_are_and_do_not_stop_the_camera(synthetic: IsolatedCamera) -> None:
    kept = [next_frame(synthetic) for _ in range(4 * SLOTS)]
    rgbs = [frame.rgb.copy() for frame in kept if frame.rgb is not None]
    assert len(rgbs) == len(kept)
    for _ in range(2 * SLOTS):
        next_frame(synthetic)
    synthetic.close()
    for frame, rgb in zip(kept, rgbs, strict=True):
        np.testing.assert_array_equal(frame.rgb, rgb)
    assert len({frame.sequence for frame in kept}) == len(kept)


def test_it_can_be_closed_while_it_opens(troubled: None) -> None:
    camera = IsolatedCamera("troubled://?fails=open")
    failures: list[EdgeAdError] = []

    def work() -> None:
        try:
            camera.open()
        except EdgeAdError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while camera.process_id is None:
        time.sleep(0.01)
    time.sleep(0.5)
    camera.close()
    thread.join(10)
    assert not thread.is_alive() and failures
