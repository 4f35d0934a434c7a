"""Frames to measure with: of the golden samples, of a data set, or made up so that they fit the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from edge_ad.backends.golden import read_golden_inputs
from edge_ad.bundle import InputSpec
from edge_ad.data import open_dataset
from edge_ad.types import AnyArray, Float32Array, Frame, Roi, UInt8Array

SYNTHETIC = "synthetic"

FRAMES = 16
"""So many are kept in memory and taken in turn; none is read from disk while the clock runs."""

RANGE_M = (0.45, 0.55)
HOLES_SHARE = 0.05


def chosen_frames(where: str | None, golden_path: Path | None, spec: InputSpec, names: set[str]) -> list[Frame]:
    """The frames to measure with.

    Args:
        where: a data set's or recording's directory, ``synthetic``, or None for the golden samples.
        golden_path: of them; None if there are none, which makes the default synthetic.
        spec: how frames feed the model.
        names: the inputs that are needed.

    Raises:
        DataError: the data set cannot be read.
        EngineError: the golden samples cannot be read.
    """
    if where not in (None, SYNTHETIC):
        return dataset_frames(Path(where))
    if where is None and golden_path is not None:
        return golden_frames(golden_path, spec)
    return list(synthetic_frames(spec, names))


def golden_frames(golden_path: Path, spec: InputSpec) -> list[Frame]:
    """The frames behind golden samples; outside the region of interest they are black.

    Args:
        golden_path: of the model.
        spec: how frames feed it.

    Raises:
        EngineError: the file cannot be read or is no set of golden samples.
    """
    inputs = read_golden_inputs(golden_path)
    count = min(FRAMES, *(array.shape[0] for array in inputs.values()))
    return [
        _frame({name: array[index] for name, array in inputs.items()}, spec, f"{golden_path.name} {index}")
        for index in range(count)
    ]


def synthetic_frames(spec: InputSpec, names: set[str], count: int = FRAMES, seed: int = 0) -> Iterator[Frame]:
    """Random frames: smooth colour with noise, a rough surface half a metre away with holes in it, its normals.

    Args:
        spec: size, depth format and camera of the frames.
        names: the model's inputs, of ``rgb``, ``depth``, ``normals``.
        count: how many.
        seed: the same seed gives the same frames.
    """
    generator = np.random.default_rng(seed)
    whole = spec.model_copy(update={"roi": Roi(0, 0, spec.frame_size_px[1], spec.frame_size_px[0])})
    for index in range(count):
        images: dict[str, AnyArray] = {}
        if "rgb" in names:
            colour = np.stack([_smooth(generator, spec.frame_size_px) for _ in range(3)], axis=-1)
            images["rgb"] = np.clip(255 * colour + generator.normal(0, 4, colour.shape), 0, 255).astype(np.uint8)
        depth_m = np.float32(RANGE_M[0]) + np.float32(np.ptp(RANGE_M)) * _smooth(generator, spec.frame_size_px)
        if "normals" in names:
            images["normals"] = _normals(depth_m)
        if "depth" in names:
            holes = generator.random(depth_m.shape) < HOLES_SHARE
            images["depth"] = np.where(holes, np.float32(0), depth_m)
        yield _frame(images, whole, f"synthetic {index}")


def dataset_frames(directory: Path) -> list[Frame]:
    """The first frames of a data set or recording, of its test split where it has one.

    Raises:
        DataError: it cannot be read.
    """
    dataset = open_dataset(directory)
    return [labelled.frame for labelled in islice(dataset.frames(dataset.splits[-1]), FRAMES)]


def _frame(images: Mapping[str, AnyArray], spec: InputSpec, source: str) -> Frame:
    """A frame with these images, (h, w, …) as the graph takes them or depth in metres, in the region of interest."""
    placed: dict[str, AnyArray] = {}
    for name, image in images.items():
        if image.ndim == 3 and image.shape[2] == 2:  # two bytes a pixel
            image = np.ascontiguousarray(image).view("<u2")[..., 0].astype(np.uint16)
        elif name == "depth" and spec.depth == "uint16_planes":
            image = np.rint(image / spec.depth_unit_m).astype(np.uint16)
        placed[name] = np.zeros((*spec.frame_size_px, *image.shape[2:]), image.dtype)
        spec.roi.crop(placed[name])[:] = image
    depth = placed.get("depth")
    return Frame(
        rgb=placed.get("rgb"),
        depth=depth,
        depth_unit_m=spec.depth_unit_m if depth is not None and depth.dtype == np.uint16 else 1.0,
        normals=placed.get("normals"),
        intrinsics=spec.intrinsics,
        source=source,
    )


def _smooth(generator: np.random.Generator, size_px: tuple[int, int]) -> Float32Array:
    """A random image (H, W) in [0, 1] without detail."""
    coarse = generator.random((8, 8), np.float32)
    smooth = cv2.resize(coarse, (size_px[1], size_px[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(smooth, np.float32)


def _normals(depth_m: Float32Array) -> UInt8Array:
    """Unit vectors of a surface as if a pixel were a millimetre wide, uint8 (H, W, 3)."""
    down, across = np.gradient(depth_m, 0.001)
    vectors = np.stack([-across, -down, np.ones_like(depth_m)], axis=-1)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(np.rint((vectors * 0.5 + 0.5) * 255), np.uint8)
