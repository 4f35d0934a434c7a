from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_ad.models.backbones import BACKBONES
from edge_ad.models.crd import Crd, CrdOutputs, CrdStudent, flattened_cosine_loss
from edge_ad.models.detector import METHODS
from edge_ad.models.layers import Decoder, Features
from edge_ad.models.rd import Rd, RdStudent

NAMES = list(BACKBONES)


def random_features(name: str, batch: int = 2, seed: int = 0) -> Features:
    """As a teacher makes them of 64×64 images: three maps of 16², 8² and 4²."""
    generator = torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(batch, channels, 64 // stride, 64 // stride, generator=generator)
        for channels, stride in zip(BACKBONES[name].channels, (4, 8, 16), strict=True)
    ]
    return maps if BACKBONES[name].signed else [x.relu() for x in maps]


def student(name: str) -> CrdStudent:
    torch.manual_seed(1)
    return CrdStudent(BACKBONES[name])


def millions(*modules: nn.Module) -> float:
    return sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6


def test_crd_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        network = CrdStudent(BACKBONES["wide_resnet50_2"])
    assert millions(network.tuners.filters) == pytest.approx(59.8, abs=0.05)
    assert millions(network.tuners.amplifiers) == pytest.approx(17.9, abs=0.05)
    assert millions(network.bottleneck) == pytest.approx(90.7, abs=0.05)
    assert millions(network.decoder) == pytest.approx(24.9, abs=0.05)
    assert millions(network) == pytest.approx(193.4, abs=0.05)


def test_crd_has_the_papers_total_size() -> None:
    with torch.device("meta"):
        spec = BACKBONES["wide_resnet50_2"]
        assert millions(Crd(spec), spec.build()) == pytest.approx(411.6, abs=0.1)


def test_rd_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        network = RdStudent(BACKBONES["wide_resnet50_2"])
    # The public code has 67.3 M, with a 1×1 convolution from 4096 to 2048 channels that it never runs.
    assert millions(network.bottleneck) == pytest.approx(67.3 - 4096 * 2048 / 1e6, abs=0.05)
    assert millions(network.decoder) == pytest.approx(24.9, abs=0.05)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_scored_has_the_teachers_shapes(method: str, name: str) -> None:
    with torch.device("meta"):
        model = METHODS[method](BACKBONES[name])
        features = [[torch.zeros(x.shape) for x in random_features(name)] for _ in range({"crd": 2, "rd": 1}[method])]
        restored = model(features)
    assert [[x.shape for x in maps] for maps in restored] == [[x.shape for x in maps] for maps in features]


def naive_distance(target: Tensor, output: Tensor) -> float:
    """1 − cosine of the flattened maps, one image at a time, in float64."""
    distances = []
    for a, b in zip(target.detach().double().numpy(), output.detach().double().numpy(), strict=True):
        a, b = a.reshape(-1), b.reshape(-1)
        distances.append(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return float(np.mean(distances))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_the_loss_is_the_papers_four_terms(name: str) -> None:
    torch.manual_seed(1)
    model = Crd(BACKBONES[name])
    features = [random_features(name, seed=2), random_features(name, seed=3)]
    losses = model.losses(features)
    for index, loss in enumerate(losses):
        own, other = features[index], features[1 - index]
        outputs: CrdOutputs = model.students[index](own, other)
        terms = [outputs.restored, outputs.mixed, outputs.filtered, outputs.amplified]
        expected = sum(naive_distance(x, y) for term in terms for x, y in zip(own, term, strict=True))
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_rds_loss_is_one_term() -> None:
    torch.manual_seed(1)
    model, own = Rd(BACKBONES["efficientnet_lite0"]), random_features("efficientnet_lite0")
    expected = sum(naive_distance(x, y) for x, y in zip(own, model([own])[0], strict=True))
    assert float(model.losses([own])[0].detach()) == pytest.approx(expected, rel=1e-5)


def test_each_student_is_given_its_own_modality_first() -> None:
    torch.manual_seed(1)
    model = Crd(BACKBONES["efficientnet_lite0"]).eval()
    first, second = random_features("efficientnet_lite0", seed=2), random_features("efficientnet_lite0", seed=3)
    scored = model([first, second])
    for maps, student_, own, other in (
        (scored[0], model.students[0], first, second),
        (scored[1], model.students[1], second, first),
    ):
        for x, y in zip(maps, student_(own, other).mixed, strict=True):
            torch.testing.assert_close(x, y)


def gradient(module: nn.Module) -> float:
    """The largest gradient in a module; 0 where none arrived."""
    return max(0.0 if p.grad is None else float(p.grad.abs().max()) for p in module.parameters())


def test_the_loss_before_mixing_does_not_reach_the_finest_mixing_scalars() -> None:
    network = student("efficientnet_lite0")
    own, other = random_features("efficientnet_lite0", seed=2), random_features("efficientnet_lite0", seed=3)
    torch.autograd.backward(flattened_cosine_loss(own, network(own, other).restored))
    assert network.decoder.mixing is not None and network.decoder.mixing.grad is not None
    reached = network.decoder.mixing.grad.abs().amax(1) > 0
    assert reached.tolist() == [False, True, True]


@pytest.mark.parametrize("term", ["restored", "mixed"])
def test_both_student_losses_train_filter_and_amplifier(term: str) -> None:
    network = student("efficientnet_lite0")
    own, other = random_features("efficientnet_lite0", seed=2), random_features("efficientnet_lite0", seed=3)
    torch.autograd.backward(flattened_cosine_loss(own, getattr(network(own, other), term)))
    # The finest amplifier joins after the last stage, so only the mix depends on it.
    expected = [term == "mixed", True, True]
    assert [gradient(tuner) > 0 for tuner in network.tuners.amplifiers] == expected
    assert all(gradient(tuner) > 0 for tuner in network.tuners.filters)


def test_tuner_losses_train_only_their_tuner() -> None:
    network = student("efficientnet_lite0")
    own, other = random_features("efficientnet_lite0", seed=2), random_features("efficientnet_lite0", seed=3)
    torch.autograd.backward(flattened_cosine_loss(own, network(own, other).filtered))
    assert all(gradient(tuner) > 0 for tuner in network.tuners.filters)
    untouched = (network.tuners.amplifiers, network.bottleneck, network.decoder)
    assert [gradient(module) for module in untouched] == [0, 0, 0]


def test_students_share_nothing() -> None:
    model = Crd(BACKBONES["efficientnet_lite0"])
    features = [random_features("efficientnet_lite0", seed=2), random_features("efficientnet_lite0", seed=3)]
    torch.autograd.backward(model.losses(features)[0])
    assert gradient(model.students[0]) > 0
    assert gradient(model.students[1]) == 0


@pytest.mark.parametrize(("name", "may_be_negative"), [("efficientnet_lite0", True), ("resnet18", False)])
def test_outputs_are_signed_as_the_teachers_are(name: str, may_be_negative: bool) -> None:
    outputs = student(name)(random_features(name, seed=2), random_features(name, seed=3))
    for kind in ("filtered", "amplified", "restored", "mixed"):
        negative = [bool((x < 0).any()) for x in getattr(outputs, kind)]
        assert negative == [may_be_negative] * 3, kind


def test_mixing_starts_even_and_follows_its_softmax() -> None:
    torch.manual_seed(1)
    spec = BACKBONES["efficientnet_lite0"]
    decoder, embedding = Decoder(spec, mixed=True).eval(), torch.randn(1, 2 * spec.decoder_widths[2], 2, 2)
    amplified = random_features("efficientnet_lite0", batch=1)
    assert decoder.mixing is not None
    for logits, shares in (([0.0, 0.0], (0.5, 0.5)), ([np.log(3.0), 0.0], (0.75, 0.25))):
        with torch.no_grad():
            decoder.mixing.copy_(torch.tensor([logits] * 3))
            restored, mixed = decoder(embedding, amplified)
        for x, y, z in zip(restored, amplified, mixed, strict=True):
            torch.testing.assert_close(shares[0] * x + shares[1] * y, z)
