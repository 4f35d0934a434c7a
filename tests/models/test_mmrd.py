from __future__ import annotations

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_ad.bundle import FULL
from edge_ad.config import MethodConfig, MmrdConfig, PreprocessConfig
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.layers import Features
from edge_ad.models.method import Batch
from edge_ad.models.mmrd import Interaction, Mmrd, Prototypes, SiameseTeacher, fused_target, modulation
from tests.models.test_siamese_teacher import images, pretrained

Array = NDArray[np.float64]
LITE = "efficientnet_lite0"
PAIR, TRIPLE = ("rgb", "depth"), ("rgb", "depth", "normals")


def make_mmrd(modalities: tuple[str, ...] = PAIR, backbone: str = LITE, **choices: object) -> Mmrd:
    torch.manual_seed(1)
    config = MethodConfig(
        model="mmrd",
        backbone=backbone,
        preprocess=PreprocessConfig(modalities=modalities, image_size_px=64),
        mmrd=MmrdConfig.model_validate(choices),
    )
    return Mmrd(config, BACKBONES[backbone])


def make_batch(modalities: tuple[str, ...] = PAIR, backbone: str = LITE, count: int = 2) -> Batch:
    """Random features of 64×64 images: smooth in no way, signed as the backbone's are."""
    spec, features = BACKBONES[backbone], {}
    generator = torch.Generator().manual_seed(2)
    for name in modalities:
        sizes = zip(spec.channels, (16, 8, 4), strict=True)
        maps = [torch.randn(count, channels, side, side, generator=generator) for channels, side in sizes]
        features[name] = maps if spec.signed else [x.relu() for x in maps]
    return Batch(features)


def double(x: Tensor) -> Array:
    array: Array = x.detach().double().numpy()
    return array


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


# The paper's equations, written a second time with loops.


def naive_modulation(x: Array) -> Array:
    result = np.empty_like(x)
    for n, c in np.ndindex(x.shape[:2]):
        mean = sum(x[n, c].flat) / x[n, c].size
        variance = sum((value - mean) ** 2 for value in x[n, c].flat) / x[n, c].size
        result[n, c] = sigmoid((x[n, c] - mean) ** 2 / (variance + 1e-4))
    return result


def naive_retrieval(x: Array, prototypes: Array, temperature: float) -> Array:
    result = np.zeros_like(x)
    for n, row, column in np.ndindex(x.shape[0], *x.shape[2:]):
        feature = x[n, :, row, column]
        cosines = [feature @ p / (np.linalg.norm(feature) * np.linalg.norm(p)) for p in prototypes]
        weights = np.exp(np.array(cosines) / temperature)
        for weight, prototype in zip(weights / weights.sum(), prototypes, strict=True):
            result[n, :, row, column] += weight * prototype
    return result


def naive_squeeze_and_excitation(x: Array, layers: nn.Sequential) -> Array:
    first, second = (layers[i] for i in (1, 3))
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
    assert first.bias is not None and second.bias is not None
    pooled = x.mean((2, 3))
    hidden = np.maximum(pooled @ double(first.weight)[:, :, 0, 0].T + double(first.bias), 0)
    return sigmoid(hidden @ double(second.weight)[:, :, 0, 0].T + double(second.bias))[:, :, None, None]


def naive_spatial_attention(x: Array, layer: nn.Module) -> Array:
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    weight, bias = double(layer.weight)[0, 0], double(layer.bias)[0]
    n, _, height, width = x.shape
    padded = np.pad(x.max(1), ((0, 0), (1, 1), (1, 1)))
    result = np.empty((n, 1, height, width))
    for i, row, column in np.ndindex(n, height, width):
        result[i, 0, row, column] = (padded[i, row : row + 3, column : column + 3] * weight).sum() + bias
    return sigmoid(result)


def naive_cosine(a: Tensor, b: Tensor) -> float:
    """Mean over images of the cosine of the flattened maps."""
    pairs = [(x.reshape(-1), y.reshape(-1)) for x, y in zip(double(a), double(b), strict=True)]
    return float(np.mean([x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for x, y in pairs]))


def test_modulation_is_the_papers() -> None:
    x = 3 * torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0)) + 1
    alpha = modulation(x)
    np.testing.assert_allclose(alpha.numpy(), naive_modulation(double(x)), rtol=1e-5)
    assert float(alpha.min()) >= 0.5


@pytest.mark.parametrize("auxiliaries", [1, 2])
def test_the_target_adds_the_modulated_auxiliary_modalities(auxiliaries: int) -> None:
    main, *others = torch.randn(1 + auxiliaries, 2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    alpha = naive_modulation(sum((double(x) for x in others), double(main)))
    expected = double(main) + sum(alpha * double(x) for x in others)
    np.testing.assert_allclose(fused_target(main, others).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_prototypes_are_averaged_by_similarity(temperature: float) -> None:
    torch.manual_seed(0)
    prototypes, x = Prototypes(7, 6, temperature, signed=True), torch.randn(2, 6, 3, 4)
    expected = naive_retrieval(double(x), double(prototypes.vectors), temperature)
    np.testing.assert_allclose(prototypes(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_pixel_without_features_gets_the_mean_prototype() -> None:
    prototypes = Prototypes(7, 6, 1.0, signed=False)
    found = prototypes(torch.zeros(1, 6, 1, 1)).flatten()
    torch.testing.assert_close(found, prototypes.vectors.mean(0))
    assert float(prototypes.vectors.detach().min()) >= 0


@pytest.mark.parametrize("auxiliaries", [1, 2])
def test_the_interaction_is_the_papers(auxiliaries: int) -> None:
    torch.manual_seed(0)
    network = Interaction(48, auxiliaries)
    main, *others = torch.randn(1 + auxiliaries, 2, 48, 4, 5)
    channel = naive_squeeze_and_excitation(double(main), network.channel_attention)
    spatial = sum(naive_spatial_attention(double(x), layer) for x, layer in zip(others, network.spatial, strict=True))
    expected = spatial * (channel * double(main) + double(main)) + double(main)
    np.testing.assert_allclose(network(main, others).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", [LITE, "resnet18"])
@pytest.mark.parametrize("restore_finest", [False, True], ids=["Eq. 8", "Fig. 3"])
@pytest.mark.parametrize("modalities", [PAIR, TRIPLE], ids=len)
def test_all_modalities_become_one_map(modalities: tuple[str, ...], restore_finest: bool, backbone: str) -> None:
    model = make_mmrd(modalities, backbone, restore_finest=restore_finest).eval()
    batch = make_batch(modalities, backbone)
    with torch.no_grad():
        outputs, distances = model.restore(batch.features), model.distances(batch, FULL)
        anomaly_map, score, maps = model.head(FULL)(distances, None)
    wanted = [x.shape for x in batch.features["rgb"]]
    assert [x.shape for x in outputs.target] == [x.shape for x in outputs.restored] == wanted
    assert [bool((x < 0).any()) for x in outputs.restored] == [BACKBONES[backbone].signed] * 3
    assert [x.shape for x in distances["fused"]] == [(2, 1, 16, 16), (2, 1, 8, 8), (2, 1, 4, 4)]
    assert model.modes == {"full": modalities} and list(distances) == list(maps) == ["fused"]
    assert anomaly_map.shape == (2, 64, 64) and score.shape == (2,)


def test_colour_is_the_main_modality_wherever_it_stands() -> None:
    one, other = make_mmrd(("rgb", "normals")).eval(), make_mmrd(("normals", "rgb")).eval()
    other.load_state_dict(one.state_dict())
    batch = make_batch(("rgb", "normals"))
    with torch.no_grad():
        for x, y in zip(one.distances(batch, FULL)["fused"], other.distances(batch, FULL)["fused"], strict=True):
            torch.testing.assert_close(x, y)
    assert make_mmrd(("normals", "depth")).main == "normals"


def test_the_prior_of_a_scale_leads_to_the_next_finer_one() -> None:
    model = make_mmrd(restore_finest=True).eval()
    priors = [torch.zeros(1, BACKBONES[LITE].channels[level], 16 >> level, 16 >> level) for level in (2, 1, 0)]
    embedding = torch.randn(1, 256, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.decoder(embedding, priors)
        for changed, expected in ((0, [True, True, False]), (1, [True, False, False]), (2, [True, False, False])):
            given = [x + (i == changed) for i, x in enumerate(priors)]
            after = model.decoder(embedding, given)
            assert [not torch.equal(x, y) for x, y in zip(before, after, strict=True)] == expected


def test_the_loss_is_distillation_and_weighted_prototype_errors() -> None:
    model, batch = make_mmrd(TRIPLE, prototype_weight=0.3, temperature=0.5), make_batch(TRIPLE)
    outputs = model.restore(batch.features)
    expected = sum(1 - naive_cosine(x, y) for x, y in zip(outputs.target, outputs.restored, strict=True))
    for name in TRIPLE:
        for level, x in enumerate(batch.features[name]):
            bank = model.get_parameter(f"prototypes.{name}.{level}.vectors")
            expected += 0.3 * float(np.mean((naive_retrieval(double(x), double(bank), 0.5) - double(x)) ** 2))
    (loss,) = model.losses(batch, torch.Generator())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def prototype_gradients(weight: float, restore_finest: bool) -> dict[str, Tensor]:
    model = make_mmrd(restore_finest=restore_finest, prototype_weight=weight)
    torch.autograd.backward(model.losses(make_batch(), torch.Generator()))
    named = model.prototypes.named_parameters()
    return {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in named}


@pytest.mark.parametrize("restore_finest", [False, True], ids=["Eq. 8", "Fig. 3"])
def test_distillation_and_prototype_error_both_train_the_prototypes(restore_finest: bool) -> None:
    distilled, both = (prototype_gradients(weight, restore_finest) for weight in (0, 0.1))
    assert len(both) == 6
    for name in both:
        is_finest = name.endswith(".0.vectors")
        assert bool(distilled[name].any()) == (restore_finest or not is_finest), name
        assert not torch.equal(both[name], distilled[name]), name


@pytest.mark.parametrize("restore_finest", [False, True], ids=["Eq. 8", "Fig. 3"])
def test_everything_in_the_student_is_trained(restore_finest: bool) -> None:
    model = make_mmrd(TRIPLE, restore_finest=restore_finest)
    torch.autograd.backward(model.losses(make_batch(TRIPLE), torch.Generator()))
    assert [name for name, x in model.named_parameters() if x.grad is None or not x.grad.abs().max() > 0] == []


def test_a_few_steps_bring_the_student_closer() -> None:
    model, batch = make_mmrd(), make_batch(count=4)

    def distance() -> float:
        model.finish(lambda: [batch])
        with torch.no_grad():
            found = float(torch.stack([x.mean() for x in model.eval().distances(batch, FULL)["fused"]]).sum())
        model.train()
        return found

    before, losses = distance(), []
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, (0.5, 0.999))
    for _ in range(12):
        (loss,) = model.losses(batch, torch.Generator())
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    assert distance() < 0.9 * before


def test_prototypes_are_as_few_as_the_papers() -> None:
    with torch.device("meta"):
        model = make_mmrd(backbone="wide_resnet50_2")
    assert sum(x.numel() for x in model.prototypes.parameters()) == 50 * (256 + 512 + 1024) * 2 == 179_200


class FusedGraph(nn.Module):
    """Images → anomaly map and score."""

    def __init__(self, model: Mmrd, teacher: SiameseTeacher) -> None:
        super().__init__()
        self.model, self.teacher, self.anomaly_head = model, teacher, model.head(FULL)

    def forward(self, *frames: Tensor) -> tuple[Tensor, Tensor]:
        features: dict[str, Features] = self.teacher(dict(zip(self.model.modalities, frames, strict=True)))
        anomaly_map, score, _ = self.anomaly_head(self.model.distances(Batch(features), FULL), None)
        return anomaly_map, score


def test_the_exported_graph_gives_the_same_answers() -> None:
    model = make_mmrd(restore_finest=True)
    teacher = model.make_teacher(pretrained(LITE))
    teacher.adapt(lambda _: [images(PAIR)], 1)
    graph = FusedGraph(model, teacher).eval()
    example, batch = tuple(images(PAIR, 2).values()), torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph, example, dynamo=True, opset_version=18, dynamic_shapes=(tuple({0: batch} for _ in PAIR),),
            input_names=list(PAIR), output_names=["anomaly_map", "score"], verbose=False,
        )  # fmt: skip
    assert program is not None
    assert {"BatchNormalization", "If", "Loop"}.isdisjoint(node.op_type for node in program.model_proto.graph.node)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        frames = images(PAIR, count, seed=8)
        with torch.no_grad():
            expected = graph(*frames.values())
        given = session.run(None, {name: x.numpy() for name, x in frames.items()})
        for x, y in zip(given, expected, strict=True):
            np.testing.assert_allclose(x, y.numpy(), atol=1e-4)
