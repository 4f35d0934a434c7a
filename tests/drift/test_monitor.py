from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from edge_ad.alarms import Alarms
from edge_ad.cli.line import DriftSink, Loaded
from edge_ad.drift.image_statistics import COLOUR, image_statistics
from edge_ad.drift.monitor import DriftMonitor
from edge_ad.drift.reference import Reference, measured_images
from edge_ad.errors import ConfigError
from edge_ad.types import AnomalyResult, Decision, Frame, Inspection, Roi, Sink, Verdict

ROI = Roi(0, 0, 32, 24)
THRESHOLD = 4.0
Look = Mapping[str, float]
NORMAL: Look = MappingProxyType({})
MAP = np.zeros((24, 32), np.float32)


class Line:
    """Draws parts; pictures and scores wander a little from part to part."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.parts = 0

    def frame(self, light: float = 1.0, blue: float = 1.0, fill: float = 0.97, distance_m: float = 0.4) -> Frame:
        level = light * 114 * (1 + 0.02 * self.random.standard_normal())
        rgb = level * np.array([1, 1, blue]) + self.random.normal(0, 5, (24, 32, 1))
        depth = np.where(self.random.random((24, 32)) < fill, 1000 * distance_m, 0)
        depth += (depth > 0) * self.random.integers(-1, 2)
        self.parts += 1
        return Frame(
            rgb=rgb.clip(0, 255).astype(np.uint8),
            depth=depth.astype(np.uint16),
            depth_unit_m=0.001,
            part_id=f"part {self.parts}",
        )

    def inspection(
        self,
        shift: float = 0.0,
        *,
        mode: str = "full",
        ng: bool = False,
        threshold: float = THRESHOLD,
        look: Look = NORMAL,
    ) -> Inspection:
        score = threshold + 1 if ng else min(threshold, 2 + 0.3 * float(self.random.standard_normal()) + shift)
        verdict = Verdict(Decision.NG if ng else Decision.OK, threshold, mode=mode)
        return Inspection(self.frame(**look), verdict, AnomalyResult(MAP, score))

    def reference(self, frames: int = 60) -> Reference:
        scores = tuple(2 + 0.3 * self.random.standard_normal(frames)) + (THRESHOLD,)
        shown = [self.frame() for _ in range(frames)]
        return Reference(roi=ROI, scores={"full": scores, "rgb_only": scores}, images=measured_images(shown, ROI))


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


@pytest.fixture
def monitor(line: Line, alarms: Alarms) -> Iterator[DriftMonitor]:
    monitor = DriftMonitor(line.reference(), alarms)
    yield monitor
    monitor.close()


def texts(alarms: Alarms) -> dict[str, str]:
    return {alarm.name: alarm.text for alarm in alarms.active()}


def test_it_is_a_sink(monitor: DriftMonitor) -> None:
    assert isinstance(monitor, Sink)


def test_parts_like_those_of_the_training_raise_nothing(line: Line, alarms: Alarms, monitor: DriftMonitor) -> None:
    for _ in range(2000):
        monitor.write(line.inspection(ng=line.random.random() < 0.02))
    assert alarms.raised() == {}


@pytest.mark.parametrize(
    ("look", "name", "expected"),
    [
        (
            {"light": 0.77},
            "brightness",
            r"picture is 2\d % darker than in training \(brightness 8\d, training 11\d ± \d\)",
        ),
        ({"light": 1.2}, "brightness", "brighter than in training"),
        ({"blue": 0.8}, "blue_green", "less blue.*fix the white balance"),
        ({"fill": 0.61}, "depth_fill", r"fell from 9\d\.\d % in training to 6\d\.\d %: clean the lens"),
        (
            {"distance_m": 0.412},
            "distance_m",
            r"3\.0 % farther away than in training \(distance in mm 412, training 400",
        ),
    ],
    ids=["dark", "bright", "yellow", "depth holes", "moved"],
)
def test_another_picture_is_said_within_20_parts(
    line: Line, alarms: Alarms, monitor: DriftMonitor, look: dict[str, float], name: str, expected: str
) -> None:
    for _ in range(300):
        monitor.write(line.inspection())
    for _ in range(20):
        monitor.write(line.inspection(look=look))
    text = texts(alarms)[f"drift.{name}"]
    assert re.search(expected, text), text


def test_out_of_focus_is_said() -> None:
    """Rendered noise is what sharpness sees here: half of it is gone."""
    alarms, line = Alarms(), Line()
    monitor = DriftMonitor(line.reference(), alarms)
    for _ in range(20):
        frame = line.frame()
        assert frame.rgb is not None
        blurred = (frame.rgb // 2 + np.roll(frame.rgb, 1, axis=1) // 2).astype(np.uint8)
        verdict = Verdict(Decision.OK, THRESHOLD, mode="full")
        monitor.write(Inspection(Frame(rgb=blurred, part_id=frame.part_id), verdict, AnomalyResult(MAP, 2.0)))
    assert "less sharp than in training" in texts(alarms)["drift.sharpness"]


def test_a_change_too_small_to_matter_raises_nothing(line: Line, alarms: Alarms, monitor: DriftMonitor) -> None:
    """4 % less light is beyond doubt after 500 parts, and no reason to wake anyone."""
    for _ in range(500):
        monitor.write(line.inspection(look={"light": 0.96}))
    summary = monitor.summary()
    assert summary["images"]["brightness"]["capital"] >= summary["alarm_capital"]
    assert "drift.brightness" not in alarms.raised()


def test_an_alarm_ends_when_the_lamp_is_repaired_and_does_not_flap(
    line: Line, alarms: Alarms, monitor: DriftMonitor
) -> None:
    for light in (1.0, 0.8, 0.89, 1.0):
        for _ in range(100):
            monitor.write(line.inspection(look={"light": light}))
        assert ("drift.brightness" in texts(alarms)) == (light < 1)
    assert alarms.raised()["drift.brightness"] == 1


@pytest.mark.parametrize(("shift", "word"), [(0.4, "rose by"), (-0.4, "fell by")])
def test_scores_that_move_are_said_with_what_to_do(
    line: Line, alarms: Alarms, monitor: DriftMonitor, shift: float, word: str
) -> None:
    for _ in range(300):
        monitor.write(line.inspection())
    for _ in range(60):
        monitor.write(line.inspection(shift))
    text = texts(alarms)["drift.score"]
    assert word in text and "look at the newest parts" in text
    for _ in range(300):
        monitor.write(line.inspection())
    assert "drift.score" not in texts(alarms)


def test_more_rejects_are_said(line: Line, alarms: Alarms, monitor: DriftMonitor) -> None:
    for share in (0.01, 0.2):
        for _ in range(500):
            monitor.write(line.inspection(ng=line.random.random() < share))
    assert "rejects rose from" in texts(alarms)["drift.rejects"]
    assert "drift.score" not in alarms.raised()


def test_another_mode_has_its_own_alarm(line: Line, alarms: Alarms, monitor: DriftMonitor) -> None:
    for _ in range(60):
        monitor.write(line.inspection(mode="rgb_only", shift=1.0))
        monitor.write(line.inspection())
    assert texts(alarms).keys() == {"drift.score.rgb_only"}


def test_recipes_have_a_monitor_each(line: Line, alarms: Alarms) -> None:
    """The other product is darker, which is no drift of this one."""
    monitors = [DriftMonitor(line.reference(), alarms, recipe=recipe) for recipe in ("lid", "cup")]
    for _ in range(20):
        for monitor in monitors:
            monitor.write(replace(line.inspection(), recipe="lid"))
            monitor.write(replace(line.inspection(look={"light": 0.85}), recipe="cup"))
    assert texts(alarms).keys() == {"drift.brightness.cup"}
    assert [monitor.summary()["skipped"]["other_recipe"] for monitor in monitors] == [20, 20]


def test_alarms_of_a_recipe_that_is_not_in_force_are_silent(line: Line, alarms: Alarms) -> None:
    monitor = DriftMonitor(line.reference(), alarms, recipe="cup")
    dark = [replace(line.inspection(look={"light": 0.85}), recipe="cup") for _ in range(21)]
    for inspection in dark[:20]:
        monitor.write(inspection)
    assert texts(alarms).keys() == {"drift.brightness.cup"}
    monitor.silence()
    assert not texts(alarms)
    monitor.write(dark[20])
    assert texts(alarms).keys() == {"drift.brightness.cup"} and alarms.raised() == {"drift.brightness.cup": 2}


def test_a_change_over_ends_the_alarms_of_parts_that_were_under_way(line: Line, alarms: Alarms) -> None:
    """They come after it, and would leave on for good what it ended."""
    sink = DriftSink({name: Loaded(name, name, line.reference()) for name in ("cup", "lid")}, alarms)
    dark = [replace(line.inspection(look={"light": 0.85}), recipe="cup") for _ in range(22)]
    for inspection in dark[:20]:
        sink.write(inspection)
    assert texts(alarms).keys() == {"drift.brightness.cup"}
    sink.silence_others("lid")
    assert not texts(alarms)
    sink.write(dark[20])
    assert texts(alarms).keys() == {"drift.brightness.cup"}
    sink.write(replace(line.inspection(), recipe="lid"))
    assert not texts(alarms)
    sink.write(dark[21])  # named by its own trigger, after the change-over
    sink.write(replace(line.inspection(), recipe="lid"))
    assert texts(alarms).keys() == {"drift.brightness.cup"}


def test_another_threshold_is_another_beginning(line: Line, alarms: Alarms, monitor: DriftMonitor) -> None:
    for _ in range(60):
        monitor.write(line.inspection(shift=1.0))
    assert "drift.score" in texts(alarms)
    monitor.write(line.inspection(threshold=5.0))
    assert "drift.score" not in texts(alarms)
    assert monitor.summary()["scores"]["full"]["compared_with"] == 62


def test_the_threshold_itself_is_no_good_score_to_compare_with(line: Line, monitor: DriftMonitor) -> None:
    monitor.write(line.inspection())
    assert monitor.summary()["scores"]["full"]["compared_with"] == 61


def test_what_cannot_be_looked_at_is_counted(line: Line, alarms: Alarms, monitor: DriftMonitor) -> None:
    verdict = Verdict(Decision.OK, THRESHOLD, mode="full")
    result = AnomalyResult(MAP, 2.0)
    for inspection in (
        Inspection(line.frame(), Verdict(Decision.ERROR, THRESHOLD)),
        Inspection(line.frame(), verdict, AnomalyResult(MAP, float("nan"))),
        Inspection(line.frame(), verdict, AnomalyResult(MAP, float("inf"))),
        Inspection(line.frame(), Verdict(Decision.OK, THRESHOLD, mode="normals_only"), result),
        Inspection(Frame(depth=np.full((24, 32), np.nan, np.float32), part_id="no return"), verdict, result),
        Inspection(Frame(normals=np.zeros((24, 32, 3), np.uint8), part_id="no image"), verdict, result),
        Inspection(Frame(rgb=np.zeros((1, 1, 3), np.uint8), part_id="a pixel"), verdict, result),
    ):
        monitor.write(inspection)
    summary = json.loads(json.dumps(monitor.summary(), allow_nan=False))
    assert summary["skipped"] == {"other_recipe": 0, "error": 1, "not_a_number": 2, "same_part": 0, "unknown_mode": 1}
    assert summary["looked_at"] == 4
    assert alarms.raised() == {}


@pytest.mark.parametrize(
    ("triggered_ns", "part_id", "sources", "looked_at"),
    [(0, None, 1, 3), (1, None, 1, 90), (0, "7", 1, 1), (0, None, 90, 90)],
    ids=["a stream", "triggers", "one part", "files"],
)
def test_frames_of_one_part_are_looked_at_once(
    line: Line, monitor: DriftMonitor, triggered_ns: int, part_id: str | None, sources: int, looked_at: int
) -> None:
    """Three seconds at 30 frames a second."""
    shown = line.frame().rgb
    for index in range(90):
        stamp_ns = 5_000_000_000 + index * 33_333_333
        source = f"camera {index % sources}"
        frame = Frame(rgb=shown, part_id=part_id, timestamp_ns=stamp_ns, source=source)
        verdict = Verdict(Decision.OK, THRESHOLD, mode="full")
        monitor.write(Inspection(frame, verdict, AnomalyResult(MAP, 2.0), triggered_ns=triggered_ns))
    assert monitor.summary()["looked_at"] == looked_at
    assert monitor.summary()["skipped"]["same_part"] == 90 - looked_at


def test_false_alarms_of_a_whole_line_are_no_more_frequent_than_promised() -> None:
    """All quantities together, from reference to alarm: 150 lines at a rate of 20 %."""
    alarmed = 0
    for seed in range(150):
        alarms, line = Alarms(), Line(seed)
        monitor = DriftMonitor(line.reference(12), alarms, false_alarm_rate=0.2, seed=seed)
        for _ in range(40):
            monitor.write(line.inspection())
        alarmed += bool(alarms.raised())
    assert alarmed <= 0.2 * 150


def test_a_model_that_knows_no_pictures_watches_scores_alone(line: Line, alarms: Alarms) -> None:
    reference = Reference(roi=ROI, scores={"full": (1.0, 2.0, 3.0)}, images={"brightness": (), "smell": (1.0,)})
    monitor = DriftMonitor(reference, alarms)
    monitor.write(line.inspection())
    assert monitor.summary()["images"] == {}
    assert monitor.summary()["scores"]["full"]["compared_with"] == 4


@pytest.mark.parametrize("rate", [0.0, 1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(line: Line, alarms: Alarms, rate: float) -> None:
    with pytest.raises(ConfigError, match="the rate of false drift alarms is"):
        DriftMonitor(line.reference(3), alarms, false_alarm_rate=rate)


def test_a_reference_keeps_some_of_many_frames(line: Line) -> None:
    frame = line.frame()
    kept = measured_images([frame] * 2500, ROI)
    assert {len(values) for values in kept.values()} == {834}
    assert kept["brightness"][0] == pytest.approx(image_statistics(frame, ROI)["brightness"], rel=1e-5)
    assert measured_images([Frame(rgb=frame.rgb)], ROI).keys() == set(COLOUR)
