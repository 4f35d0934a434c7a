"""From frame to verdict, also when a sensor is missing: another operating mode then judges, if there is one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from edge_ad.alarms import Alarms
from edge_ad.bundle import FULL, RGB_ONLY, THREE_D_ONLY
from edge_ad.errors import ConfigError, DataError
from edge_ad.runtime.stats import Statistics
from edge_ad.scoring import judge
from edge_ad.types import AnomalyResult, Decision, Frame, Roi, Verdict

Predict = Callable[[Frame], AnomalyResult]

MIN_DEPTH_FILL = 0.05
"""Less of the ROI with depth than this is a sensor that has failed, where nothing better is known."""

COLLAPSED_FILL = 0.5
"""Or less than this share of what the training frames had."""

BACK_AFTER_S = 2.0
"""A sensor must deliver for so long,"""
BACK_AFTER_FRAMES = 3
"""and in so many frames in a row, before it is trusted again."""

ALARM = "sensors"

_SEES = {RGB_ONLY: "colour", THREE_D_ONLY: "depth"}


@dataclass(frozen=True, slots=True)
class Judge:
    """A model in one operating mode.

    Attributes:
        predict: gives the model's answer to a frame.
        threshold: a score above it is NG.
        mode: the operating mode.
    """

    predict: Predict
    threshold: float
    mode: str = FULL

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise ConfigError(
                f"the threshold is {self.threshold}", why="nothing can be above it", remedy="set a number"
            )


class Inspector:
    """Judges frames, each in the best operating mode that its sensors allow.

    Args:
        judges: by operating mode; one of them has all sensors that there should be.
        mode: of that one.
        model_id: digest of the model.
        recipe: of the product.
        needs: images without which the mode with all sensors cannot judge, of ``rgb`` and ``depth``.
        max_skew_ms: colour and depth of a frame may have been exposed so far apart.
        roi: where depth is needed; None for the whole frame.
        depth_fill: share of the ROI that has depth in good frames; None where that is not known.
        clock_s: the host's monotonic clock.
    """

    def __init__(
        self,
        judges: Mapping[str, Judge],
        mode: str = FULL,
        *,
        model_id: str = "",
        recipe: str = "",
        needs: Collection[str] = (),
        max_skew_ms: float = math.inf,
        roi: Roi | None = None,
        depth_fill: float | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.judges, self.mode, self.model_id, self.recipe = dict(judges), mode, model_id, recipe
        self._needs, self._max_skew_ms, self._roi, self._clock_s = needs, max_skew_ms, roi, clock_s
        self._min_fill = MIN_DEPTH_FILL if depth_fill is None else COLLAPSED_FILL * depth_fill
        self._degraded, self._alarmed = "", False
        self._well_since_s, self._well_frames = math.inf, 0

    @classmethod
    def of(cls, predict: Predict, threshold: float) -> Inspector:
        """One model in one mode."""
        return cls({FULL: Judge(predict, threshold)})

    @property
    def threshold(self) -> float:
        """Of the mode with all sensors."""
        return self.judges[self.mode].threshold

    def __call__(self, frame: Frame, statistics: Statistics, alarms: Alarms) -> tuple[AnomalyResult | None, Verdict]:
        """Judges one frame; records what it took.

        Raises:
            EdgeAdError: the frame cannot be judged.
        """
        if frame.skew_ms > self._max_skew_ms:
            raise DataError(
                f"colour and depth of frame {frame.source or frame.sequence} are {frame.skew_ms:.1f} ms apart",
                why=f"one inspection may mix at most {self._max_skew_ms:g} ms",
                remedy="check the camera's synchronisation, or allow more with max_skew_ms",
            )
        mode, reason = self._mode_for(frame, alarms)
        used = self.judges[mode]
        started_s = time.perf_counter()
        result = used.predict(frame)
        predicted_s = time.perf_counter()
        verdict = judge(result, used.threshold)
        judged_s = time.perf_counter()
        statistics.record("predict", 1000 * (predicted_s - started_s))
        for stage, stage_ms in result.latency_ms.items():
            statistics.record(f"predict.{stage}", stage_ms)
        statistics.record("judge", 1000 * (judged_s - predicted_s))
        reason = "; ".join(part for part in (verdict.reason, reason) if part)
        return result, Verdict(verdict.decision, verdict.threshold, verdict.regions, reason, mode)

    def error(self, reason: str) -> Verdict:
        """The verdict on what could not be judged."""
        return Verdict(Decision.ERROR, self.threshold, reason=reason)

    @staticmethod
    def nobody(reason: str) -> Verdict:
        """The verdict where there is no model to judge with."""
        return Verdict(Decision.ERROR, math.nan, reason=reason)

    def _mode_for(self, frame: Frame, alarms: Alarms) -> tuple[str, str]:
        """The mode that judges this frame, and why it is not the full one."""
        if self.mode != FULL:
            return self.mode, ""  # somebody chose it
        missing = self._missing(frame)
        if not missing:
            if not self._degraded or self._is_back():
                if self._alarmed:
                    alarms.clear(ALARM)
                self._degraded, self._alarmed = "", False
                return FULL, ""
            return self._degraded, f"{self._gone(self._degraded)} has not been back for long: {self._alone()}"
        self._well_since_s, self._well_frames, self._alarmed = math.inf, 0, True
        mode = RGB_ONLY if "depth" in missing else THREE_D_ONLY
        why = missing.get("depth") or missing["rgb"]
        if mode not in self.judges or len(missing) > 1:
            alarms.alert(ALARM, f"{why}; this model cannot judge without it, so parts are ERROR: check the camera")
            raise DataError(
                f"frame {frame.source or frame.sequence} cannot be judged",
                why=why if len(missing) == 1 else "both colour and depth are missing",
                remedy="check the camera, its emitter and its lens; a crd model can be run with a fallback mode",
            )
        self._degraded = mode
        alarms.alert(ALARM, f"{why}: parts are judged by {_SEES[mode]} alone; check the camera")
        return mode, f"{why}: {self._alone()}"

    def _alone(self) -> str:
        return f"judged by {_SEES[self._degraded]} alone"

    @staticmethod
    def _gone(mode: str) -> str:
        return "depth" if mode == RGB_ONLY else "colour"

    def _is_back(self) -> bool:
        now_s = self._clock_s()
        self._well_since_s = min(self._well_since_s, now_s)
        self._well_frames += 1
        return self._well_frames >= BACK_AFTER_FRAMES and now_s - self._well_since_s >= BACK_AFTER_S

    def _missing(self, frame: Frame) -> dict[str, str]:
        """The sensors that this frame lacks, and how that shows."""
        missing = {}
        if "rgb" in self._needs and frame.rgb is None:
            missing["rgb"] = "colour is missing"
        if "depth" in self._needs and frame.depth is None:
            missing["depth"] = "depth is missing"
        elif "depth" in self._needs and frame.depth is not None:
            depth = frame.depth if self._roi is None else self._roi.crop(frame.depth)
            # A quarter of the rows and columns tells as much, in a sixteenth of the time.
            fill = float(np.count_nonzero(depth[::4, ::4] > 0)) / max(1, depth[::4, ::4].size)
            if fill < self._min_fill:
                missing["depth"] = f"only {fill:.0%} of the picture has depth" if fill else "no pixel has depth"
        return missing
