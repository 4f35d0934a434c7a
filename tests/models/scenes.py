"""Depth images whose geometry is known exactly, and the preprocessing that looks at them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_ad.bundle import InputSpec
from edge_ad.config import PreprocessConfig
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.preprocess import GeometryStatistics, Preprocess
from edge_ad.types import Float32Array, Intrinsics, Roi

CAMERA = Intrinsics(fx=310.0, fy=330.0, cx=155.3, cy=124.6, width_px=320, height_px=256)
"""Pixels that are not square and an axis off the middle, so that nothing cancels."""
FULL = Roi(0, 0, CAMERA.width_px, CAMERA.height_px)
BACKBONE = BACKBONES["resnet18"]

FloatArray = NDArray[np.float64]


def make_preprocess(
    *modalities: str,
    roi: Roi = FULL,
    size_px: int = 128,
    depth: Literal["uint16_planes", "float32_m", "none"] = "float32_m",
    depth_unit_m: float = 0.0001,
    intrinsics: Intrinsics | None = CAMERA,
    plane: tuple[float, float, float] | None = None,
    range_m: tuple[float, float] = (0.3, 0.7),
    **config: Any,
) -> Preprocess:
    settings = PreprocessConfig(modalities=modalities, image_size_px=size_px, **config)
    spec = InputSpec(
        frame_size_px=(CAMERA.height_px, CAMERA.width_px),
        roi=roi,
        depth=depth,
        depth_unit_m=depth_unit_m,
        intrinsics=intrinsics,
    )
    return Preprocess(settings, spec, GeometryStatistics(plane=plane, range_m=range_m, reference_m=0.5), BACKBONE)


def images_of(preprocess: Preprocess, **inputs: Tensor) -> list[FloatArray]:
    """The images before the teacher's mean and standard deviation: (N, 3, S, S) in [0, 1]."""
    images, _ = preprocess(inputs, preprocess.config.modalities)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (BACKBONE.mean, BACKBONE.std))
    return [(image * std + mean).double().numpy() for image in images.values()]


def region_of(preprocess: Preprocess, **inputs: Tensor) -> Tensor | None:
    """What is inspected: (N or 1, 1, S, S) of 0 and 1, or None for everything."""
    region: Tensor | None = preprocess(inputs, preprocess.config.modalities)[1]
    return region


def rays(roi: Roi = FULL, size_px: int | None = None) -> FloatArray:
    """x/z and y/z (2, H, W) of the ROI's pixels, or of the network's pixels over it."""
    columns, rows = (roi.width_px, roi.height_px) if size_px is None else (size_px, size_px)
    u = roi.x_px + (np.arange(columns) + 0.5) * roi.width_px / columns - 0.5
    v = roi.y_px + (np.arange(rows) + 0.5) * roi.height_px / rows - 0.5
    x, y = np.meshgrid((u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy)
    return np.stack([x, y])


def plane_through(tilt_x_deg: float, tilt_y_deg: float, distance_m: float = 0.5) -> tuple[float, float, float]:
    """(α, β, γ) of 1/z = α·x/z + β·y/z + γ for a plane that crosses the axis at ``distance_m``."""
    slopes = np.tan(np.radians([tilt_x_deg, tilt_y_deg])) / distance_m
    return float(slopes[0]), float(slopes[1]), 1 / distance_m


def plane_depth(plane: tuple[float, float, float]) -> Float32Array:
    """Depth (H, W) in metres of a plane that fills the frame."""
    x, y = rays()
    return np.asarray(1 / (plane[0] * x + plane[1] * y + plane[2]), np.float32)


def sphere(ray_xy: FloatArray, centre_m: FloatArray, radius_m: float) -> tuple[FloatArray, FloatArray]:
    """Where rays (2, H, W) first meet a sphere: depth (H, W), NaN beside it, and unit normals (3, H, W)."""
    ray = np.stack([*ray_xy, np.ones(ray_xy.shape[1:])])
    along = np.einsum("i,ihw->hw", centre_m, ray)
    squared = (ray**2).sum(0)
    with np.errstate(invalid="ignore"):
        root = np.sqrt(along**2 - squared * (centre_m @ centre_m - radius_m**2))
    depth = (along - root) / squared
    return depth, (depth * ray - centre_m[:, None, None]) / radius_m


def spoiled(depth: Float32Array, noise_m: float, holes: float, seed: int = 0) -> Float32Array:
    """With a sensor's noise and holes: single pixels and patches of seven."""
    generator = np.random.default_rng(seed)
    depth = depth + generator.normal(0, noise_m, depth.shape).astype(np.float32)
    lost = generator.random(depth.shape) < holes
    for row, column in generator.integers(0, 240, (12, 2)):
        lost[row : row + 7, column : column + 7] = True
    depth[lost] = generator.choice([0.0, np.nan], int(lost.sum()))
    return depth


def batch(depth: Float32Array) -> Tensor:
    """One depth image as the graph's input (1, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(depth, np.float32))[None]
