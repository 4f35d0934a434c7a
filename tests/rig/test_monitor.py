"""The watch on a running line, with parts in view: rendered parts on a moving belt, and still scenes with a part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from edge_ad.alarms import Alarms
from edge_ad.data.synthetic import SyntheticProduct
from edge_ad.rig.calibration import calibrated
from edge_ad.rig.monitor import LOOKS, Look, RigMonitor, RigWatch, look
from edge_ad.rig.observation import FrameAverage
from edge_ad.rig.record import Rig
from edge_ad.types import CameraInfo, Decision, Frame, Inspection, Roi, Sink, Verdict
from tests.rig.scenes import DISTANCE_M, HEIGHT_PX, WIDTH_PX, Scene, plane_at

PART = (Roi(50, 35, 60, 50), 0.03)
"""A part of 3 cm in the middle of the picture."""


def inspected(frame: Frame) -> Inspection:
    return Inspection(frame, Verdict(Decision.OK, 1.0))


@pytest.fixture(scope="module")
def product() -> SyntheticProduct:
    return SyntheticProduct(128, seed=4)


@pytest.fixture(scope="module")
def belt(product: SyntheticProduct) -> Rig:
    average = FrameAverage()
    for number in range(16):
        average.add(product.render_empty(number))
    return calibrated(average.observation(CameraInfo("synthetic", "S", True)), "synthetic://")


def rung(rig: Rig, frames: Iterator[Frame]) -> dict[str, str]:
    alarms = Alarms()
    watch = RigWatch(rig, alarms)
    for frame in frames:
        watch.take(look(rig, frame))
    return {alarm.name: alarm.text for alarm in alarms.active()}


def test_twenty_parts_on_a_moving_belt_ring_nothing(product: SyntheticProduct, belt: Rig) -> None:
    defects = (None, "dent", "stain", None)
    parts = [product.render(number, defects[number % 4]).frame for number in range(20)]
    looks = [look(belt, part) for part in parts]
    assert rung(belt, iter(parts)) == {}
    for seen in looks:
        assert seen.distance_m is not None and abs(seen.distance_m) < 2e-4
        assert seen.turn_deg is not None and seen.turn_deg < 0.05
        assert seen.brightness is not None and abs(seen.brightness) < 0.15
        assert seen.fill is not None and seen.fill < 0.02


def lifted(frame: Frame) -> Frame:
    assert frame.depth is not None
    return replace(frame, depth=np.where(frame.depth > 0, frame.depth + 60, 0).astype(np.uint16))


def dimmed(frame: Frame) -> Frame:
    assert frame.rgb is not None
    return replace(frame, rgb=(frame.rgb * 0.6).astype(np.uint8))


def half_blind(frame: Frame) -> Frame:
    assert frame.depth is not None
    depth = frame.depth.copy()
    depth[: depth.shape[0] // 4] = 0
    return replace(frame, depth=depth)


def blind(frame: Frame) -> Frame:
    assert frame.depth is not None
    return replace(frame, depth=np.zeros_like(frame.depth))


@pytest.mark.parametrize(
    ("spoil", "name", "words"),
    [
        pytest.param(lifted, "rig.moved", "it is 6.0 mm farther than when the rig was measured", id="farther"),
        pytest.param(dimmed, "rig.exposure", "% darker than when the rig was measured", id="darker"),
        pytest.param(half_blind, "rig.depth_fill", "% of the depth is missing", id="half blind"),
        pytest.param(blind, "rig.depth_fill", "Around the part 100 % of the depth is missing", id="blind"),
    ],
)
def test_behind_passing_parts_each_fault_rings_its_alarm_and_no_other(
    product: SyntheticProduct, belt: Rig, spoil: Callable[[Frame], Frame], name: str, words: str
) -> None:
    told = rung(belt, (spoil(product.render(number).frame) for number in range(LOOKS)))
    assert list(told) == [name]
    assert words in told[name]


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Scene().rig()


@pytest.mark.parametrize(
    ("scene", "name", "words"),
    [
        pytest.param(Scene(step=PART, plane=plane_at(DISTANCE_M, 2.0, -0.5)), "rig.moved", "turned by 1.0°", id="turn"),
        pytest.param(Scene(step=PART, shift_px=(5, 0)), "rig.moved", "shifted by 5 px", id="shift"),
        pytest.param(Scene(step=PART, gain=0.6), "rig.exposure", "The picture is 40 % darker", id="dark"),
    ],
)
def test_around_a_part_at_rest_changes_are_seen(rig: Rig, scene: Scene, name: str, words: str) -> None:
    told = rung(rig, scene.frames(LOOKS, noise_seed=3))
    assert list(told) == [name]
    assert words in told[name]


def test_depth_that_flickers_as_it_did_rings_nothing() -> None:
    flickering = Scene(hole_share=0.15)
    assert rung(flickering.rig(), flickering.frames(2 * LOOKS, noise_seed=3)) == {}
    assert rung(flickering.rig(), Scene().frames(LOOKS, noise_seed=3)) == {}
    worse = replace(flickering, hole_share=0.3)
    assert list(rung(flickering.rig(), worse.frames(2 * LOOKS, noise_seed=3))) == ["rig.depth_fill"]


def test_a_part_at_rest_rings_nothing(rig: Rig) -> None:
    assert rung(rig, Scene(step=PART).frames(2 * LOOKS, noise_seed=3)) == {}


FLOOR = Roi(0, 0, 60, HEIGHT_PX), -0.4
"""A table that ends in the picture: the left of it shows the floor, 40 cm below."""


@pytest.mark.parametrize(("drift_m", "names"), [(0.0, []), (0.005, ["rig.moved"])])
def test_the_floor_beside_the_table_is_not_taken_for_it(drift_m: float, names: list[str]) -> None:
    rig = Scene(step=FLOOR).rig()
    assert rig.record.distance_m == pytest.approx(DISTANCE_M, abs=0.01)
    moved = Scene(step=FLOOR, plane=plane_at(DISTANCE_M + drift_m, 1.0, -0.5))
    assert list(rung(rig, moved.frames(LOOKS, noise_seed=3))) == names


def test_without_colour_or_without_depth_the_rest_is_still_seen(rig: Rig) -> None:
    frame = next(Scene().frames(1, noise_seed=2))
    depth_only, colour_only = look(rig, replace(frame, rgb=None)), look(rig, replace(frame, depth=None))
    assert depth_only.distance_m is not None and depth_only.brightness is None
    assert colour_only.distance_m is None and colour_only.fill is None
    assert colour_only.brightness == pytest.approx(0, abs=0.02)


def test_an_alarm_needs_a_majority_and_ends_well_below_its_limit(rig: Rig) -> None:
    alarms = Alarms()
    watch = RigWatch(rig, alarms)

    def take(distance_m: float, times: int) -> bool:
        for _ in range(times):
            watch.take(Look(distance_m=distance_m))
        return [alarm.name for alarm in alarms.active()] == ["rig.moved"]

    limit_m = rig.record.limits.distance_m[1]
    assert not take(0.0, LOOKS)
    assert not take(1.0, LOOKS // 2)  # a hand
    assert not take(0.0, LOOKS)
    assert take(-1.1 * limit_m, LOOKS)
    assert take(0.9 * limit_m, LOOKS)  # not far enough back
    assert not take(0.5 * limit_m, LOOKS)
    assert alarms.raised() == {"rig.moved": 1}


def test_what_cannot_be_told_changes_nothing(rig: Rig) -> None:
    alarms = Alarms()
    watch = RigWatch(rig, alarms)
    for _ in range(LOOKS):
        watch.take(Look(brightness=-0.5))
    for _ in range(3 * LOOKS):
        watch.take(Look())
    assert [alarm.name for alarm in alarms.active()] == ["rig.exposure"]


def test_the_monitor_is_a_sink_with_a_thread_of_its_own(rig: Rig) -> None:
    alarms, rang = Alarms(), threading.Event()
    threads: list[str] = []

    def listen(alarm: object, on: bool) -> None:
        threads.append(threading.current_thread().name)
        rang.set()

    monitor = RigMonitor(rig, alarms, period_s=0)
    assert isinstance(monitor, Sink)
    frames = list(Scene(gain=0.6).frames(LOOKS))
    with alarms.listening(listen):
        for _ in range(600):
            for frame in frames:
                monitor.write(inspected(frame))
            if rang.wait(0.05):
                break
    monitor.close()
    monitor.close()
    assert [alarm.name for alarm in alarms.active()] == ["rig.exposure"]
    assert threads == ["rig monitor"]


def test_the_monitor_looks_at_one_frame_a_period(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(_: Rig, frame: Frame) -> Look:
        seen.append(frame.sequence)
        return Look()

    monkeypatch.setattr("edge_ad.rig.monitor.look", counted)
    monitor = RigMonitor(rig, Alarms(), period_s=3600)
    for frame in Scene().frames(6):
        monitor.write(inspected(frame))
    monitor.close()
    assert seen == [0]


def test_a_black_pixel_of_a_lost_camera_and_a_fault_are_skipped(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Rig, frame: Frame) -> Look:
        raise ValueError("no such frame")

    monkeypatch.setattr("edge_ad.rig.monitor.look", broken)
    counts = {"other size": Frame(rgb=np.zeros((1, 1, 3), np.uint8)), "failed": next(Scene().frames(1))}
    for cause, frame in counts.items():
        monitor = RigMonitor(rig, Alarms())
        monitor.write(inspected(frame))
        monitor.close()
        assert monitor.skipped == {cause: 1}
    assert rig.record.camera.frame_size_px == (HEIGHT_PX, WIDTH_PX)
