"""From features to an anomaly map: cosine distance, standardised sum, Gaussian, maximum."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.config import HeadConfig
from edge_ad.models.layers import Features


def cosine_distance(target: Tensor, restored: Tensor, floor: float = 0.0) -> Tensor:
    """(|a||b| − a·b) / (|a||b| + floor·C) per pixel: 1 − cosine for ``floor`` = 0.

    Args:
        target: the teacher's features (N, C, H, W).
        restored: the student's, same shape.
        floor: added energy as a share of C, the mean energy of standardised features.

    Returns:
        (N, 1, H, W) in [0, 2).
    """
    dot = (target * restored).sum(1, keepdim=True)
    norms = torch.sqrt((target * target).sum(1, keepdim=True) * (restored * restored).sum(1, keepdim=True) + 1e-12)
    return (norms - dot) / (norms + floor * target.shape[1])


class AnomalyHead(nn.Module):
    """Standardises the distances, adds them up, smooths the sum and takes its maximum.

    ``mean`` and ``std`` (maps, 3) are scalars measured on validation frames (good parts).

    Args:
        config: how.
        names: of the maps that come in, usually the modalities.
        size_px: side S of the map that goes out.
    """

    mean: Tensor
    std: Tensor
    kernel: Tensor

    def __init__(self, config: HeadConfig, names: tuple[str, ...], size_px: int) -> None:
        super().__init__()
        self.config, self.names, self.size_px = config, names, size_px
        self.register_buffer("mean", torch.zeros(len(names), 3))
        self.register_buffer("std", torch.ones(len(names), 3))
        radius = math.floor(4 * config.sigma_px + 0.5)
        x = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (x / config.sigma_px) ** 2)
        self.register_buffer("kernel", (kernel / kernel.sum()).float(), persistent=False)

    def learn(self, distances: Mapping[str, Features], region: Tensor | None) -> None:
        """Measures ``mean`` and ``std`` on distances of good validation frames, as ``forward`` takes them."""
        for row, name in enumerate(self.names):
            resized = [x if region is None else x * region for x in map(self.resize, distances[name])]
            if self.config.standardize == "modality":
                std, mean = torch.std_mean(torch.stack(resized).sum(0))
                self.mean[row], self.std[row] = mean / len(resized), std
            else:
                for scale, x in enumerate(resized):
                    self.std[row, scale], self.mean[row, scale] = torch.std_mean(x)
        self.std.clamp_min_(1e-6)

    def resize(self, x: Tensor) -> Tensor:
        """(N, 1, h, w) → (N, 1, S, S), bilinear with aligned corners as in the papers' code."""
        return F.interpolate(x, size=(self.size_px, self.size_px), mode="bilinear", align_corners=True)

    def blur(self, x: Tensor) -> Tensor:
        """(N, 1, S, S) → the same, smoothed by two one-dimensional passes, edges repeated."""
        radius = self.kernel.shape[0] // 2
        x = F.pad(x, (radius, radius, radius, radius), mode="replicate")
        return F.conv2d(F.conv2d(x, self.kernel.view(1, 1, -1, 1)), self.kernel.view(1, 1, 1, -1))

    def forward(
        self, distances: Mapping[str, Features], region: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Joins scales and modalities.

        Args:
            distances: per name three maps (N, 1, h, w) from ``cosine_distance``, finest first.
            region: (N or 1, 1, S, S), 1 where the part is inspected; elsewhere the distance counts as 0.

        Returns:
            anomaly_map (N, S, S), score (N), and by name the smoothed map of each modality (N, S, S); the
            modalities' maps add up to anomaly_map.
        """
        maps = {}
        for row, name in enumerate(self.names):
            scales = distances[name]
            # Divided before resizing, on fewer pixels; the means join as one constant at the end.
            total = self.resize(scales[0] / self.std[row, 0])
            for scale, x in enumerate(scales[1:], 1):
                total = total + self.resize(x / self.std[row, scale])
            total = total if region is None else total * region
            maps[name] = (self.blur(total) - (self.mean[row] / self.std[row]).sum())[:, 0]
        anomaly_map = torch.stack(list(maps.values())).sum(0) if len(maps) > 1 else next(iter(maps.values()))
        return anomaly_map, anomaly_map.amax((1, 2)), maps
