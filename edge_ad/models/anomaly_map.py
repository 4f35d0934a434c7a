"""From features to an anomaly map: cosine distance, standardised sum, Gaussian, maximum."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edge_ad.config import HeadConfig
from edge_ad.models.layers import Features
from edge_ad.models.resampling import on_both_axes, smoothing, upsampling


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
    gaussian: Tensor

    def __init__(self, config: HeadConfig, names: tuple[str, ...], size_px: int) -> None:
        super().__init__()
        self.config, self.names, self.size_px = config, names, size_px
        self.register_buffer("mean", torch.zeros(len(names), 3))
        self.register_buffer("std", torch.ones(len(names), 3))
        radius = math.floor(4 * config.sigma_px + 0.5)
        x = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (x / config.sigma_px) ** 2)
        self.register_buffer("gaussian", smoothing(size_px, kernel / kernel.sum()), persistent=False)
        for length in {size_px // stride for stride in (4, 8, 16)}:
            matrix = upsampling(length, size_px, align_corners=True)
            self.register_buffer(f"from_{length}", matrix, persistent=False)

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
        """(N, M, h, w) → (N, M, S, S), bilinear with aligned corners as in the papers' code; h, w S/4, S/8 or S/16."""
        return on_both_axes(self.get_buffer(f"from_{x.shape[2]}"), x, self.get_buffer(f"from_{x.shape[3]}"))

    def blur(self, x: Tensor) -> Tensor:
        """(N, M, S, S) → the same, smoothed by a Gaussian, edges repeated."""
        return on_both_axes(self.gaussian, x, self.gaussian)

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
        # Divided before resizing, on fewer pixels; the means join as one constant at the end.
        first, second, third = (
            self.resize(torch.cat([distances[name][scale] for name in self.names], 1) / std.view(1, -1, 1, 1))
            for scale, std in enumerate(self.std.T)
        )
        total = first + second + third
        smooth = self.blur(total if region is None else total * region)
        offsets = (self.mean / self.std).sum(1)
        maps = {name: smooth[:, row] - offsets[row] for row, name in enumerate(self.names)}
        anomaly_map = smooth.sum(1) - offsets.sum()
        return anomaly_map, anomaly_map.amax((1, 2)), maps
