"""Has the picture shifted, and is it still sharp? Both from fine structure, whatever the brightness."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge_ad.types import BoolArray, Float32Array, Roi

FINE_PX, COARSE_PX = 1.2, 4.0
"""Structure between these sizes tells where the picture is: coarser is light, finer is noise."""
LIKE = 0.5
"""Correlation from which two pictures show the same thing."""
SHARP_PX = 1.5
"""What a lens loses first is finer than this."""
TILES = 4
"""Sharpness is measured in as many tiles each way: a fingerprint covers a part of the lens."""
DETAIL_OVER_NOISE = 4.0
"""A tile's fine structure must have so many times the noise's variance to tell sharpness."""
MIN_TILE_SHARE = 0.02
"""A tile with less detail than this share of the best one's is bare."""


@dataclass(frozen=True, slots=True)
class Shift:
    """How far the picture lies from the reference, and how alike the two are there (correlation, −1 to 1)."""

    x_px: float
    y_px: float
    likeness: float

    @property
    def length_px(self) -> float:
        """Of the way."""
        return float(np.hypot(self.x_px, self.y_px))

    @property
    def is_certain(self) -> bool:
        """Whether the pictures show the same thing at all."""
        return self.likeness >= LIKE


def image_shift(reference: Float32Array, now: Float32Array, seen: BoolArray | None = None) -> Shift:
    """How far a picture has moved, by phase correlation of its edges, checked by plain correlation.

    Kuglin and Hines 1975; as ``cv2.phaseCorrelate`` has it, to fractions of a pixel.

    Args:
        reference: float32 (H, W), luma.
        now: float32 (H, W), luma.
        seen: bool (H, W), the pixels to go by in both; None for all.

    Returns:
        The shift, or none where plain correlation is better there: noise has its phase correlation too.
    """
    before, after = (_edges(image) if seen is None else _edges(image) * seen for image in (reference, now))
    height, width = before.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    (x_px, y_px), _ = cv2.phaseCorrelate(before, after, window)
    moved = Shift(float(x_px), float(y_px), _likeness(before, after, round(x_px), round(y_px)))
    still = Shift(0.0, 0.0, _likeness(before, after, 0, 0))
    if max(abs(x_px), abs(y_px)) <= 0.5:  # the same whole pixel: nothing to choose between
        return moved
    return moved if moved.likeness > still.likeness else still


def overlapping(reference: Roi, shift: Shift, size_px: tuple[int, int]) -> tuple[Roi, Roi]:
    """What of a rectangle of the reference is in the shifted picture too: there, and where it is now."""
    x, y = round(shift.x_px), round(shift.y_px)
    height, width = size_px
    left, top = max(reference.x_px, -x, 0), max(reference.y_px, -y, 0)
    right = min(reference.x_px + reference.width_px, width - max(x, 0))
    bottom = min(reference.y_px + reference.height_px, height - max(y, 0))
    before = Roi(left, top, max(right - left, 1), max(bottom - top, 1))
    return before, Roi(left + x, top + y, before.width_px, before.height_px)


def detail(grey: Float32Array, noise_variance: float) -> Float32Array:
    """Fine contrast in each tile, as a share of its brightness.

    Args:
        grey: float32 (H, W), mean luma of some frames.
        noise_variance: of that mean.

    Returns:
        float32 (TILES, TILES); 0 where there is no more than noise.
    """
    fine = grey - cv2.GaussianBlur(grey, (0, 0), SHARP_PX)
    result = np.zeros((TILES, TILES), np.float32)
    rows, columns = (np.linspace(0, length, TILES + 1).astype(int) for length in grey.shape)
    for row in range(TILES):
        for column in range(TILES):
            tile = (slice(rows[row], rows[row + 1]), slice(columns[column], columns[column + 1]))
            variance = float(fine[tile].var()) - noise_variance
            if variance > DETAIL_OVER_NOISE * noise_variance:
                result[row, column] = np.sqrt(variance) / max(float(grey[tile].mean()), 1.0)
    return result


def sharpness_left(reference: Float32Array, now: Float32Array) -> float | None:
    """What is left of the detail in the tile that lost most of it, as a share.

    Args:
        reference: float32 (TILES, TILES) as ``detail`` gives it.
        now: the same of the present picture.

    Returns:
        None where the reference has too little detail to tell.
    """
    telling = reference > MIN_TILE_SHARE * reference.max() if reference.max() > 0 else reference > 0
    return float((now[telling] / reference[telling]).min()) if telling.any() else None


def _edges(image: Float32Array) -> Float32Array:
    fine, coarse = (cv2.GaussianBlur(image, (0, 0), sigma_px) for sigma_px in (FINE_PX, COARSE_PX))
    return np.asarray(fine - coarse, np.float32)


def _likeness(reference: Float32Array, now: Float32Array, x_px: int, y_px: int) -> float:
    """Correlation of the overlap where ``now`` lies (x, y) beside ``reference``."""
    height, width = reference.shape
    if abs(x_px) >= width or abs(y_px) >= height:
        return 0.0
    before, after = overlapping(Roi(0, 0, width, height), Shift(x_px, y_px, 0), (height, width))
    one, other = before.crop(reference).ravel(), after.crop(now).ravel()
    scale = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / scale if scale > 0 else 0.0
