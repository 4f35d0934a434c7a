"""Calibration sets: a few good frames that stand for all, and others to judge a quantised engine by.

    recipe.toml          how they were chosen, from what, their digests; the sha256 of the frames
    frames.safetensors   the graph's inputs of the frames to calibrate with, and of those to judge by
    ranges/              what was measured on them, per graph and method; a cache

The frames are chosen by greedy k-center (Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985;
for data sets: Sener & Savarese, ICLR 2018) over the teacher's pooled features: each further frame is the one that is
least like those chosen already, so that rare but good looks are among them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import safetensors.numpy
import tomli_w
from pydantic import Field

from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import EMBEDDING, FULL, Bundle, FileDigest, InputSpec, bytes_digest, file_digest
from edge_ad.data.dataset import Dataset
from edge_ad.data.digest import frame_digest
from edge_ad.errors import BundleError, ConfigError, DataError
from edge_ad.feeds import feeds_from_frame
from edge_ad.files import write_bytes
from edge_ad.settings import Settings, read_toml, validated
from edge_ad.types import AnyArray, LabelledFrame

RECIPE = "recipe.toml"
FRAMES = "frames.safetensors"
RANGES = "ranges"
Part = Literal["calibration", "gate"]
RangeMethod = Literal["minmax", "percentile", "entropy"]
"""How ranges are measured on the frames, see ``edge_ad.quantization.ranges``."""

Feeds = dict[str, AnyArray]
MIN_CALIBRATION, MIN_GATE = 4, 8


class FrameRecord(Settings):
    """One frame: the file it came from and its digest, see ``edge_ad.data.digest.frame_digest``."""

    source: str
    digest: str


class CalibrationRecipe(Settings):
    """The content of ``recipe.toml``.

    Attributes:
        product: what the frames show.
        input_sha256: of the input specification that the frames were laid out for.
        method: how the calibration frames were chosen.
        seed: of the first one.
        considered: good frames to choose from.
        calibration: the frames whose ranges count.
        gate: other good frames, which the quantised engine is judged by.
        files: size and sha256 of ``frames.safetensors``.
    """

    schema_version: Literal[1]
    product: str
    input_sha256: str
    method: str
    seed: int
    considered: int = Field(ge=1)
    calibration: tuple[FrameRecord, ...]
    gate: tuple[FrameRecord, ...]
    files: dict[str, FileDigest]


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """A set whose files have been checked."""

    directory: Path
    recipe: CalibrationRecipe

    @property
    def digest(self) -> str:
        """sha256 (hex) of the frames."""
        return self.recipe.files[FRAMES].sha256

    def feeds(self, part: Part, names: Sequence[str]) -> Iterator[Feeds]:
        """The inputs ``names`` of one frame after the other, batch 1; only one is in memory.

        Raises:
            DataError: the set lacks an input.
        """
        with safetensors.safe_open(self.directory / FRAMES, framework="np") as stored:
            present = set(stored.keys())
            for name in names:
                if f"{part}.{name}" not in present:
                    raise DataError(
                        f"{self.directory} has no {name}",
                        why="it was made for another model",
                        remedy="make one with: edge-ad calibrate BUNDLE DATASET",
                    )
            slices = {name: stored.get_slice(f"{part}.{name}") for name in names}
            for row in range(len(getattr(self.recipe, part))):
                yield {name: array[row : row + 1] for name, array in slices.items()}

    def check_fits(self, bundle: Bundle) -> None:
        """Refuses a bundle whose frames are laid out in another way.

        Raises:
            DataError: it was made for another product, camera or region.
        """
        manifest = bundle.manifest
        if self.recipe.product != manifest.name or self.recipe.input_sha256 != input_digest(manifest.input):
            raise DataError(
                f"{self.directory} is not for {bundle.directory}",
                why=f"it holds frames of {self.recipe.product}, laid out for another model or camera",
                remedy=f"make one with: edge-ad calibrate {bundle.directory} DATASET",
            )


def input_digest(spec: InputSpec) -> str:
    """sha256 (hex) of what decides how frames are laid out."""
    return hashlib.sha256(json.dumps(spec.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def k_center(vectors: AnyArray, count: int, seed: int) -> list[int]:
    """Greedy k-center: rows that leave no other row far from the nearest of them.

    Args:
        vectors: float (N, D).
        count: rows to choose, at most N.
        seed: chooses the first row.

    Returns:
        Different indices in the order of choice; the largest distance to them is at most twice the best possible.
    """
    chosen = [int(np.random.default_rng(seed).integers(len(vectors)))]
    distance = np.linalg.norm(vectors - vectors[chosen[0]], axis=1)
    while len(chosen) < count:
        distance[chosen[-1]] = -1  # or frames that are all alike would be chosen twice
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(vectors - vectors[chosen[-1]], axis=1))
    return chosen


def make_calibration_set(
    bundle: Bundle,
    dataset: Dataset,
    directory: Path,
    *,
    frames: int = 64,
    gate_frames: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CalibrationSet:
    """Chooses a calibration set from a data set's good frames and stores it.

    At most half of the training frames calibrate, so that others are left to judge by; these come from the
    validation split first.

    Args:
        bundle: the model that it is for, whose teacher tells frames apart.
        dataset: the product's frames; its test split is never used.
        directory: of the set; made or replaced.
        frames: to calibrate with.
        gate_frames: to judge by.
        seed: of the choice.
        progress: called for each frame that is looked at.

    Raises:
        ConfigError: fewer frames are asked for than make sense.
        DataError: there are too few good frames, one shows a defect or is a test frame, or does not fit the model.
        OutputError: the directory cannot be written or holds something else.
    """
    if frames < MIN_CALIBRATION or gate_frames < MIN_GATE:
        raise ConfigError(
            f"{frames} frames to calibrate and {gate_frames} to judge by are too few",
            remedy=f"take at least {MIN_CALIBRATION} and {MIN_GATE}",
        )
    _refuse_other_content(directory)
    train, validation = (_frames(dataset, split) for split in ("train", "validation"))
    count = min(frames, len(train) // 2)
    if count < MIN_CALIBRATION or len(train) + len(validation) - count < MIN_GATE:
        raise DataError(
            f"{dataset.category} has {len(train)} good training and {len(validation)} validation frames",
            why=f"{2 * MIN_CALIBRATION} to choose from and {MIN_GATE} others to judge by are needed",
            remedy="capture more good parts",
        )
    chosen = k_center(_embeddings(bundle, dataset, train, validation, progress), count, seed)
    rest = np.random.default_rng(seed).permutation([row for row in range(len(train)) if row not in set(chosen)])
    parts: dict[Part, list[LabelledFrame]] = {
        "calibration": [train[row] for row in chosen],
        "gate": list(itertools.islice(itertools.chain(validation, (train[int(row)] for row in rest)), gate_frames)),
    }
    names, spec = [tensor.name for tensor in bundle.mode(FULL).inputs], bundle.manifest.input
    laid_out = {part: [feeds_from_frame(item.frame, spec, names) for item in items] for part, items in parts.items()}
    content = safetensors.numpy.save(
        {
            f"{part}.{name}": np.concatenate([feeds[name] for feeds in rows])
            for part, rows in laid_out.items()
            for name in names
        }
    )
    records = {
        part: tuple(FrameRecord(source=_source(item, dataset), digest=frame_digest(item)) for item in items)
        for part, items in parts.items()
    }
    recipe = CalibrationRecipe(
        schema_version=1,
        product=bundle.manifest.name,
        input_sha256=input_digest(spec),
        method=f"greedy k-center over the teacher's pooled features ({bundle.manifest.backbone})",
        seed=seed,
        considered=len(train),
        calibration=records["calibration"],
        gate=records["gate"],
        files={FRAMES: bytes_digest(content)},
    )
    (directory / RECIPE).unlink(missing_ok=True)  # so that a kill leaves no recipe of other frames
    write_bytes(directory / FRAMES, content)
    write_bytes(directory / RECIPE, tomli_w.dumps(recipe.model_dump(mode="json")).encode())
    return read_calibration_set(directory)


def read_calibration_set(directory: Path) -> CalibrationSet:
    """Opens a calibration set and checks its frames' digest.

    Raises:
        DataError: the directory holds none, or it is damaged or edited.
    """
    remedy = "make one with: edge-ad calibrate BUNDLE DATASET"
    path = directory / RECIPE
    if not path.is_file() or not (directory / FRAMES).is_file():
        missing = RECIPE if not path.is_file() else FRAMES
        raise DataError(f"{directory} is not a calibration set", why=f"it has no {missing}", remedy=remedy)
    try:
        recipe = validated(CalibrationRecipe, read_toml(path), str(path), DataError, remedy)
        digest = file_digest(directory / FRAMES)
    except (ConfigError, BundleError) as error:
        raise DataError(error.what, why=error.why, remedy=remedy) from error
    if recipe.files.get(FRAMES) != digest:
        raise DataError(f"{directory / FRAMES} is not what {RECIPE} describes", why="its sha256 differs", remedy=remedy)
    with safetensors.safe_open(directory / FRAMES, framework="np") as stored:
        rows = {name: stored.get_slice(name).get_shape()[0] for name in stored.keys()}  # noqa: SIM118 - no mapping
    for name, count in rows.items():
        listed = len(recipe.calibration if name.startswith("calibration.") else recipe.gate)
        if count != listed:
            raise DataError(f"{path} was edited", why=f"{listed} frames are listed, {count} are there", remedy=remedy)
    return CalibrationSet(directory, recipe)


def _frames(dataset: Dataset, split: str) -> Sequence[LabelledFrame]:
    """The frames of a split, read when asked for; none where there is no such split."""
    return dataset.frames(split) if split in dataset.splits else ()


def _refuse_other_content(directory: Path) -> None:
    own = {RECIPE, FRAMES, RANGES}
    if directory.is_file() or (directory.is_dir() and any(path.name not in own for path in directory.iterdir())):
        raise ConfigError(
            f"{directory} is not a calibration set", why="something else is there", remedy="name another --output"
        )


def _embeddings(
    bundle: Bundle,
    dataset: Dataset,
    train: Sequence[LabelledFrame],
    validation: Sequence[LabelledFrame],
    progress: Callable[[int, int], None],
) -> AnyArray:
    """The training frames' pooled features, each dimension with variance 1: float (N, D); one frame is in memory.

    Raises:
        DataError: a frame shows a defect, is a test frame too, or does not fit the model.
    """
    tests = {frame_digest(item) for item in _frames(dataset, "test")}
    names = [tensor.name for tensor in bundle.mode(FULL).inputs]
    feeds_from_frame(train[0].frame, bundle.manifest.input, names)  # fails before anything takes time
    backend = OnnxRuntimeBackend.open(bundle.graph(EMBEDDING), source=str(bundle.directory / EMBEDDING))
    vectors, total = [], len(train) + len(validation)
    for row, item in enumerate(itertools.chain(train, validation)):
        _check_usable(item, "train" if row < len(train) else "validation", tests)
        if row < len(train):
            feeds = feeds_from_frame(item.frame, bundle.manifest.input, names)
            vectors.append(backend.run(feeds)["embedding"][0])
        progress(row + 1, total)
    stacked = np.stack(vectors).astype(np.float64)
    return np.asarray((stacked - stacked.mean(0)) / np.maximum(stacked.std(0), 1e-6))


def _check_usable(item: LabelledFrame, split: str, tests: Collection[str]) -> None:
    """Refuses defects, and frames that are among the tests."""
    if item.is_anomalous:
        raise DataError(
            f"{item.path} shows a defect ({item.defect})",
            why="a calibration set holds good parts only, as the model learned from",
            remedy=f"remove it from the {split} split",
        )
    if frame_digest(item) in tests:
        raise DataError(
            f"{item.path} is a test frame too",
            why="what an engine is tuned on must not judge it later",
            remedy="remove it from one of the splits",
        )


def _source(item: LabelledFrame, dataset: Dataset) -> str:
    path = Path(item.path)
    return path.relative_to(dataset.root).as_posix() if path.is_relative_to(dataset.root) else path.name
