"""Faults on demand, triggers and sizes of the synthetic camera; time is what the test says it is."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri, opened
from edge_ad.data.synthetic import DISTANCE_MM, FIELD_OF_VIEW_MM, SyntheticProduct
from edge_ad.errors import CameraError, ConfigError
from edge_ad.types import Camera, Frame, ReadStatus


class Clock:
    """The host's clock, which moves when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 50_000_000_000
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now_ns)
        monkeypatch.setattr(time, "monotonic", lambda: self.now_ns / 1e9)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, duration_s: float) -> None:
        self.now_ns += round(duration_s * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def make_camera(options: str) -> Camera:
    return camera_from_uri(f"synthetic://?size=64&pool=3&defect_rate=0&{options}")


def read_frames(camera: Camera, count: int) -> list[Frame]:
    frames = [camera.read(1.0) for _ in range(count)]
    assert all(isinstance(frame, Frame) for frame in frames)
    return [frame for frame in frames if isinstance(frame, Frame)]


def test_a_stall_is_silence_again_and_again_and_its_frames_are_lost(clock: Clock) -> None:
    camera = make_camera("fps=10&stall_every_s=2&stall_s=0.5")
    with opened(camera):
        numbers, timeouts = [], []
        while clock.now_ns < 55_000_000_000:
            outcome = camera.read(0.2)
            if isinstance(outcome, Frame):
                numbers.append(outcome.sequence)
            else:
                assert outcome is ReadStatus.TIMEOUT
                timeouts.append(clock.now_ns / 1e9 - 50)
    assert numbers == [n for n in range(51) if n not in {*range(20, 25), *range(40, 45)}][: len(numbers)]
    assert len(numbers) >= 40
    assert all(2 <= t <= 2.5 or 4 <= t <= 4.5 for t in timeouts) and len(timeouts) == 4


def test_a_late_reader_gets_the_last_frame_before_the_silence(clock: Clock) -> None:
    camera = make_camera("fps=10&stall_every_s=2&stall_s=0.5")
    with opened(camera):
        clock.sleep(2.3)
        assert [frame.sequence for frame in read_frames(camera, 2)] == [19, 25]


def test_depth_is_lost_and_comes_back(clock: Clock) -> None:
    camera = make_camera("fps=10&depth_loss_every_s=1&depth_loss_s=0.3")
    with opened(camera):
        frames = read_frames(camera, 25)
    without = [frame.sequence for frame in frames if frame.depth is None]
    assert without == [10, 11, 12, 20, 21, 22]
    assert all(
        frame.rgb is not None and frame.source.endswith("/depth lost") == (frame.depth is None) for frame in frames
    )


def test_a_lost_camera_is_lost_until_it_is_opened_again(clock: Clock) -> None:
    camera = make_camera("fps=10&disconnect_every_s=1")
    for _ in range(2):
        with opened(camera):
            assert [frame.sequence for frame in read_frames(camera, 10)] == list(range(10))
            clock.sleep(0.1)
            assert camera.read(1.0) is camera.read(1.0) is ReadStatus.DISCONNECTED


def test_junk_is_as_often_as_asked_of_every_kind_and_the_same_for_the_same_seed() -> None:
    kinds: list[str] = []
    for seed in (0, 0, 1):
        camera = make_camera(f"fps=0&junk_rate=0.3&seed={seed}")
        with opened(camera):
            frames = read_frames(camera, 200)
        for frame in frames:
            assert frame.rgb is not None and frame.depth is not None
            kind = frame.source.split("/")[4] if frame.source.count("/") == 4 else ""
            assert frame.rgb.any() == (kind != "black") and frame.depth.any() == (kind != "empty")
            assert (frame.depth.max() > 60_000) == (kind == "noise")
        kinds.append(" ".join(frame.source for frame in frames))
        counts = Counter(frame.source.split("/")[-1] for frame in frames)
        assert 30 < counts["black"] + counts["empty"] + counts["noise"] < 90
        assert min(counts[kind] for kind in ("black", "empty", "noise")) > 5
    assert kinds[0] == kinds[1] != kinds[2]


def test_without_faults_frames_are_whole() -> None:
    camera = make_camera("fps=0")
    with opened(camera):
        for frame in read_frames(camera, 6):
            assert frame.depth is not None and frame.source.endswith("/good")


# --- trigger


def test_a_triggered_camera_takes_one_frame_for_each_trigger_in_order() -> None:
    camera = make_camera("trigger=1")
    assert camera.caps.software_trigger and camera.caps.live and not camera.caps.paced
    with pytest.raises(CameraError, match="not open"):
        camera.trigger("a")
    with opened(camera) as info:
        assert info.live
        assert camera.read(0) is ReadStatus.TIMEOUT
        for part_id in ("a", "b", ""):
            camera.trigger(part_id)
        frames = read_frames(camera, 3)
        assert camera.read(0.01) is ReadStatus.TIMEOUT
        camera.trigger("lost with the connection")
        camera.open()
        assert camera.read(0) is ReadStatus.TIMEOUT
    assert [(frame.part_id, frame.sequence) for frame in frames] == [("a", 0), ("b", 1), (None, 2)]
    assert len({frame.source for frame in frames}) == 3


def test_a_silent_camera_answers_no_trigger(clock: Clock) -> None:
    camera = make_camera("trigger=1&stall_every_s=2&stall_s=0.5")
    with opened(camera):
        for part_id in ("a", "b", "c"):
            camera.trigger(part_id)
            clock.sleep(2.2 if part_id == "a" else 0.5)
        assert [frame.part_id for frame in read_frames(camera, 2)] == ["a", "c"]
    assert camera.health().dropped == {"stall": 1}


def test_without_the_option_there_is_no_trigger() -> None:
    camera = make_camera("fps=10")
    with opened(camera), pytest.raises(ConfigError, match="no software trigger"):
        camera.trigger("a")


# --- size


@pytest.mark.parametrize(("width", "height"), [(160, 120), (96, 128)])
def test_a_wide_image_shows_more_belt_and_the_same_part(width: int, height: int) -> None:
    wide = SyntheticProduct((height, width), seed=1)
    square = SyntheticProduct(min(width, height), seed=1)
    camera = wide.intrinsics
    assert (camera.width_px, camera.height_px, camera.cx) == (width, height, (width - 1) / 2)
    assert camera.fx == square.intrinsics.fx == min(width, height) * DISTANCE_MM / FIELD_OF_VIEW_MM
    frame = wide.render(3).frame
    assert frame.size_px == (height, width) and frame.intrinsics == camera
    top, left = (height - min(width, height)) // 2, (width - min(width, height)) // 2
    part = slice(top, top + square.intrinsics.height_px), slice(left, left + square.intrinsics.width_px)
    # The noise is another one; the part is not.
    same_mm = np.abs(frame.depth_m()[part] - square.render(3).frame.depth_m()) * 1000
    assert np.median(same_mm) < 0.3
    assert np.median(frame.depth_m()[top + 5, :]) * 1000 == pytest.approx(DISTANCE_MM, abs=8)


def test_width_and_height_are_options_and_one_of_them_is_enough() -> None:
    for options, size_px in (("width=96&height=72", (72, 96)), ("width=96", (64, 96))):
        with opened(camera := make_camera(f"fps=0&{options}")):
            assert read_frames(camera, 1)[0].size_px == size_px


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("stall_every_s=2", "stall_every_s=2 needs a stall_s above 0"),
        ("stall_every_s=1&stall_s=1", "below it, and not 1"),
        ("depth_loss_s=1", "depth_loss_every_s=0 needs"),
        ("junk_rate=1.5", "junk_rate is not valid"),
        ("fps=0&disconnect_every_s=3", "need a clock"),
        ("width=4000", "width is not valid"),
    ],
    ids=["no-length", "too-long", "no-period", "rate", "no-clock", "width"],
)
def test_a_fault_that_makes_no_sense_is_refused(options: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_camera(options)
