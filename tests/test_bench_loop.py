"""The camera of ``scripts/bench loop``: what its driver's buffers hold decides what the naive ways are charged with."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from edge_ad.cameras.uri import CameraUri
from edge_ad.types import Frame


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    from bench_loop_camera import ReplayCamera

    return ReplayCamera


def numbers_after_a_pause(replay: Any, options: str) -> list[int]:
    camera = replay.from_uri(CameraUri.parse(f"bench://?width=8&height=6&fps=100&{options}"))
    camera.open()
    time.sleep(0.2)
    frames = [camera.read(1.0) for _ in range(6)]
    camera.close()
    assert all(isinstance(frame, Frame) for frame in frames)
    gaps_ns = {
        (later.timestamp_ns - frame.timestamp_ns) // (later.sequence - frame.sequence)
        for frame, later in zip(frames, frames[1:], strict=False)
    }
    assert gaps_ns == {10_000_000}
    return [frame.sequence for frame in frames]


def test_a_driver_that_keeps_the_oldest_hands_out_what_waited_and_lost_what_came_after(replay: Any) -> None:
    numbers = numbers_after_a_pause(replay, "buffers=4&keep=oldest")
    assert numbers[:4] == [0, 1, 2, 3] and numbers[4] >= 20


def test_a_driver_that_keeps_the_newest_hands_out_that_one(replay: Any) -> None:
    numbers = numbers_after_a_pause(replay, "buffers=1&keep=newest")
    assert numbers[0] >= 19 and numbers == sorted(set(numbers))
