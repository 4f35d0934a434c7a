from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save, save_file
from torch import Tensor, nn

from edge_ad.errors import ConfigError
from edge_ad.models.backbones import BACKBONES, ResNet
from edge_ad.models.mmrd import SILENT_SHARE, SiameseTeacher
from edge_ad.models.weights import load_teacher
from tests.models.test_weights import folded, resnet18

LITE = "efficientnet_lite0"
PAIR = ("rgb", "depth")


def images(modalities: tuple[str, ...] = PAIR, count: int = 4, seed: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: (i + 1) * torch.randn(count, 3, 64, 64, generator=generator) + i for i, name in enumerate(modalities)}


def pretrained(name: str = "resnet18") -> nn.Module:
    """A small network with statistics as if it had been trained."""
    if name == "resnet18":
        return resnet18()
    torch.manual_seed(4)
    return BACKBONES[name].build()


def states(teacher: SiameseTeacher) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in teacher.state_dict().items()}


def test_modalities_start_with_the_same_frozen_weights() -> None:
    network = pretrained()
    teacher = SiameseTeacher(network, ("rgb", "depth", "normals"))
    for copied in teacher.networks.values():
        for name, x in network.state_dict().items():
            torch.testing.assert_close(copied.state_dict()[name], x, rtol=0, atol=0)
    assert len({x.data_ptr() for x in teacher.state_dict().values()}) == 3 * len(network.state_dict())
    assert not any(x.requires_grad for x in teacher.parameters())
    assert not any(layer.training for layer in teacher.modules())


def test_before_adaptation_each_modality_sees_the_network_as_it_is() -> None:
    network, frames = pretrained().eval(), images()
    features = SiameseTeacher(network, PAIR)(frames)
    assert list(features) == list(PAIR)
    for name, maps in features.items():
        for x, y in zip(maps, network(frames[name]), strict=True):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("backbone", ["resnet18", LITE])
def test_adaptation_changes_running_statistics_only(backbone: str) -> None:
    teacher = SiameseTeacher(pretrained(backbone), PAIR)
    before = states(teacher)
    teacher.adapt(lambda _: [images()], 1)
    after = teacher.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("mean", "var", "tracked"))}
    assert not any(layer.training for layer in teacher.modules())
    assert {layer.momentum for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.1}


def test_adapted_statistics_are_averages_over_all_batches() -> None:
    teacher = SiameseTeacher(pretrained(), PAIR)
    served = [[images(seed=5), images(seed=6, count=2)], [images(seed=7)]]
    teacher.adapt(lambda number: served[number], 2)
    for name in PAIR:
        network = teacher.networks[name]
        assert isinstance(network, ResNet) and network.bn1.running_mean is not None
        assert network.bn1.running_var is not None
        with torch.no_grad():
            outputs = [network.conv1(batch[name]).double().numpy() for batches in served for batch in batches]
        means = np.mean([x.mean((0, 2, 3)) for x in outputs], 0)
        variances = np.mean([x.transpose(1, 0, 2, 3).reshape(64, -1).var(1, ddof=1) for x in outputs], 0)
        np.testing.assert_allclose(network.bn1.running_mean.numpy(), means, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(network.bn1.running_var.numpy(), variances, rtol=1e-4)


def test_deep_features_have_the_adapted_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose BatchNorm was adapted gives each channel its affine's mean and deviation."""
    monkeypatch.setattr("edge_ad.models.mmrd.SILENT_SHARE", 0)  # noise is not what the teacher learned
    teacher, frames = SiameseTeacher(pretrained(LITE), PAIR), images(count=8)
    teacher.adapt(lambda _: [frames], 1)
    for maps in teacher(frames).values():
        torch.testing.assert_close(maps[0].mean((0, 2, 3)), torch.zeros(24), atol=1e-2, rtol=0)


def test_a_silent_channel_keeps_a_share_of_the_pretrained_variance() -> None:
    """A flat image says nothing: every variance of it is 0."""
    network = pretrained()
    teacher = SiameseTeacher(network, PAIR)
    flat = images() | {"depth": torch.full((4, 3, 64, 64), 0.3)}
    teacher.adapt(lambda _: [flat], 1)
    before = network.get_buffer("layer3.1.bn2.running_var")
    variance = {name: teacher.networks[name].get_buffer("bn1.running_var") for name in PAIR}
    assert bool((teacher.networks["depth"].get_buffer("layer3.1.bn2.running_var") >= SILENT_SHARE * before).all())
    # The frame's edge is all that the stem sees of a flat image.
    with torch.no_grad():
        own = {name: network.get_submodule("conv1")(flat[name]).var((0, 2, 3)) for name in PAIR}
    floor = SILENT_SHARE * network.get_buffer("bn1.running_var")
    for name in PAIR:
        torch.testing.assert_close(variance[name], torch.maximum(own[name], floor), rtol=1e-4, atol=1e-7)
    assert bool((own["depth"] < floor).any()), "otherwise nothing was tested"


def test_each_pass_is_asked_for_by_its_number() -> None:
    asked: list[int] = []

    def batches(number: int) -> list[dict[str, Tensor]]:
        asked.append(number)
        return [images(count=2)]

    SiameseTeacher(pretrained(), PAIR).adapt(batches, 3)
    assert asked == [0, 1, 2]


def test_no_pass_leaves_the_statistics() -> None:
    teacher = SiameseTeacher(pretrained(), PAIR)
    before = states(teacher)

    def unread(number: int) -> list[dict[str, Tensor]]:
        raise AssertionError("no batch is needed")

    teacher.adapt(unread, 0)
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())


def test_an_adapted_teacher_survives_a_file() -> None:
    teacher, frames = SiameseTeacher(pretrained(), PAIR), images()
    teacher.adapt(lambda _: [frames], 1)
    restored = SiameseTeacher(BACKBONES["resnet18"].build(), PAIR)
    restored.load_state_dict(load(save(states(teacher))))
    for name, maps in restored(frames).items():
        for x, y in zip(maps, teacher(frames)[name], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_folded_weights_cannot_be_adapted(tmp_path: Path) -> None:
    save_file(folded(resnet18()), tmp_path / "resnet18.safetensors")
    teacher = SiameseTeacher(load_teacher("resnet18", tmp_path / "resnet18.safetensors"), PAIR)
    with pytest.raises(ConfigError, match=r"folded into.*Remedy: .*--weights.*adaptation_passes.*--model crd"):
        teacher.adapt(lambda _: [images()], 1)
    teacher.adapt(lambda _: [images()], 0)


def test_a_network_without_batch_norm_cannot_be_adapted() -> None:
    with pytest.raises(ConfigError, match="without BatchNorm"):
        SiameseTeacher(nn.Conv2d(3, 4, 3), PAIR).adapt(lambda _: [images()], 1)
