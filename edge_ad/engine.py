"""Engines: a bundle made ready for one box, in a directory that only this box will load.

    engine.json          what it was built from, for what and on what; digests of the files; signature
    model.plan           for TensorRT, or model.onnx for ONNX Runtime and OpenVINO
    manifest.json        of the bundle
    thresholds.json      of the bundle
    reference.json       of the bundle, if it has one
    golden.safetensors   of the bundle: what the engine must answer

Nothing is deserialized before signature, digests, hardware and versions have been checked, and no engine
is used before it has given the bundle's golden answers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from edge_ad.backends import backend_class
from edge_ad.backends.base import Precision
from edge_ad.backends.box_key import is_signed, sign
from edge_ad.backends.golden import check_golden
from edge_ad.bundle import (
    FULL,
    GOLDEN,
    MANIFEST,
    REFERENCE,
    THRESHOLDS,
    Bundle,
    FileDigest,
    Manifest,
    Thresholds,
    bytes_digest,
    golden_name,
)
from edge_ad.drift.reference import Reference
from edge_ad.errors import EngineError
from edge_ad.files import locked, replace_directory, write_bytes
from edge_ad.quantization.gate import GateReport
from edge_ad.settings import Settings, validated
from edge_ad.types import Backend

__all__ = [
    "Candidate",
    "Engine",
    "EngineKey",
    "EngineManifest",
    "Request",
    "box_differences",
    "check_golden",
    "checked_engine",
    "contents_of",
    "install_engine",
    "load_engine",
    "lock_path",
    "read_engine",
]

ENGINE = "engine.json"


class Request(Settings):
    """What was asked for; ``auto`` where the fastest that passed was to be found.

    Attributes:
        backend: to run it with.
        precision: of the arithmetic.
        calibration: digest of the calibration set; empty where none was given.
        ranges: how its ranges were measured.
        defects: digest of the defective parts that it was judged by; empty where there were none.
        considered: the backends that there were to choose from, with their versions.
    """

    backend: str
    precision: str
    calibration: str = ""
    ranges: str = ""
    defects: str = ""
    considered: tuple[str, ...] = ()


class Candidate(Settings):
    """What a build found out about one way to run the model.

    Attributes:
        backend: and
        precision: which way.
        median_ms: of the engine alone, batch 1, all candidates interleaved; None if it was not usable.
        gate: how it judges; None where nothing was there to judge by, and for fp32, which is what others are judged by.
        kept: convolutions that stay in floating point so that it passes.
        sensitivity: what the search measured: the change of the map when only these layers are in INT8.
        refused: why it cannot be used; empty if it can.
    """

    backend: str
    precision: Precision
    median_ms: float | None = None
    gate: GateReport | None = None
    kept: tuple[str, ...] = ()
    sensitivity: dict[str, float] = {}
    refused: str = ""


class EngineKey(Settings):
    """What makes two engines the same: if any field differs, the engine must be built again.

    Attributes:
        bundle_digest: of the bundle it was built from.
        mode: the operating mode that it runs.
        request: what was asked for.
        backend: what runs it.
        precision: of the arithmetic.
        max_batch: the largest batch it takes.
        input_shapes: by input name; null is the batch.
        options: of the build.
        backend_version: this and the rest are as in :class:`edge_ad.backends.base.BoxFacts`.
        gpu: the GPU's name.
        compute_capability: of the GPU.
        driver: of the GPU.
        edge_ad_version: that built it; another one may convert the graph in another way.
    """

    bundle_digest: str
    mode: str
    request: Request
    backend: str
    precision: Precision
    max_batch: int = Field(ge=1)
    input_shapes: dict[str, tuple[int | None, ...]]
    options: dict[str, str]
    backend_version: str
    gpu: str
    compute_capability: str
    driver: str
    edge_ad_version: str

    @property
    def rebuild_command(self) -> str:
        """The command that builds such an engine."""
        batch = f" --max-batch {self.max_batch}" if self.max_batch > 1 else ""
        mode = f" --mode {self.mode}" if self.mode != FULL else ""
        asked = self.request
        given = " --calibration SET" if asked.calibration else ""
        given += f" --ranges {asked.ranges}" if asked.ranges not in ("", "minmax") else ""
        given += " --defects DATASET" if asked.defects else ""
        return (
            f"edge-ad build-engine BUNDLE --backend {asked.backend} --precision {asked.precision}{given}{mode}{batch}"
        )


class EngineManifest(EngineKey):
    """The content of ``engine.json``.

    Attributes:
        candidates: all that the build tried.
        files: digests of the engine's files.
        mac: the box's signature over all the rest.
    """

    schema_version: Literal[2]
    candidates: tuple[Candidate, ...]
    files: dict[str, FileDigest]
    mac: str

    @property
    def chosen(self) -> Candidate:
        """The candidate that this engine is."""
        return next(one for one in self.candidates if (one.backend, one.precision) == (self.backend, self.precision))

    def signed_content(self) -> bytes:
        """What ``mac`` signs."""
        return json.dumps(self.model_dump(mode="json", exclude={"mac"}), sort_keys=True).encode()


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine whose files have been checked."""

    directory: Path
    manifest: EngineManifest
    bundle_manifest: Manifest
    thresholds: Thresholds
    reference: Reference | None


def read_engine(directory: Path) -> Engine:
    """Checks that an engine is whole and was built on this box, without loading it.

    Raises:
        EngineError: the directory is not an engine, or a file of it is missing, edited or foreign.
    """
    engine, _ = checked_engine(directory)
    return engine


def load_engine(directory: Path, mode: str | None = None) -> tuple[Engine, Backend]:
    """Checks an engine, loads it and tries it on its golden samples.

    Args:
        directory: of the engine.
        mode: the operating mode it must be for; None for any.

    Raises:
        EngineError: as :func:`read_engine`; or it was built for another mode, GPU, driver or version, cannot be
            loaded, or its answers differ from the golden ones.
        MissingExtraError: a package that the backend needs is not installed.
    """
    engine, payload = checked_engine(directory)
    manifest = engine.manifest
    if mode not in (None, manifest.mode):
        raise EngineError(
            f"{directory} was built for mode {manifest.mode}, not {mode}",
            remedy=f"build another one with: edge-ad build-engine BUNDLE --mode {mode}"
            if mode in engine.bundle_manifest.modes
            else f"its model has {', '.join(engine.bundle_manifest.modes)}",
        )
    kind = backend_class(manifest.backend)
    differences = box_differences(manifest)
    if differences:
        raise EngineError(
            f"{directory} was not built for this box as it is now",
            why="; ".join(differences),
            remedy=f"build it again: {manifest.rebuild_command}",
        )
    backend = kind.open(payload, source=str(directory / kind.payload_name), precision=manifest.precision)
    try:
        check_golden(backend, directory / GOLDEN, manifest.precision, manifest.max_batch)
    except BaseException:
        backend.close()
        raise
    return engine, backend


def box_differences(manifest: EngineKey) -> list[str]:
    """What of this box is not as it was when the engine was built, in words.

    Raises:
        ConfigError: this version of edge-ad does not know the engine's backend.
        EngineError: the hardware or driver is not there.
        MissingExtraError: the runtime is not installed.
    """
    here, there = asdict(backend_class(manifest.backend).box_facts()), manifest.model_dump()
    return [f"{name} was {there[name]!r} and is {here[name]!r}" for name in here if here[name] != there[name]]


def contents_of(bundle: Bundle, mode: str, payload_name: str, payload: bytes) -> dict[str, bytes]:
    """The files of an engine by name: what the box needs of the bundle, and the payload."""
    names = {MANIFEST: MANIFEST, THRESHOLDS: THRESHOLDS, golden_name(mode): GOLDEN}
    names |= {REFERENCE: REFERENCE} if REFERENCE in bundle.manifest.files else {}
    return {name: bundle.content(source) for source, name in names.items()} | {payload_name: payload}


def lock_path(directory: Path) -> Path:
    """The lock of whoever changes an engine's directory."""
    return directory.with_name(f".{directory.name}.lock")


def install_engine(
    directory: Path, key: EngineKey, candidates: tuple[Candidate, ...], contents: dict[str, bytes]
) -> Engine:
    """Writes an engine aside, loads it from there and, if that works, puts it into place.

    Of two builds that end at the same time the later one stays.

    Raises:
        EngineError: it does not give the golden answers, or cannot be written.
    """
    files = {name: bytes_digest(content) for name, content in contents.items()}
    unsigned = EngineManifest(**key.model_dump(), schema_version=2, candidates=candidates, files=files, mac="")
    manifest = unsigned.model_copy(update={"mac": sign(unsigned.signed_content())})
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.new-", dir=directory.parent))
        try:
            for name, content in contents.items():
                write_bytes(aside / name, content)
            write_bytes(aside / ENGINE, (manifest.model_dump_json(indent=2) + "\n").encode())
            engine, backend = load_engine(aside)
            backend.close()
            with locked(lock_path(directory)):
                replace_directory(aside, directory)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise EngineError(
            f"{directory} cannot be written", why=str(error), remedy="free disk space or name another directory"
        ) from error
    return replace(engine, directory=directory)


def checked_engine(directory: Path) -> tuple[Engine, bytes]:
    """The engine and its payload, of which every byte has been checked.

    Raises:
        EngineError: as :func:`read_engine`.
    """
    again = "build it again: edge-ad build-engine BUNDLE"
    path = directory / ENGINE
    if not path.is_file():
        raise EngineError(f"{directory} is not an engine", why=f"it has no {ENGINE}", remedy=again)
    manifest = validated(EngineManifest, _bytes(path, again), str(path), EngineError, again)
    again = f"build it again: {manifest.rebuild_command}"
    if not is_signed(manifest.signed_content(), manifest.mac):
        raise EngineError(
            f"{path} is not signed by this box",
            why="it was edited, or the engine was built on another box or by another user",
            remedy=again,
        )
    payload_name = backend_class(manifest.backend).payload_name
    contents = {}
    optional = (REFERENCE,) if REFERENCE in manifest.files else ()
    for name in (payload_name, MANIFEST, THRESHOLDS, GOLDEN, *optional):
        contents[name] = _bytes(directory / name, again)
        if bytes_digest(contents[name]) != manifest.files.get(name):
            raise EngineError(
                f"{directory / name} is not the file that was built", why="its sha256 differs", remedy=again
            )
    bundle_manifest = validated(Manifest, contents[MANIFEST], str(directory / MANIFEST), EngineError, again)
    thresholds = validated(Thresholds, contents[THRESHOLDS], str(directory / THRESHOLDS), EngineError, again)
    bundle = Bundle(directory, bundle_manifest, thresholds)
    if bundle.digest != manifest.bundle_digest:
        raise EngineError(
            f"{directory} was built from another bundle", why=f"the digests in {MANIFEST} differ", remedy=again
        )
    reference = None
    if optional:
        reference = validated(Reference, contents[REFERENCE], str(directory / REFERENCE), EngineError, again)
    return Engine(directory, manifest, bundle_manifest, thresholds, reference), contents[payload_name]


def _bytes(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise EngineError(f"{path.parent} is incomplete", why=f"{path.name} is missing", remedy=remedy) from error
    except OSError as error:
        raise EngineError(f"{path} cannot be read", why=str(error), remedy=remedy) from error
