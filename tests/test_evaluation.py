from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import integrate

from edge_ad.data import Dataset
from edge_ad.errors import DataError
from edge_ad.evaluation import METRIC_TITLES, evaluate
from edge_ad.predictor import open_predictor
from edge_ad.types import AnomalyResult, AnyArray, Float32Array, Frame, LabelledFrame, Roi
from tests.datasets import SIZE_PX, float_frame

Frames = Sequence[LabelledFrame]
METRICS = {
    "image_auroc",
    "average_precision",
    "f1_max",
    "pixel_auroc",
    "aupro_30",
    "aupro_1",
}


@pytest.fixture(scope="module")
def frames(dataset: Dataset) -> Frames:
    return list(dataset.frames("test"))


def resized(array: AnyArray, size_px: int) -> Float32Array:
    return np.asarray(cv2.resize(np.asarray(array, np.float32), (size_px, size_px)), np.float32)


def oracle(frames: Frames, roi: Roi | None = None) -> Callable[[Frame], AnomalyResult]:
    """Knows the masks; says how defective a part is by the order of the frames. One modality knows nothing.

    With a ROI its modality maps show only that, as a network does that sees no more.
    """
    masks = {item.frame.source: item.gt_mask for item in frames}
    order = {item.frame.source: index for index, item in enumerate(frames)}

    def predict(frame: Frame) -> AnomalyResult:
        mask = masks[frame.source]
        truth = np.zeros(frame.size_px, np.float32) if mask is None else mask.astype(np.float32)
        seen = truth if roi is None else roi.crop(truth)
        noise = np.random.default_rng(order[frame.source]).normal(size=(64, 64)).astype(np.float32)
        score = 10.0 * float(truth.max()) + order[frame.source] / len(frames)
        return AnomalyResult(truth * score, score, {"rgb": noise, "depth": resized(seen, SIZE_PX)})

    return predict


def test_an_oracle_is_perfect(frames: Frames) -> None:
    told: list[tuple[int, int]] = []
    evaluation = evaluate(oracle(frames), frames, 5.0, lambda done, total: told.append((done, total)))
    assert evaluation.metrics.keys() == METRICS
    for name in METRICS:
        assert evaluation.metrics[name] == pytest.approx(1), name
    assert evaluation.confusion == {"good": 4, "good_rejected": 0, "defective": 7, "defective_rejected": 7}
    assert told == [(index + 1, 11) for index in range(11)]


def test_the_table_of_defects(frames: Frames) -> None:
    kinds = Counter(item.defect for item in frames)
    good = kinds.pop("good")
    predict = oracle(frames)

    def blind_to_dents(frame: Frame) -> AnomalyResult:
        result = predict(frame)
        is_dent = any(item.defect == "dent" for item in frames if item.frame.source == frame.source)
        return replace(result, score=-1.0) if is_dent else result

    evaluation = evaluate(blind_to_dents, frames, 5.0)
    assert evaluation.defects.keys() == kinds.keys()
    for kind, row in evaluation.defects.items():
        found = 0.0 if kind == "dent" else float(kinds[kind])
        assert row == {"image_auroc": float(kind != "dent"), "parts": kinds[kind], "found": found}
    assert evaluation.metrics["image_auroc"] == pytest.approx(1 - kinds["dent"] / (len(frames) - good))


def test_a_score_at_the_threshold_is_not_rejected(frames: Frames) -> None:
    """As on the line: above the threshold is NG."""
    constant = AnomalyResult(np.zeros((SIZE_PX, SIZE_PX), np.float32), 3.0)
    assert evaluate(lambda frame: constant, frames, 3.0).confusion["defective_rejected"] == 0
    evaluation = evaluate(lambda frame: constant, frames, 2.9)
    assert (evaluation.confusion["good_rejected"], evaluation.confusion["defective_rejected"]) == (4, 7)
    assert evaluation.metrics["image_auroc"] == pytest.approx(0.5)
    assert evaluation.modalities == {}


def test_each_modality_is_judged_by_its_own_map(frames: Frames) -> None:
    modalities = evaluate(oracle(frames), frames, 5.0).modalities
    assert modalities.keys() == {"rgb", "depth"}
    assert modalities["depth"]["pixel_auroc"] == pytest.approx(1, abs=1e-6)
    assert modalities["depth"]["image_auroc"] == pytest.approx(1)
    assert 0.3 < modalities["rgb"]["pixel_auroc"] < 0.7


def test_modality_maps_lie_where_the_roi_is(frames: Frames) -> None:
    roi = Roi(6, 12, 84, 70)
    inside = [item for item in frames if item.gt_mask is None or not item.gt_mask[:, :6].any()]
    placed = evaluate(oracle(inside, roi), inside, 5.0, roi=roi).modalities["depth"]
    stretched = evaluate(oracle(inside, roi), inside, 5.0).modalities["depth"]
    assert placed["pixel_auroc"] > 0.995
    assert stretched["aupro_30"] < placed["aupro_30"] - 0.1


def test_the_report_is_json(frames: Frames) -> None:
    evaluation = evaluate(oracle(frames), frames, 5.0)
    report = json.loads(json.dumps(evaluation.report()))
    assert report.keys() == {
        "metrics",
        "modalities",
        "f1_max_threshold",
        "modality_thresholds",
        "defects",
        "intervals",
        "threshold",
        "confusion",
        "scores",
    }
    assert report["intervals"]["level"] == 0.95
    assert report["intervals"]["metrics"]["image_auroc"] == [1, 1]
    assert report["intervals"]["modalities"]["rgb"].keys() == METRICS
    assert report["intervals"]["defects"].keys() == report["defects"].keys()
    assert len(report["scores"]) == len(frames)
    assert report["scores"][0].keys() == {"path", "defect", "score"}
    assert all(row["path"].startswith(f"{row['defect']}/") for row in report["scores"])


def test_metrics_are_shares_and_thresholds_are_scores(frames: Frames) -> None:
    """The oracle scores defective parts above 10, and the depth map of each is 1 at most."""
    evaluation = evaluate(oracle(frames), frames, 5.0, secondary=True)
    for metrics in (evaluation.metrics, *evaluation.modalities.values()):
        assert metrics.keys() <= METRIC_TITLES.keys()
        assert all(0 <= value <= 1 for value in metrics.values()), metrics
    assert (
        0
        <= evaluation.f1_max_threshold
        < 10
        <= min(row["score"] for row in evaluation.scores if row["defect"] != "good")
    )
    assert evaluation.modality_thresholds.keys() == evaluation.modalities.keys()
    assert 0 <= evaluation.modality_thresholds["depth"] < 1


def test_the_sheet_shows_each_kind(frames: Frames) -> None:
    evaluation = evaluate(oracle(frames), frames, 5.0)
    kinds = {item.defect for item in frames}
    assert len(evaluation.sheet_rows) == len(kinds) + 1
    assert evaluation.geometry_titles == ("Depth",)
    sheet = evaluation.sheet("housing")
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    assert sheet.shape[0] > SIZE_PX * len(kinds)


def test_without_masks_there_are_no_pixel_metrics(frames: Frames) -> None:
    unmarked = [replace(item, gt_mask=None) for item in frames]
    evaluation = evaluate(oracle(frames), unmarked, 5.0)
    assert evaluation.metrics.keys() == {"image_auroc", "average_precision", "f1_max"}
    assert evaluation.metrics["image_auroc"] == pytest.approx(1)
    assert evaluation.intervals.metrics.keys() == {"image_auroc", "average_precision", "f1_max"}
    assert evaluation.pro_curve is None


def test_intervals_hold_their_figures(frames: Frames) -> None:
    evaluation = evaluate(oracle(frames), frames, 5.0)
    for name, (low, high) in evaluation.intervals.modalities["rgb"].items():
        assert 0 <= low <= evaluation.modalities["rgb"][name] <= high <= 1, name
    assert np.ptp(evaluation.intervals.modalities["rgb"]["pixel_auroc"]) > 0.01


def test_the_drawn_pro_curve_has_the_area_of_the_metric(frames: Frames) -> None:
    predict = oracle(frames)

    def noisy(frame: Frame) -> AnomalyResult:
        result = predict(frame)
        noise = np.random.default_rng(0).normal(size=frame.size_px).astype(np.float32)
        return replace(result, anomaly_map=result.anomaly_map / np.float32(10) + noise)

    evaluation = evaluate(noisy, frames, 5.0)
    assert evaluation.pro_curve is not None
    rates, overlaps = evaluation.pro_curve.T
    assert (rates[0], overlaps[0], rates[-1]) == (0, 0, 0.3)
    assert integrate.trapezoid(overlaps, rates) / 0.3 == pytest.approx(evaluation.metrics["aupro_30"], abs=1e-3)


def test_secondary_metrics_are_asked_for(frames: Frames) -> None:
    evaluation = evaluate(oracle(frames), frames, 5.0, secondary=True)
    extra = {"aupro_30_100", "aupro_1_100"}
    assert evaluation.metrics.keys() == METRICS | extra
    assert evaluation.modalities["rgb"].keys() == METRICS | extra
    assert evaluation.metrics["aupro_30_100"] == pytest.approx(1, abs=0.02)


def test_the_examples_are_the_closest_to_the_other_class(frames: Frames) -> None:
    evaluation = evaluate(oracle(frames), frames, 5.0)
    for examples, is_defective in ((evaluation.lowest_defective, True), (evaluation.highest_good, False)):
        expected = sorted(row["score"] for row in evaluation.scores if (row["defect"] != "good") is is_defective)
        expected = expected if is_defective else expected[::-1]
        assert [example.judged.score for example in examples] == expected[:4]
        assert list(examples[0].views) == ["Colour", "Depth"]
        assert examples[0].judged.is_anomalous is is_defective


def test_without_colour_depth_is_shown(frames: Frames) -> None:
    blind = [replace(item, frame=replace(item.frame, rgb=None)) for item in frames]
    evaluation = evaluate(oracle(blind), blind, 5.0)
    assert list(evaluation.lowest_defective[0].views) == ["Depth"]
    assert np.array_equal(evaluation.sheet_rows[0].rgb, evaluation.sheet_rows[0].geometry[0])


@pytest.mark.parametrize(("good", "counts"), [(True, "4 good and 0 defective"), (False, "0 good and 7 defective")])
def test_both_kinds_of_parts_are_needed(frames: Frames, good: bool, counts: str) -> None:
    some = [item for item in frames if item.is_anomalous is not good]
    with pytest.raises(DataError, match=rf"cannot be evaluated. it has {counts} parts"):
        evaluate(oracle(frames), some, 5.0)


def test_no_frames_are_named() -> None:
    with pytest.raises(DataError, match="0 good and 0 defective"):
        evaluate(oracle([]), [], 5.0)


def test_a_checkpoint_and_its_bundle_have_the_same_metrics(
    frames: Frames, rd_run: Path, rd_bundle_directory: Path
) -> None:
    items = [replace(item, frame=float_frame(item.frame)) for item in frames]
    reports = []
    for path in (rd_run, rd_bundle_directory):
        predictor = open_predictor(path)
        reports.append(evaluate(predictor, items, predictor.threshold, roi=predictor.spec.roi))
    torch_report, onnx_report = reports
    assert torch_report.confusion == onnx_report.confusion
    for name in METRICS:
        assert onnx_report.metrics[name] == pytest.approx(torch_report.metrics[name], abs=2e-3), name
    expected, given = ([row["score"] for row in report.scores] for report in reports)
    np.testing.assert_allclose(given, expected, atol=1e-3)
