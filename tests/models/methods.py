"""Methods with random weights, and what they are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edge_ad.bundle import InputSpec
from edge_ad.config import CrdConfig, MethodConfig, PreprocessConfig
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.detector import Detector, DetectorConfig, method_class
from edge_ad.models.layers import Features
from edge_ad.models.method import Batch, Method
from edge_ad.types import Roi

LITE = "efficientnet_lite0"
PAIR, TRIPLE = ("rgb", "depth"), ("rgb", "depth", "normals")
SPEC = InputSpec(frame_size_px=(64, 80), roi=Roi(0, 0, 80, 64), depth="float32_m", depth_unit_m=1, intrinsics=None)


def make_config(model: str, modalities: tuple[str, ...] = PAIR, backbone: str = LITE, **crd: Any) -> MethodConfig:
    """64 px, and the choices of CRD."""
    preprocess = PreprocessConfig(modalities=modalities, image_size_px=64)
    return MethodConfig(model=model, backbone=backbone, preprocess=preprocess, crd=CrdConfig(**crd))


def make_method(model: str, modalities: tuple[str, ...] = PAIR, backbone: str = LITE, **crd: Any) -> Method:
    config = make_config(model, modalities, backbone, **crd)
    torch.manual_seed(1)
    return method_class(config.model)(config, BACKBONES[backbone])


def make_detector(model: str, modalities: tuple[str, ...] = PAIR, backbone: str = LITE, **crd: Any) -> Detector:
    """For frames of 64×80 px with depth in metres; in eval mode."""
    config = DetectorConfig(**dict(make_config(model, modalities, backbone, **crd)), input=SPEC)
    torch.manual_seed(0)
    return Detector(config).eval()


def random_features(name: str, batch: int = 2, seed: int = 0) -> Features:
    """As a teacher makes them of 64×64 images: three maps of 16², 8² and 4²."""
    generator = torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(batch, channels, 64 // stride, 64 // stride, generator=generator)
        for channels, stride in zip(BACKBONES[name].channels, (4, 8, 16), strict=True)
    ]
    return maps if BACKBONES[name].signed else [x.relu() for x in maps]


def make_batch(modalities: tuple[str, ...] = PAIR, backbone: str = LITE, count: int = 2, seed: int = 0) -> Batch:
    """Features and images that have nothing to do with each other."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        {name: random_features(backbone, count, 10 * seed + row) for row, name in enumerate(modalities)},
        {name: torch.randn(count, 3, 64, 64, generator=generator) for name in modalities},
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradient(module: nn.Module) -> float:
    """The largest gradient in a module; 0 where none arrived."""
    return max(0.0 if p.grad is None else float(p.grad.abs().max()) for p in module.parameters())
