"""Matrices that resize and smooth, against the operations that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from edge_ad.models.resampling import on_both_axes, smoothing, upsampling


def images(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, height, width)).astype(np.float32))


def gaussian_kernel(sigma_px: float, radius: int) -> torch.Tensor:
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (x / sigma_px) ** 2)
    return kernel / kernel.sum()


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("length", "to"), [(4, 64), (16, 32), (8, 8), (5, 13), (1, 4)])
def test_upsampling_is_bilinear_interpolation(length: int, to: int, align_corners: bool) -> None:
    matrix = upsampling(length, to, align_corners=align_corners)
    assert (matrix.shape, matrix.dtype) == ((to, length), torch.float32)
    x = images(length, length)
    expected = F.interpolate(x, size=(to, to), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(on_both_axes(matrix, x, matrix), expected, rtol=1e-5, atol=1e-5)


def test_height_and_width_may_differ() -> None:
    x = images(6, 4)
    vertical, horizontal = upsampling(6, 24, align_corners=False), upsampling(4, 10, align_corners=False)
    expected = F.interpolate(x, size=(24, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(on_both_axes(vertical, x, horizontal), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("length", "sigma_px"), [(64, 4.0), (48, 1.5), (10, 4.0)])
def test_smoothing_is_scipys_gaussian_filter(length: int, sigma_px: float) -> None:
    radius = int(4 * sigma_px + 0.5)
    matrix = smoothing(length, gaussian_kernel(sigma_px, radius))
    assert (matrix.shape, matrix.dtype) == ((length, length), torch.float32)
    x = images(length, length)
    expected = gaussian_filter(x.double().numpy(), (0, 0, sigma_px, sigma_px), mode="nearest", truncate=4.0)
    np.testing.assert_allclose(on_both_axes(matrix, x, matrix).numpy(), expected, atol=1e-5)


def test_smoothing_with_any_kernel_is_a_convolution() -> None:
    """A kernel that is not symmetric: no flip, no transposition goes unseen."""
    kernel, x = torch.tensor([0.7, 0.2, 0.1]), images(9, 9)
    matrix = smoothing(9, kernel)
    padded = F.pad(x.view(-1, 1, 9, 9), (1, 1, 1, 1), mode="replicate")
    expected = F.conv2d(padded, torch.outer(kernel, kernel).view(1, 1, 3, 3)).view(x.shape)
    torch.testing.assert_close(on_both_axes(matrix, x, matrix), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_image_stays_as_it_is() -> None:
    matrix = smoothing(32, gaussian_kernel(4.0, 16))
    torch.testing.assert_close(matrix.sum(1), torch.ones(32))
