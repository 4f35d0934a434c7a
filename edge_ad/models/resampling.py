"""Resizing and smoothing of images with one channel, as two small matrix products.

Both are linear and treat rows and columns alike, so ``Y = V·X·Hᵀ`` is the same to the last bits. A matrix product is
what every runtime does best; interpolation and convolution of a single channel are what they do worst.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def upsampling(length: int, to: int, *, align_corners: bool) -> Tensor:
    """Bilinear interpolation along one axis, as ``F.interpolate`` does it: float32 (to, length)."""
    identity = torch.eye(length, dtype=torch.float64).view(1, length, length)
    return F.interpolate(identity, size=to, mode="linear", align_corners=align_corners)[0].T.float().contiguous()


def smoothing(length: int, kernel: Tensor) -> Tensor:
    """Convolution with a kernel (2·radius + 1,) along one axis, the ends repeated: float32 (length, length)."""
    radius = kernel.shape[0] // 2
    padded = F.pad(torch.eye(length, dtype=torch.float64).unsqueeze(1), (radius, radius), mode="replicate")
    return F.conv1d(padded, kernel.double().view(1, 1, -1))[:, 0].T.float().contiguous()


def on_both_axes(vertical: Tensor, x: Tensor, horizontal: Tensor) -> Tensor:
    """(…, h, w) → (…, H, W) with matrices (H, h) and (W, w)."""
    return torch.matmul(torch.matmul(vertical, x), horizontal.T)
