"""What can be wrong with the synthetic product: each defect is a change of its ``Housing``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from numpy.random import Generator

from edge_ad.data.housing import FRACTURE, HALF_LENGTH_MM, HALF_WIDTH_MM, SCREWS_MM, Housing, Mark


def _stain(housing: Housing, random: Generator) -> Housing:
    x, y = _on_plate(random)
    dark = random.random() < 0.6
    return _marked(
        housing,
        Mark(
            x,
            y,
            angle_rad=random.uniform(0, math.pi),
            radius_mm=random.uniform(2.5, 5.5),
            softness_mm=random.uniform(0.8, 2.0),
            lobes=_lobes(random),
            colour=(0.012, 0.010, 0.008) if dark else (0.34, 0.27, 0.16),
            opacity=random.uniform(0.55, 0.8) if dark else random.uniform(0.3, 0.5),
        ),
    )


def _misprint(housing: Housing, random: Generator) -> Housing:
    variant = ("faded_code", "wrong_lot", "missing_line")[int(random.integers(3))]
    return replace(housing, label_variant=variant)


def _dent(housing: Housing, random: Generator) -> Housing:
    return _pushed(housing, random, -random.uniform(1.0, 2.0))


def _bulge(housing: Housing, random: Generator) -> Housing:
    return _pushed(housing, random, random.uniform(1.0, 2.0))


def _pushed(housing: Housing, random: Generator, height_mm: float) -> Housing:
    x, y = _on_plate(random)
    radius_mm = random.uniform(1.5, 3.0)
    return _marked(
        housing,
        Mark(
            x,
            y,
            angle_rad=random.uniform(0, math.pi),
            radius_mm=radius_mm,
            softness_mm=random.uniform(2.5, 4.0),
            lobes=_lobes(random),
            height_mm=height_mm,
        ),
    )


def _scratch(housing: Housing, random: Generator) -> Housing:
    x, y = _on_plate(random)
    return _marked(
        housing,
        Mark(
            x,
            y,
            angle_rad=random.uniform(0, math.pi),
            half_length_mm=random.uniform(6, 12),
            radius_mm=random.uniform(0.3, 0.5),
            softness_mm=0.5,
            height_mm=-random.uniform(0.7, 1.2),
            colour=FRACTURE,
            opacity=random.uniform(0.35, 0.6),
        ),
    )


def _missing_boss(housing: Housing, random: Generator) -> Housing:
    missing = int(random.integers(len(SCREWS_MM)))
    return replace(housing, screws_mm=SCREWS_MM[:missing] + SCREWS_MM[missing + 1 :])


def _chip(housing: Housing, random: Generator) -> Housing:
    side = 1 if random.random() < 0.5 else -1
    along_length = random.random() < 0.6
    x, y = (
        (random.uniform(-28, 28), side * HALF_WIDTH_MM)
        if along_length
        else (side * HALF_LENGTH_MM, random.uniform(-18, 18))
    )
    return _marked(
        housing,
        Mark(
            x,
            y,
            angle_rad=random.uniform(0, math.pi),
            radius_mm=random.uniform(2.2, 3.6),
            softness_mm=0.7,
            lobes=_lobes(random),
            height_mm=-random.uniform(3.0, 8.0),
            colour=FRACTURE,
            opacity=0.6,
        ),
    )


@dataclass(frozen=True, slots=True)
class DefectKind:
    """How a defect changes the part, and which of the images show it."""

    change: Callable[[Housing, Generator], Housing]
    in_colour: bool
    in_depth: bool


DEFECTS = {
    "stain": DefectKind(_stain, in_colour=True, in_depth=False),
    "misprint": DefectKind(_misprint, in_colour=True, in_depth=False),
    "dent": DefectKind(_dent, in_colour=False, in_depth=True),
    "bulge": DefectKind(_bulge, in_colour=False, in_depth=True),
    "scratch": DefectKind(_scratch, in_colour=True, in_depth=True),
    "missing_boss": DefectKind(_missing_boss, in_colour=True, in_depth=True),
    "chip": DefectKind(_chip, in_colour=True, in_depth=True),
}


def _marked(housing: Housing, mark: Mark) -> Housing:
    return replace(housing, marks=(*housing.marks, mark))


def _on_plate(random: Generator) -> tuple[float, float]:
    return random.uniform(-36, 36), random.uniform(-25, 25)


def _lobes(random: Generator) -> tuple[float, float, float]:
    first, second, third = random.uniform(0, 2 * math.pi, 3)
    return float(first), float(second), float(third)
