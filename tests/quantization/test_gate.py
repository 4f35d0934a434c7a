"""The gate against engines that are wrong in one way each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from edge_ad.errors import DataError
from edge_ad.quantization.gate import Gate, Labelled, _rank_correlation
from edge_ad.quantization.pasted import pasted_defect
from edge_ad.types import AnyArray, BoolArray

SIZE = 32
Outputs = Mapping[str, AnyArray]


def frames(count: int = 40) -> list[dict[str, AnyArray]]:
    """Grey parts on black, each with a brightness of its own and a little noise."""
    generator = np.random.default_rng(0)
    images = np.zeros((count, SIZE, SIZE, 3), np.float64)
    images[:, 6:26, 6:26] = 120 + generator.normal(0, 1, (count, 1, 1, 1))
    images += generator.uniform(0, 2, images.shape)
    return [{"rgb": image[None].astype(np.uint8)} for image in images]


def reference(feeds: Mapping[str, AnyArray]) -> Outputs:
    """Distance of each pixel from the expected brightness; the score is the mean of the largest ones."""
    image = feeds["rgb"][0].astype(np.float32).mean(2)
    expected = np.zeros((SIZE, SIZE), np.float32)
    expected[6:26, 6:26] = 120
    distance = np.abs(image - expected) * (expected > 0) + 0.01 * image
    score = np.sort(distance.ravel())[-20:].mean() + 0.001 * image.sum() / SIZE
    return {"anomaly_map": distance[None], "score": np.asarray([score], np.float32)}


def gate(threshold: float | None = None, defects: Labelled | None = None) -> Gate:
    return Gate(reference, frames(), threshold, defects)


def scores() -> AnyArray:
    return np.asarray([float(reference(one)["score"][0]) for one in frames()])


def changed(change: Callable[[float, AnyArray], float]) -> Callable[[Mapping[str, AnyArray]], Outputs]:
    """The reference with another score."""

    def run(feeds: Mapping[str, AnyArray]) -> Outputs:
        outputs = reference(feeds)
        score = change(float(outputs["score"][0]), feeds["rgb"])
        return {**outputs, "score": np.asarray([score], np.float32)}

    return run


def test_the_model_itself_passes() -> None:
    report = gate(threshold=float(np.quantile(scores(), 0.9))).report(reference)
    assert report.passed
    assert report.failed == ()
    assert (report.rank_correlation, report.shift_sigma, report.false_reject_points) == (1, 0, 0)
    assert report.pasted is not None
    assert report.pasted.frames == 80
    assert report.pasted.image_auroc > 90, "pasted defects must be visible to judge by"
    assert (report.pasted.image_auroc_drop, report.pasted.aupro_drop) == (0, 0)
    assert report.defects is None


def test_scores_that_move_together_fail_only_by_their_shift() -> None:
    sigma = scores().std()
    assert gate().report(changed(lambda score, _: score + 0.2 * sigma)).passed
    report = gate().report(changed(lambda score, _: score + 0.3 * sigma))
    assert report.shift_sigma == pytest.approx(0.3, abs=0.01)
    assert report.failed == ("scores move by 0.30 σ (at most 0.25)",)


def test_scores_that_change_places_fail() -> None:
    noise = np.random.default_rng(1)
    report = gate().report(changed(lambda score, _: score + noise.normal(0, 0.4) * scores().std()))
    assert report.rank_correlation < 0.99
    assert any("rank correlation" in text for text in report.failed)


def test_good_parts_that_change_sides_fail() -> None:
    values = scores()
    threshold, by = float(np.median(values)), 0.1 * values.std()
    width = 1.06 * values.std() * 40**-0.2
    before, after = (norm.sf(threshold, x, width).mean() for x in (values, values + by))
    report = gate(threshold=threshold).report(changed(lambda score, _: score + by))
    assert report.false_reject_points == pytest.approx(100 * (after - before), abs=1e-3)
    assert report.failed == (f"false rejects change by {100 * (after - before):.2f} points (at most 0.2)",)
    far = gate(threshold=float(values.max() + 3 * values.std()))
    assert far.report(changed(lambda score, _: score + by)).passed


def test_an_engine_that_is_blind_to_defects_fails() -> None:
    """It judges good parts as before, and finds no defect."""
    highest = float(scores().max())
    report = gate().report(changed(lambda score, _: min(score, highest)))
    assert (report.rank_correlation, report.shift_sigma) == (1, 0)
    assert any("I-AUROC with pasted defects" in text for text in report.failed)


def test_a_map_that_points_elsewhere_fails() -> None:
    def run(feeds: Mapping[str, AnyArray]) -> Outputs:
        outputs = reference(feeds)
        return {**outputs, "anomaly_map": outputs["anomaly_map"][:, ::-1]}

    report = gate().report(run)
    assert all("AUPRO" in text for text in report.failed)
    assert report.failed


def test_real_defects_count_where_there_are_some() -> None:
    good = frames(12)
    pasted = [pasted_defect(one, np.ones((SIZE, SIZE), bool), seed) for seed, one in enumerate(good)]
    masks: list[BoolArray | None] = [None] * 12 + [mask for _, mask in pasted]
    labelled = Labelled([*good, *(feeds for feeds, _ in pasted)], masks)
    report = gate(defects=labelled).report(reference)
    assert report.defects is not None
    assert (report.defects.frames, report.defects.image_auroc_drop) == (24, 0)
    blind = gate(defects=labelled).report(changed(lambda score, _: 0.0))
    assert any("real defects" in text for text in blind.failed)


def test_not_a_number_never_passes() -> None:
    assert not gate().report(changed(lambda score, _: float("nan"))).passed


def test_frames_that_are_all_alike_cannot_judge() -> None:
    with pytest.raises(DataError, match="the same score"):
        Gate(reference, [frames(1)[0]] * 8, None)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_scipys(ties: bool) -> None:
    generator = np.random.default_rng(3)
    first = generator.normal(size=50)
    second = first + generator.normal(size=50)
    if ties:
        first, second = first.round(0), second.round(0)
    assert _rank_correlation(first, second) == pytest.approx(spearmanr(first, second)[0])


def test_a_pasted_defect_changes_what_is_under_its_mask() -> None:
    generator = np.random.default_rng(0)
    rgb = generator.integers(0, 256, (1, 96, 80, 3), dtype=np.uint8)
    depth = generator.integers(4000, 5000, (1, 96, 80)).astype("<u2")
    depth[0, :10] = 0
    feeds = {"rgb": rgb, "depth": np.ascontiguousarray(depth[..., None]).view(np.uint8)}
    metres = {"rgb": rgb, "depth": (depth * np.float32(1e-3)).astype(np.float32)}
    place = np.zeros((96, 80), bool)
    place[40:50, 40:50] = True
    changed, mask = pasted_defect(feeds, place, seed=5)
    in_metres, same_mask = pasted_defect(metres, place, seed=5)
    assert mask[40:50, 40:50].any()
    assert 4 < mask.sum() < 0.1 * mask.size
    away = np.hypot(*np.subtract(np.mgrid[:96, :80], np.array([[[45]], [[45]]]))) > 30
    for name in feeds:
        assert changed[name].dtype == feeds[name].dtype
        assert np.array_equal(changed[name][0][away], feeds[name][0][away])
    moved = changed["depth"].view("<u2")[0, ..., 0].astype(float)
    assert (moved[:10] == 0).all(), "where nothing returned, nothing returns"
    share = moved[mask] / depth[0][mask]
    assert 0.003 < abs(np.median(share) - 1) < 0.016
    assert np.array_equal(mask, same_mask)
    np.testing.assert_allclose(in_metres["depth"][0][mask], metres["depth"][0][mask] * share, rtol=3e-4)
    again, _ = pasted_defect(feeds, place, seed=5)
    assert np.array_equal(again["rgb"], changed["rgb"])
