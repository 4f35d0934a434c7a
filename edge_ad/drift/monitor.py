"""Drift as a sink: sees every inspection and says when the world is no longer that of the training."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_ad.alarms import Alarms
from edge_ad.bundle import FULL
from edge_ad.drift.exchangeability import PROMISE_PARTS, ExchangeabilityTest
from edge_ad.drift.image_statistics import image_statistics
from edge_ad.drift.quantities import QUANTITIES
from edge_ad.drift.reference import Reference
from edge_ad.drift.watch import Finding, Watch, rise_of_share, standard_change
from edge_ad.thresholding import check_share
from edge_ad.types import Decision, Frame, Inspection

FALSE_ALARM_RATE = 0.01
IMAGE_WINDOW, SCORE_WINDOW = 20, 100
SMALLEST_SCORE_CHANGE = 0.25
"""In standard deviations of good scores: what an engine's precision alone may change."""

SMALLEST_REJECT_RISE = 0.02
REJECT_SHIFTS = (0.5, 1.0, 2.0)

INTERVAL_NS = 1_000_000_000
"""Without a trigger, frames closer together than this show one part; they would pretend to be evidence."""

SKIPS = ("other_recipe", "error", "not_a_number", "same_part", "unknown_mode")


class DriftMonitor:
    """Raises ``drift.score``, ``drift.rejects`` and ``drift.QUANTITY`` alarms, and clears them when it is over.

    The promise: while parts and pictures are drawn like those of the training, the probability of a drift alarm of
    any kind among the first k times ``PROMISE_PARTS`` parts looked at is at most k times ``false_alarm_rate``,
    whatever the distributions; see ``edge_ad.drift.exchangeability``. It is shared evenly among all that is watched.
    It holds for independent parts: where several frames show one part, or parts come in lots, an alarm may mean just
    that.

    Scores are those of parts judged OK, and of reference frames, below the threshold in force. That treats both
    alike: given a threshold that is one of the good scores, as it is by default, the reference scores below it and
    those of good parts below it are independent draws from one distribution. The threshold itself and what lies above
    it are not, so they are left out. What then goes unseen, good parts or bad ones above the threshold, is watched as
    the share of rejects, against the share before on this line.

    Args:
        reference: of the model.
        alarms: where alarms are raised.
        recipe: whose parts are looked at; several recipes take a monitor each. Ends the names of its alarms.
        false_alarm_rate: above 0 and below 1.
        seed: of the random numbers that break ties.

    Raises:
        ConfigError: the rate is not between 0 and 1.
    """

    def __init__(
        self,
        reference: Reference,
        alarms: Alarms,
        *,
        recipe: str = "",
        false_alarm_rate: float = FALSE_ALARM_RATE,
        seed: int = 0,
    ) -> None:
        check_share("the rate of false drift alarms", false_alarm_rate)
        self._reference, self._alarms, self._rate, self._seed = reference, alarms, false_alarm_rate, seed
        self._recipe = recipe
        known = {name: values for name, values in reference.images.items() if values and name in QUANTITIES}
        self._each = false_alarm_rate / max(1, len(known) + 2 * len(reference.scores))
        self._images = {name: self._image_watch(name, values) for name, values in known.items()}
        self._modes: dict[str, _Judgements] = {}
        self._lock = threading.Lock()
        self._skipped: Counter[str] = Counter()
        self._looked_at = 0
        self._last: tuple[str | None, str, int] | None = None

    def write(self, inspection: Inspection) -> None:
        """Looks at one inspection; one that cannot be looked at is counted."""
        with self._lock:
            skip = self._reason_to_skip(inspection)
            if skip:
                self._skipped[skip] += 1
                return
            frame = inspection.frame
            self._last = (frame.part_id, frame.source, frame.timestamp_ns)
            self._looked_at += 1
            for name, value in image_statistics(frame, self._reference.roi).items():
                if name in self._images:
                    self._tell(self._name(name), self._images[name], value, QUANTITIES[name].text)
            self._judged(inspection)

    def silence(self) -> None:
        """Clears its alarms; one whose cause is still there comes again with the next part that is looked at."""
        with self._lock:
            judged = [self._name(name, mode) for mode in self._modes for name in ("score", "rejects")]
            for name in (*map(self._name, self._images), *judged):
                self._alarms.clear(name)

    def close(self) -> None:
        """Nothing to close; alarms that are on stay on."""

    def summary(self) -> dict[str, Any]:
        """What was seen, JSON-able.

        ``recent`` and ``reference`` are means. ``capital`` is what a bet of 1 on a change has become: about 1 or
        less while nothing changes, and ``alarm_capital`` where it proves one.
        """
        with self._lock:
            return {
                "looked_at": self._looked_at,
                "skipped": {reason: self._skipped[reason] for reason in SKIPS},
                "false_alarm_rate": self._rate,
                "per_parts": PROMISE_PARTS,
                "alarm_capital": 1 / self._each,
                "images": {name: _figures(watch, self._reference.images[name]) for name, watch in self._images.items()},
                "scores": {mode: _figures(one.scores, one.reference) for mode, one in self._modes.items()},
                "rejects": {mode: _figures(one.rejects, ()) for mode, one in self._modes.items()},
            }

    def _reason_to_skip(self, inspection: Inspection) -> str:
        if inspection.recipe != self._recipe:
            return "other_recipe"
        if inspection.verdict.decision is Decision.ERROR or inspection.result is None:
            return "error"
        if not math.isfinite(inspection.result.score):
            return "not_a_number"
        return "" if inspection.triggered_ns or self._is_another_part(inspection.frame) else "same_part"

    def _is_another_part(self, frame: Frame) -> bool:
        """By its name or its file; of a stream, by the time since the last one that was looked at."""
        if self._last is None or (frame.part_id, frame.source) != self._last[:2]:
            return True
        return frame.part_id is None and not 0 <= frame.timestamp_ns - self._last[2] < INTERVAL_NS

    def _judged(self, inspection: Inspection) -> None:
        """Scores and rejects of the operating mode; another threshold means another beginning."""
        verdict, result = inspection.verdict, inspection.result
        if verdict.mode not in self._reference.scores or result is None:
            self._skipped["unknown_mode"] += 1
            return
        mode = self._modes.get(verdict.mode)
        if mode is None or mode.threshold != verdict.threshold:
            for name in ("score", "rejects"):
                self._alarms.clear(self._name(name, verdict.mode))
            scores = self._reference.scores[verdict.mode]
            mode = self._modes[verdict.mode] = _Judgements(scores, verdict.threshold, self._each, self._seed)
        rejected = float(verdict.decision is Decision.NG)
        self._tell(self._name("rejects", verdict.mode), mode.rejects, rejected, _rejects_text)
        if verdict.decision is Decision.OK and result.score < verdict.threshold:
            self._tell(self._name("score", verdict.mode), mode.scores, result.score, mode.text)

    def _name(self, quantity: str, mode: str = FULL) -> str:
        parts = ("drift", quantity, "" if mode == FULL else mode, self._recipe)
        return ".".join(part for part in parts if part)

    def _tell(self, name: str, watch: Watch, value: float, text: Callable[[Finding], str]) -> None:
        if watch.add(value):
            self._alarms.clear(name)
        elif watch.finding is not None:
            self._alarms.alert(name, text(watch.finding))

    def _image_watch(self, name: str, values: tuple[float, ...]) -> Watch:
        quantity = QUANTITIES[name]
        test = ExchangeabilityTest(values, false_alarm_rate=self._each, seed=self._seed)
        return Watch(test, quantity.effect, smallest=quantity.smallest, window=IMAGE_WINDOW, normal=np.array(values))


class _Judgements:
    """Scores and rejects of one operating mode with one threshold."""

    def __init__(self, scores: tuple[float, ...], threshold: float, false_alarm_rate: float, seed: int) -> None:
        self.threshold = threshold
        self.reference = tuple(score for score in scores if score < threshold)
        self.scores = Watch(
            ExchangeabilityTest(self.reference, false_alarm_rate=false_alarm_rate, seed=seed),
            standard_change,
            smallest=SMALLEST_SCORE_CHANGE,
            window=SCORE_WINDOW,
        )
        self.rejects = Watch(
            ExchangeabilityTest((), false_alarm_rate=false_alarm_rate, shifts=REJECT_SHIFTS, seed=seed),
            rise_of_share,
            smallest=SMALLEST_REJECT_RISE,
            window=SCORE_WINDOW,
        )

    def text(self, finding: Finding) -> str:
        """What became of the scores and what to do."""
        before, now = float(np.median(finding.before)), float(np.median(finding.recent))
        rose = finding.effect > 0
        percent = f" by {100 * abs(now / before - 1):.0f} %" if before > 0 else ""
        meaning = (
            "good parts come closer to being rejected" if rose else "the camera may show less, so defects may hide"
        )
        return (
            f"scores of parts judged OK {'rose' if rose else 'fell'}{percent} {finding.parts} parts ago (median "
            f"{now:.3g}, before {before:.3g}, threshold {self.threshold:.3g}), so {meaning}: look at the newest "
            "parts; if they are good, capture and train again, or set the threshold again"
        )


def _rejects_text(finding: Finding) -> str:
    before, now = (100 * float(np.mean(values)) for values in (finding.before, finding.recent))
    return (
        f"rejects rose from {before:.1f} % to {now:.1f} % of parts {finding.parts} parts ago: look at the newest "
        "rejects; if they are good parts, check lamp, lens and camera, then capture and train again"
    )


def _figures(watch: Watch, reference: tuple[float, ...]) -> dict[str, Any]:
    return {
        "recent": float(np.mean(watch.recent)) if watch.recent else None,
        "reference": float(np.mean(reference)) if reference else None,
        "reference_deviation": float(np.std(reference)) if reference else None,
        "compared_with": watch.test.compared,
        "capital": watch.test.capital,
        "alarm": watch.finding is not None,
    }
