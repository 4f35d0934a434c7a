"""The accuracy gate: an engine in fewer bits must judge as the model in float32 does, or it is not used.

With good parts only: the order of their scores, how far single scores move, how many good parts change sides, and
whether defects pasted into good frames are told from good parts as before. With defective parts also how well
these are. The limits are part of what edge-ad promises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from edge_ad.errors import DataError
from edge_ad.metrics import aupro, image_auroc
from edge_ad.quantization.pasted import pasted_defect
from edge_ad.settings import Settings
from edge_ad.types import AnyArray, BoolArray, Float32Array

Run = Callable[[Mapping[str, AnyArray]], Mapping[str, AnyArray]]
Feeds = Mapping[str, AnyArray]

MIN_RANK_CORRELATION = 0.99
MAX_SHIFT_SIGMA = 0.25
MAX_FALSE_REJECT_POINTS = 0.2
MAX_AUROC_POINTS, MAX_AUPRO_POINTS = 0.5, 1.0
PRO_LIMIT = 0.3
LARGEST = 1e30


class Detection(Settings):
    """How well defective parts are told from good ones, in percent: float32, and what the engine loses of it."""

    frames: int
    image_auroc: float
    image_auroc_drop: float
    aupro: float
    aupro_drop: float


class GateReport(Settings):
    """What the gate measured.

    Attributes:
        passed: whether every limit was kept.
        frames: good frames judged.
        rank_correlation: Spearman's, of the good frames' scores.
        shift_sigma: 99th percentile (of fewer than 100 frames the largest) of the scores' changes, in standard
            deviations of the good frames' scores.
        false_reject_points: change of the share of good parts above the threshold, see ``false_reject_share``, in
            percent points; None where the bundle has no threshold.
        pasted: with defects pasted into the good frames.
        defects: with real ones; None where none were given.
        failed: the limits that were not kept, in words.
    """

    passed: bool
    frames: int
    rank_correlation: float
    shift_sigma: float
    false_reject_points: float | None
    pasted: Detection | None
    defects: Detection | None
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Frames to judge with their masks, which are empty (None) on good parts."""

    feeds: Sequence[Feeds]
    masks: Sequence[BoolArray | None]


@dataclass(frozen=True, slots=True)
class Answers:
    """Scores (N) and maps (S, S) of some frames."""

    scores: AnyArray
    maps: Sequence[Float32Array]


@dataclass
class Gate:
    """Judges engines by the same frames.

    Args:
        reference: runs the model in float32.
        good: good frames.
        threshold: of the operating mode, if there is one.
        defects: a test set, if there is one.

    Raises:
        DataError: a frame has no score, or all have the same.
    """

    reference: Run
    good: Sequence[Feeds]
    threshold: float | None
    defects: Labelled | None = None
    _expected: dict[str, Answers] = field(init=False)
    _pasted: Labelled = field(init=False)

    def __post_init__(self) -> None:
        self._expected = {"good": _answers(self.reference, self.good)}
        self._pasted = _with_pasted_defects(self.good, self._expected["good"].maps)
        self._expected["pasted"] = _answers(self.reference, self._pasted.feeds)
        if self.defects is not None:
            self._expected["defects"] = _answers(self.reference, self.defects.feeds)
        if not self._expected["good"].scores.std() > 0:
            raise DataError("all good frames have the same score", remedy="make a calibration set of other frames")

    def report(self, run: Run) -> GateReport:
        """Judges what ``run`` runs."""
        expected = self._expected["good"]
        given = _answers(run, self.good)
        correlation = _rank_correlation(given.scores, expected.scores)
        moved = np.sort(np.abs(given.scores - expected.scores))
        shift = float(moved[math.ceil(0.99 * len(moved)) - 1] / expected.scores.std())
        false_rejects = None
        if self.threshold is not None:
            before, after = (false_reject_share(x.scores, self.threshold) for x in (expected, given))
            false_rejects = 100 * abs(after - before)
        pasted = self._detection(run, "pasted", self._pasted, given)
        defects = None if self.defects is None else self._detection(run, "defects", self.defects)
        failed = _failed(correlation, shift, false_rejects, {"pasted": pasted, "real": defects})
        return GateReport(
            passed=not failed,
            frames=len(self.good),
            rank_correlation=round(correlation, 5),
            shift_sigma=round(shift, 4),
            false_reject_points=None if false_rejects is None else round(false_rejects, 3),
            pasted=pasted,
            defects=defects,
            failed=tuple(failed),
        )

    def map_error(self, run: Run, frames: int) -> float:
        """Mean absolute change of the map over the first good frames."""
        pairs = zip(self.good[:frames], self._expected["good"].maps, strict=False)
        return float(np.mean([np.abs(run(feeds)["anomaly_map"][0] - expected).mean() for feeds, expected in pairs]))

    def _detection(self, run: Run, name: str, frames: Labelled, good: Answers | None = None) -> Detection:
        """Compares detection; frames without defects among them are joined by ``good``."""
        expected, given = self._expected[name], _answers(run, frames.feeds)
        masks: list[BoolArray | None] = list(frames.masks)
        if good is not None:
            expected, given = (_joined(*pair) for pair in ((self._expected["good"], expected), (good, given)))
            masks = [*(None for _ in good.maps), *masks]
        labels = [mask is not None for mask in masks]
        full = [np.zeros(given.maps[0].shape, bool) if mask is None else mask for mask in masks]
        aurocs, pros = [], []
        for answers in (expected, given):
            aurocs.append(100 * image_auroc(labels, answers.scores))
            pros.append(100 * aupro(full, list(answers.maps), PRO_LIMIT))
        return Detection(
            frames=len(masks),
            image_auroc=round(aurocs[0], 3),
            image_auroc_drop=round(aurocs[0] - aurocs[1], 3),
            aupro=round(pros[0], 3),
            aupro_drop=round(pros[0] - pros[1], 3),
        )


def false_reject_share(scores: AnyArray, threshold: float) -> float:
    """The share of good parts above a threshold, as some frames lead to expect it.

    Counting frames would round it to 1/N, and let the one frame next to the threshold decide. So each score is
    spread by a Gaussian whose width is Silverman's ("Density Estimation", 1986, Eq. 3.28).
    """
    if not np.isfinite(scores).all():
        return 1.0
    width = 1.06 * max(float(scores.std()), 1e-12) * len(scores) ** -0.2
    return float(np.mean([0.5 * math.erfc((threshold - score) / (width * math.sqrt(2))) for score in scores]))


def _answers(run: Run, feeds: Iterable[Feeds]) -> Answers:
    scores, maps = [], []
    for one in feeds:
        outputs = run(one)
        scores.append(float(outputs["score"][0]))
        maps.append(np.array(outputs["anomaly_map"][0], np.float32))
    # Not a number must fail, and the largest float does it without warnings that infinity brings.
    return Answers(np.nan_to_num(np.asarray(scores), nan=LARGEST, posinf=LARGEST, neginf=-LARGEST), maps)


def _joined(first: Answers, second: Answers) -> Answers:
    return Answers(np.concatenate([first.scores, second.scores]), [*first.maps, *second.maps])


def _with_pasted_defects(good: Sequence[Feeds], maps: Sequence[Float32Array]) -> Labelled:
    """One defect a frame, where the part is: where the map is not as low as on the background."""
    feeds, masks = [], []
    for seed, (one, network_map) in enumerate(zip(good, maps, strict=True)):
        height, width = next(iter(one.values())).shape[1:3]
        inside = network_map > np.quantile(network_map, 0.5)
        place = cv2.resize(inside.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        place = place if place.any() else np.ones_like(place)
        changed, mask = pasted_defect(one, place, seed)
        small = cv2.resize(mask.astype(np.uint8), network_map.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        if small.any():
            feeds.append(changed)
            masks.append(small)
    return Labelled(feeds, masks)


def _rank_correlation(first: AnyArray, second: AnyArray) -> float:
    """Spearman's; equal scores share their mean rank."""
    ranks = [_ranks(values) for values in (first, second)]
    centred = [values - values.mean() for values in ranks]
    length = float(np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
    return float(centred[0] @ centred[1]) / length if length else 0.0


def _ranks(values: AnyArray) -> AnyArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray(last[inverse] - (counts[inverse] - 1) / 2, np.float64)


def _failed(
    correlation: float, shift: float, false_rejects: float | None, detections: Mapping[str, Detection | None]
) -> list[str]:
    failed = []
    if not correlation >= MIN_RANK_CORRELATION:
        failed.append(f"the scores' rank correlation is {correlation:.4f} (at least {MIN_RANK_CORRELATION})")
    if not shift <= MAX_SHIFT_SIGMA:
        failed.append(f"scores move by {shift:.2f} σ (at most {MAX_SHIFT_SIGMA})")
    if false_rejects is not None and not false_rejects <= MAX_FALSE_REJECT_POINTS:
        failed.append(f"false rejects change by {false_rejects:.2f} points (at most {MAX_FALSE_REJECT_POINTS})")
    for kind, detection in detections.items():
        if detection is None:
            continue
        for title, drop, limit in (
            ("I-AUROC", detection.image_auroc_drop, MAX_AUROC_POINTS),
            ("AUPRO", detection.aupro_drop, MAX_AUPRO_POINTS),
        ):
            if not drop <= limit:
                failed.append(f"{title} with {kind} defects drops by {drop:.2f} points (at most {limit})")
    return failed
