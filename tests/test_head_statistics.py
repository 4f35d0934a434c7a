"""The scores of validation frames come from heads that did not see them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edge_ad.config import PreprocessConfig, TrainConfig
from edge_ad.head_statistics import FOLDS, learn_head
from edge_ad.models.anomaly_map import AnomalyHead
from edge_ad.models.detector import Detector, DetectorConfig
from edge_ad.models.layers import Features
from tests.models.methods import SPEC


def detector() -> Detector:
    torch.manual_seed(0)
    preprocess = PreprocessConfig(modalities=("rgb",), image_size_px=64)
    return Detector(DetectorConfig(model="rd", preprocess=preprocess, input=SPEC)).eval()


def frames(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    base = torch.randint(0, 200, (1, 64, 80, 3), generator=generator)
    drift = torch.randint(0, 56, (count, 1, 1, 1), generator=generator)
    return {"rgb": (base + drift).to(torch.uint8)}


def distances_of(model: Detector, rgb: Tensor) -> dict[str, Features]:
    with torch.no_grad():
        return model.method.distances(model.batch({"rgb": rgb}, ("rgb",))[0], "full")


@pytest.mark.parametrize("count", [3, FOLDS + 3], ids=["each-by-itself", "in-groups"])
def test_each_frame_is_scored_by_a_head_that_learned_from_others(count: int) -> None:
    model, inputs = detector(), frames(count)
    scores = learn_head(model, "full", inputs)
    groups = min(FOLDS, count)
    # Frame by frame, as the line sees them: a batch of several rounds differently.
    parts = [distances_of(model, inputs["rgb"][i : i + 1])["rgb"] for i in range(count)]
    for row in range(count):
        others = [i for i in range(count) if i % groups != row % groups]
        head = AnomalyHead(model.config.head, ("rgb",), 64)
        head.learn({"rgb": [torch.cat(x) for x in zip(*(parts[i] for i in others), strict=True)]}, None)
        expected = float(head({"rgb": parts[row]}, None)[1])
        np.testing.assert_allclose(scores[row], expected, rtol=1e-4)


def test_the_head_that_is_kept_learned_from_all() -> None:
    model, inputs = detector(), frames(5)
    learn_head(model, "full", inputs)
    head = AnomalyHead(model.config.head, ("rgb",), 64)
    head.learn(distances_of(model, inputs["rgb"]), None)
    kept = model.heads["full"]
    assert isinstance(kept, AnomalyHead)
    torch.testing.assert_close(kept.mean, head.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kept.std, head.std, rtol=1e-4, atol=1e-5)


def test_steps_and_learning_rate_are_the_methods_unless_given() -> None:
    assert (TrainConfig().steps, TrainConfig().learning_rate) == (160, 5e-3)
    rgb = PreprocessConfig(modalities=("rgb",))
    assert TrainConfig(model="rd", preprocess=rgb).steps == 160
    assert TrainConfig(model="cmdiad").learning_rate == 5e-4
    assert TrainConfig(model="rd", preprocess=rgb, steps=7).steps == 7
