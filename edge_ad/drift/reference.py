"""What good frames were like when the model was trained: what the line is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from edge_ad.drift.image_statistics import image_statistics
from edge_ad.settings import Settings
from edge_ad.types import Frame, Roi

LIMIT = 1000
"""At most so many frames are kept, evenly spaced: more would tell no more."""


class Reference(Settings):
    """The content of ``reference.json`` in a bundle or engine.

    Attributes:
        schema_version: of this record.
        roi: the part of the frame that was measured.
        scores: by operating mode, of the good validation frames.
        images: by quantity of ``edge_ad.drift.image_statistics``, one value for each good frame of training and
            validation that has it.
    """

    schema_version: Literal[1] = 1
    roi: Roi
    scores: dict[str, tuple[float, ...]]
    images: dict[str, tuple[float, ...]]


def measured_images(frames: Iterable[Frame], roi: Roi) -> dict[str, tuple[float, ...]]:
    """The statistics of many frames by quantity, in the frames' order, to six digits; see :class:`Reference`."""
    values: dict[str, list[float]] = {}
    for frame in frames:
        for name, value in image_statistics(frame, roi).items():
            values.setdefault(name, []).append(float(f"{value:.6g}"))
    return {name: tuple(some[:: -(-len(some) // LIMIT)]) for name, some in values.items()}
