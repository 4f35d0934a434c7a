"""MMRD: one student restores the fused features of two or three modalities (Gu et al., AAAI 2024).

With R the main modality (RGB where it is there, else the first), A the auxiliary ones and i the scale:

    teacher      F_i^R, F_i^A: the same frozen convolutions, BatchNorm statistics of each modality
    modulation   F_i = F_i^R + Σ F_i^A    α = sigmoid((F_i − μ)² / (σ² + 1e-4))    F_i^T = F_i^R + α · Σ F_i^A
    prototypes   F̂ = softmax(cos(F, P) / temperature) · P
    interaction  F̄_i = Σ SA(F̂_i^A) · (CA(F̂_i^R) · F̂_i^R + F̂_i^R) + F̂_i^R
    student      F_3^S = D_3(bottleneck(F^T))    F_{i-1}^S = D_{i-1}([F_i^S; F̄_i])
    loss         Σ 1 − cos(F_i^T, F_i^S), maps flattened, + weight · Σ mean (F − F̂)²

The paper has one auxiliary modality in its equations; the sums over A are our reading for two. It leaves open
more, which is decided here as follows. The bottleneck sees F^T. The distillation reaches the prototypes too, through
F̄. F_i^S means the output of the size of the teacher's features, also where a signed backbone's decoder is
wider inside. α lies in [0.5, 1) as its formula says, not in [0, 1] as the text does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from edge_ad.config import MethodConfig
from edge_ad.errors import ConfigError
from edge_ad.models.anomaly_map import AnomalyHead
from edge_ad.models.backbones import BackboneSpec, BasicBlock, Bottleneck, frozen
from edge_ad.models.layers import Features, FusedBottleneck, UpBlock, conv_norm
from edge_ad.models.method import Batch, ImageBatches, Method, flattened_cosine_loss
from edge_ad.models.weights import has_batch_norm_statistics

FUSED = "fused"
"""Name of the one map: modalities are compared together."""

REDUCTION, FEWEST_CHANNELS = 16, 4
"""Of the channel attention (Hu et al. 2018): what its inner layer is narrowed by, and the least that it keeps."""


SILENT_SHARE = 0.03
"""Of the pretrained variance, the least that adaptation leaves. A channel for colour differences is silent on the
grey image of a depth map; divided by its own variance it would be nothing but amplified rounding, in which runtimes
differ. At 0.01 the features of two differ by up to 1e-4 of the largest."""


class SiameseTeacher(nn.Module):
    """One frozen network whose BatchNorm has running statistics for each modality.

    The copies hold equal weights for good, as nothing trains them. They do not share them: the exporter
    folds BatchNorm only into weights with one user.

    Args:
        network: the backbone.
        modalities: that it will see.
    """

    def __init__(self, network: nn.Module, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: copy.deepcopy(network) for name in modalities})
        frozen(self)

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Features]:
        """Per modality a normalised image (N, 3, H, W) → per modality its three feature maps."""
        return {name: self.networks[name](image) for name, image in images.items()}

    def adapt(self, batches: ImageBatches, passes: int) -> None:
        """Replaces the running statistics by averages over the training images of each modality.

        Each batch is normalised by its own statistics and counts the same; each pass composes them anew.

        Args:
            batches: the images of good parts, at least one batch.
            passes: over them; 0 leaves the statistics as they are.

        Raises:
            ConfigError: the network's BatchNorm has no statistics.
        """
        if passes == 0:
            return
        if not all(has_batch_norm_statistics(network) for network in self.networks.values()):
            raise ConfigError(
                "model mmrd cannot adapt this teacher to each modality",
                why="its weights come without BatchNorm, which was folded into the convolutions",
                remedy="pass --weights with BatchNorm, or --backbone efficientnet_lite0, whose package has it; "
                "or set mmrd.adaptation_passes to 0; or choose --model crd",
            )
        layers = [layer for layer in self.modules() if isinstance(layer, nn.BatchNorm2d)]
        momenta = [layer.momentum for layer in layers]
        floors = [SILENT_SHARE * layer.running_var for layer in layers if layer.running_var is not None]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the average of all batches
            layer.train()
        with torch.no_grad():
            for index in range(passes):
                for images in batches(index):
                    self({name: images[name] for name in self.networks})
        for layer, momentum, floor in zip(layers, momenta, floors, strict=True):
            layer.get_buffer("running_var").copy_(torch.maximum(layer.get_buffer("running_var"), floor))
            layer.momentum = momentum
            layer.eval()


def modulation(x: Tensor) -> Tensor:
    """Parameter-free attention α in [0.5, 1): near 1 where a channel is far from its mean; both (N, C, H, W)."""
    squares = (x - x.mean((2, 3), keepdim=True)).square()
    return torch.sigmoid(squares / (squares.mean((2, 3), keepdim=True) + 1e-4))


def fused_target(main: Tensor, auxiliary: list[Tensor]) -> Tensor:
    """What the student restores at one scale: F^T of the main and the auxiliary modalities, all (N, C, H, W)."""
    others = sum(auxiliary[1:], auxiliary[0])
    return main + modulation(main + others) * others


class Prototypes(nn.Module):
    """What good parts look like to one modality at one scale: ``count`` vectors that stand for its features.

    They start as random draws from the range of the features: standard normal where those are
    standardised, folded to positive where they have passed a ReLU.
    """

    def __init__(self, count: int, channels: int, temperature: float, signed: bool) -> None:
        super().__init__()
        self.temperature = temperature
        vectors = torch.randn(count, channels)
        self.vectors = nn.Parameter(vectors if signed else vectors.abs())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → each pixel's mean of the prototypes, weighted by similarity; same shape."""
        directions, vectors = (y[:, :, None, None] for y in (F.normalize(self.vectors), self.vectors.T))
        weights = torch.softmax(F.conv2d(F.normalize(x, eps=1e-6), directions) / self.temperature, 1)
        return F.conv2d(weights, vectors)


class Interaction(nn.Module):
    """Makes of all modalities' prototypes one prior for the decoder, at one scale."""

    def __init__(self, channels: int, auxiliaries: int) -> None:
        super().__init__()
        inner = max(channels // REDUCTION, FEWEST_CHANNELS)
        self.channel_attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
            nn.Sigmoid(),
        )
        self.spatial = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=1) for _ in range(auxiliaries))

    def forward(self, main: Tensor, auxiliary: list[Tensor]) -> Tensor:
        """F̂^R and each F̂^A (N, C, H, W) → F̄ (N, C, H, W)."""
        maps = [torch.sigmoid(layer(x.amax(1, keepdim=True))) for layer, x in zip(self.spatial, auxiliary, strict=True)]
        return sum(maps[1:], maps[0]) * (self.channel_attention(main) * main + main) + main  # type: ignore[no-any-return]


class PriorDecoder(nn.Module):
    """RD4AD's decoder, whose stages also get the prior of the scale they start from.

    With ``restore_finest`` a 1×1 convolution joins the prior of the finest scale to its output.
    """

    def __init__(self, backbone: BackboneSpec, restore_finest: bool) -> None:
        super().__init__()
        block = Bottleneck if backbone.bottleneck else BasicBlock
        self.stages = nn.ModuleList()
        inputs = 2 * backbone.decoder_widths[2]
        for width, depth, channels in zip(
            reversed(backbone.decoder_widths),
            reversed(backbone.decoder_depths),
            reversed(backbone.channels),
            strict=True,
        ):
            layers: list[nn.Module] = [UpBlock(inputs, width, backbone.bottleneck, backbone.wide)]
            layers += [block(width, width // block.expansion, 1, backbone.wide) for _ in range(depth - 1)]
            if backbone.signed:
                layers.append(nn.Conv2d(width, channels, 1))
            self.stages.append(nn.Sequential(*layers))
            inputs = 2 * channels
        self.finest = conv_norm(inputs, backbone.channels[0], 1, relu=not backbone.signed) if restore_finest else None

    def forward(self, embedding: Tensor, priors: Features) -> Features:
        """Restores the features.

        Args:
            embedding: (N, C, S/32, S/32) from the bottleneck.
            priors: F̄ at strides 16 and 8, with ``restore_finest`` also 4; in this order.

        Returns:
            Three maps of the teacher's shapes, finest first.
        """
        restored = [self.stages[0](embedding)]
        for level in (1, 2):
            restored.append(self.stages[level](torch.cat([restored[-1], priors[level - 1]], 1)))
        if self.finest is not None:
            restored[-1] = self.finest(torch.cat([restored[-1], priors[-1]], 1))
        return restored[::-1]


@dataclass(frozen=True, slots=True)
class MmrdOutputs:
    """What becomes of one batch.

    Attributes:
        target: the fused features F^T, three maps, finest first.
        restored: the student's F^S, likewise.
        retrieved: per modality the prototypes' F̂, likewise.
    """

    target: Features
    restored: Features
    retrieved: Mapping[str, Features]


class Mmrd(Method):
    """One student for all modalities, and prototypes for each.

    Needs all of its sensors: there is one operating mode, with one map.
    """

    def __init__(self, config: MethodConfig, backbone: BackboneSpec) -> None:
        super().__init__(config, backbone)
        choices = config.mmrd
        self.main = "rgb" if "rgb" in self.modalities else self.modalities[0]
        self.auxiliary = tuple(name for name in self.modalities if name != self.main)
        self.prototypes = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    Prototypes(count, channels, choices.temperature, backbone.signed)
                    for count, channels in zip(choices.prototypes, backbone.channels, strict=True)
                )
                for name in self.modalities
            }
        )
        self.levels = (2, 1, 0) if choices.restore_finest else (2, 1)
        self.interactions = nn.ModuleList(
            Interaction(backbone.channels[level], len(self.auxiliary)) for level in self.levels
        )
        self.bottleneck = FusedBottleneck(backbone, backbone.channels, project_last=False)
        self.decoder = PriorDecoder(backbone, choices.restore_finest)

    def make_teacher(self, network: nn.Module) -> SiameseTeacher:
        """A teacher with BatchNorm statistics of each modality; ``adapt`` fits them to the training images."""
        return SiameseTeacher(network, self.modalities)

    def adapt_teacher(self, teacher: nn.Module, images: ImageBatches) -> None:
        """Fits the teacher's BatchNorm statistics to each modality's training images."""
        assert isinstance(teacher, SiameseTeacher)
        teacher.adapt(images, self.config.mmrd.adaptation_passes)

    def head(self, mode: str) -> AnomalyHead:
        """What makes the one map of the fused features' distances."""
        return AnomalyHead(self.config.head, (FUSED,), self.config.preprocess.image_size_px)

    def restore(self, features: Mapping[str, Features]) -> MmrdOutputs:
        """Per modality the teacher's three maps → their fusion, and what the student makes of it."""
        target = [
            fused_target(features[self.main][level], [features[name][level] for name in self.auxiliary])
            for level in range(3)
        ]
        retrieved = {
            name: [prototypes(x) for prototypes, x in zip(bank, features[name], strict=True)]  # type: ignore[call-overload]
            for name, bank in self.prototypes.items()
        }
        priors = [
            interaction(retrieved[self.main][level], [retrieved[name][level] for name in self.auxiliary])
            for level, interaction in zip(self.levels, self.interactions, strict=True)
        ]
        return MmrdOutputs(target, self.decoder(self.bottleneck(target), priors), retrieved)

    def losses(self, batch: Batch, generator: Generator) -> list[Tensor]:
        """One scalar: the distillation of the fused features and, weighted, the prototypes' squared error."""
        outputs = self.restore(batch.features)
        errors = [
            F.mse_loss(retrieved.float(), x)
            for name, maps in outputs.retrieved.items()
            for retrieved, x in zip(maps, batch.features[name], strict=True)
        ]
        distillation = flattened_cosine_loss(outputs.target, outputs.restored)
        return [distillation + self.config.mmrd.prototype_weight * torch.stack(errors).sum()]

    def distances(self, batch: Batch, mode: str) -> dict[str, Features]:
        """How far the fused features are from what the student restores."""
        outputs = self.restore(batch.features)
        return {FUSED: self.compared(outputs.target, outputs.restored)}
