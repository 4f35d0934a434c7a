"""Small data sets and settings to train with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge_ad.config import PreprocessConfig, RoiConfig, TrainConfig
from edge_ad.data import Dataset
from edge_ad.types import Frame, Intrinsics, LabelledFrame

SIZE_PX = 96
"""Side of the synthetic frames."""

CRD = TrainConfig(
    model="crd",
    preprocess=PreprocessConfig(modalities=("rgb", "normals"), image_size_px=64),
    steps=12,
    batch_size=4,
)
"""Two modalities from uint16 depth."""

RD = TrainConfig(
    model="rd",
    preprocess=PreprocessConfig(modalities=("depth",), image_size_px=64),
    roi=RoiConfig(x_px=4, y_px=10, width_px=88, height_px=76),
    steps=12,
    batch_size=4,
)
"""One modality, and a region of interest that is neither square nor in the middle; for float32 depth."""

QUICK = RD.model_copy(update={"roi": None, "steps": 3, "checkpoint_every_s": 0.0})
"""A few steps, each with its checkpoint."""


@dataclass(frozen=True, slots=True)
class ListedFrames:
    """A category in memory. Whoever asks it for another split than these two has asked too much."""

    train: Sequence[LabelledFrame]
    validation: Sequence[LabelledFrame]
    intrinsics: Intrinsics | None
    category: str = "housing"

    def frames(self, split: str) -> Sequence[LabelledFrame]:
        if split not in ("train", "validation"):
            raise AssertionError(f"the {split} split was asked for")
        return self.train if split == "train" else self.validation


def listed(dataset: Dataset, train: int | None = None, validation: int | None = None) -> ListedFrames:
    """The first frames of a data set's train and validation splits."""
    return ListedFrames(
        list(dataset.frames("train"))[:train], list(dataset.frames("validation"))[:validation], dataset.intrinsics
    )


def float_listed(dataset: Dataset) -> ListedFrames:
    """The data set with float32 depth, as another camera would give it."""
    frames = listed(dataset)
    return replace(
        frames,
        train=[replace(item, frame=float_frame(item.frame)) for item in frames.train],
        validation=[replace(item, frame=float_frame(item.frame)) for item in frames.validation],
    )


def float_frame(frame: Frame) -> Frame:
    """The frame with depth in float32 metres, NaN where there is no return."""
    depth = frame.depth_m()
    depth[depth == 0] = np.nan
    return replace(frame, depth=depth, depth_unit_m=1.0)
