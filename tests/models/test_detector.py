from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from edge_ad.bundle import InputSpec
from edge_ad.config import PreprocessConfig
from edge_ad.models.anomaly_map import cosine_distance
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.detector import Detector, DetectorConfig, FeatureScaling
from edge_ad.types import Roi

SPEC = InputSpec(frame_size_px=(64, 80), roi=Roi(0, 0, 80, 64), depth="float32_m", depth_unit_m=1, intrinsics=None)


def make_detector(model: str, backbone: str, *modalities: str) -> Detector:
    torch.manual_seed(0)
    preprocess = PreprocessConfig(modalities=modalities, image_size_px=64)
    return Detector(DetectorConfig(model=model, backbone=backbone, preprocess=preprocess, input=SPEC))


def arrays(batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randint(0, 256, (batch, 64, 80, 3), dtype=torch.uint8, generator=generator)
    return rgb, 0.5 + 0.1 * torch.rand(batch, 64, 80, generator=generator)


def test_answers_come_under_their_names() -> None:
    detector = make_detector("crd", "efficientnet_lite0", "rgb", "depth").eval()
    assert detector.input_names == ("rgb", "depth")
    assert detector.output_names == ("anomaly_map", "score", "map_rgb", "map_depth")
    with torch.no_grad():
        anomaly_map, score, map_rgb, map_depth = detector(*arrays())
    assert anomaly_map.shape == map_rgb.shape == map_depth.shape == (2, 64, 64)
    torch.testing.assert_close(map_rgb + map_depth, anomaly_map)
    torch.testing.assert_close(score, anomaly_map.amax((1, 2)))


def test_only_the_students_train() -> None:
    detector = make_detector("rd", "resnet18", "rgb").train()
    assert detector.students.training
    assert not any(module.training for module in detector.teacher.modules())
    trained = {name.split(".")[0] for name, parameter in detector.named_parameters() if parameter.requires_grad}
    assert trained == {"students"}
    assert not detector.eval().students.training


@pytest.mark.parametrize(("backbone", "floor"), [("resnet18", 0.0), ("efficientnet_lite0", 0.2)])
def test_only_standardised_features_get_an_energy_floor(backbone: str, floor: float) -> None:
    detector = make_detector("rd", backbone, "rgb").eval()
    with torch.no_grad():
        features, region = detector.features({"rgb": arrays()[0]})
        restored, distances = detector.students(features), detector.distances(features)
    assert region is None
    for own, theirs, distance in zip(features[0], restored[0], distances[0], strict=True):
        torch.testing.assert_close(distance, cosine_distance(own, theirs, floor))


def test_scaling_centres_and_scales_each_channel() -> None:
    spec = BACKBONES["efficientnet_lite0"]
    scaling = FeatureScaling(spec, 2)
    generator = torch.Generator().manual_seed(2)
    features = [
        [
            torch.randn(4, channels, 8, 8, generator=generator) * torch.rand(channels, 1, 1, generator=generator) * 9
            + m
            for channels in spec.channels
        ]
        for m in range(2)
    ]
    for maps, scaled in zip(features, scaling(features), strict=True):
        for before, after in zip(maps, scaled, strict=True):
            torch.testing.assert_close(before, after)
    scaling.learn(features)
    for maps in scaling(features):
        for x in maps:
            torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(x.shape[1]), atol=1e-4, rtol=0)
            torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(x.shape[1]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("changes", "field"), [({"backbone": "vgg16"}, "backbone"), ({"model": "mmrd"}, "model")], ids=["backbone", "model"]
)
def test_unknown_names_are_refused(changes: dict[str, str], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        DetectorConfig.model_validate({"input": SPEC, **changes})
