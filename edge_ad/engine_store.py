"""The engines in a directory: what each is, whether this box can use it, and getting rid of those it cannot."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from edge_ad.backends import BACKENDS, backend_class
from edge_ad.backends.box_key import has_key, home_directory, is_signed
from edge_ad.bundle import GOLDEN, MANIFEST, THRESHOLDS
from edge_ad.engine import ENGINE, EngineManifest, box_differences, lock_path, read_engine
from edge_ad.errors import ConfigError, EdgeAdError, EngineError, MissingExtraError, OutputError
from edge_ad.files import locked
from edge_ad.settings import validated
from edge_ad.verification import Verification, verify_engine

LEFTOVER_AGE_S = 3600
"""A build directory that nothing was written to for so long belongs to a build that was killed."""

_LEFTOVER = re.compile(r"\..+\.(new|old)-[a-z0-9_]{8}")
"""As ``tempfile.mkdtemp`` names what ``edge_ad.engine`` and ``edge_ad.files`` put aside."""

State = Literal["usable", "stale", "unavailable"]


@dataclass(frozen=True, slots=True)
class StoredEngine:
    """What a directory with an ``engine.json`` is; what the file says is told even where it cannot be believed.

    Attributes:
        directory: where it is.
        state: ``usable``: whole, signed by this box and built for it as it is now; ``stale``: edited, damaged,
            foreign, or built for other hardware or versions; ``unavailable``: its backend cannot run at present
            (driver or package not there) or is unknown to this version of edge-ad, so that nothing can be said.
        reason: why it is not usable; empty if it is.
        built_at: when ``engine.json`` was written, UTC.
        size_bytes: of all its files.
        bundle_name: of the bundle that it was built from; like the rest, empty or 0 where it cannot be read.
        bundle_digest: of that bundle, sha256 (hex).
        mode: the operating mode.
        backend: what runs it.
        backend_version: package and version.
        precision: of the arithmetic.
        max_batch: the largest batch it takes.
    """

    directory: Path
    state: State
    reason: str
    built_at: datetime
    size_bytes: int
    bundle_name: str = ""
    bundle_digest: str = ""
    mode: str = ""
    backend: str = ""
    backend_version: str = ""
    precision: str = ""
    max_batch: int = 0

    def report(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return asdict(self) | {"directory": str(self.directory), "built_at": self.built_at.isoformat()}


@dataclass(frozen=True, slots=True)
class VerifiedEngine:
    """An engine, and what its golden samples said.

    Attributes:
        engine: as it was listed.
        verification: None where it could not be loaded, or was not as it is not usable.
        error: why it could not be loaded; empty otherwise.
    """

    engine: StoredEngine
    verification: Verification | None = None
    error: str = ""

    @property
    def failed(self) -> bool:
        """True if it is stale, cannot be loaded or gives other answers; one that is unavailable was not tried."""
        wrong = self.verification is not None and not self.verification.passed
        return self.engine.state == "stale" or bool(self.error) or wrong


def stored_engines(root: Path) -> list[StoredEngine]:
    """The engines in ``root`` and below it, by path; symbolic links are not followed, nothing is deserialized.

    Raises:
        EngineError: there is no such directory, or this box's key is unsafe or cannot be read.
    """
    if not root.is_dir():
        raise EngineError(
            f"{root} is not a directory", remedy="build an engine with 'edge-ad build-engine', or name its directory"
        )
    is_signed(b"", "")  # with a key that cannot be used, every engine would look foreign
    found = []
    for directory in _directories(root):
        if (directory / ENGINE).is_file():
            with contextlib.suppress(FileNotFoundError):  # a build has just put another one in its place
                found.append(_stored(directory))
    if found and not has_key():
        raise EngineError(
            f"{home_directory()} has no box key",
            why="without it nobody can tell which engines of this directory were built here",
            remedy="become the user who builds them, or set EDGE_AD_HOME as for the builds",
        )
    return found


def leftovers(root: Path, now_s: float | None = None) -> list[Path]:
    """What killed builds left in ``root`` and below it: build directories older than an hour, and nothing else in them.

    Args:
        root: where to look.
        now_s: the present, in seconds since the epoch.
    """
    limit_s = (time.time() if now_s is None else now_s) - LEFTOVER_AGE_S
    return [
        directory
        for directory in _directories(root, hidden=True)
        if _LEFTOVER.fullmatch(directory.name) and _newest_s(directory) < limit_s and not foreign_entries(directory)
    ]


def foreign_entries(directory: Path) -> list[str]:
    """Names in an engine's directory that no engine has; where there is one, the directory is not removed."""
    own = {ENGINE, MANIFEST, THRESHOLDS, GOLDEN} | {backend_class(name).payload_name for name in BACKENDS}
    return sorted(
        entry.name for entry in directory.iterdir() if entry.name not in own or entry.is_symlink() or entry.is_dir()
    )


def remove_engine(directory: Path) -> None:
    """Removes an engine or what a build left behind: its own files, and then the empty directory.

    Raises:
        OutputError: something else is in it, or it cannot be removed.
    """
    others = foreign_entries(directory)
    if others:
        raise OutputError(
            f"{directory} is not removed",
            why=f"it also holds {', '.join(others)}",
            remedy="move that elsewhere, then prune again",
        )
    try:
        # engine.json goes last: what is left of an interrupted removal is an engine that the next one finds.
        for path in sorted(directory.iterdir(), key=lambda path: path.name == ENGINE):
            path.unlink()
        directory.rmdir()
    except OSError as error:
        raise OutputError(
            f"{directory} cannot be removed", why=str(error), remedy="check its owner and permissions"
        ) from error


def remove_unusable(directory: Path) -> bool:
    """Removes an engine, or what a build left, unless a build has put a usable one there in the meantime.

    Returns:
        Whether it was removed.

    Raises:
        OutputError: as :func:`remove_engine`.
    """
    with locked(lock_path(directory)):
        if (directory / ENGINE).is_file() and _stored(directory).state == "usable":
            return False
        remove_engine(directory)
    return True


def verified_engine(engine: StoredEngine) -> VerifiedEngine:
    """Loads an engine, if it is usable, and runs its golden samples."""
    if engine.state != "usable":
        return VerifiedEngine(engine)
    try:
        return VerifiedEngine(engine, verify_engine(engine.directory))
    except EdgeAdError as error:  # of this engine; the others are to be tried too
        return VerifiedEngine(engine, error=str(error))


def _directories(root: Path, *, hidden: bool = False) -> Iterator[Path]:
    """``root`` and the directories below it, in order; an engine's own are not looked into."""
    for place, names, files in os.walk(root):
        directory = Path(place)
        is_aside = directory != root and directory.name.startswith(".")
        if hidden or not is_aside:
            yield directory
        names[:] = [] if is_aside or ENGINE in files else sorted(names)


def _stored(directory: Path) -> StoredEngine:
    claimed: EngineManifest | None = None
    name = ""
    state: State
    try:
        claimed = validated(EngineManifest, (directory / ENGINE).read_bytes(), ENGINE, EngineError)
        name = read_engine(directory).bundle_manifest.name
    except ConfigError as error:  # its backend has no name here
        state, reason = "unavailable", _sentence(error)
    except EngineError as error:
        state, reason = "stale", _sentence(error)
    else:
        state, reason = _fit(claimed)
    size_bytes = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
    built_at = datetime.fromtimestamp((directory / ENGINE).stat().st_mtime, timezone.utc)
    known: dict[str, Any] = {}
    if claimed is not None:
        fields = ("bundle_digest", "mode", "backend", "backend_version", "precision", "max_batch")
        known = {field: getattr(claimed, field) for field in fields}
    return StoredEngine(directory, state, reason, built_at, size_bytes, bundle_name=name, **known)


def _fit(manifest: EngineManifest) -> tuple[State, str]:
    """Whether this box is as it was when a sound engine was built."""
    try:
        differences = box_differences(manifest)
    except (EngineError, MissingExtraError) as error:
        return "unavailable", _sentence(error)
    return ("stale", "; ".join(differences)) if differences else ("usable", "")


def _sentence(error: EdgeAdError) -> str:
    return f"{error.what}: {error.why}" if error.why else error.what


def _newest_s(directory: Path) -> float:
    """When something in it was last written, in seconds since the epoch."""
    try:
        return max(path.stat().st_mtime for path in (directory, *directory.iterdir()))
    except FileNotFoundError:  # the build has just finished
        return time.time()
