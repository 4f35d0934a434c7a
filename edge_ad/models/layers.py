"""Building blocks of the students: fused bottleneck, reversed decoder, crossmodal tuners.

Shapes are given for a 256×256 input; S is the network input's side. Sources: RD4AD (Deng & Li,
CVPR 2022) for bottleneck and decoder, CRD/TRD (arXiv 2412.08949) for filter, amplifier and mixing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.models.backbones import BackboneSpec, BasicBlock, Bottleneck

Features = list[Tensor]
"""Three maps (N, C_i, S/4, S/4), (N, C_i, S/8, S/8), (N, C_i, S/16, S/16)."""


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, transposed: bool = False, relu: bool = True
) -> nn.Sequential:
    """Convolution (or its transpose) without bias, BatchNorm, and a ReLU unless ``relu`` is False."""
    padding = 1 if kernel == 3 else 0
    convolution = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers = [convolution(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class CrossmodalFilter(nn.Module):
    """Hourglass that passes on of the other modality only what the own one predicts.

    2×2 convolutions with stride 2 halve the map and double the channels down to S/32, transposed
    ones lead back: (N, C, S/2^(1+steps), …) → the same shape.
    """

    def __init__(self, channels: int, steps: int, signed: bool) -> None:
        super().__init__()
        widths = [channels << step for step in range(steps + 1)]
        down = [conv_norm(widths[i], widths[i + 1], 2, 2) for i in range(steps)]
        up = [
            conv_norm(widths[i + 1], widths[i], 2, 2, transposed=True, relu=i > 0 or not signed)
            for i in reversed(range(steps))
        ]
        self.layers = nn.Sequential(*down, *up)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) of the other modality → (N, C, H, W) in the own modality's space."""
        return self.layers(x)  # type: ignore[no-any-return]


class CrossmodalAmplifier(nn.Module):
    """Full-resolution mapping from the other modality, in which its anomalies stay visible."""

    def __init__(self, channels: int, signed: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv_norm(channels, channels, 3),
            conv_norm(channels, 2 * channels, 1),
            conv_norm(2 * channels, channels, 1, relu=not signed),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) of the other modality → (N, C, H, W) in the own modality's space."""
        return self.layers(x)  # type: ignore[no-any-return]


class FusedBottleneck(nn.Module):
    """RD4AD's multi-scale fusion and one-class embedding: three scales in, one map at S/32 out.

    Args:
        backbone: gives the widths and the kind of block.
        inputs: channels that arrive at each scale.
        project_last: whether the stride-16 map gets a 3×3 convolution of its own (CRD, where it
            holds two modalities) or enters as it is (RD4AD).
    """

    def __init__(self, backbone: BackboneSpec, inputs: tuple[int, int, int], project_last: bool) -> None:
        super().__init__()
        width = backbone.decoder_widths[2]
        first = 2 * inputs[0] if not backbone.signed else width
        self.scale1 = nn.Sequential(conv_norm(inputs[0], first, 3, 2), conv_norm(first, width, 3, 2))
        self.scale2 = conv_norm(inputs[1], width, 3, 2)
        self.scale3 = conv_norm(inputs[2], width, 3) if project_last else nn.Identity()
        fused = 2 * width + (width if project_last else inputs[2])
        block = Bottleneck if backbone.bottleneck else BasicBlock
        planes = 2 * width // block.expansion
        self.blocks = nn.Sequential(
            block(fused, planes, 2, backbone.wide),
            *(block(2 * width, planes, 1, backbone.wide) for _ in range(2)),
        )

    def forward(self, features: Features) -> Tensor:
        """Three maps → (N, 2 * width, S/32, S/32)."""
        fused = [self.scale1(features[0]), self.scale2(features[1]), self.scale3(features[2])]
        return self.blocks(torch.cat(fused, 1))  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """A residual block that doubles the map by 2×2 transposed convolutions, as in RD4AD's decoder."""

    def __init__(self, inputs: int, outputs: int, bottleneck: bool, wide: int) -> None:
        super().__init__()
        if bottleneck:
            inner = outputs // Bottleneck.expansion * wide
            self.layers = nn.Sequential(
                conv_norm(inputs, inner, 1),
                conv_norm(inner, inner, 2, 2, transposed=True),
                conv_norm(inner, outputs, 1, relu=False),
            )
        else:
            self.layers = nn.Sequential(
                conv_norm(inputs, outputs, 2, 2, transposed=True), conv_norm(outputs, outputs, 3, relu=False)
            )
        self.shortcut = conv_norm(inputs, outputs, 2, 2, transposed=True, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs, 2H, 2W), after a ReLU."""
        return F.relu(self.layers(x) + self.shortcut(x))


class Decoder(nn.Module):
    """The teacher's stages in reverse: from the bottleneck back to its three feature maps.

    With ``mixed`` the amplified other modality is added after each stage, weighted by the softmax
    of two learned scalars, and the sum feeds the next stage (CRD).
    """

    def __init__(self, backbone: BackboneSpec, mixed: bool) -> None:
        super().__init__()
        block = Bottleneck if backbone.bottleneck else BasicBlock
        stages, heads = [], []
        inputs = 2 * backbone.decoder_widths[2]
        for width, depth, channels in zip(
            reversed(backbone.decoder_widths),
            reversed(backbone.decoder_depths),
            reversed(backbone.channels),
            strict=True,
        ):
            rest = (block(width, width // block.expansion, 1, backbone.wide) for _ in range(depth - 1))
            stages.append(nn.Sequential(UpBlock(inputs, width, backbone.bottleneck, backbone.wide), *rest))
            heads.append(nn.Conv2d(width, channels, 1) if backbone.signed else nn.Identity())
            inputs = channels if mixed else width
        self.stages, self.heads = nn.ModuleList(stages), nn.ModuleList(heads)
        self.mixing = nn.Parameter(torch.zeros(3, 2)) if mixed else None

    def forward(self, embedding: Tensor, amplified: Features | None = None) -> tuple[Features, Features]:
        """Restores the features.

        Args:
            embedding: (N, C, S/32, S/32) from the bottleneck.
            amplified: the amplifiers' three maps, for a decoder made with ``mixed``.

        Returns:
            Three maps before and three after the mixing, finest first; without mixing the same ones.
        """
        x, restored, mixed = embedding, [], []
        for level, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            hidden = stage(x)
            output = head(hidden)
            restored.append(output)
            if self.mixing is None or amplified is None:
                x = hidden
                mixed.append(output)
            else:
                weight = torch.softmax(self.mixing[2 - level], 0)
                x = weight[0] * output + weight[1] * amplified[2 - level]
                mixed.append(x)
        return restored[::-1], mixed[::-1]
