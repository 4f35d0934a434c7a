"""What every method offers: losses to train with, distances to judge by, and the modes it can work in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

from edge_ad.bundle import FULL, RGB_ONLY, THREE_D_ONLY
from edge_ad.config import MethodConfig
from edge_ad.models.anomaly_map import AnomalyHead, cosine_distance
from edge_ad.models.backbones import BackboneSpec, SharedTeacher
from edge_ad.models.layers import Features


@dataclass(frozen=True)
class Share:
    """One of ``count`` processes that share every batch, number ``rank``; by default the only one."""

    rank: int = 0
    count: int = 1

    def part(self, whole: Tensor) -> Tensor:
        """This process's rows of what belongs to the whole batch."""
        return whole[self.rank :: self.count]

    def total(self, part: Tensor) -> Tensor:
        """The sum over all processes; no gradients pass through it."""
        part = part.detach().clone()
        if self.count > 1:
            dist.all_reduce(part)
        return part


@dataclass(frozen=True, slots=True)
class Batch:
    """What the teacher makes of some frames.

    Attributes:
        features: per modality its three maps, standardised.
        images: per modality the teacher's input (N, 3, S, S).
        share: which frames of a whole batch these are.
    """

    features: Mapping[str, Features]
    images: Mapping[str, Tensor] = field(default_factory=dict)
    share: Share = Share()


Batches = Callable[[], Iterable[Batch]]
"""Gives the training frames once, in batches of which the last may be smaller, each time it is called."""


ImageBatches = Callable[[int], Iterable[Mapping[str, Tensor]]]
"""Gives the teacher's inputs of the training frames once, in batches of one size, in the order of that seed."""


class Method(nn.Module):
    """Base of the methods.

    Args:
        config: the model's settings.
        backbone: its teacher.
    """

    needs_images = False
    """Whether ``losses`` and ``distances`` look at the images as well as at their features."""

    def __init__(self, config: MethodConfig, backbone: BackboneSpec) -> None:
        super().__init__()
        self.config, self.backbone = config, backbone
        self.modalities = config.preprocess.modalities

    @property
    def modes(self) -> dict[str, tuple[str, ...]]:
        """Per operating mode the modalities that are looked at; ``full`` is always there, and first."""
        return {FULL: self.modalities}

    def losses(self, batch: Batch, generator: Generator) -> list[Tensor]:
        """What training minimises, one scalar per independent part; ``generator`` is for random choices."""
        raise NotImplementedError

    def distances(self, batch: Batch, mode: str) -> dict[str, Features]:
        """Per map of ``mode`` how far the features are from good ones, three maps (N, 1, h, w), finest first."""
        raise NotImplementedError

    def head(self, mode: str) -> AnomalyHead:
        """What makes a map and a score of the distances in ``mode``."""
        return AnomalyHead(self.config.head, self.modes[mode], self.config.preprocess.image_size_px)

    def make_teacher(self, network: nn.Module) -> nn.Module:
        """What gives this method its features: images by modality → features by modality."""
        return SharedTeacher(network)

    def adapt_teacher(self, teacher: nn.Module, images: ImageBatches) -> None:
        """Called once, before the teacher is used for the first time; by default it stays as it is."""

    def finish(self, batches: Batches) -> None:
        """Called once after the last step, in training mode; by default BatchNorm gets exact statistics."""
        exact_batch_norm(self, batches())

    def compared(self, target: Features, restored: Features) -> Features:
        """The cosine distance at each scale, with the energy floor where features are signed."""
        floor = self.config.head.energy_floor if self.backbone.signed else 0.0
        return [cosine_distance(x, y, floor) for x, y in zip(target, restored, strict=True)]


def single_sensor_modes(modalities: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The modes of a method that can do without depth or without colour."""
    spatial = tuple(name for name in modalities if name != "rgb")
    if not spatial or spatial == modalities:
        return {FULL: modalities}
    return {FULL: modalities, RGB_ONLY: ("rgb",), THREE_D_ONLY: spatial}


def flattened_cosine_loss(targets: Features, outputs: Features) -> Tensor:
    """Σ over scales of 1 − cosine of the flattened maps, averaged over the batch; scalar in [0, 6]."""
    total = torch.zeros(())
    for target, output in zip(targets, outputs, strict=True):
        total = total + (1 - torch.cosine_similarity(target.flatten(1), output.float().flatten(1))).mean()
    return total


def exact_batch_norm(method: Method, batches: Iterable[Batch]) -> None:
    """Replaces BatchNorm's running averages by exact averages over the training set.

    With few frames the running averages lag behind weights that still move ("precise BN", Wu &
    Johnson 2021).
    """
    layers = [layer for layer in method.modules() if isinstance(layer, nn.BatchNorm2d)]
    momentum = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    method.train()
    with torch.no_grad():
        size = 0
        for batch in batches:
            frames = len(next(iter(batch.features.values()))[0])
            size = size or frames
            if frames == size:  # each batch counts the same, so a smaller one would count too much
                method.distances(batch, FULL)
    for layer, value in zip(layers, momentum, strict=True):
        layer.momentum = value
