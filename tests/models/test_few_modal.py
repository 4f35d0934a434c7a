"""CRD without one of its sensors: what is computed, what is not, and how training prepares for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edge_ad.bundle import FULL
from edge_ad.models.crd import Crd
from edge_ad.models.detector import Detector
from edge_ad.models.layers import Features
from edge_ad.models.method import Batch
from tests.models.methods import LITE, PAIR, gradient, make_batch, make_detector, make_method, seeded

MODES = pytest.mark.parametrize(("mode", "own", "other"), [("rgb_only", "rgb", "depth"), ("3d_only", "depth", "rgb")])


def make_crd(**choices: Any) -> Crd:
    model = make_method("crd", **choices)
    assert isinstance(model, Crd)
    return model


@pytest.fixture(scope="module")
def detector() -> Detector:
    """With scales, map statistics and places of parts that are all different."""
    detector = make_detector("crd")
    generator = seeded(5)
    for name, buffer in detector.named_buffers():
        if name.startswith(("method.scale_", "heads.")) and "kernel" not in name:
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    detector.preprocess.reach[..., :20] = 0
    return detector


def arrays(name: str, batch: int = 2) -> Tensor:
    if name == "rgb":
        return torch.randint(0, 256, (batch, 64, 80, 3), dtype=torch.uint8, generator=seeded(1))
    return 0.5 + 0.1 * torch.rand(batch, 64, 80, generator=seeded(2))


@pytest.mark.parametrize(
    ("modalities", "choices", "expected"),
    [
        (("rgb", "depth"), {}, {"full": ("rgb", "depth"), "rgb_only": ("rgb",), "3d_only": ("depth",)}),
        (("normals", "rgb"), {}, {"full": ("normals", "rgb"), "rgb_only": ("rgb",), "3d_only": ("normals",)}),
        (("rgb", "depth"), {"modality_dropout": 0.0}, {"full": ("rgb", "depth")}),
        (("rgb", "depth"), {"amplifier": False}, {"full": ("rgb", "depth")}),
        (("rgb", "depth"), {"filter": False}, {"full": ("rgb", "depth"), "rgb_only": ("rgb",), "3d_only": ("depth",)}),
        (("depth", "normals"), {}, {"full": ("depth", "normals")}),
    ],
    ids=["pair", "order", "no dropout", "no amplifier", "no filter", "one sensor"],
)
def test_which_modes_there_are(
    modalities: tuple[str, ...], choices: dict[str, Any], expected: dict[str, tuple[str, ...]]
) -> None:
    with torch.device("meta"):
        assert make_method("crd", modalities, **choices).modes == expected


def naive_hallucination(model: Crd, missing: str, own: Features) -> Features:
    tuners = model.students[missing].get_submodule("tuners.amplifiers").children()
    scale = model.get_buffer(f"scale_{missing}")
    return [scale[level] * tuner(own[level]) for level, tuner in enumerate(tuners)]


def naive_mix(student: nn.Module, own: Features, other: Features) -> Features:
    """The student, put together of its layers again."""
    filters = list(student.get_submodule("tuners.filters").children())
    amplifiers = list(student.get_submodule("tuners.amplifiers").children())
    fused = [torch.cat([x, tuner(y)], 1) for x, y, tuner in zip(own, other, filters, strict=True)]
    x, mixed = student.get_submodule("bottleneck")(fused), []
    for step, level in enumerate((2, 1, 0)):
        output = student.get_submodule(f"decoder.heads.{step}")(student.get_submodule(f"decoder.stages.{step}")(x))
        weight = student.get_parameter("decoder.mixing")[level].exp()
        x = (weight[0] * output + weight[1] * amplifiers[level](other[level])) / weight.sum()
        mixed.append(x)
    return mixed[::-1]


@MODES
def test_a_mode_is_amplifier_scale_student_and_its_own_head(
    detector: Detector, mode: str, own: str, other: str
) -> None:
    graph, model = detector.operating(mode), detector.method
    assert isinstance(model, Crd)
    assert graph.input_names == (own,)
    assert graph.output_names == ("anomaly_map", "score", f"map_{own}")
    with torch.no_grad():
        anomaly_map, score, only_map = graph(arrays(own))
        images, region = detector.preprocess({own: arrays(own)}, (own,))
        raw = detector.teacher.get_submodule("network")(images[own])
        target = detector.scaling.one(own, raw)
        mixed = naive_mix(model.students[own], target, naive_hallucination(model, other, target))
        expected, _, _ = detector.heads[mode]({own: model.compared(target, mixed)}, region)
        distances = {own: model.compared(target, mixed), other: model.compared(target, target)}
        of_full_mode = detector.heads[FULL](distances, region)[2][own]
    assert region is not None and region.shape[0] == (1 if mode == "rgb_only" else 2)
    torch.testing.assert_close(anomaly_map, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(only_map, anomaly_map)
    torch.testing.assert_close(score, expected.amax((1, 2)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(of_full_mode, expected, atol=1e-2), "the mode has statistics of its own"


def test_scales_are_the_least_squares_solution_over_the_training_set() -> None:
    model = make_crd()
    batches = [make_batch(count=3, seed=seed) for seed in (1, 2)]
    served: list[Batch] = []

    def training_set() -> list[Batch]:
        served.extend(batches)
        return batches

    model.finish(training_set)
    assert served[:2] == batches
    model.eval()
    for missing, own in (PAIR, PAIR[::-1]):
        for level, scale in enumerate(model.get_buffer(f"scale_{missing}").tolist()):
            with torch.no_grad():
                tuner = model.get_submodule(f"students.{missing}.tuners.amplifiers.{level}")
                estimate = torch.cat([tuner(batch.features[own][level]) for batch in batches]).double().numpy()
            target = torch.cat([batch.features[missing][level] for batch in batches]).double().numpy()
            expected = np.linalg.lstsq(estimate.reshape(-1, 1), target.reshape(-1), rcond=None)[0][0]
            assert scale == pytest.approx(expected, rel=1e-4, abs=1e-6)
            assert scale != 1


@pytest.mark.parametrize("choices", [{"modality_dropout": 0.0}, {"amplifier": False}], ids=["dropout", "amplifier"])
def test_without_modes_no_scale_is_fitted(choices: dict[str, float]) -> None:
    model = make_crd(**choices)
    model.finish(lambda: [make_batch()])
    assert all(model.get_buffer(f"scale_{name}").tolist() == [1, 1, 1] for name in PAIR)


def macs(module: Callable[..., object], *arguments: object) -> int:
    """Multiply-accumulates of all convolutions."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*arguments)
    return int(counter.get_flop_counts()["Global"][torch.ops.aten.convolution]) // 2


@MODES
def test_the_missing_sensor_is_not_computed(detector: Detector, mode: str, own: str, other: str) -> None:
    model, maps = detector.method, make_batch(count=1).features[own]
    teacher = macs(detector.teacher.get_submodule("network"), torch.zeros(1, 3, 64, 64))
    student = macs(model.get_submodule(f"students.{own}"), maps, maps)
    amplifiers = [(model.get_submodule(f"students.{other}.tuners.amplifiers.{i}"), maps[i]) for i in range(3)]
    amplifier = sum(macs(module, x) for module, x in amplifiers)
    both = macs(detector.operating(FULL), arrays("rgb", 1), arrays("depth", 1))
    one = macs(detector.operating(mode), arrays(own, 1))
    assert both == 2 * (teacher + student)
    assert one == teacher + student + amplifier
    assert one < 0.6 * both


def naive_loss(model: Crd, name: str, own: Features, assist: Features) -> float:
    outputs = model.students[name](own, assist)
    total = 0.0
    for term in (outputs.restored, outputs.mixed, outputs.filtered, outputs.amplified):
        for x, y in zip(own, term, strict=True):
            total += float((1 - torch.cosine_similarity(x.flatten(1), y.flatten(1))).mean())
    return total


def test_dropped_frames_get_the_scaled_hallucination() -> None:
    share, count = 0.5, 4
    model, batch = make_crd(modality_dropout=share), make_batch(count=count)
    losses, draws = model.losses(batch, seeded(1)), seeded(1)
    for loss, (own, other) in zip(losses, (PAIR, PAIR[::-1]), strict=True):
        dropped = torch.rand(count, 1, 1, 1, generator=draws) < share
        assert 0 < int(dropped.sum()) < count, "some, not all"
        assist = []
        with torch.no_grad():
            for level, real in enumerate(batch.features[other]):
                tuner = model.get_submodule(f"students.{other}.tuners.amplifiers.{level}")
                estimate = tuner(batch.features[own][level])
                scale = float(torch.linalg.lstsq(estimate.reshape(-1, 1), real.reshape(-1, 1)).solution)
                assist.append(torch.where(dropped, scale * estimate, real))
            expected = naive_loss(model, own, batch.features[own], assist)
            undropped = naive_loss(model, own, batch.features[own], batch.features[other])
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
        assert abs(expected - undropped) > 1e-4


def test_what_is_dropped_depends_on_the_generator_alone() -> None:
    model, batch = make_crd(modality_dropout=0.5), make_batch(count=6)
    with torch.no_grad():
        one, same, other = (torch.stack(model.losses(batch, seeded(number))) for number in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_hallucination_teaches_the_other_student_nothing() -> None:
    model = make_crd(modality_dropout=0.999)
    torch.autograd.backward(model.losses(make_batch(count=4), seeded())[1])
    assert gradient(model.students["depth"]) > 0
    assert gradient(model.students["rgb"]) == 0


def test_judging_with_both_sensors_drops_nothing() -> None:
    """The modes share their weights: with both sensors the assist is real whatever the share."""
    dropping, always = make_crd(modality_dropout=0.9).eval(), make_crd(modality_dropout=0.0).eval()
    always.load_state_dict(dropping.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(dropping.distances(make_batch(), FULL), always.distances(make_batch(), FULL))
    assert dropping.backbone.name == LITE
