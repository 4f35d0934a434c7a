"""Which mode judges, and when it goes back: a sensor that is missing, fails half, and returns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_ad.alarms import Alarms
from edge_ad.bundle import FULL, RGB_ONLY, THREE_D_ONLY
from edge_ad.errors import ConfigError, DataError
from edge_ad.runtime.judging import BACK_AFTER_FRAMES, BACK_AFTER_S, Inspector, Judge
from edge_ad.runtime.stats import Statistics
from edge_ad.types import AnomalyResult, Decision, Frame, Roi, Verdict

THRESHOLDS = {FULL: 1.0, RGB_ONLY: 2.0, THREE_D_ONLY: 3.0}


def predict(frame: Frame) -> AnomalyResult:
    return AnomalyResult(np.full(frame.size_px, 2.5, np.float32), 2.5, latency_ms={"infer": 1.0})


def make_frame(*, rgb: bool = True, fill: float | None = 1.0, skew_ms: float = 0.0) -> Frame:
    depth = None
    if fill is not None:
        depth = np.zeros((40, 40), np.uint16)
        depth[:, : round(40 * fill)] = 500
    image = np.zeros((40, 40, 3), np.uint8) if rgb else None
    return Frame(rgb=image, depth=depth, depth_unit_m=0.001, skew_ms=skew_ms)


class Bench:
    """An inspector with these modes, its clock and its alarms."""

    def __init__(self, *modes: str, depth_fill: float | None = None, roi: Roi | None = None) -> None:
        self.now_s = 100.0
        self.alarms, self.statistics = Alarms(), Statistics()
        self.inspector = Inspector(
            {mode: Judge(predict, THRESHOLDS[mode], mode) for mode in modes or (FULL, RGB_ONLY, THREE_D_ONLY)},
            modes[0] if modes else FULL,
            needs=("rgb", "depth"),
            max_skew_ms=50,
            roi=roi,
            depth_fill=depth_fill,
            clock_s=lambda: self.now_s,
        )

    def verdict(self, frame: Frame) -> Verdict:
        return self.inspector(frame, self.statistics, self.alarms)[1]

    @property
    def alarm(self) -> str:
        return "; ".join(alarm.text for alarm in self.alarms.active())


def test_with_both_sensors_the_full_mode_judges_and_says_so() -> None:
    bench = Bench()
    verdict = bench.verdict(make_frame())
    assert (verdict.decision, verdict.threshold, verdict.mode, verdict.reason) == (Decision.NG, 1.0, FULL, "")
    assert bench.alarm == ""
    assert set(bench.statistics.summary()["latency_ms"]) >= {"predict", "predict.infer", "judge"}


@pytest.mark.parametrize(
    ("frame", "mode", "words"),
    [
        pytest.param(make_frame(fill=None), RGB_ONLY, "depth is missing: judged by colour alone", id="no depth"),
        pytest.param(make_frame(fill=0.0), RGB_ONLY, "no pixel has depth: judged by colour alone", id="empty depth"),
        pytest.param(
            make_frame(fill=0.3), RGB_ONLY, "only 30% of the picture has depth: judged by colour alone", id="collapsed"
        ),
        pytest.param(make_frame(rgb=False), THREE_D_ONLY, "colour is missing: judged by depth alone", id="no colour"),
    ],
)
def test_without_a_sensor_its_mode_judges_with_its_own_threshold(frame: Frame, mode: str, words: str) -> None:
    bench = Bench(depth_fill=0.8)
    verdict = bench.verdict(frame)
    assert (verdict.mode, verdict.threshold, verdict.reason) == (mode, THRESHOLDS[mode], words)
    assert verdict.decision is (Decision.NG if mode == RGB_ONLY else Decision.OK)
    assert "judged by" in bench.alarm


def test_it_goes_back_only_when_the_sensor_has_been_well_for_a_while() -> None:
    bench = Bench()
    assert bench.verdict(make_frame(fill=0)).mode == RGB_ONLY
    modes = []
    for _ in range(BACK_AFTER_FRAMES + 4):
        modes.append(bench.verdict(make_frame()).mode)
        bench.now_s += BACK_AFTER_S / BACK_AFTER_FRAMES
    assert modes == [RGB_ONLY] * BACK_AFTER_FRAMES + [FULL] * 4
    assert bench.alarm == ""


def test_a_sensor_that_comes_and_goes_is_not_trusted() -> None:
    bench = Bench()
    for _ in range(10):
        assert bench.verdict(make_frame(fill=0)).mode == RGB_ONLY
        verdict = bench.verdict(make_frame())
        assert verdict.mode == RGB_ONLY
        assert "depth has not been back for long" in verdict.reason
        bench.now_s += BACK_AFTER_S / 2
    assert bench.alarms.raised() == {"sensors": 1}


@pytest.mark.parametrize(
    ("modes", "frame", "words"),
    [
        pytest.param((FULL,), make_frame(fill=None), "depth is missing", id="no fallback"),
        pytest.param((FULL, RGB_ONLY), make_frame(rgb=False), "colour is missing", id="the other fallback"),
        pytest.param((), make_frame(rgb=False, fill=0), "both colour and depth are missing", id="nothing left"),
    ],
)
def test_what_no_mode_can_judge_is_an_error_with_an_alarm(modes: tuple[str, ...], frame: Frame, words: str) -> None:
    bench = Bench(*modes)
    with pytest.raises(DataError, match=words):
        bench.verdict(frame)
    assert "parts are ERROR" in bench.alarm


def test_the_alarm_ends_when_frames_are_whole_again_though_no_mode_took_over() -> None:
    bench = Bench(FULL)
    with pytest.raises(DataError):
        bench.verdict(make_frame(fill=None))
    assert bench.alarm
    assert bench.verdict(make_frame()).mode == FULL
    assert bench.alarm == ""


def test_a_mode_that_somebody_chose_stays() -> None:
    bench = Bench(RGB_ONLY)
    verdict = bench.verdict(make_frame(fill=None))
    assert (verdict.mode, verdict.reason, bench.alarm) == (RGB_ONLY, "", "")


def test_depth_is_asked_for_where_the_roi_is() -> None:
    left = Roi(0, 0, 20, 40)
    assert Bench(roi=left, depth_fill=1.0).verdict(make_frame(fill=0.5)).mode == FULL
    right = Roi(20, 0, 20, 40)
    assert Bench(roi=right, depth_fill=1.0).verdict(make_frame(fill=0.5)).mode == RGB_ONLY


def test_colour_and_depth_of_two_captures_are_not_judged() -> None:
    bench = Bench()
    with pytest.raises(DataError, match=r"are 51.0 ms apart. one inspection may mix at most 50 ms"):
        bench.verdict(make_frame(skew_ms=51))
    assert bench.verdict(make_frame(skew_ms=49)).mode == FULL


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="threshold is nan"):
        Inspector.of(predict, math.nan)
