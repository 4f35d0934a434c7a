from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from edge_ad.config import HeadConfig
from edge_ad.models.anomaly_map import AnomalyHead, cosine_distance
from edge_ad.models.layers import Features

SIZE_PX = 64
NAMES = ("rgb", "depth")
Standardize = Literal["scale", "modality"]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_distances(modalities: int, frames: int = 6, seed: int = 0) -> dict[str, Features]:
    """Positive, at other levels and with another spread for each modality and scale."""
    return {
        name: [
            random(frames, 1, SIZE_PX // stride, SIZE_PX // stride, seed=seed + 10 * m + stride).abs()
            * (m + 1)
            / stride
            + 0.3 * m
            for stride in (4, 8, 16)
        ]
        for m, name in enumerate(NAMES[:modalities])
    }


def aligned_resize(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """(h, w) → (64, 64), bilinear with corners on corners, as two products with interpolation matrices."""

    def matrix(length: int) -> NDArray[np.float64]:
        places = np.linspace(0, length - 1, SIZE_PX)
        return np.stack([np.interp(places, np.arange(length), row) for row in np.eye(length)], 1)

    return np.asarray(matrix(x.shape[0]) @ x @ matrix(x.shape[1]).T)


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_distance_is_one_minus_cosine_with_a_floor(floor: float) -> None:
    target, restored = random(2, 24, 5, 7, seed=1), random(2, 24, 5, 7, seed=2)
    a, b = target.double().numpy(), restored.double().numpy()
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    expected = (lengths - (a * b).sum(1)) / (lengths + floor * 24)
    distance = cosine_distance(target, restored, floor)
    assert distance.shape == (2, 1, 5, 7)
    np.testing.assert_allclose(distance[:, 0].numpy(), expected, atol=1e-5)
    if not floor:
        np.testing.assert_allclose(expected, 1 - (a * b).sum(1) / lengths)


def test_distance_is_between_zero_and_two() -> None:
    x = random(1, 24, 4, 4)
    assert float(cosine_distance(x, 3 * x).abs().max()) < 1e-5
    assert float((cosine_distance(x, -x) - 2).abs().max()) < 1e-5
    assert bool(torch.isfinite(cosine_distance(x * 0, x)).all())


def test_the_floor_quietens_short_features() -> None:
    short, noise = 0.05 * random(1, 24, 4, 4, seed=1), 0.05 * random(1, 24, 4, 4, seed=2)
    assert float(cosine_distance(short, noise).mean()) > 0.8
    assert float(cosine_distance(short, noise, 0.2).mean()) < 0.05


@pytest.mark.parametrize("sigma_px", [0.8, 4.0, 7.3])
def test_blur_is_scipys(sigma_px: float) -> None:
    x = random(2, 1, SIZE_PX, SIZE_PX)
    head = AnomalyHead(HeadConfig(sigma_px=sigma_px), NAMES[:1], SIZE_PX)
    expected = [gaussian_filter(image, sigma_px, mode="nearest", truncate=4) for image in x[:, 0].double().numpy()]
    np.testing.assert_allclose(head.blur(x)[:, 0].numpy(), np.stack(expected), atol=1e-5)


def naive_map(
    head: AnomalyHead, distances: dict[str, Features], region: Tensor | None, frame: int, standardize: Standardize
) -> NDArray[np.float64]:
    """The papers' order of things for one frame: resize, standardise, sum, blur."""
    total = np.zeros((SIZE_PX, SIZE_PX))
    for scales in distances.values():
        stacks = [
            np.stack([aligned_resize(x[0].double().numpy()) for x in scale])
            * (1 if region is None else region[:, 0].double().numpy())
            for scale in scales
        ]
        if standardize == "modality":
            stacks = [np.sum(stacks, axis=0)]
        total += sum((stack[frame] - stack.mean()) / stack.std(ddof=1) for stack in stacks)
    return np.asarray(gaussian_filter(total, head.config.sigma_px, mode="nearest", truncate=4))


@pytest.mark.parametrize("with_region", [False, True], ids=["everywhere", "region"])
@pytest.mark.parametrize("standardize", ["scale", "modality"])
@pytest.mark.parametrize("modalities", [1, 2])
def test_the_map_is_the_papers(modalities: int, standardize: Standardize, with_region: bool) -> None:
    head = AnomalyHead(HeadConfig(standardize=standardize), NAMES[:modalities], SIZE_PX)
    distances = random_distances(modalities)
    region = (random(6, 1, SIZE_PX, SIZE_PX, seed=9) > -0.5).float() if with_region else None
    head.learn(distances, region)
    anomaly_map, score, maps = head(distances, region)
    assert anomaly_map.shape == (6, SIZE_PX, SIZE_PX)
    for frame in (0, 5):
        expected = naive_map(head, distances, region, frame, standardize)
        np.testing.assert_allclose(anomaly_map[frame].numpy(), expected, atol=2e-4)
    torch.testing.assert_close(score, anomaly_map.amax((1, 2)))
    assert tuple(maps) == NAMES[:modalities]
    torch.testing.assert_close(torch.stack(list(maps.values())).sum(0), anomaly_map)


@pytest.mark.parametrize("standardize", ["scale", "modality"])
def test_good_frames_score_around_zero(standardize: Standardize) -> None:
    """Also a second time: what was learned is kept with the weights."""
    head = AnomalyHead(HeadConfig(standardize=standardize), NAMES, SIZE_PX)
    distances = random_distances(2)
    head.learn(distances, None)
    copy = AnomalyHead(HeadConfig(standardize=standardize), NAMES, SIZE_PX)
    copy.load_state_dict(head.state_dict())
    for maps in head(distances, None)[2].values():
        assert abs(float(maps.mean())) < 0.02
    torch.testing.assert_close(copy(distances, None)[0], head(distances, None)[0])


def test_maps_go_by_name_not_by_order() -> None:
    head, distances = AnomalyHead(HeadConfig(), NAMES, SIZE_PX), random_distances(2)
    head.learn(distances, None)
    other = AnomalyHead(HeadConfig(), NAMES, SIZE_PX)
    other.learn(dict(reversed(distances.items())), None)
    given, expected = other(dict(reversed(distances.items())), None), head(distances, None)
    assert list(given[2]) == list(expected[2]) == list(NAMES)
    torch.testing.assert_close(given, expected)


def test_what_is_outside_the_region_does_not_count() -> None:
    head = AnomalyHead(HeadConfig(sigma_px=1.0), NAMES[:1], SIZE_PX)
    quiet, loud = random_distances(1, frames=1), random_distances(1, frames=1)
    for x in loud["rgb"]:
        x[..., : x.shape[-1] // 4] += 10
    region = torch.zeros(1, 1, SIZE_PX, SIZE_PX)
    region[..., 32:] = 1
    torch.testing.assert_close(head(loud, region)[0], head(quiet, region)[0])
    assert float(head(loud, None)[1]) > float(head(quiet, None)[1]) + 5


def test_a_constant_distance_does_not_divide_by_zero() -> None:
    head = AnomalyHead(HeadConfig(), NAMES[:1], SIZE_PX)
    distances = {"rgb": [torch.ones(3, 1, 4, 4)] * 3}
    head.learn(distances, None)
    assert bool(torch.isfinite(head(distances, None)[0]).all())
