"""When one stream, or the whole camera, falls silent; and what comes after."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.cameras import opened
from edge_ad.cameras.realsense import RealSenseCamera, RealSenseOptions
from edge_ad.cameras.realsense_pairing import ALONE_AFTER_MS, Pairing
from edge_ad.types import Frame, ReadStatus
from tests.cameras.software_realsense import (
    HEIGHT_PX,
    PERIOD_MS,
    WIDTH_PX,
    SoftwareRealSense,
    cold,
    make_images,
    read_frame,
)

SILENT_FROM, SILENT_TO, LAST = 6, 40, 45
ALONE_FROM = SILENT_FROM - 1 + int(ALONE_AFTER_MS / PERIOD_MS)
"""The last set of both, and half a second."""


def one_stream(name: str) -> dict[int, dict[str, Any]]:
    """How to push frames of which some are of one stream only."""
    return {number: {"streams": name} for number in range(SILENT_FROM, SILENT_TO)}


def live(device: SoftwareRealSense, camera: RealSenseCamera, lost: dict[int, dict[str, Any]]) -> list[Frame]:
    """Pushes and reads frame after frame."""
    frames = []
    with opened(camera):
        for number in range(1, LAST + 1):
            device.push(number, **lost.get(number, {}))
            # A frame comes in a millisecond; one that does not come would cost the whole wait.
            outcome = camera.read(0.5 if number < SILENT_FROM or number >= ALONE_FROM else 0.02)
            if isinstance(outcome, Frame):
                frames.append(outcome)
    return frames


def recorded(path: Path, device: SoftwareRealSense, lost: dict[int, dict[str, Any]], **options: Any) -> list[Frame]:
    device.record(path, LAST, how=lambda number: lost.get(number, {}))
    camera = RealSenseCamera(path=path, options=RealSenseOptions(**options))
    frames = []
    with opened(camera):
        while (outcome := camera.read(1.0)) is not ReadStatus.END_OF_STREAM:
            assert isinstance(outcome, Frame)
            frames.append(outcome)
    return frames


def check_alone(frames: list[Frame], stream: str) -> None:
    """Complete frames, then those of one stream, then complete ones, each image the one that was sent."""
    lone = [frame for frame in frames if frame.rgb is None or frame.depth is None]
    assert len(lone) >= SILENT_TO - ALONE_FROM - 2
    for frame in lone:
        assert (frame.depth is None, frame.rgb is None) == (stream == "color", stream == "depth")
        assert frame.skew_ms == 0 and frame.intrinsics is not None
    kinds = "".join("-" if frame.rgb is None or frame.depth is None else "+" for frame in frames)
    assert re.fullmatch(r"\++-+\+{5,}", kinds), kinds
    sent = [make_images(number)[stream == "color"] for number in range(LAST)]
    images = [np.asarray(frame.rgb if frame.depth is None else frame.depth) for frame in lone]
    numbers = [next(number for number in range(LAST) if np.array_equal(image, sent[number])) for image in images]
    assert numbers == list(range(numbers[0], numbers[0] + len(lone)))
    for frame, number in zip(frames[-5:], range(LAST - 4, LAST + 1), strict=True):
        np.testing.assert_array_equal(frame.depth, make_images(number)[0])
        np.testing.assert_array_equal(frame.rgb, make_images(number)[1])
    sequence = [frame.sequence for frame in frames]
    assert sequence == sorted(set(sequence))


@pytest.mark.parametrize("stream", ["color", "depth"])
def test_a_live_stream_goes_on_alone_when_the_other_has_been_silent_for_half_a_second(stream: str) -> None:
    device = SoftwareRealSense()
    camera = cold(device)
    check_alone(live(device, camera, one_stream(stream)), stream)
    absent = "without_depth" if stream == "color" else "without_color"
    assert camera.dropped[absent] >= SILENT_TO - ALONE_FROM - 2
    assert camera.dropped["mispaired"] > 0 and camera.dropped["repeated"] == 0


@pytest.mark.parametrize("stream", ["color", "depth"])
def test_a_recorded_stream_goes_on_alone_too(tmp_path: Path, stream: str) -> None:
    check_alone(recorded(tmp_path / "a.db3", SoftwareRealSense(), one_stream(stream)), stream)


def test_a_stream_that_is_silent_from_the_start_holds_the_other_back() -> None:
    device = SoftwareRealSense()
    camera = cold(device)
    with opened(camera):
        device.push(1)
        read_frame(camera)
        camera.restart()
        for number in range(2, 40):
            device.push(number, streams="color")
            assert camera.read(0) is ReadStatus.TIMEOUT
        device.push(40)
        np.testing.assert_array_equal(read_frame(camera).depth, make_images(40)[0])


def test_depth_alone_is_still_registered_to_colour_which_needs_only_the_calibration(tmp_path: Path) -> None:
    depth = np.full((HEIGHT_PX, WIDTH_PX), 5_000, np.uint16)
    color = np.zeros((2 * HEIGHT_PX, 2 * WIDTH_PX, 3), np.uint8)
    lost = {
        number: {"depth": depth, "color": color, **one_stream("depth").get(number, {})} for number in range(1, LAST + 1)
    }
    frames = recorded(tmp_path / "a.db3", SoftwareRealSense(color_scale=2, baseline_m=0.02), lost)
    lone = [frame for frame in frames if frame.rgb is None]
    assert len(lone) > 10
    assert frames[0].rgb is not None
    for frame in lone:
        np.testing.assert_array_equal(frame.depth, frames[0].depth)
        assert frame.intrinsics == frames[0].intrinsics


@pytest.mark.parametrize(("stream", "comes"), [("color", False), ("depth", True)])
def test_registered_to_depth_colour_alone_has_no_place(tmp_path: Path, stream: str, comes: bool) -> None:
    device = SoftwareRealSense(baseline_m=0.02)
    frames = recorded(tmp_path / "a.db3", device, one_stream(stream), align="depth")
    assert any(frame.rgb is None or frame.depth is None for frame in frames) == comes
    assert frames[-1].sequence >= LAST - 1 and frames[-1].rgb is not None and frames[-1].depth is not None


class Image:
    """What ``Pairing`` asks of an image of the SDK."""

    def __init__(self, number: int, time_ms: float, clock: str = "hardware") -> None:
        self._number, self._time_ms, self._clock = number, time_ms, clock

    def get_frame_number(self) -> int:
        return self._number

    def get_timestamp(self) -> float:
        return self._time_ms

    def get_frame_timestamp_domain(self) -> str:
        return self._clock


def test_two_streams_that_send_and_never_match_are_no_reason_to_deliver_one_alone() -> None:
    dropped: Counter[str] = Counter()
    pairing = Pairing(16, ("depth", "color"), dropped)
    for step in range(1, 200):
        depth = Image(step // 2, 33.3 * (step // 2))
        color = Image((step + 1) // 2, 33.3 * ((step + 1) // 2) + 1000)
        assert pairing.accept(depth, color) is None
    assert dropped["mispaired"] == 199 and not dropped["without_depth"] and not dropped["without_color"]


def test_a_clock_that_is_set_back_starts_the_half_second_anew() -> None:
    pairing = Pairing(16, ("depth", "color"), Counter())
    old = Image(1, 100_000)
    assert pairing.accept(old, Image(1, 100_000)) is not None
    alone = [pairing.accept(old, Image(number, 33.3 * number)) is not None for number in range(2, 30)]
    assert alone == [33.3 * (number - 2) >= ALONE_AFTER_MS for number in range(2, 30)]


def test_a_set_with_one_image_is_incomplete() -> None:
    dropped: Counter[str] = Counter()
    assert Pairing(16, ("depth", "color"), dropped).accept(Image(1, 33), None) is None
    assert dropped == {"incomplete": 1}
