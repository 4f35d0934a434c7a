"""A product that needs no camera: rendered RGB-D captures of a part, good or with a known defect.

Colour is lit from the part's own height field, depth is that height field seen by a pinhole camera, and
both get the noise of a sensor. Everything is drawn from seeded generators, so a part can be rendered
again bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator, default_rng

from edge_ad.data.dataset import GOOD, SPLITS
from edge_ad.data.defects import DEFECTS, DefectKind
from edge_ad.data.housing import PLASTICS, Housing, Surface, surface
from edge_ad.data.rendering import Light, lit, sensed_colour, sensed_depth, step_mm
from edge_ad.data.writer import FolderWriter
from edge_ad.errors import ConfigError, OutputError
from edge_ad.types import BoolArray, Float32Array, Frame, Intrinsics

DISTANCE_MM = 500.0
FIELD_OF_VIEW_MM = 116.0
DEPTH_UNIT_M = 0.0001
OVERSAMPLING = 2
MASK_DEPTH_MM = 0.15
MASK_COLOUR = 0.02
GRAIN_SLOPE = 0.035
EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class RenderedPart:
    """A frame with the truth about it; ``gt_mask`` is bool (H, W), True where the defect shows."""

    frame: Frame
    defect: str
    gt_mask: BoolArray


@dataclass(frozen=True, slots=True)
class _Scene:
    """All but the part itself: each pixel's place in its coordinates, the belt, the light, the texture."""

    x_mm: Float32Array
    y_mm: Float32Array
    belt: Surface
    light: Light
    grain: Float32Array


@dataclass(frozen=True, slots=True)
class _Views:
    """What noise-free sensors see: display colour (H, W, 3) and depth in millimetres (H, W), float32."""

    colour: Float32Array
    depth_mm: Float32Array


class SyntheticProduct:
    """Parts of one kind passing under a fixed RGB-D camera, half a metre above a conveyor.

    Args:
        size_px: side of square images, or (height, width). The short side shows the part as a square
            image of that size does; along the long one there is more of the belt.
        seed: chooses the product's plastic and the camera's tilt; parts of two seeds never repeat.

    Raises:
        ConfigError: the size is too small for the part to be recognised, or the seed is negative.
    """

    def __init__(self, size_px: int | tuple[int, int] = 256, seed: int = 0) -> None:
        height_px, width_px = (size_px, size_px) if isinstance(size_px, int) else size_px
        for side_px in (height_px, width_px):
            if not 64 <= side_px <= 2048:
                raise ConfigError(f"size of {side_px} px is not possible", remedy="choose 64 to 2048")
        if seed < 0:
            raise ConfigError(f"seed {seed} is negative", remedy="choose 0 or more")
        self.seed = seed
        short_px = min(height_px, width_px)
        focal_px = short_px * DISTANCE_MM / FIELD_OF_VIEW_MM
        middle_px = ((width_px - 1) / 2, (height_px - 1) / 2)
        self.intrinsics = Intrinsics(focal_px, focal_px, *middle_px, width_px, height_px)
        random = default_rng(seed)
        self._plastic = PLASTICS[seed % len(PLASTICS)]
        tilt_x, tilt_y = random.uniform(-0.012, 0.012), random.uniform(-0.012, 0.012)
        self._pitch_mm = FIELD_OF_VIEW_MM / (short_px * OVERSAMPLING)
        self._x_mm, self._y_mm = np.meshgrid(*(self._axis_mm(side_px) for side_px in (width_px, height_px)))
        ray_x, ray_y = self._x_mm / DISTANCE_MM, self._y_mm / DISTANCE_MM
        plane = 1 + tilt_x * ray_x + tilt_y * ray_y
        self._belt_depth_mm = np.asarray(DISTANCE_MM / plane, np.float32)

    def _axis_mm(self, side_px: int) -> Float32Array:
        fine_px = side_px * OVERSAMPLING
        return ((np.arange(fine_px) - (fine_px - 1) / 2) * self._pitch_mm).astype(np.float32)

    def render(self, part: int, defect: str | None = None) -> RenderedPart:
        """Renders one part.

        Args:
            part: its number, 0 or more; the same number gives the same part, with or without defect.
            defect: a key of ``DEFECTS``, or None for a good part.

        Returns:
            rgb uint8 and depth uint16 in 0.1 mm, and the exact mask: outside it the images are those
            of the good part, bit by bit; inside it a defect of colour only leaves depth as it is, and
            one of shape only leaves rgb as it is.

        Raises:
            ConfigError: there is no such defect.
        """
        if defect is not None and defect not in DEFECTS:
            raise ConfigError(f"defect {defect!r} is unknown", remedy=f"name one of {', '.join(DEFECTS)}")
        random = default_rng([self.seed, part])
        housing = self._housing(random)
        scene = self._scene(random)
        good = surface(housing, scene.belt, scene.x_mm, scene.y_mm)
        views = _Views(self._colour(good, scene), self._depth_mm(good))
        mask = np.zeros(views.depth_mm.shape, np.bool_)
        steps_mm = step_mm(views.depth_mm)
        if defect is not None:
            kind = DEFECTS[defect]
            bad = self._defective(views, kind.change(housing, default_rng([self.seed, part, 1])), scene, kind)
            mask = _visible(views, bad, kind)
            # What is left of the change beyond the mask is cut off, so that the mask is exact.
            steps_mm = np.where(mask, step_mm(bad.depth_mm), steps_mm)
            views = _Views(
                np.where(mask[..., None], bad.colour, views.colour),
                np.where(mask, bad.depth_mm, views.depth_mm),
            )
        random = default_rng([self.seed, part, 2])
        frame = Frame(
            rgb=sensed_colour(views.colour, random),
            depth=sensed_depth(views.depth_mm, steps_mm, DEPTH_UNIT_M * 1000, random),
            depth_unit_m=DEPTH_UNIT_M,
            intrinsics=self.intrinsics,
            sequence=part,
            source=f"synthetic://{part:04d}/{defect or GOOD}",
        )
        return RenderedPart(frame, defect or GOOD, mask)

    def render_empty(self, exposure: int) -> Frame:
        """Renders the bare conveyor at rest: the same scene at each exposure, with the sensors' noise of that one."""
        scene = self._scene(default_rng([self.seed, 0, 4]))
        colour, depth_mm = self._colour(scene.belt, scene), self._depth_mm(scene.belt)
        random = default_rng([self.seed, exposure, 5])
        return Frame(
            rgb=sensed_colour(colour, random),
            depth=sensed_depth(depth_mm, step_mm(depth_mm), DEPTH_UNIT_M * 1000, random),
            depth_unit_m=DEPTH_UNIT_M,
            intrinsics=self.intrinsics,
            sequence=exposure,
            source=f"synthetic://{exposure:04d}/{EMPTY}",
        )

    def _housing(self, random: Generator) -> Housing:
        tone = random.normal(1.0, 0.02)
        red, green, blue = self._plastic
        return Housing(
            plastic=(red * tone, green * tone, blue * tone),
            plate_mm=random.normal(6.0, 0.04),
            rim_mm=random.normal(2.0, 0.03),
            boss_mm=random.normal(4.5, 0.04),
            rib_mm=random.normal(2.6, 0.04),
            label_shift_mm=(random.normal(0, 0.25), random.normal(0, 0.25)),
            label_turn_rad=random.normal(0, 0.008),
        )

    def _scene(self, random: Generator) -> _Scene:
        angle = random.normal(0, math.radians(1.5))
        shift_x, shift_y = random.uniform(-1.5, 1.5), random.uniform(-1.5, 1.5)
        cos, sin = math.cos(angle), math.sin(angle)
        dx, dy = self._x_mm - shift_x, self._y_mm - shift_y
        gain = random.normal(1.0, 0.03)
        warmth = random.normal(0, 0.01)
        light = Light(
            direction=(-0.5 + random.normal(0, 0.02), -0.62 + random.normal(0, 0.02), 0.9),
            gain=(gain * (1 + warmth), gain, gain * (1 - warmth)),
        )
        grain = random.standard_normal((2, *self._x_mm.shape), np.float32) * GRAIN_SLOPE
        return _Scene(cos * dx + sin * dy, cos * dy - sin * dx, self._belt(random), light, grain)

    def _belt(self, random: Generator) -> Surface:
        """A woven conveyor, which has moved on since the part before."""
        across, along = self._x_mm, self._y_mm + random.uniform(0, 100)
        weave = np.sin(across * 2.1) * np.sin(along * 2.1)
        small = random.standard_normal((8, 8), np.float32)
        dirt = cv2.resize(small, self._x_mm.shape[::-1], interpolation=cv2.INTER_CUBIC)
        tone = 1 + 0.10 * weave + 0.05 * dirt
        colour = np.stack([albedo * tone for albedo in (0.030, 0.034, 0.036)])
        height_mm = 0.06 * weave
        return Surface(height_mm, colour, np.full_like(height_mm, 0.08))

    def _defective(self, good: _Views, housing: Housing, scene: _Scene, kind: DefectKind) -> _Views:
        bad = surface(housing, scene.belt, scene.x_mm, scene.y_mm)
        return _Views(
            self._colour(bad, scene) if kind.in_colour else good.colour,
            self._depth_mm(bad) if kind.in_depth else good.depth_mm,
        )

    def _colour(self, part: Surface, scene: _Scene) -> Float32Array:
        """Noise-free display values, float32 (H, W, 3)."""
        return self._shrunk(lit(part, scene.light, scene.grain, self._pitch_mm))

    def _depth_mm(self, part: Surface) -> Float32Array:
        """Noise-free depth, float32 (H, W)."""
        return self._shrunk(self._belt_depth_mm - part.height_mm)

    def _shrunk(self, image: Float32Array) -> Float32Array:
        size = (self.intrinsics.width_px, self.intrinsics.height_px)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)


def _visible(good: _Views, bad: _Views, kind: DefectKind) -> BoolArray:
    """Where a defect shows, bool (H, W)."""
    recoloured = np.abs(bad.colour - good.colour).max(axis=2) > MASK_COLOUR
    if not kind.in_depth:
        return np.asarray(recoloured)
    # The defect is where the shape changed, not where its shadow falls.
    reshaped = np.abs(bad.depth_mm - good.depth_mm) > MASK_DEPTH_MM
    near = cv2.dilate(reshaped.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return np.asarray(reshaped | (recoloured & near))


def write_synthetic(
    root: Path,
    *,
    train: int = 80,
    validation: int = 20,
    test_good: int = 20,
    test_per_defect: int = 5,
    size_px: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes a data set of the synthetic product in edge-ad's own layout; no part is in it twice.

    Args:
        root: where to; made if absent.
        train: good parts for training.
        validation: good parts for validation.
        test_good: good parts for the test.
        test_per_defect: parts with each of the ``DEFECTS``.
        size_px: side of the images.
        seed: of the product.
        progress: called after each part with the number done and the number of all.

    Raises:
        OutputError: ``root`` holds a data set already, cannot be written, or the disk is full.
    """
    if any((root / split).exists() for split in SPLITS):
        raise OutputError(
            f"{root} holds a data set already",
            why="the same parts would be added to it again",
            remedy="choose another directory, or remove this one",
        )
    product = SyntheticProduct(size_px, seed)
    counts = [("train", GOOD, train), ("validation", GOOD, validation), ("test", GOOD, test_good)]
    counts += [("test", defect, test_per_defect) for defect in DEFECTS]
    total = sum(count for _, _, count in counts)
    part = 0
    for split, defect, count in counts:
        writer = FolderWriter(root, split, defect)
        for _ in range(count):
            rendered = product.render(part, None if defect == GOOD else defect)
            writer.write(rendered.frame, None if defect == GOOD else rendered.gt_mask)
            part += 1
            progress(part, total)
