from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edge_ad.models.backbones import BACKBONES, SameConv2d, SharedTeacher, frozen
from edge_ad.models.weights import load_teacher

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

# Convolutions a block, and blocks in layer1, layer2, layer3: torchvision's tables.
RESNETS = {
    "resnet18": (2, (2, 2, 2)),
    "resnet34": (2, (3, 4, 6)),
    "resnet50": (3, (3, 4, 6)),
    "wide_resnet50_2": (3, (3, 4, 6)),
}
# Blocks a stage: timm's tf_efficientnet_lite0 and lite2.
LITES = {"efficientnet_lite0": (1, 2, 2, 3, 3), "efficientnet_lite2": (1, 3, 3, 4, 4)}


def torchvision_names(convolutions: int, depths: tuple[int, int, int]) -> set[str]:
    names = {"conv1.weight"} | {f"bn1.{part}" for part in NORM}
    for layer, depth in enumerate(depths, 1):
        for block in range(depth):
            prefix = f"layer{layer}.{block}"
            for index in range(1, convolutions + 1):
                names |= {f"{prefix}.conv{index}.weight"} | {f"{prefix}.bn{index}.{part}" for part in NORM}
            # Basic blocks keep the stem's 64 channels in layer1, so nothing has to be projected there.
            if block == 0 and (layer > 1 or convolutions == 3):
                names |= {f"{prefix}.downsample.0.weight"} | {f"{prefix}.downsample.1.{part}" for part in NORM}
    return names


def timm_names(depths: tuple[int, ...]) -> set[str]:
    names = {"conv_stem.weight"} | {f"bn1.{part}" for part in NORM}
    for stage, depth in enumerate(depths):
        for block in range(depth):
            prefix = f"blocks.{stage}.{block}"
            layers = ("conv_dw", "conv_pw") if stage == 0 else ("conv_pw", "conv_dw", "conv_pwl")
            names |= {f"{prefix}.{layer}.weight" for layer in layers}
            names |= {f"{prefix}.bn{index}.{part}" for index in range(1, len(layers) + 1) for part in NORM}
    return names


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_have_torchvisions_names(name: str) -> None:
    with torch.device("meta"):
        assert set(BACKBONES[name].build().state_dict()) == torchvision_names(*RESNETS[name])


@pytest.mark.parametrize("name", LITES)
def test_lites_have_timms_names(name: str) -> None:
    with torch.device("meta"):
        assert set(BACKBONES[name].build().state_dict()) == timm_names(LITES[name])


def test_wide_resnet_has_torchvisions_shapes() -> None:
    with torch.device("meta"):
        network = BACKBONES["wide_resnet50_2"].build()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.conv1.weight"] == (128, 64, 1, 1)
    assert shapes["layer1.0.conv2.weight"] == (128, 128, 3, 3)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer2.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert shapes["layer3.5.conv3.weight"] == (1024, 512, 1, 1)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(24.86e6, rel=1e-3)


@pytest.mark.parametrize("name", BACKBONES)
def test_features_have_the_stated_channels_and_strides(name: str) -> None:
    spec = BACKBONES[name]
    with torch.device("meta"):
        features = spec.build().eval()(torch.zeros(2, 3, 96, 64))
    expected = [
        (2, channels, 96 // stride, 64 // stride) for channels, stride in zip(spec.channels, (4, 8, 16), strict=True)
    ]
    assert [tuple(feature.shape) for feature in features] == expected


@pytest.mark.parametrize(("name", "ends_in_relu"), [("resnet18", True), ("efficientnet_lite0", False)])
def test_signed_says_whether_features_can_be_negative(name: str, ends_in_relu: bool) -> None:
    torch.manual_seed(0)
    features = BACKBONES[name].build().eval()(torch.randn(2, 3, 64, 64))
    assert BACKBONES[name].signed is not ends_in_relu
    assert all(bool((feature >= 0).all()) is ends_in_relu for feature in features)


def tensorflow_same(x: NDArray[np.float64], kernel: NDArray[np.float64], stride: int) -> NDArray[np.float64]:
    """One channel, by TensorFlow's rule: ceil(n / stride) outputs, the odd pixel of padding at the end."""
    size = kernel.shape[0]
    outputs = [-(-length // stride) for length in x.shape]
    totals = [max((n - 1) * stride + size - length, 0) for n, length in zip(outputs, x.shape, strict=True)]
    x = np.pad(x, [(total // 2, total - total // 2) for total in totals])
    rows, columns = (range(0, n * stride, stride) for n in outputs)
    return np.array([[(x[i : i + size, j : j + size] * kernel).sum() for j in columns] for i in rows])


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_padding_is_tensorflows(kernel: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(1)
    layer = SameConv2d(1, 1, kernel, stride)
    x = torch.randn(1, 1, 12, 8, generator=generator)
    expected = tensorflow_same(x[0, 0].double().numpy(), layer.weight.detach()[0, 0].double().numpy(), stride)
    np.testing.assert_allclose(layer(x)[0, 0].detach().numpy(), expected, atol=1e-5)


def test_a_teacher_stays_frozen() -> None:
    network = BACKBONES["resnet18"].build()
    for teacher in (frozen(network), SharedTeacher(BACKBONES["resnet18"].build())):
        assert not any(module.training for module in teacher.modules())
        assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.fixture(scope="module")
def lite() -> nn.Module:
    return load_teacher("efficientnet_lite0")


def test_one_pass_over_two_images_equals_two_passes(lite: nn.Module) -> None:
    pixels = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    images = dict(zip(("rgb", "normals"), pixels, strict=True))
    together = SharedTeacher(lite)(images)
    assert list(together) == list(images)
    for name, features in together.items():
        for alone, feature in zip(lite(images[name]), features, strict=True):
            torch.testing.assert_close(feature, alone, rtol=1e-4, atol=1e-4)


def test_one_pass_runs_the_teacher_once(lite: nn.Module) -> None:
    batches: list[int] = []
    handle = lite.register_forward_pre_hook(lambda module, arguments: batches.append(len(arguments[0])))
    SharedTeacher(lite)({"rgb": torch.zeros(3, 3, 64, 64), "depth": torch.zeros(3, 3, 64, 64)})
    handle.remove()
    assert batches == [6]


def test_resnet50_v1_has_its_stride_in_the_first_convolution() -> None:
    with torch.device("meta"):
        old, new = (BACKBONES[name].build() for name in ("resnet50_v1", "resnet50"))
    strides = [
        [module.stride[0] for name, module in network.named_modules() if name in ("layer2.0.conv1", "layer2.0.conv2")]
        for network in (old, new)
    ]
    assert strides == [[2, 1], [1, 2]]
    assert old.state_dict().keys() == new.state_dict().keys()
