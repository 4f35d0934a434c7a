"""Teacher networks, cut after the stage at stride 16, with torchvision's and timm's state-dict names.

A teacher maps an image (N, 3, H, W) to three feature maps at strides 4, 8 and 16. Papers: He et al.
2016 (ResNet), Zagoruyko & Komodakis 2016 (Wide ResNet), Liu 2020 (EfficientNet-Lite). It is always
frozen and in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """What the rest of a model has to know of its teacher.

    Attributes:
        channels: of the feature maps at strides 4, 8, 16.
        mean, std: of the RGB images in [0, 1] that it was trained on.
        signed: True where the stages end without an activation (EfficientNet-Lite), or are standardised after
            it: what imitates them must not end in a ReLU.
        decoder_widths: inner channels of the student's decoder at strides 4, 8, 16.
        decoder_depths: residual blocks of the decoder at strides 4, 8, 16.
        bottleneck: True where the decoder's blocks are 1×1-3×3-1×1 bottlenecks.
        wide: factor on the width of the 3×3 convolution inside a bottleneck.
        licence: of the published weights.
    """

    name: str
    build: Callable[[], nn.Module]
    channels: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    signed: bool
    decoder_widths: tuple[int, int, int]
    decoder_depths: tuple[int, int, int]
    bottleneck: bool
    wide: int
    licence: str


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: (N, inputs, H, W) → (N, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1, wide: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, width, H/stride, W/stride), after a ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride), 1×1 and a shortcut: (N, inputs, H, W) → (N, 4 * width, …)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1, wide: int = 1) -> None:
        super().__init__()
        inner, outputs = width * wide, width * self.expansion
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 4 * width, H/stride, W/stride), after a ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class BottleneckV1(Bottleneck):
    """As in the ResNet paper, Caffe and Keras: the stride is in the first 1×1 convolution (torchvision's is V1.5)."""

    def __init__(self, inputs: int, width: int, stride: int = 1, wide: int = 1) -> None:
        super().__init__(inputs, width, stride, wide)
        self.conv1.stride, self.conv2.stride = (stride, stride), (1, 1)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if inputs == outputs and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Stem and layer1–3 of a torchvision ResNet."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int], wide: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = self._stage(block, 64, 64, depths[0], 1, wide)
        self.layer2 = self._stage(block, 64 * block.expansion, 128, depths[1], 2, wide)
        self.layer3 = self._stage(block, 128 * block.expansion, 256, depths[2], 2, wide)

    @staticmethod
    def _stage(
        block: type[BasicBlock] | type[Bottleneck],
        inputs: int,
        width: int,
        depth: int,
        stride: int,
        wide: int,
    ) -> nn.Sequential:
        first = block(inputs, width, stride, wide)
        return nn.Sequential(first, *(block(width * block.expansion, width, 1, wide) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised → three maps (N, C_i, H/4, W/4), (…, H/8, …), (…, H/16, …)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        first = self.layer1(x)
        second = self.layer2(first)
        return [first, second, self.layer3(second)]


class SameConv2d(nn.Conv2d):
    """TensorFlow's "SAME" padding for even input sizes: with stride 2 one pixel less at the start."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        symmetric = before == after
        super().__init__(inputs, outputs, kernel, stride, before if symmetric else 0, groups=groups, bias=False)
        self.margin = None if symmetric else (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs, H/stride, W/stride)."""
        return super().forward(x if self.margin is None else F.pad(x, self.margin))


class SeparableBlock(nn.Module):
    """First stage of EfficientNet-Lite: depthwise, then 1×1 without an activation."""

    def __init__(self, inputs: int, outputs: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(inputs, inputs, 3, groups=inputs)
        self.bn1 = norm(inputs)
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs, H, W), linear."""
        x = F.relu6(self.bn1(self.conv_dw(x)))
        return self.bn2(self.conv_pw(x))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise, 1×1 without an activation, and a shortcut where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        inner = inputs * 6
        self.conv_pw = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = norm(inner)
        self.conv_dw = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self.bn2 = norm(inner)
        self.conv_pwl = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = norm(outputs)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs, H/stride, W/stride), linear."""
        y = F.relu6(self.bn1(self.conv_pw(x)))
        y = F.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.has_shortcut else y  # type: ignore[no-any-return]


class EfficientNetLite(nn.Module):
    """Stem and the first five stages of a timm ``tf_efficientnet_lite``."""

    KERNELS, STRIDES = (3, 3, 5, 3, 5), (1, 2, 2, 2, 1)

    def __init__(self, channels: tuple[int, int, int, int, int], depths: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=1e-3)
        self.conv_stem = SameConv2d(3, 32, 3, 2)
        self.bn1 = norm(32)
        stages: list[nn.Module] = [nn.Sequential(SeparableBlock(32, channels[0], norm))]
        for index in range(1, 5):
            inputs, outputs, kernel = channels[index - 1], channels[index], self.KERNELS[index]
            first = InvertedResidual(inputs, outputs, kernel, self.STRIDES[index], norm)
            rest = (InvertedResidual(outputs, outputs, kernel, 1, norm) for _ in range(depths[index] - 1))
            stages.append(nn.Sequential(first, *rest))
        self.blocks = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised → three maps (N, C_i, H/4, W/4), (…, H/8, …), (…, H/16, …), linear."""
        x = F.relu6(self.bn1(self.conv_stem(x)))
        features = []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in (1, 2, 4):
                features.append(x)
        return features


def _resnet(
    name: str,
    block: type[BasicBlock] | type[Bottleneck],
    depths: tuple[int, int, int],
    wide: int = 1,
) -> BackboneSpec:
    expansion = block.expansion
    channels = (64 * expansion, 128 * expansion, 256 * expansion)
    return BackboneSpec(
        name,
        partial(ResNet, block, depths, wide),
        channels,
        IMAGENET_MEAN,
        IMAGENET_STD,
        signed=False,
        decoder_widths=channels,
        # RD4AD runs the depths of the ResNet's stages from the deep end.
        decoder_depths=depths[::-1],
        bottleneck=issubclass(block, Bottleneck),
        wide=wide,
        licence="BSD-3-Clause (torchvision)",
    )


def _lite(name: str, channels: tuple[int, int, int, int, int], depths: tuple[int, int, int, int, int]) -> BackboneSpec:
    return BackboneSpec(
        name,
        partial(EfficientNetLite, channels, depths),
        (channels[1], channels[2], channels[4]),
        HALF,
        HALF,
        signed=True,
        decoder_widths=(32, 64, 128),
        decoder_depths=(1, 2, 2),
        bottleneck=False,
        wide=1,
        licence="Apache-2.0",
    )


BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        _resnet("resnet18", BasicBlock, (2, 2, 2)),
        _resnet("resnet34", BasicBlock, (3, 4, 6)),
        _resnet("resnet50", Bottleneck, (3, 4, 6)),
        _resnet("resnet50_v1", BottleneckV1, (3, 4, 6)),
        _resnet("wide_resnet50_2", Bottleneck, (3, 4, 6), wide=2),
        _lite("efficientnet_lite0", (16, 24, 40, 80, 112), (1, 2, 2, 3, 3)),
        _lite("efficientnet_lite2", (16, 24, 48, 88, 120), (1, 3, 3, 4, 4)),
    )
}


def frozen(teacher: nn.Module) -> nn.Module:
    """Puts a teacher in eval mode for good and takes its weights out of training."""
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return teacher.eval()


class SharedTeacher(nn.Module):
    """One frozen network for all modalities, which it sees in one pass.

    Args:
        network: the backbone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        frozen(self)

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """Per modality a normalised image (N, 3, H, W) → per modality its three feature maps."""
        features = self.network(torch.cat(list(images.values())))
        # Sliced by a computed size, not chunked: that keeps the batch free when the graph is exported.
        count = next(iter(images.values())).shape[0]
        return {name: [level[i * count : (i + 1) * count] for level in features] for i, name in enumerate(images)}
