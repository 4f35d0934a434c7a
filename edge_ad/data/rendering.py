"""Light and sensors for the synthetic product: from a surface to what an RGB-D camera reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edge_ad.data.housing import Surface
from edge_ad.types import Float32Array, UInt8Array

SHADOW_STEPS, SHADOW_STEP_MM, PENUMBRA_MM = 12, 0.68, 0.34
HOLLOW_MM = 1.8
AMBIENT, FILL, KEY, GLINT, FALLOFF = 0.30, 0.22, 1.2, 0.5, 0.28
GAMMA = 1 / 2.2
READ_NOISE, SHOT_NOISE = 0.006, 0.010
DEPTH_NOISE_MM, NOISE_DISTANCE_MM = 0.15, 500.0
EDGE_MM, EDGE_LOSS, SPECKLE_LOSS = 2.5, 0.55, 0.002


@dataclass(frozen=True, slots=True)
class Light:
    """The lamp of one exposure.

    Attributes:
        direction: from the part to the lamp, x right, y down, z to the camera; any length.
        gain: brightness and colour cast, one factor for each of R, G, B.
    """

    direction: tuple[float, float, float]
    gain: tuple[float, float, float]


def lit(part: Surface, light: Light, grain: Float32Array, pitch_mm: float) -> Float32Array:
    """Shades a surface: Lambert with a fill light, a Blinn glint, ambient occlusion and cast shadows.

    Args:
        part: the surface.
        light: the lamp.
        grain: float32 (2, H, W), small slopes of the surface's texture.
        pitch_mm: size of a pixel on the surface.

    Returns:
        float32 (H, W, 3), display values 0 to 1.
    """
    height = part.height_mm
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / (8 * pitch_mm)) + grain[0]
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / (8 * pitch_mm)) + grain[1]
    length = np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)

    def facing(x: float, y: float, z: float) -> Float32Array:
        """Cosine between the surface's normal and a direction, not below 0."""
        scale = 1 / math.sqrt(x * x + y * y + z * z)
        cosine = (z - x * slope_x - y * slope_y) * scale / length
        return np.asarray(np.maximum(cosine, 0), np.float32)

    x, y, z = light.direction
    shade = _shadow(height, light, pitch_mm)
    hollow = cv2.GaussianBlur(height, (0, 0), HOLLOW_MM / pitch_mm) - height
    ambient = AMBIENT * np.clip(1 - 0.12 * hollow, 0.35, 1.15)
    diffuse = ambient + FILL * facing(-x, -0.4 * y, z) + KEY * shade * facing(x, y, z)
    # Blinn's half vector, between the lamp and the camera straight above.
    glint = facing(x, y, z + math.sqrt(x * x + y * y + z * z)) ** 32 * part.gloss * shade * GLINT
    rows, columns = (np.linspace(-1, 1, size, dtype=np.float32) for size in height.shape)
    falloff = 1 + FALLOFF * (x * columns + y * rows[:, None])
    planes = [
        np.clip((albedo * diffuse + glint) * (falloff * gain), 0, 1) ** GAMMA
        for albedo, gain in zip(part.colour, light.gain, strict=True)
    ]
    return np.asarray(cv2.merge(planes), np.float32)


def _shadow(height_mm: Float32Array, light: Light, pitch_mm: float) -> Float32Array:
    """1 in the light, less where something towards the lamp stands above the ray; float32 (H, W)."""
    x, y, z = light.direction
    along = math.hypot(x, y)
    rise_mm = SHADOW_STEP_MM * z / along
    blocked = np.zeros_like(height_mm)
    for step in range(1, SHADOW_STEPS + 1):
        shift = np.array([[1, 0, x / along], [0, 1, y / along]], np.float32)
        shift[:, 2] *= -step * SHADOW_STEP_MM / pitch_mm
        towards_lamp = cv2.warpAffine(height_mm, shift, height_mm.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        np.maximum(blocked, towards_lamp - height_mm - step * rise_mm, out=blocked)
    darkness = cv2.GaussianBlur(np.minimum(blocked, 1), (0, 0), PENUMBRA_MM / pitch_mm)
    return np.asarray(1 - 0.75 * darkness, np.float32)


def sensed_colour(display: Float32Array, random: Generator) -> UInt8Array:
    """What the colour sensor reports: read and shot noise, then 8 bits.

    Args:
        display: float32 (H, W, 3), 0 to 1.
        random: source of the noise.
    """
    noise = random.standard_normal(display.shape, np.float32)
    sigma = READ_NOISE + SHOT_NOISE * np.sqrt(display)
    return np.asarray(np.clip((display + noise * sigma) * 255 + 0.5, 0, 255), np.uint8)


def step_mm(depth_mm: Float32Array) -> Float32Array:
    """The largest difference of depth among each pixel and its eight neighbours."""
    block = np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(depth_mm, block) - cv2.erode(depth_mm, block), np.float32)


def sensed_depth(
    depth_mm: Float32Array, steps_mm: Float32Array, unit_mm: float, random: Generator
) -> NDArray[np.uint16]:
    """What the depth sensor reports: noise growing with the square of the distance, holes, whole units.

    Args:
        depth_mm: true depth, float32 (H, W).
        steps_mm: as ``step_mm`` gives them; pixels at steep edges are often lost.
        unit_mm: millimetres per unit.
        random: source of the noise; the draws do not depend on the depth.

    Returns:
        uint16 (H, W), 0 where there is no return.
    """
    noise = random.standard_normal(depth_mm.shape, np.float32)
    # Matching windows overlap, so the error of neighbours is alike; 2.4 restores its size.
    noise = cv2.GaussianBlur(noise, (0, 0), 0.7) * 2.4
    sigma = DEPTH_NOISE_MM * (depth_mm / NOISE_DISTANCE_MM) ** 2
    chance = random.random(depth_mm.shape, np.float32)
    lost = chance < np.where(steps_mm > EDGE_MM, EDGE_LOSS, SPECKLE_LOSS)
    units = np.rint((depth_mm + noise * sigma) / unit_mm)
    return np.where(lost, 0, units).astype(np.uint16)
