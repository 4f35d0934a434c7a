"""Against SciPy's bootstrap, scikit-learn on resamples written out, and the exact pixel metrics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from edge_ad import metrics
from edge_ad.errors import DataError
from edge_ad.intervals import BinnedPixels, draws, image_intervals, pixel_intervals, ratio_of_medians, share_interval
from edge_ad.types import AnyArray, BoolArray, Float32Array

LEVELS = [pytest.param(0, id="distinct"), pytest.param(4, id="ties")]


def make_scores(seed: int, levels: int = 0, good: int = 30, defective: int = 20) -> tuple[BoolArray, AnyArray]:
    labels = np.arange(good + defective) >= good
    scores = np.random.default_rng(seed).normal(size=labels.size) + 1.0 * labels
    return labels, np.round(scores * levels) / levels if levels else scores


def make_images(seed: int, levels: int = 0) -> tuple[BoolArray, list[BoolArray], list[Float32Array]]:
    """Eight good images and eight with one or two rectangles, which score a little higher."""
    rng = np.random.default_rng(seed)
    labels, masks, maps = np.arange(16) >= 8, [], []
    for is_defective in labels:
        mask = np.zeros((48, 64), np.bool_)
        for _ in range(rng.integers(1, 3) * is_defective):
            row, column, height, width = *rng.integers(0, 40, 2), *rng.integers(2, 12, 2)
            mask[row : row + height, column : column + width] = True
        scores = ndimage.gaussian_filter(rng.normal(size=mask.shape) + rng.uniform(0.3, 2) * mask, 1.5)
        maps.append((np.round(scores * levels) / levels if levels else scores).astype(np.float32))
        masks.append(mask)
    return labels, masks, maps


def exact(masks: list[BoolArray], maps: list[Float32Array]) -> dict[str, float]:
    curve = metrics.pro_curve(masks, maps)
    return {
        "pixel_auroc": metrics.pixel_auroc(masks, maps),
        "aupro_30": metrics.partial_area(*curve, 0.3),
        "aupro_1": metrics.partial_area(*curve, 0.01),
    }


def test_each_class_keeps_its_number() -> None:
    labels, _ = make_scores(0)
    drawn = draws(labels, 50, seed=1)
    assert (drawn[:, labels].sum(1) == 20).all()
    assert (drawn[:, ~labels].sum(1) == 30).all()
    assert np.array_equal(drawn, draws(labels, 50, seed=1))
    assert not np.array_equal(drawn, draws(labels, 50, seed=2))


@pytest.mark.parametrize("levels", LEVELS)
def test_a_resample_is_measured_as_scikit_learn_does(levels: int) -> None:
    labels, scores = make_scores(3, levels)
    for seed in range(10):
        times = draws(labels, 1, seed)[0]
        truth, drawn = np.repeat(labels, times), np.repeat(scores, times)
        precision, recall, _ = precision_recall_curve(truth, drawn)
        expected = {
            "image_auroc": roc_auc_score(truth, drawn),
            "average_precision": average_precision_score(truth, drawn),
            "f1_max": np.max(2 * precision * recall / np.maximum(precision + recall, 1e-30)),
        }
        for name, interval in image_intervals(labels, scores, resamples=1, seed=seed).items():
            assert interval == pytest.approx((expected[name], expected[name]), abs=1e-12), name


def test_the_interval_is_that_of_scipy() -> None:
    labels, scores = make_scores(5)

    def auroc(good: AnyArray, defective: AnyArray, axis: int) -> AnyArray:
        assert axis == -1
        return np.asarray((good[..., :, None] < defective[..., None, :]).mean((-1, -2)))

    expected = stats.bootstrap(
        (scores[~labels], scores[labels]), auroc, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    given = image_intervals(labels, scores, resamples=4000)["image_auroc"]
    assert given == pytest.approx(tuple(expected), abs=0.01)


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    truth = float(stats.norm.cdf(1 / np.sqrt(2)))
    held = 0
    for seed in range(200):
        labels, scores = make_scores(seed, good=60, defective=60)
        low, high = image_intervals(labels, scores, resamples=200, seed=seed)["image_auroc"]
        held += low <= truth <= high
    assert 0.89 <= held / 200 <= 0.99


@pytest.mark.parametrize("levels", LEVELS)
def test_binned_pixels_follow_the_exact_metrics(levels: int) -> None:
    labels, masks, maps = make_images(1, levels)
    pixels = BinnedPixels.of(masks, maps)
    assert pixels.metrics(np.ones(16)) == pytest.approx(exact(masks, maps), abs=1e-3)
    for times in draws(labels, 5, seed=0):
        chosen = np.repeat(np.arange(16), times)
        expected = exact([masks[index] for index in chosen], [maps[index] for index in chosen])
        assert pixels.metrics(times) == pytest.approx(expected, abs=1e-3)


def test_pixel_intervals_are_those_of_exact_resamples() -> None:
    labels, masks, maps = make_images(2)
    rows = []
    for times in draws(labels, 60, seed=4):
        chosen = np.repeat(np.arange(16), times)
        rows.append(exact([masks[index] for index in chosen], [maps[index] for index in chosen]))
    given = pixel_intervals(labels, masks, maps, resamples=60, seed=4)
    for name, interval in given.items():
        expected = np.percentile([row[name] for row in rows], (2.5, 97.5))
        assert interval == pytest.approx(tuple(expected), abs=2e-3), name


def test_perfect_maps_have_perfect_intervals() -> None:
    labels, masks, _ = make_images(3)
    given = pixel_intervals(labels, masks, [mask.astype(np.float32) for mask in masks], resamples=50)
    assert given == {name: (1.0, 1.0) for name in ("pixel_auroc", "aupro_30", "aupro_1")}


def test_resamples_without_a_defective_pixel_are_left_out() -> None:
    labels, masks, maps = make_images(4)
    only = [mask if index == 15 else np.zeros_like(mask) for index, mask in enumerate(masks)]
    for low, high in pixel_intervals(labels, only, maps, resamples=50).values():
        assert 0 <= low <= high <= 1


def test_without_defective_pixels_there_is_no_interval() -> None:
    labels, masks, maps = make_images(5)
    with pytest.raises(DataError, match="no defective or no other pixels"):
        pixel_intervals(labels, [np.zeros_like(mask) for mask in masks], maps)


@pytest.mark.parametrize(("count", "total"), [(0, 24), (1, 24), (22, 28), (28, 28), (1, 1)])
def test_the_interval_of_a_share_is_wilsons(count: int, total: int) -> None:
    expected = stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert share_interval(count, total) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_ratio_of_medians_has_scipys_bootstrap_interval() -> None:
    rng = np.random.default_rng(0)
    load = rng.exponential(0.3, 60)  # slows both of a pair
    slow, fast = 20 * (1 + load) + rng.normal(0, 0.2, 60), 10 * (1 + load) + rng.normal(0, 0.1, 60)
    ratio, (low, high) = ratio_of_medians(slow, fast, resamples=4000)
    assert ratio == np.median(slow) / np.median(fast)
    expected = stats.bootstrap(
        (slow, fast),
        lambda a, b, axis: np.median(a, axis) / np.median(b, axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    np.testing.assert_allclose((low, high), expected, rtol=5e-3)
    assert low <= ratio <= high
    assert ratio_of_medians(slow, fast, resamples=50) == ratio_of_medians(slow, fast, resamples=50)


def test_a_pair_stays_together() -> None:
    values = np.array([1.0, 100.0, 3.0, 50.0])
    assert ratio_of_medians(2 * values, values) == (2.0, (2.0, 2.0)), "whatever is drawn"
