"""The synthetic product: a moulded sensor housing with inserts, a sealed bore, ribs and a printed label.

Everything is a function of the part's own coordinates in millimetres, x to the right and y down, with
the origin at its middle. ``surface`` turns a ``Housing`` into height, colour and gloss; a defect is a
``Housing`` with something changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from edge_ad.types import Float32Array, UInt8Array

HALF_LENGTH_MM, HALF_WIDTH_MM, CORNER_MM = 44.0, 33.0, 9.0
SCREWS_MM = ((-35.5, -24.5), (35.5, -24.5), (-35.5, 24.5), (35.5, 24.5))
BORE_MM = (-13.0, 1.0)
RIBS, RIB_PITCH_MM, RIBS_MM = 5, 5.2, (9.0, 13.0)
LABEL_MM = (17.0, -11.5)
EMBOSSED_MM = (-13.0, -22.5)
LABEL_SIZE_MM = (28.0, 17.0)
PRINT_PX_PER_MM = 8

BRASS = (0.58, 0.40, 0.13)
SEAL = (0.78, 0.20, 0.03)
INK = (0.02, 0.02, 0.025)
PAPER = (0.72, 0.72, 0.69)
FRACTURE = (0.42, 0.47, 0.50)
PLASTICS = ((0.055, 0.13, 0.19), (0.12, 0.14, 0.15), (0.03, 0.14, 0.11), (0.20, 0.19, 0.17))


@dataclass(frozen=True, slots=True)
class Mark:
    """A local change of the surface: a blob with a lobed outline, or a bent stroke.

    Attributes:
        x_mm: middle of the mark.
        y_mm: middle of the mark.
        angle_rad: direction of its long axis.
        half_length_mm: half the stroke's length; 0 makes a blob.
        radius_mm: the blob's mean radius, or half the stroke's width.
        softness_mm: how wide its edge is.
        lobes: phases of the outline's second, third and fifth harmonics.
        height_mm: how much it raises the surface; negative for a dent.
        colour: linear RGB that it paints.
        opacity: how much of ``colour`` covers what was there, 0 to 1.
    """

    x_mm: float
    y_mm: float
    angle_rad: float = 0.0
    half_length_mm: float = 0.0
    radius_mm: float = 1.0
    softness_mm: float = 1.0
    lobes: tuple[float, float, float] = (0.0, 0.0, 0.0)
    height_mm: float = 0.0
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    opacity: float = 0.0

    def coverage(self, x_mm: Float32Array, y_mm: Float32Array) -> Float32Array:
        """1 inside the mark, falling smoothly to 0 across its edge; float32 (H, W)."""
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        dx, dy = x_mm - self.x_mm, y_mm - self.y_mm
        along, across = cos * dx + sin * dy, cos * dy - sin * dx
        if self.half_length_mm:
            across = across - 0.015 * along * along
            along = np.maximum(np.abs(along) - self.half_length_mm, 0)
            distance = _length(along, across) - self.radius_mm
        else:
            radius, theta = cv2.cartToPolar(along, across)
            outline = sum(
                amplitude * np.cos(order * theta + phase)
                for amplitude, order, phase in zip((0.18, 0.12, 0.07), (2, 3, 5), self.lobes, strict=True)
            )
            distance = radius - self.radius_mm * (1 + outline)
        return _inside(np.asarray(distance, np.float32), self.softness_mm)


@dataclass(frozen=True, slots=True)
class Housing:
    """One part: its dimensions in millimetres and what is on it."""

    plastic: tuple[float, float, float]
    plate_mm: float = 6.0
    rim_mm: float = 2.0
    boss_mm: float = 4.5
    rib_mm: float = 2.6
    screws_mm: tuple[tuple[float, float], ...] = SCREWS_MM
    label_shift_mm: tuple[float, float] = (0.0, 0.0)
    label_turn_rad: float = 0.0
    label_variant: str = "good"
    marks: tuple[Mark, ...] = ()


@dataclass(slots=True)
class Surface:
    """Height over the conveyor in millimetres (H, W), linear RGB (3, H, W) and gloss (H, W), float32."""

    height_mm: Float32Array
    colour: Float32Array
    gloss: Float32Array

    def paint(self, coverage: Float32Array, colour: tuple[float, float, float], gloss: float) -> None:
        """Lays a colour and a gloss over the surface where ``coverage`` (0 to 1) says."""
        for plane, value in zip((*self.colour, self.gloss), (*colour, gloss), strict=True):
            plane += coverage * (value - plane)


def surface(housing: Housing, belt: Surface, x_mm: Float32Array, y_mm: Float32Array) -> Surface:
    """The part lying on the belt.

    Args:
        housing: the part.
        belt: the conveyor's surface, float32 (H, W); left as it is.
        x_mm: each pixel's x in the part's coordinates, float32 (H, W).
        y_mm: each pixel's y.
    """
    result = Surface(belt.height_mm.copy(), belt.colour.copy(), belt.gloss.copy())
    _mould_body(result, housing, x_mm, y_mm)
    _fit_bore(result, housing, x_mm, y_mm)
    for x, y in housing.screws_mm:
        _fit_screw(result, housing, _length(x_mm - x, y_mm - y))
    _print_label(result, housing, x_mm, y_mm)
    for mark in housing.marks:
        coverage = mark.coverage(x_mm, y_mm)
        raised = result.height_mm + mark.height_mm * coverage
        # Nothing goes below the conveyor, and only the part is painted.
        result.height_mm = np.maximum(raised, np.minimum(belt.height_mm, result.height_mm))
        on_part = np.clip(result.height_mm - 1, 0, 1)
        result.paint(coverage * on_part * mark.opacity, mark.colour, 0.2)
    return result


def _mould_body(result: Surface, housing: Housing, x_mm: Float32Array, y_mm: Float32Array) -> None:
    outside = _rounded_box(x_mm, y_mm, HALF_LENGTH_MM, HALF_WIDTH_MM, CORNER_MM)
    plate = _inside(outside, 0.8)
    result.paint(plate, housing.plastic, 0.5)
    result.height_mm *= 1 - plate
    rim = plate - _inside(outside + 3.2, 0.8)
    result.height_mm += housing.plate_mm * plate + housing.rim_mm * rim
    column = np.clip(np.rint((x_mm - RIBS_MM[0]) / RIB_PITCH_MM), 0, RIBS - 1)
    across = x_mm - RIBS_MM[0] - RIB_PITCH_MM * column
    rib = _rounded_box(across, y_mm - RIBS_MM[1], 1.0, 9.0, 0.9)
    result.height_mm += housing.rib_mm * _inside(rib, 0.7)
    embossed = _sample(_embossing(), x_mm - EMBOSSED_MM[0], y_mm - EMBOSSED_MM[1])
    result.height_mm += 0.5 * embossed


def _fit_bore(result: Surface, housing: Housing, x_mm: Float32Array, y_mm: Float32Array) -> None:
    radius = _length(x_mm - BORE_MM[0], y_mm - BORE_MM[1])
    result.height_mm += housing.boss_mm * _inside(radius - 14.5, 0.9)
    seal = _inside(np.abs(radius - 11.3) - 1.0, 0.7)
    result.height_mm += 0.9 * seal
    result.paint(seal, SEAL, 0.8)
    result.height_mm -= (housing.boss_mm + 3.0) * _inside(radius - 8.2, 0.7)
    shaft = _inside(radius - 2.9, 0.6)
    result.height_mm += (housing.boss_mm + 1.2) * shaft
    result.paint(shaft, (0.45, 0.45, 0.46), 1.0)


def _fit_screw(result: Surface, housing: Housing, radius_mm: Float32Array) -> None:
    result.height_mm += housing.rim_mm * _inside(radius_mm - 4.6, 0.7)
    result.paint(_inside(radius_mm - 3.2, 0.4), BRASS, 1.0)
    hole = _inside(radius_mm - 1.7, 0.4)
    result.height_mm *= 1 - 0.6 * hole
    result.paint(hole, INK, 0.0)


def _print_label(result: Surface, housing: Housing, x_mm: Float32Array, y_mm: Float32Array) -> None:
    dx = x_mm - (LABEL_MM[0] + housing.label_shift_mm[0])
    dy = y_mm - (LABEL_MM[1] + housing.label_shift_mm[1])
    turn = housing.label_turn_rad
    dx, dy = dx + turn * dy, dy - turn * dx
    width_mm, height_mm = LABEL_SIZE_MM
    result.paint(_inside(_rounded_box(dx, dy, width_mm / 2, height_mm / 2, 1.2), 0.3), PAPER, 0.15)
    result.paint(_sample(_label(housing.label_variant), dx, dy), INK, 0.15)


def _length(x: Float32Array, y: Float32Array) -> Float32Array:
    return np.asarray(np.sqrt(x * x + y * y), np.float32)  # several times faster than np.hypot


def _inside(distance_mm: Float32Array, edge_mm: float) -> Float32Array:
    """1 where a signed distance is below 0, falling to 0 over ``edge_mm`` outwards, without a crease."""
    ramp = np.clip(1 - distance_mm / edge_mm, 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _rounded_box(
    x_mm: Float32Array, y_mm: Float32Array, half_x_mm: float, half_y_mm: float, corner_mm: float
) -> Float32Array:
    """Signed distance to a rectangle with round corners, negative inside."""
    dx = np.abs(x_mm) - (half_x_mm - corner_mm)
    dy = np.abs(y_mm) - (half_y_mm - corner_mm)
    outer = _length(np.maximum(dx, 0), np.maximum(dy, 0))
    inner = np.minimum(np.maximum(dx, dy), 0)
    return np.asarray(outer + inner - corner_mm, np.float32)


def _sample(texture: UInt8Array, x_mm: Float32Array, y_mm: Float32Array) -> Float32Array:
    """A texture centred at the origin, 0 to 1, and 0 outside it."""
    height, width = texture.shape
    columns = x_mm * PRINT_PX_PER_MM + (width - 1) / 2
    rows = y_mm * PRINT_PX_PER_MM + (height - 1) / 2
    sampled = cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(sampled / np.float32(255), np.float32)


def _canvas(width_mm: float, height_mm: float) -> UInt8Array:
    return np.zeros((round(height_mm * PRINT_PX_PER_MM), round(width_mm * PRINT_PX_PER_MM)), np.uint8)


@lru_cache(maxsize=1)
def _embossing() -> UInt8Array:
    image = _canvas(32.0, 6.0)
    cv2.putText(image, ">PA66-GF30<", (10, 36), cv2.FONT_HERSHEY_DUPLEX, 1.1, 255, 3, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1.5), np.uint8)


@lru_cache(maxsize=4)
def _label(variant: str) -> UInt8Array:
    """Ink on the label, 255 where it is black; ``variant`` is ``good`` or a kind of misprint."""
    image = _canvas(*LABEL_SIZE_MM)
    cells = np.random.default_rng(2026).random((12, 12)) < 0.5
    cells[:, 0], cells[-1, :] = True, True
    cells[0, :] = np.arange(12) % 2 == 0
    if variant == "faded_code":
        cells[3:8, 2:8] = False
    code = cv2.resize(cells.astype(np.uint8) * 255, (84, 84), interpolation=cv2.INTER_NEAREST)
    image[26:110, 12:96] = code
    lines = {
        "good": ("EA-27 S", "LOT 0421", "24V 3A"),
        "wrong_lot": ("EA-27 S", "LOT 8156", "24V 3A"),
        "missing_line": ("EA-27 S", "LOT 0421", ""),
    }.get(variant, ("EA-27 S", "LOT 0421", "24V 3A"))
    for row, text in enumerate(lines):
        cv2.putText(image, text, (108, 50 + 29 * row), cv2.FONT_HERSHEY_DUPLEX, 0.72, 255, 2, cv2.LINE_AA)
    cv2.rectangle(image, (4, 4), (image.shape[1] - 5, image.shape[0] - 5), 255, 2, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1.0), np.uint8)
