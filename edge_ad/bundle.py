"""What travels to a box: ONNX graphs, manifest, thresholds and golden samples in one directory.

    manifest.json        what the model is, how frames feed it, the sha256 of every other file
    thresholds.json      decision thresholds per operating mode
    golden.safetensors   inputs and the outputs that PyTorch gave for them
    model.onnx           the whole inspection as one graph; the other graphs are its parts

Nothing here is executable or pickled, and nothing is used before its digest has been checked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edge_ad.config import Settings, validated
from edge_ad.errors import BundleError
from edge_ad.types import Intrinsics, Roi, TensorSpec

MANIFEST = "manifest.json"
THRESHOLDS = "thresholds.json"
GOLDEN = "golden.safetensors"
MODEL = "model.onnx"


class FileDigest(Settings):
    """Size and sha256 (hex) of one file."""

    bytes: int
    sha256: str


class TensorInfo(Settings):
    """One input or output of ``model.onnx``; null in the shape is the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    unit: str


class InputSpec(Settings):
    """How a frame becomes the graph's inputs.

    Attributes:
        frame_size_px: (height, width) of the frames the model was trained on.
        roi: the part of the frame that the graph receives.
        depth: how depth is sent: as two uint8 planes (low byte, high byte) of the uint16 image, as
            float32 metres, or not at all.
        depth_unit_m: metres per unit of a uint16 image.
        intrinsics: of the whole frame; None when the model needs none.
    """

    frame_size_px: tuple[int, int]
    roi: Roi
    depth: Literal["uint16_planes", "float32_m", "none"]
    depth_unit_m: float = Field(gt=0)
    intrinsics: Intrinsics | None


class TrainingData(Settings):
    """Where the model's knowledge of good parts came from; the digest is over the frames' pixels."""

    category: str
    train_frames: int
    validation_frames: int
    sha256: str


class Manifest(Settings):
    """The content of ``manifest.json``; ``sha256`` is over all the rest of it."""

    schema_version: Literal[1]
    edge_ad_version: str
    name: str = Field(pattern=r"^[^/\\.][^/\\]*$")
    model: str
    backbone: str
    modalities: tuple[str, ...]
    opset: int
    input: InputSpec
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    training_data: TrainingData
    metrics: dict[str, float]
    parity: dict[str, float]
    licences: dict[str, str]
    files: dict[str, FileDigest]
    sha256: str = ""

    def content_digest(self) -> str:
        """sha256 (hex) over all of the manifest but ``sha256`` itself."""
        return _digest_of(self.model_dump(mode="json", exclude={"sha256"}))

    def sealed(self) -> Manifest:
        """The manifest with its own digest, as ``read_bundle`` wants it."""
        return self.model_copy(update={"sha256": self.content_digest()})

    def tensor_specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of ``model.onnx``."""
        inputs, outputs = (
            tuple(TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)
            for tensors in (self.inputs, self.outputs)
        )
        return inputs, outputs


class Threshold(Settings):
    """A score above ``value`` is NG.

    Attributes:
        value: in the units of the graph's ``score``.
        method: how it was made.
        frames: good frames it was made from.
        false_reject_rate: expected share of good parts above it.
    """

    value: float
    method: str
    frames: int
    false_reject_rate: float


class Thresholds(Settings):
    """The content of ``thresholds.json``: one threshold per operating mode, ``full`` being all sensors."""

    modes: dict[str, Threshold]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files have been checked."""

    directory: Path
    manifest: Manifest
    thresholds: Thresholds

    @property
    def model_path(self) -> Path:
        """The fused graph."""
        return self.directory / MODEL

    @property
    def digest(self) -> str:
        """sha256 (hex) over the manifest and so over all files but the thresholds, which may change."""
        return _digest_of(self.manifest.model_dump(mode="json", exclude={"sha256": True, "files": {THRESHOLDS}}))


def file_digest(path: Path) -> FileDigest:
    """Size and sha256 of a file.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        return FileDigest(bytes=path.stat().st_size, sha256=digest.hexdigest())
    except OSError as error:
        raise BundleError(f"{path} cannot be read", why=str(error), remedy="export the bundle again") from error


def read_bundle(directory: Path) -> Bundle:
    """Opens a bundle and checks every file's digest.

    Raises:
        BundleError: the directory is not a bundle, a file is missing, edited or foreign, or the
            schema is one that this version does not know.
    """
    again = "make it again with: edge-ad export CHECKPOINT"
    manifest_path = directory / MANIFEST
    if not manifest_path.is_file():
        raise BundleError(f"{directory} is not a bundle", why=f"it has no {MANIFEST}", remedy=again)
    manifest = validated(Manifest, _text(manifest_path), str(manifest_path), BundleError, again)
    if manifest.sha256 != manifest.content_digest():
        raise BundleError(f"{manifest_path} was edited", why="its content does not have its own sha256", remedy=again)
    for name, expected in manifest.files.items():
        if Path(name).name != name or name == MANIFEST:
            raise BundleError(f"{manifest_path} lists {name!r}", why="that is not a plain file name", remedy=again)
        path = directory / name
        if not path.is_file():
            raise BundleError(f"{directory} is incomplete", why=f"{name} is missing", remedy=again)
        if file_digest(path) != expected:
            raise BundleError(
                f"{path} is not the file that was exported",
                why="its sha256 differs from the manifest",
                remedy=f"copy the bundle again, or {again}",
            )
    for name in (MODEL, THRESHOLDS, GOLDEN):
        if name not in manifest.files:
            raise BundleError(f"{manifest_path} does not list {name}", why="every bundle has it", remedy=again)
    thresholds = validated(Thresholds, _text(directory / THRESHOLDS), str(directory / THRESHOLDS), BundleError, again)
    return Bundle(directory, manifest, thresholds)


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read", why=str(error), remedy="check its permissions") from error


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
