"""What travels to a box: ONNX graphs, manifest, thresholds and golden samples in one directory.

    manifest.json        what the model is, how frames feed it, the sha256 of every other file
    thresholds.json      decision thresholds per operating mode
    reference.json       what good frames were like, for drift; bundles of older versions lack it
    golden.safetensors   inputs and the outputs that PyTorch gave for them
    model.onnx           the whole inspection as one graph
    model_MODE.onnx      the same with fewer sensors, with golden_MODE.safetensors
    embedding.onnx       camera arrays → a vector that tells frames apart
    weights.safetensors  the weights of all graphs, which point into it; the remaining graphs are the model's parts

Nothing here is executable or pickled, and nothing is used before its digest has been checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edge_ad.drift.reference import Reference
from edge_ad.errors import BundleError, ModelError
from edge_ad.files import not_written, write_bytes
from edge_ad.settings import Settings, validated
from edge_ad.types import AnyArray, Intrinsics, Roi, TensorSpec

MANIFEST = "manifest.json"
THRESHOLDS = "thresholds.json"
NEXT_THRESHOLDS = "thresholds.next.json"
GOLDEN = "golden.safetensors"
REFERENCE = "reference.json"
MODEL = "model.onnx"
EMBEDDING = "embedding.onnx"
WEIGHTS = "weights.safetensors"
FULL, RGB_ONLY, THREE_D_ONLY = "full", "rgb_only", "3d_only"
"""The operating modes with all sensors, without depth, and without colour."""


def model_name(mode: str) -> str:
    """The file of the graph that runs in an operating mode."""
    return MODEL if mode == FULL else f"model_{mode}.onnx"


def golden_name(mode: str) -> str:
    """The file of an operating mode's golden samples."""
    return GOLDEN if mode == FULL else f"golden_{mode}.safetensors"


class FileDigest(Settings):
    """Size and sha256 (hex) of one file."""

    bytes: int
    sha256: str


class TensorInfo(Settings):
    """One input or output of a graph; null in the shape is the batch."""

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


class RigReference(Settings):
    """The rig that a model was trained for, as far as a run must know it again.

    Attributes:
        sha256: of the rig's record.
        serial: of its camera.
        frame_size_px: (height, width) of its frames.
        intrinsics: of its frames.
        plane: (α, β, γ) of its table in 1/m, see ``edge_ad.geometry.fit_plane``.
    """

    sha256: str
    serial: str
    frame_size_px: tuple[int, int]
    intrinsics: Intrinsics
    plane: tuple[float, float, float]


class TrainingData(Settings):
    """Where the model's knowledge of good parts came from; the digests are over the frames' pixels.

    Attributes:
        category: the product.
        train_frames: how many good frames it learned from,
        validation_frames: and how many set the scale of its scores.
        sha256: over all of them, in this order.
        frames: the digest of each, see ``edge_ad.data.digest.frame_digest``.
        rig: that they were captured on; None where it was not measured.
    """

    category: str
    train_frames: int
    validation_frames: int
    sha256: str
    frames: tuple[str, ...] = ()
    rig: RigReference | None = None


class ModeInfo(Settings):
    """What goes in and out of the graph of one operating mode, and which modalities it looks at."""

    modalities: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def tensor_specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs."""
        inputs, outputs = (
            tuple(TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)
            for tensors in (self.inputs, self.outputs)
        )
        return inputs, outputs


class Manifest(Settings):
    """The content of ``manifest.json``; ``sha256`` is over all the rest of it."""

    schema_version: Literal[2]
    edge_ad_version: str
    name: str = Field(pattern=r"^[^/\\.][^/\\]*$")
    model: str
    backbone: str
    modalities: tuple[str, ...]
    opset: int
    input: InputSpec
    modes: dict[str, ModeInfo]
    training_data: TrainingData
    metrics: dict[str, float]
    parity: dict[str, float]
    licences: dict[str, str]
    files: dict[str, FileDigest]
    sha256: str = ""

    def content_digest(self) -> str:
        """sha256 (hex) over all of the manifest but ``sha256`` itself."""
        return self.digest({"sha256": True})

    def digest(self, without: Mapping[str, Any]) -> str:
        """sha256 (hex) over the manifest without some of its fields."""
        # Without a rig there is no such field: manifests of earlier versions keep their digests.
        unsaid = {"training_data": {"rig"}} if self.training_data.rig is None else {}
        return _digest_of(self.model_dump(mode="json", exclude={**without, **unsaid}))

    def sealed(self) -> Manifest:
        """The manifest with its own digest, as ``read_bundle`` wants it."""
        return self.model_copy(update={"sha256": self.content_digest()})


class Threshold(Settings):
    """A score above ``value`` is NG.

    Attributes:
        value: in the units of the graph's ``score``.
        method: how it was made.
        frames: good frames it was made from.
        false_reject_rate: expected share of good parts above it.
        confidence: with which the share is at most ``false_reject_bound``; None where nothing is promised.
        false_reject_bound: upper limit of that share.
        assumption: what the promise needs beyond new good parts being like those frames; empty for nothing.
    """

    value: float
    method: str
    frames: int
    false_reject_rate: float
    confidence: float | None = None
    false_reject_bound: float | None = None
    assumption: str = ""


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
        """The fused graph of the mode with all sensors."""
        return self.directory / MODEL

    def mode(self, name: str) -> ModeInfo:
        """What is known of an operating mode.

        Raises:
            BundleError: the bundle has no such mode.
        """
        return mode_of(self.manifest, name, str(self.directory))

    def content(self, name: str) -> bytes:
        """A file's content, which must still be what was checked when the bundle was opened.

        Raises:
            BundleError: it is not, or cannot be read.
        """
        path = self.directory / name
        again = "open the bundle again, once nothing writes to it any more"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path} cannot be read", why=str(error), remedy=again) from error
        if name != MANIFEST and bytes_digest(content) != self.manifest.files[name]:
            raise BundleError(f"{path} has changed since it was opened", remedy=again)
        return content

    def reference(self) -> Reference | None:
        """What good frames were like in training; None where an older version made the bundle.

        Raises:
            BundleError: it has changed since the bundle was opened, or cannot be read.
        """
        if REFERENCE not in self.manifest.files:
            return None
        source = str(self.directory / REFERENCE)
        return validated(Reference, self.content(REFERENCE), source, BundleError, "export the bundle again")

    def model(self, mode: str = FULL) -> bytes:
        """The graph of an operating mode as one ONNX file that holds its weights.

        Raises:
            BundleError: the bundle has no such mode, or a file has changed or cannot be read.
        """
        self.mode(mode)
        return self.graph(model_name(mode))

    def graph(self, name: str) -> bytes:
        """One of the graphs, by file name, as one ONNX file that holds its weights.

        Raises:
            BundleError: the bundle has no such graph, or a file has changed or cannot be read.
        """
        from edge_ad.onnx_weights import with_weights

        return with_weights(self._graph(name), self.weights(), str(self.directory / name))

    def model_parts(self, mode: str, weights: Mapping[str, bytes]) -> tuple[bytes, dict[str, AnyArray]]:
        """The graph of an operating mode as it lies there, and the weights that it points to, by name.

        Args:
            mode: the operating mode.
            weights: as `weights` gives them, once for all modes.

        Raises:
            BundleError: the bundle has no such mode, or a file has changed or cannot be read.
        """
        from edge_ad.onnx_weights import weights_of

        self.mode(mode)
        graph = self._graph(model_name(mode))
        return graph, weights_of(graph, weights, str(self.directory / model_name(mode)))

    def weights(self) -> dict[str, bytes]:
        """The files that graphs point into, by name.

        Raises:
            BundleError: one has changed or cannot be read.
        """
        return {WEIGHTS: self.content(WEIGHTS)} if WEIGHTS in self.manifest.files else {}

    def _graph(self, name: str) -> bytes:
        if name not in self.manifest.files:
            raise BundleError(
                f"{self.directory} has no {name}",
                why=f"edge-ad {self.manifest.edge_ad_version} exported it without",
                remedy="make it again with: edge-ad export CHECKPOINT",
            )
        return self.content(name)

    @property
    def digest(self) -> str:
        """sha256 (hex) over the manifest and so over all files but the thresholds, which may change."""
        return self.manifest.digest({"sha256": True, "files": {THRESHOLDS}})


def mode_of(manifest: Manifest, name: str, source: str) -> ModeInfo:
    """What a manifest says of an operating mode; ``source`` names where it lies, for the error.

    Raises:
        BundleError: there is no such mode.
    """
    if name not in manifest.modes:
        raise unknown_mode(BundleError, source, name, {mode: info.modalities for mode, info in manifest.modes.items()})
    return manifest.modes[name]


def unknown_mode(kind: type[ModelError], source: str, name: str, modes: Mapping[str, tuple[str, ...]]) -> ModelError:
    """The error for a mode that a model does not have; ``modes`` has the modalities of those that it has."""
    looks = "; ".join(f"{mode}, which looks at {' and '.join(names)}" for mode, names in modes.items())
    return kind(
        f"{source} has no mode {name}",
        why=f"it has {looks}",
        remedy="name one of these, or train a model that can do without a sensor: crd (with its amplifier and "
        "crd.modality_dropout above 0), rd or fd, on rgb and depth",
    )


def bytes_digest(content: bytes) -> FileDigest:
    """Size and sha256 of a file's content."""
    return FileDigest(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


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
    _finish_writing(directory, manifest)
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
    of_modes = [name(mode) for mode in (FULL, *manifest.modes) for name in (model_name, golden_name)]
    for name in (THRESHOLDS, *of_modes):
        if name not in manifest.files:
            raise BundleError(f"{manifest_path} does not list {name}", why="every bundle has it", remedy=again)
    thresholds = validated(Thresholds, _text(directory / THRESHOLDS), str(directory / THRESHOLDS), BundleError, again)
    return Bundle(directory, manifest, thresholds)


def write_thresholds(bundle: Bundle, thresholds: Thresholds) -> Bundle:
    """Gives a bundle other thresholds; it keeps its digest, and a kill leaves the old ones or the new.

    Two files have to change. The new thresholds lie beside the old ones until the manifest names them, which
    is the moment that counts; ``read_bundle`` finishes what a kill after it left undone.

    Args:
        bundle: as ``read_bundle`` gave it.
        thresholds: replace those of the same modes.

    Raises:
        OutputError: they cannot be written; the old ones stay.
    """
    directory = bundle.directory
    following = directory / NEXT_THRESHOLDS
    merged = Thresholds(modes={**bundle.thresholds.modes, **thresholds.modes})
    write_bytes(following, merged.model_dump_json(indent=1).encode())
    files = {**bundle.manifest.files, THRESHOLDS: file_digest(following)}
    manifest = bundle.manifest.model_copy(update={"files": files}).sealed()
    write_bytes(directory / MANIFEST, manifest.model_dump_json(indent=1).encode())
    return read_bundle(directory)


def _finish_writing(directory: Path, manifest: Manifest) -> None:
    """Puts the thresholds that the manifest names in their place, if ``write_thresholds`` has not yet."""
    following, expected = directory / NEXT_THRESHOLDS, manifest.files.get(THRESHOLDS)
    if not following.is_file() or file_digest(following) != expected:
        return
    try:
        following.replace(directory / THRESHOLDS)
    except FileNotFoundError:
        return  # another process that opened the bundle was faster
    except OSError as error:
        raise not_written(directory / THRESHOLDS, error) from error


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read", why=str(error), remedy="check its permissions") from error


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
