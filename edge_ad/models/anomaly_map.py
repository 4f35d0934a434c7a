"""From features to an anomaly map: cosine distance, standardised sum of modalities, Gaussian, max."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.models.layers import Features


def cosine_map(targets: Features, restored: Features, size_px: int) -> Tensor:
    """Sum over the scales of 1 − cosine similarity per pixel, each resized to the network's size.

    Args:
        targets: the teacher's three maps.
        restored: the student's three maps.
        size_px: side of the result.

    Returns:
        (N, 1, size_px, size_px), 0 where the student agrees, at most 6.
    """
    total: Tensor | None = None
    for target, output in zip(targets, restored, strict=True):
        dot = (target * output).sum(1, keepdim=True)
        norms = (target * target).sum(1, keepdim=True) * (output * output).sum(1, keepdim=True)
        distance = 1 - dot / torch.sqrt(norms + 1e-8)
        resized = F.interpolate(distance, size=(size_px, size_px), mode="bilinear", align_corners=True)
        total = resized if total is None else total + resized
    assert total is not None
    return total


class AnomalyHead(nn.Module):
    """Standardises each modality's map, adds them up, smooths the sum and takes its maximum.

    The mean and standard deviation of each modality's map are scalars measured on validation
    frames (good parts). Gaussian: σ in pixels of the network's size, cut at 4σ like SciPy's.
    """

    mean: Tensor
    std: Tensor
    kernel: Tensor

    def __init__(self, modalities: int, sigma_px: float = 4.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(modalities))
        self.register_buffer("std", torch.ones(modalities))
        radius = math.floor(4 * sigma_px + 0.5)
        x = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (x / sigma_px) ** 2)
        self.register_buffer("kernel", (kernel / kernel.sum()).float(), persistent=False)

    def blur(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) → the same, smoothed by two one-dimensional passes, edges repeated."""
        radius = self.kernel.shape[0] // 2
        x = F.pad(x, (radius, radius, radius, radius), mode="replicate")
        return F.conv2d(F.conv2d(x, self.kernel.view(1, 1, -1, 1)), self.kernel.view(1, 1, 1, -1))

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Joins the modalities.

        Args:
            maps: per modality (N, 1, H, W) from ``cosine_map``.

        Returns:
            anomaly_map (N, H, W), score (N), and the standardised map of each modality (N, H, W).
        """
        scaled = [(x - self.mean[i]) / self.std[i] for i, x in enumerate(maps)]
        total = scaled[0]
        for other in scaled[1:]:
            total = total + other
        anomaly_map = self.blur(total)[:, 0]
        return anomaly_map, anomaly_map.amax((1, 2)), [x[:, 0] for x in scaled]
