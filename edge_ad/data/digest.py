"""Which frames a model was trained on, as a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from edge_ad.types import LabelledFrame


def frame_digest(item: LabelledFrame) -> str:
    """The first 16 digits of one frame's ``frames_digest``: enough to know it again."""
    return frames_digest([item])[:16]


def frames_digest(frames: Iterable[LabelledFrame]) -> str:
    """sha256 (hex) over the pixels of all frames, in order."""
    digest = hashlib.sha256()
    for item in frames:
        for array in (item.frame.rgb, item.frame.depth, item.frame.normals):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
