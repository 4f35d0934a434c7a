from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from edge_ad.bundle import FULL
from edge_ad.models.anomaly_map import cosine_distance
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.detector import METHODS, Detector, DetectorConfig, FeatureScaling, method_class
from edge_ad.models.method import Batch, Method
from tests.models.methods import LITE, PAIR, SPEC, make_detector, random_features


def arrays(batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randint(0, 256, (batch, 64, 80, 3), dtype=torch.uint8, generator=generator)
    return rgb, 0.5 + 0.1 * torch.rand(batch, 64, 80, generator=generator)


@pytest.mark.parametrize("model", METHODS)
def test_every_method_has_its_class(model: str) -> None:
    config = DetectorConfig.model_validate({"model": model, "input": SPEC, "preprocess": {"modalities": PAIR}})
    found = method_class(config.model)
    assert issubclass(found, Method)
    assert found.__name__.lower() == model


def test_answers_come_under_their_names() -> None:
    graph = make_detector("crd").operating(FULL)
    assert graph.input_names == ("rgb", "depth")
    assert graph.output_names == ("anomaly_map", "score", "map_rgb", "map_depth")
    with torch.no_grad():
        anomaly_map, score, map_rgb, map_depth = graph(*arrays())
    assert anomaly_map.shape == map_rgb.shape == map_depth.shape == (2, 64, 64)
    torch.testing.assert_close(map_rgb + map_depth, anomaly_map)
    torch.testing.assert_close(score, anomaly_map.amax((1, 2)))


def test_maps_come_in_the_order_of_the_modalities() -> None:
    graph = make_detector("rd", ("depth", "rgb")).operating()
    assert graph.input_names == ("rgb", "depth"), "arrays have an order of their own"
    assert graph.output_names == ("anomaly_map", "score", "map_depth", "map_rgb")
    with torch.no_grad():
        anomaly_map, _, map_depth, map_rgb = graph(*arrays())
        alone = graph.detector.operating("rgb_only")(arrays()[0])[2]
    torch.testing.assert_close(map_depth + map_rgb, anomaly_map)
    torch.testing.assert_close(alone, map_rgb, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["crd", "rd", "fd", "mmrd"])
def test_only_the_method_trains(model: str) -> None:
    detector = make_detector(model).train()
    assert all(module.training for module in detector.method.modules())
    assert not any(module.training for module in detector.teacher.modules())
    trained = {name.split(".")[0] for name, parameter in detector.named_parameters() if parameter.requires_grad}
    assert trained == {"method"}
    assert not any(module.training for module in detector.eval().method.modules())


@pytest.mark.parametrize(("backbone", "floor"), [("resnet18", 0.0), (LITE, 0.2)])
def test_only_standardised_features_get_an_energy_floor(backbone: str, floor: float) -> None:
    detector = make_detector("rd", ("rgb",), backbone)
    with torch.no_grad():
        batch, region = detector.batch({"rgb": arrays()[0]})
        restored = detector.method.get_submodule("students.rgb")(batch.features["rgb"])
        distances = detector.method.distances(batch, FULL)
    assert region is None
    assert list(distances) == list(batch.images) == ["rgb"]
    for own, theirs, distance in zip(batch.features["rgb"], restored, distances["rgb"], strict=True):
        torch.testing.assert_close(distance, cosine_distance(own, theirs, floor))


def test_a_resnets_features_can_be_standardised() -> None:
    config = make_detector("rd", ("rgb",), "resnet18").config.model_copy(update={"standardize_features": True})
    detector = Detector(config).eval()
    with torch.no_grad():
        raw = detector.batch({"rgb": arrays()[0]})[0].features["rgb"]
        detector.scaling.learn([{"rgb": raw}])
        features = detector.batch({"rgb": arrays()[0]})[0].features["rgb"]
        restored = detector.method.get_submodule("students.rgb")(features)
        distances = detector.method.distances(Batch({"rgb": features}), FULL)["rgb"]
    assert all(float(x.min()) >= 0 for x in raw)
    for own, theirs, distance in zip(features, restored, distances, strict=True):
        torch.testing.assert_close(own.mean((0, 2, 3)), torch.zeros(own.shape[1]), atol=1e-3, rtol=0)
        assert float(theirs.min()) < 0
        torch.testing.assert_close(distance, cosine_distance(own, theirs, 0.2))


def test_scaling_centres_and_scales_each_channel() -> None:
    spec = BACKBONES[LITE]
    scaling = FeatureScaling(spec, PAIR)
    generator = torch.Generator().manual_seed(2)
    features = {
        name: [
            torch.randn(4, channels, 8, 8, generator=generator) * torch.rand(channels, 1, 1, generator=generator) * 9
            + m
            for channels in spec.channels
        ]
        for m, name in enumerate(PAIR)
    }
    torch.testing.assert_close(scaling(features), features)
    rows = (slice(0, 1), slice(1, 4))
    scaling.learn({name: [x[part] for x in maps] for name, maps in features.items()} for part in rows)
    for maps in scaling(features).values():
        for x in maps:
            torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(x.shape[1]), atol=1e-4, rtol=0)
            torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(x.shape[1]), atol=1e-4, rtol=0)


def test_scaling_leaves_what_it_has_no_statistics_for() -> None:
    """The images that some methods get with the features."""
    scaling, features = FeatureScaling(BACKBONES[LITE], ("rgb",)), random_features(LITE)
    other = FeatureScaling(BACKBONES[LITE], ("rgb",))
    scaling.learn([{"rgb": features, "image rgb": [torch.ones(2, 3, 64, 64)]}])
    other.learn([{"rgb": features}])
    torch.testing.assert_close(dict(scaling.state_dict()), dict(other.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"backbone": "vgg16"}, "backbone"), ({"model": "padim"}, "model")],
    ids=["backbone", "model"],
)
def test_unknown_names_are_refused(changes: dict[str, str], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        DetectorConfig.model_validate({"input": SPEC, **changes})


@pytest.mark.parametrize(
    ("model", "modalities", "message"),
    [
        ("crd", ("rgb",), "crd takes 2 modalities, not rgb"),
        ("crd", ("rgb", "depth", "normals"), "crd takes 2 modalities"),
        ("mmrd", ("rgb",), "mmrd takes 2 to 3 modalities"),
        ("cmdiad", ("depth", "normals"), "cmdiad takes rgb and one of"),
    ],
)
def test_modalities_that_do_not_suit_the_method_are_refused(
    model: str, modalities: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        DetectorConfig.model_validate({"input": SPEC, "model": model, "preprocess": {"modalities": modalities}})


def test_forward_distillation_cannot_imitate_standardised_features() -> None:
    with pytest.raises(ValidationError, match="architecture"):
        DetectorConfig.model_validate({"input": SPEC, "model": "fd", "standardize_features": True})
