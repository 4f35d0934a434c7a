"""A model for Triton Inference Server: one directory of a model repository, for cameras that outgrow one process.

    REPOSITORY/NAME/config.pbtxt    what the server must know: inputs, outputs, batching, instances, warm-up
    REPOSITORY/NAME/1/model.onnx    the graph of a bundle or of an ONNX Runtime engine
    REPOSITORY/NAME/1/model.plan    or a TensorRT engine of this box

The directory appears whole or not at all, and takes the place of an earlier export only.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_ad.backends.onnxruntime import available_cores
from edge_ad.bundle import FULL, MANIFEST, bytes_digest, read_bundle
from edge_ad.engine import ENGINE, read_engine
from edge_ad.errors import ConfigError, DataError, EngineError, OutputError
from edge_ad.files import not_written, replace_directory
from edge_ad.triton_config import SIGN, Device, ServedModel, Serving, config_text

CONFIG = "config.pbtxt"
VERSION = "1"
DEFAULT_MAX_BATCH = 8
"""Of an ONNX graph, which takes any batch."""


@dataclass(frozen=True, slots=True)
class TritonExport:
    """A model that lies in a repository now."""

    directory: Path
    model: ServedModel
    serving: Serving

    @property
    def name(self) -> str:
        """By which clients ask for it."""
        return self.directory.name


def export_triton(
    source: Path,
    repository: Path,
    *,
    name: str | None = None,
    mode: str | None = None,
    max_batch: int | None = None,
    instances: int = 1,
    device: Device | None = None,
    queue_delay_us: int = 1000,
    threads: int | None = None,
) -> TritonExport:
    """Writes a model into a Triton model repository; an earlier export of the same name is replaced.

    Args:
        source: a bundle, or an engine of ONNX Runtime or TensorRT.
        repository: the repository's directory, made if it is not there.
        name: of the model; by default the bundle's, with the mode where that is not ``full``.
        mode: the operating mode; by default all sensors, or what the engine was built for.
        max_batch: the largest batch; by default 8, or what a TensorRT engine was built for.
        instances: copies of the model that work side by side.
        device: by default the CPU for ONNX and the GPU for TensorRT.
        queue_delay_us: microseconds that a request may wait for others to share its batch.
        threads: of each instance on the CPU; by default this box's cores, shared among the instances.

    Raises:
        ConfigError: the settings contradict the model or each other.
        DataError: the source is neither bundle nor engine.
        ModelError: it is one, but damaged, without this mode, or nothing that Triton can run.
        OutputError: the directory cannot be written, or holds something else.
    """
    model = _model(source, mode)
    name = name or model.manifest.name + ("" if model.mode == FULL else f"-{model.mode}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(f"{name!r} is no name for a model", remedy="use letters, digits, dot, - and _ in --name")
    if model.max_batch is not None and (max_batch or 1) > model.max_batch:
        raise ConfigError(
            f"{source} takes batches of at most {model.max_batch}, not {max_batch}",
            remedy=f"build the engine with: edge-ad build-engine BUNDLE --max-batch {max_batch}",
        )
    planned = model.file_name == "model.plan"
    if planned and device == "cpu":
        raise ConfigError(f"{source} needs a GPU", why="it is a TensorRT plan", remedy="leave out --device")
    serving = Serving(
        max_batch=max_batch or model.max_batch or DEFAULT_MAX_BATCH,
        instances=instances,
        device=device or ("gpu" if planned else "cpu"),
        queue_delay_us=queue_delay_us,
        threads=threads or max(1, available_cores() // instances),
    )
    directory = repository.resolve() / name
    _write(directory, {CONFIG: config_text(name, model, serving).encode(), model.file_name: model.payload})
    return TritonExport(directory, model, serving)


def _model(source: Path, mode: str | None) -> ServedModel:
    """The graph or plan of a bundle or an engine, checked."""
    if (source / ENGINE).is_file():
        return _model_of_engine(source, mode)
    if not (source / MANIFEST).is_file():
        raise DataError(
            f"{source} is neither a bundle nor an engine",
            why=f"it holds no {MANIFEST}" if source.exists() else "it is not there",
            remedy="make a bundle with 'edge-ad export', or an engine of it with 'edge-ad build-engine'",
        )
    bundle, mode = read_bundle(source), mode or FULL
    return ServedModel(bundle.model(mode), "model.onnx", bundle.manifest, bundle.digest, mode, "fp32", None)


def _model_of_engine(source: Path, mode: str | None) -> ServedModel:
    engine = read_engine(source)
    built = engine.manifest
    if mode not in (None, built.mode):
        raise EngineError(
            f"{source} was built for mode {built.mode}, not {mode}",
            remedy=f"name the bundle, or build another engine with: edge-ad build-engine BUNDLE --mode {mode}",
        )
    # TensorRT-RTX calls itself tensorrt_rtx, and its plans are not TensorRT's.
    runtime = built.backend_version.split(" ")[0]
    if runtime not in ("onnxruntime", "tensorrt"):
        raise EngineError(
            f"{source} cannot be served by Triton",
            why=f"it was built for {built.backend_version}; a repository takes what is for ONNX Runtime or TensorRT",
            remedy="export the bundle instead, or build the engine with --backend onnxruntime or tensorrt",
        )
    file_name: Literal["model.onnx", "model.plan"] = "model.onnx" if runtime == "onnxruntime" else "model.plan"
    try:
        payload = (source / file_name).read_bytes()
    except OSError as error:
        raise EngineError(f"{source / file_name} cannot be read", why=str(error), remedy="try again") from error
    if bytes_digest(payload) != built.files[file_name]:
        raise EngineError(f"{source / file_name} has changed since it was checked", remedy="try again")
    # A plan has the shapes that it was built for; a graph takes any batch.
    limit = built.max_batch if file_name == "model.plan" else None
    manifest = engine.bundle_manifest
    return ServedModel(payload, file_name, manifest, built.bundle_digest, built.mode, built.precision, limit)


def _write(directory: Path, contents: dict[str, bytes]) -> None:
    """Writes the model aside and renames it into place."""
    try:
        _check_ours(directory)
        directory.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.new-", dir=_place_aside(directory.parent)))
        try:
            aside.chmod(0o755)  # the server is often another user
            (aside / VERSION).mkdir()
            (aside / VERSION).chmod(0o755)
            for name, content in contents.items():
                path = aside / name if name == CONFIG else aside / VERSION / name
                path.write_bytes(content)
                path.chmod(0o644)
            replace_directory(aside, directory)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise not_written(directory, error) from error


def _place_aside(repository: Path) -> Path:
    """Where to write first: beside the repository if that can be renamed from, else in it.

    Triton takes every directory in it for a model, hidden ones too, and does not start with one that is none: what a
    kill leaves behind must not be there.
    """
    parent = repository.parent
    beside = os.access(parent, os.W_OK) and parent.stat().st_dev == repository.stat().st_dev
    return parent if beside else repository


def _check_ours(directory: Path) -> None:
    """Refuses to replace anything but an empty directory or an earlier export.

    Raises:
        OutputError: something else is there.
    """
    if not directory.exists():
        return
    allowed = {VERSION, CONFIG, f"{VERSION}/model.onnx", f"{VERSION}/model.plan"}
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*")} if directory.is_dir() else {""}
    if found and (not found <= allowed or CONFIG not in found or not _is_signed(directory / CONFIG)):
        raise OutputError(
            f"{directory} is not replaced",
            why="it holds more than an earlier export of edge-ad",
            remedy="choose another --name or --output, or remove it first",
        )


def _is_signed(path: Path) -> bool:
    return f'"{SIGN}"'.encode() in path.read_bytes()
