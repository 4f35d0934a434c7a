"""Reverse and forward distillation: students that know nothing of each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_ad.bundle import FULL
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.method import Batch, exact_batch_norm, flattened_cosine_loss
from tests.models.methods import LITE, PAIR, TRIPLE, gradient, make_batch, make_method, seeded

BOTH = pytest.mark.parametrize("model", ["rd", "fd"])


def test_rds_loss_is_one_term_a_student() -> None:
    model, batch = make_method("rd", TRIPLE), make_batch(TRIPLE)
    losses = model.losses(batch, seeded())
    for name, loss in zip(TRIPLE, losses, strict=True):
        own = batch.features[name]
        restored = model.get_submodule(f"students.{name}")(own)
        expected = 0.0
        for x, y in zip(own, restored, strict=True):
            pairs = zip(x.double().numpy(), y.detach().double().numpy(), strict=True)
            cosines = [np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)) for a, b in pairs]
            expected += 1 - np.mean(cosines)
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("backbone", [LITE, "resnet18"])
def test_fds_loss_is_the_mean_distance_per_pixel(backbone: str) -> None:
    model, batch = make_method("fd", PAIR, backbone), make_batch(PAIR, backbone)
    for name, loss in zip(PAIR, model.losses(batch, seeded()), strict=True):
        student = BACKBONES[backbone].build()
        student.load_state_dict(model.get_submodule(f"students.{name}").state_dict())
        expected = 0.0
        for x, y in zip(batch.features[name], student.train()(batch.images[name]), strict=True):
            a, b = x.double().numpy(), y.detach().double().numpy()
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            expected += float(np.mean(1 - (a * b).sum(1) / norms))
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_an_fd_student_is_a_network_of_the_teachers_make_with_weights_of_its_own() -> None:
    model, fresh = make_method("fd"), BACKBONES[LITE].build()
    for name in PAIR:
        student = model.get_submodule(f"students.{name}")
        assert {key: x.shape for key, x in student.state_dict().items()} == {
            key: x.shape for key, x in fresh.state_dict().items()
        }
    first, second = (model.get_parameter(f"students.{name}.conv_stem.weight") for name in PAIR)
    assert not torch.equal(first, second)


@BOTH
def test_several_modalities_are_several_models(model: str) -> None:
    together, batch = make_method(model, TRIPLE).eval(), make_batch(TRIPLE)
    with torch.no_grad():
        distances = together.distances(batch, FULL)
    assert list(distances) == list(TRIPLE)
    for name in TRIPLE:
        alone = make_method(model, (name,)).eval()
        state = together.get_submodule(f"students.{name}").state_dict()
        alone.load_state_dict({f"students.{name}.{key}": x for key, x in state.items()})
        own = Batch({name: batch.features[name]}, {name: batch.images[name]})
        with torch.no_grad():
            torch.testing.assert_close(alone.distances(own, FULL)[name], distances[name])


@BOTH
def test_students_share_nothing(model: str) -> None:
    method = make_method(model, TRIPLE)
    torch.autograd.backward(method.losses(make_batch(TRIPLE), seeded())[1])
    reached = [gradient(method.get_submodule(f"students.{name}")) > 0 for name in TRIPLE]
    assert reached == [False, True, False]


@BOTH
def test_a_mode_leaves_maps_out(model: str) -> None:
    method, batch = make_method(model, TRIPLE).eval(), make_batch(TRIPLE)
    assert method.modes == {"full": TRIPLE, "rgb_only": ("rgb",), "3d_only": ("depth", "normals")}
    with torch.no_grad():
        full = method.distances(batch, FULL)
        for mode, present in method.modes.items():
            seen = Batch(
                {name: batch.features[name] for name in present}, {name: batch.images[name] for name in present}
            )
            given = method.distances(seen, mode)
            assert tuple(given) == present == method.head(mode).names
            torch.testing.assert_close(given, {name: full[name] for name in present})


@BOTH
@pytest.mark.parametrize("modalities", [("rgb",), ("depth",), ("depth", "normals")], ids="+".join)
def test_one_sensor_has_one_mode(model: str, modalities: tuple[str, ...]) -> None:
    with torch.device("meta"):
        assert make_method(model, modalities).modes == {"full": modalities}


@BOTH
def test_a_few_steps_bring_the_students_closer(model: str) -> None:
    method, batch = make_method(model, ("rgb",)), make_batch(("rgb",), count=4)
    optimizer = torch.optim.Adam(method.parameters(), 5e-3, (0.5, 0.999))
    losses = []
    for _ in range(8):
        (loss,) = method.losses(batch, seeded())
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_the_cosine_loss_is_computed_in_float32() -> None:
    """Also of what a student gives in bfloat16, whose own sums would be worth two digits."""
    own = make_batch(("rgb",)).features["rgb"]
    half = [(x + 0.3 * x.roll(1, 1)).bfloat16() for x in own]
    given, expected = flattened_cosine_loss(own, half), flattened_cosine_loss(own, [x.float() for x in half])
    assert given.dtype == torch.float32
    assert torch.equal(given, expected)


def test_exact_batch_norm_averages_the_batches_statistics() -> None:
    """Over batches that it has never seen, without a trace of those before; momentum is as it was."""
    method = make_method("rd", ("rgb",))
    method.losses(Batch({"rgb": [x + 50 for x in make_batch(("rgb",)).features["rgb"]]}), seeded())
    batches = [Batch({"rgb": [3 * x + i for x in make_batch(("rgb",), seed=i).features["rgb"]]}) for i in range(3)]
    exact_batch_norm(method, batches)
    convolution, norm = (method.get_submodule(f"students.rgb.bottleneck.scale2.{index}") for index in (0, 1))
    assert isinstance(norm, torch.nn.BatchNorm2d)
    with torch.no_grad():
        outputs = [convolution(batch.features["rgb"][1]).double().numpy() for batch in batches]
    arrays = [x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1) for x in outputs]
    mean, variance = norm.get_buffer("running_mean").numpy(), norm.get_buffer("running_var").numpy()
    np.testing.assert_allclose(mean, np.mean([x.mean(1) for x in arrays], 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, np.mean([x.var(1, ddof=1) for x in arrays], 0), rtol=1e-4)
    assert norm.momentum == 0.1
