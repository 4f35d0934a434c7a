"""Against scikit-learn and against the definition of PRO written out naively."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy import integrate, ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from edge_ad import metrics
from edge_ad.errors import DataError
from edge_ad.types import AnyArray, BoolArray

LEVELS = [pytest.param(0, id="distinct"), pytest.param(40, id="some ties"), pytest.param(3, id="heavy ties")]


def quantised(values: AnyArray, levels: int) -> AnyArray:
    return np.round(values * levels) / levels if levels else values


def make_labels_and_scores(seed: int, levels: int, count: int = 200) -> tuple[AnyArray, AnyArray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.3).astype(int)
    labels[:2] = 0, 1
    return labels, quantised(rng.random(count) + 0.3 * labels, levels)


def make_masks_and_maps(seed: int, levels: int) -> tuple[list[BoolArray], list[AnyArray]]:
    """Five images of different sizes: blobs that touch corners, single pixels, two good ones."""
    rng = np.random.default_rng(seed)
    masks = []
    for index, size in enumerate([(24, 30), (17, 17), (40, 12), (20, 20), (9, 31)]):
        noise = ndimage.uniform_filter(rng.random(size), 3)
        masks.append((noise > 0.62) if index % 2 == 0 else np.zeros(size, dtype=bool))
    maps = [quantised(rng.random(mask.shape) + 0.4 * mask, levels).astype(np.float32) for mask in masks]
    return masks, maps


def naive_aupro(masks: Sequence[BoolArray], maps: Sequence[AnyArray], limit: float) -> float:
    """The definition: every distinct score as a threshold, every region looked at on its own."""
    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(index, labels == number) for number in range(1, count + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in sorted({float(value) for anomaly_map in maps for value in anomaly_map.ravel()})[::-1]:
        flagged = [anomaly_map >= threshold for anomaly_map in maps]
        wrong = sum(int((flag & ~mask).sum()) for flag, mask in zip(flagged, masks, strict=True))
        rates.append(wrong / sum(int((~mask).sum()) for mask in masks))
        overlaps.append(float(np.mean([flagged[index][region].mean() for index, region in regions])))
    area = 0.0
    for x0, x1, y0, y1 in zip(rates[:-1], rates[1:], overlaps[:-1], overlaps[1:], strict=True):
        if x0 < limit:
            end = min(x1, limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0) if x1 > x0 else y1
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("seed", range(5))
def test_image_metrics_equal_scikit_learn(seed: int, levels: int) -> None:
    labels, scores = make_labels_and_scores(seed, levels)
    assert metrics.image_auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.average_precision(labels, scores) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("seed", range(5))
def test_f1_max_equals_scikit_learn_and_is_what_its_threshold_gives(seed: int, levels: int) -> None:
    labels, scores = make_labels_and_scores(seed, levels)
    precision, recall, _ = precision_recall_curve(labels, scores)
    expected = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-30))
    f1, threshold = metrics.f1_max(labels, scores)
    assert f1 == pytest.approx(expected, abs=1e-12)
    hits = int(((scores > threshold) & (labels == 1)).sum())
    assert 2 * hits / (int((scores > threshold).sum()) + int(labels.sum())) == pytest.approx(f1, abs=1e-12)


def test_f1_threshold_lies_below_every_score_when_all_parts_are_defective() -> None:
    f1, threshold = metrics.f1_max([1, 1], [0.5, 0.5])
    assert f1 == 1.0
    assert threshold < 0.5


def test_average_precision_is_one_without_good_parts() -> None:
    assert metrics.average_precision([1, 1, 1], [0.1, 0.2, 0.2]) == 1.0


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("seed", range(3))
def test_pixel_auroc_equals_scikit_learn(seed: int, levels: int) -> None:
    masks, maps = make_masks_and_maps(seed, levels)
    expected = roc_auc_score(
        np.concatenate([mask.ravel() for mask in masks]), np.concatenate([m.ravel() for m in maps])
    )
    assert metrics.pixel_auroc(masks, maps) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("limit", [1.0, 0.3, 0.05, 0.01])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("seed", range(2))
def test_aupro_equals_the_definition(seed: int, levels: int, limit: float) -> None:
    masks, maps = make_masks_and_maps(seed, levels)
    assert metrics.aupro(masks, maps, limit) == pytest.approx(naive_aupro(masks, maps, limit), abs=1e-12)


def test_one_curve_serves_several_limits() -> None:
    masks, maps = make_masks_and_maps(seed=7, levels=0)
    curve = metrics.pro_curve(masks, maps)
    assert [metrics.partial_area(*curve, limit) for limit in (0.3, 0.01)] == [
        metrics.aupro(masks, maps, limit) for limit in (0.3, 0.01)
    ]


def aupro_of_the_papers(masks: Sequence[BoolArray], maps: Sequence[AnyArray], limit: float) -> float:
    """Their code's steps, one by one: thresholds at ranks of the good pixels, overlap above each of them."""
    good = np.sort(np.concatenate([anomaly_map[~mask] for mask, anomaly_map in zip(masks, maps, strict=True)]))
    points = [(1.0, 1.0)]
    for rank in np.linspace(0, good.size - 1, num=100, dtype=int):
        overlaps = []
        for mask, anomaly_map in zip(masks, maps, strict=True):
            labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
            overlaps += [(anomaly_map[labels == region] > good[rank]).mean() for region in range(1, count + 1)]
        points.append((1 - (rank + 1) / good.size, float(np.mean(overlaps))))
    rates, values = np.array(points[::-1]).T
    inside = np.append(rates[rates <= limit], limit)
    return float(integrate.trapezoid(np.interp(inside, rates, values), inside)) / limit


def make_papers_images() -> tuple[list[BoolArray], list[AnyArray]]:
    """At 256×256, where their code resizes nothing."""
    rng = np.random.default_rng(11)
    masks = [np.zeros((256, 256), dtype=bool) for _ in range(3)]
    masks[1][20:60, 30:80] = masks[1][200:230, 10:20] = masks[2][100:104, 40:200] = True
    maps = [ndimage.gaussian_filter(rng.normal(size=mask.shape) + 1.5 * mask, 3).astype(np.float32) for mask in masks]
    return masks, maps


@pytest.mark.parametrize("limit", [0.3, 0.01])
def test_aupro_with_100_thresholds_is_that_of_the_papers(limit: float) -> None:
    masks, maps = make_papers_images()
    given = metrics.aupro_100_thresholds(masks, maps, limit)
    assert given == pytest.approx(aupro_of_the_papers(masks, maps, limit), abs=1e-9)
    assert given < metrics.aupro(masks, maps, limit)


@pytest.mark.parametrize("shape", [(400, 640), (100, 300), (256, 256)], ids=str)
def test_masks_are_resized_as_pillow_does(shape: tuple[int, int]) -> None:
    """torch's anti-aliased bilinear is Pillow's, without its rounding to 8 bit."""
    image = np.random.default_rng(0).random(shape)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None], size=(256, 256), mode="bilinear", antialias=True, align_corners=False
    )
    np.testing.assert_allclose(metrics._resized(image), expected[0, 0].numpy(), atol=1e-9)


def test_a_hairline_is_lost_at_the_papers_size() -> None:
    mask = np.zeros((1024, 1024), dtype=bool)
    mask[500, 100:900] = True
    with pytest.raises(DataError, match="no mask shows a defect"):
        metrics.aupro_100_thresholds([mask], [np.zeros(mask.shape, np.float32)])


def test_roc_curve_of_four_parts() -> None:
    rates, hits = metrics.roc_curve([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    corners = list(dict.fromkeys(zip(rates.tolist(), hits.tolist(), strict=True)))
    assert corners == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]


def test_pro_curve_rises_from_nothing_to_everything() -> None:
    rates, overlaps = metrics.pro_curve(*make_masks_and_maps(seed=3, levels=3))
    assert (rates[0], overlaps[0], rates[-1], overlaps[-1]) == (0, 0, 1, 1)
    assert (np.diff(rates) >= 0).all()
    assert (np.diff(overlaps) >= 0).all()


def test_regions_that_touch_at_a_corner_are_one() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, 0] = mask[1, 1] = mask[3, 3] = True
    anomaly_map = np.zeros((4, 4), dtype=np.float32)
    anomaly_map[3, 3] = 1.0
    # Two regions: (0, 0) with (1, 1), and (3, 3), which alone scores above the rest.
    assert metrics.pro_curve([mask], [anomaly_map])[1].tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_a_small_region_counts_as_much_as_a_large_one() -> None:
    mask = np.zeros((10, 10), dtype=bool)
    mask[:5, :5] = mask[9, 9] = True
    anomaly_map = np.where(mask, 1.0, 0.5).astype(np.float32)
    anomaly_map[9, 9] = 0.0
    assert metrics.aupro([mask], [anomaly_map]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("sign", "expected"), [pytest.param(1, 1.0, id="perfect"), pytest.param(-1, 0.0, id="inverted")]
)
def test_extremes(sign: int, expected: float) -> None:
    masks, _ = make_masks_and_maps(seed=0, levels=0)
    maps = [sign * mask.astype(np.float32) for mask in masks]
    assert metrics.pixel_auroc(masks, maps) == expected
    assert metrics.image_auroc([0, 1], [0.0, float(sign)]) == expected


def test_aupro_of_a_perfect_and_of_an_inverted_map() -> None:
    masks, _ = make_masks_and_maps(seed=0, levels=0)
    assert metrics.aupro(masks, [mask.astype(np.float32) for mask in masks]) == 1.0
    # All good pixels tie above the defects: the curve stays at 0 until a rate of 1.
    assert metrics.aupro(masks, [-mask.astype(np.float32) for mask in masks]) == 0.0


def test_a_constant_map_is_as_good_as_chance() -> None:
    masks, _ = make_masks_and_maps(seed=0, levels=0)
    maps = [np.zeros(mask.shape, dtype=np.float32) for mask in masks]
    assert metrics.pixel_auroc(masks, maps) == 0.5
    assert metrics.aupro(masks, maps, 0.3) == pytest.approx(0.15)


def test_inputs_are_left_as_they_were() -> None:
    masks, maps = make_masks_and_maps(seed=1, levels=0)
    before = [anomaly_map.copy() for anomaly_map in maps]
    metrics.aupro([mask.astype(np.uint8) * 255 for mask in masks], maps)
    metrics.pixel_auroc(masks, maps)
    assert all(np.array_equal(old, new) for old, new in zip(before, maps, strict=True))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        pytest.param([0, 0], [0.1, 0.2], "no part is labelled defective", id="no defect"),
        pytest.param([1, 1], [0.1, 0.2], "there is no good part", id="no good part"),
        pytest.param([0, 1], [0.1, np.nan], "score 1 is nan", id="NaN"),
        pytest.param([0, 1], [0.1], r"labels are \(2,\), scores \(1,\)", id="lengths"),
        pytest.param([0, 2], [0.1, 0.2], "other values than 0 and 1", id="labels"),
    ],
)
def test_bad_image_inputs(labels: list[int], scores: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        metrics.image_auroc(labels, scores)


@pytest.mark.parametrize("metric", [metrics.pixel_auroc, metrics.aupro, metrics.aupro_100_thresholds])
@pytest.mark.parametrize(
    ("masks", "maps", "message"),
    [
        pytest.param([np.zeros((2, 2))], [np.zeros((2, 2))], "no mask shows a defect", id="no defect"),
        pytest.param([np.ones((2, 2))], [np.zeros((2, 2))], "no pixel without a defect", id="all defect"),
        pytest.param([np.ones((2, 2))], [np.full((2, 2), np.nan)], "map 0 holds NaN", id="NaN"),
        pytest.param([np.ones((2, 2))], [np.zeros((3, 2))], r"mask 0 is \(2, 2\), its map \(3, 2\)", id="sizes"),
        pytest.param([], [], "there are 0 masks", id="nothing"),
        pytest.param([np.ones((2, 2))], [], "1 masks for 0 maps", id="counts"),
    ],
)
def test_bad_pixel_inputs(
    metric: Callable[..., float], masks: list[AnyArray], maps: list[AnyArray], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        metric(masks, maps)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1, float("nan")])
def test_limit_out_of_range(limit: float) -> None:
    with pytest.raises(DataError, match="fpr_limit"):
        metrics.aupro(*make_masks_and_maps(seed=0, levels=0), limit)
