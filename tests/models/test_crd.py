from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_ad.bundle import FULL
from edge_ad.config import CrdConfig
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.crd import Crd, CrdOutputs, CrdStudent
from edge_ad.models.layers import Decoder
from edge_ad.models.method import Batch, flattened_cosine_loss
from edge_ad.models.rd import RdStudent
from tests.models.methods import LITE, PAIR, gradient, make_batch, make_method, random_features, seeded

NAMES = list(BACKBONES)


def make_crd(backbone: str = LITE, **choices: Any) -> Crd:
    """Without modality dropout, unless asked for."""
    model = make_method("crd", PAIR, backbone, **{"modality_dropout": 0.0, **choices})
    assert isinstance(model, Crd)
    return model


def student(name: str) -> CrdStudent:
    torch.manual_seed(1)
    return CrdStudent(BACKBONES[name], CrdConfig())


def millions(*modules: nn.Module) -> float:
    return sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6


def test_crd_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        network = CrdStudent(BACKBONES["wide_resnet50_2"], CrdConfig())
    assert millions(network.tuners.filters) == pytest.approx(59.8, abs=0.05)
    assert millions(network.tuners.amplifiers) == pytest.approx(17.9, abs=0.05)
    assert millions(network.bottleneck) == pytest.approx(90.7, abs=0.05)
    assert millions(network.decoder) == pytest.approx(24.9, abs=0.05)
    assert millions(network) == pytest.approx(193.4, abs=0.05)


def test_crd_has_the_papers_total_size() -> None:
    with torch.device("meta"):
        spec = BACKBONES["wide_resnet50_2"]
        assert millions(make_crd(spec.name), spec.build()) == pytest.approx(411.6, abs=0.1)


def test_rd_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        network = RdStudent(BACKBONES["wide_resnet50_2"])
    # The public code has 67.3 M, with a 1×1 convolution from 4096 to 2048 channels that it never runs.
    assert millions(network.bottleneck) == pytest.approx(67.3 - 4096 * 2048 / 1e6, abs=0.05)
    assert millions(network.decoder) == pytest.approx(24.9, abs=0.05)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["crd", "rd"])
def test_what_is_scored_has_the_teachers_shapes(method: str, name: str) -> None:
    with torch.device("meta"):
        model, batch = make_method(method, PAIR, name), make_batch(PAIR, name)
        meta = Batch({modality: [torch.zeros(x.shape) for x in maps] for modality, maps in batch.features.items()})
        distances = model.distances(meta, FULL)
    assert {modality: [x.shape for x in maps] for modality, maps in distances.items()} == {
        modality: [(2, 1, side, side) for side in (16, 8, 4)] for modality in PAIR
    }


def naive_distance(target: Tensor, output: Tensor) -> float:
    """1 − cosine of the flattened maps, one image at a time, in float64."""
    distances = []
    for a, b in zip(target.detach().double().numpy(), output.detach().double().numpy(), strict=True):
        a, b = a.reshape(-1), b.reshape(-1)
        distances.append(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return float(np.mean(distances))


@pytest.mark.parametrize("name", [LITE, "resnet18"])
def test_the_loss_is_the_papers_four_terms(name: str) -> None:
    model, features = make_crd(name), make_batch(PAIR, name).features
    losses = model.losses(Batch(features), seeded())
    assert len(losses) == 2
    for own, other, loss in (("rgb", "depth", losses[0]), ("depth", "rgb", losses[1])):
        outputs: CrdOutputs = model.students[own](features[own], features[other])
        terms = [outputs.restored, outputs.mixed, outputs.filtered, outputs.amplified]
        expected = sum(naive_distance(x, y) for term in terms for x, y in zip(features[own], term, strict=True))
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


ABLATIONS = pytest.mark.parametrize(
    ("choices", "terms"),
    [
        pytest.param({"filter": False}, ("restored", "amplified", "mixed"), id="no filter"),
        pytest.param({"amplifier": False}, ("restored", "filtered"), id="no amplifier"),
        pytest.param({"filter": False, "amplifier": False}, ("restored",), id="neither"),
    ],
)


@ABLATIONS
def test_an_ablation_lacks_parameters_and_terms(choices: dict[str, Any], terms: tuple[str, ...]) -> None:
    model, features = make_crd(**choices), make_batch().features
    names = {name for name, _ in model.named_parameters()}
    for part, there in (
        ("tuners.filters", "filtered" in terms),
        ("tuners.amplifiers", "amplified" in terms),
        ("decoder.mixing", "amplified" in terms),
    ):
        found = [any(name.startswith(f"students.{modality}.{part}") for name in names) for modality in PAIR]
        assert found == [there, there], part
    for loss, (own, other) in zip(model.losses(Batch(features), seeded()), (PAIR, PAIR[::-1]), strict=True):
        outputs: CrdOutputs = model.students[own](features[own], features[other])
        expected = sum(
            naive_distance(x, y) for term in terms for x, y in zip(features[own], getattr(outputs, term), strict=True)
        )
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
        if "mixed" not in terms:
            assert all(torch.equal(x, y) for x, y in zip(outputs.mixed, outputs.restored, strict=True))


@ABLATIONS
def test_an_ablation_looks_at_the_other_modality_only_through_its_tuners(
    choices: dict[str, Any], terms: tuple[str, ...]
) -> None:
    model = make_crd(**choices).eval()
    one, other = make_batch(seed=1).features, make_batch(seed=2).features
    with torch.no_grad():
        before = model.distances(Batch(one), FULL)["rgb"]
        after = model.distances(Batch({"rgb": one["rgb"], "depth": other["depth"]}), FULL)["rgb"]
    is_blind = [torch.equal(x, y) for x, y in zip(before, after, strict=True)]
    assert is_blind == [terms == ("restored",)] * 3


def test_the_bottleneck_of_an_ablation_is_half_as_wide() -> None:
    with_filter, without = (make_crd(filter=there) for there in (True, False))
    for layer in ("scale1.0.0", "scale2.0", "scale3.0"):
        full, half = (
            model.get_parameter(f"students.rgb.bottleneck.{layer}.weight") for model in (with_filter, without)
        )
        assert full.shape[1] == 2 * half.shape[1]


def test_each_student_is_given_its_own_modality_first() -> None:
    model, features = make_crd().eval(), make_batch().features
    scored = model.distances(Batch(features), FULL)
    for own, other in (PAIR, PAIR[::-1]):
        expected = model.compared(features[own], model.students[own](features[own], features[other]).mixed)
        for x, y in zip(scored[own], expected, strict=True):
            torch.testing.assert_close(x, y)


def test_the_loss_before_mixing_does_not_reach_the_finest_mixing_scalars() -> None:
    network = student(LITE)
    own, other = random_features(LITE, seed=2), random_features(LITE, seed=3)
    torch.autograd.backward(flattened_cosine_loss(own, network(own, other).restored))
    assert network.decoder.mixing is not None and network.decoder.mixing.grad is not None
    reached = network.decoder.mixing.grad.abs().amax(1) > 0
    assert reached.tolist() == [False, True, True]


@pytest.mark.parametrize("term", ["restored", "mixed"])
def test_both_student_losses_train_filter_and_amplifier(term: str) -> None:
    network = student(LITE)
    own, other = random_features(LITE, seed=2), random_features(LITE, seed=3)
    torch.autograd.backward(flattened_cosine_loss(own, getattr(network(own, other), term)))
    # The finest amplifier joins after the last stage, so only the mix depends on it.
    expected = [term == "mixed", True, True]
    assert [gradient(tuner) > 0 for tuner in network.tuners.amplifiers] == expected
    assert all(gradient(tuner) > 0 for tuner in network.tuners.filters)


def test_tuner_losses_train_only_their_tuner() -> None:
    network = student(LITE)
    own, other = random_features(LITE, seed=2), random_features(LITE, seed=3)
    torch.autograd.backward(flattened_cosine_loss(own, network(own, other).filtered))
    assert all(gradient(tuner) > 0 for tuner in network.tuners.filters)
    untouched = (network.tuners.amplifiers, network.bottleneck, network.decoder)
    assert [gradient(module) for module in untouched] == [0, 0, 0]


@pytest.mark.parametrize("dropout", [0.0, 0.9])
def test_students_share_nothing(dropout: float) -> None:
    """A hallucination comes from the other student, and teaches it nothing."""
    model = make_crd(modality_dropout=dropout)
    torch.autograd.backward(model.losses(make_batch(count=4), seeded())[0])
    assert gradient(model.students["rgb"]) > 0
    assert gradient(model.students["depth"]) == 0


@pytest.mark.parametrize(("name", "may_be_negative"), [(LITE, True), ("resnet18", False)])
def test_outputs_are_signed_as_the_teachers_are(name: str, may_be_negative: bool) -> None:
    outputs = student(name)(random_features(name, seed=2), random_features(name, seed=3))
    for kind in ("filtered", "amplified", "restored", "mixed"):
        negative = [bool((x < 0).any()) for x in getattr(outputs, kind)]
        assert negative == [may_be_negative] * 3, kind


def test_mixing_starts_even_and_follows_its_softmax() -> None:
    torch.manual_seed(1)
    spec = BACKBONES[LITE]
    decoder, embedding = Decoder(spec, mixed=True).eval(), torch.randn(1, 2 * spec.decoder_widths[2], 2, 2)
    amplified = random_features(LITE, batch=1)
    assert decoder.mixing is not None
    for logits, shares in (([0.0, 0.0], (0.5, 0.5)), ([np.log(3.0), 0.0], (0.75, 0.25))):
        with torch.no_grad():
            decoder.mixing.copy_(torch.tensor([logits] * 3))
            restored, mixed = decoder(embedding, amplified)
        for x, y, z in zip(restored, amplified, mixed, strict=True):
            torch.testing.assert_close(shares[0] * x + shares[1] * y, z)
