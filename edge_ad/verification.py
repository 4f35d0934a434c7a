"""Do the backends of this box give the golden answers, and the same ones for a frame alone and in a batch?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edge_ad.backends import BACKENDS, backend_class
from edge_ad.backends.base import Precision
from edge_ad.backends.golden import OutputDifference, batch_differences, golden_differences
from edge_ad.bundle import GOLDEN, Bundle, bytes_digest, golden_name, model_name
from edge_ad.engine import Engine, box_differences, read_engine
from edge_ad.errors import EngineError, MissingExtraError
from edge_ad.types import Backend

BATCH = 4
"""The batch that a bundle's graphs are tried with; an engine is tried with the largest that it was built for."""

Verdict = Literal["passed", "failed", "skipped"]
Kind = Literal["golden", "batch"]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison.

    Attributes:
        backend: what ran.
        mode: the operating mode.
        precision: of the arithmetic.
        kind: ``golden``: against the golden outputs; ``batch``: a frame in a batch against the frame alone.
        verdict: ``skipped`` where it could not be tried here, ``failed`` also where a backend that is here cannot
            run the model.
        output: the one nearest to, or farthest beyond, its tolerance; empty if nothing ran.
        difference: the largest absolute difference of it, in its own unit; None if nothing ran or there is no
            comparing (missing, another shape, not a number).
        allowed: the largest difference that passes; None if nothing ran.
        reason: why it was skipped or has failed; empty otherwise.
    """

    backend: str
    mode: str
    precision: Precision
    kind: Kind
    verdict: Verdict
    output: str = ""
    difference: float | None = None
    allowed: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """All comparisons of one bundle or engine."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True if something was tried and nothing failed."""
        verdicts = {check.verdict for check in self.checks}
        return "passed" in verdicts and "failed" not in verdicts

    def report(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def verify_bundle(bundle: Bundle, backend: str | None = None, progress: Progress | None = None) -> Verification:
    """Builds every operating mode in fp32 for every backend that can run here, in memory, and tries it.

    Args:
        bundle: what to verify.
        backend: only this one; by default all that edge-ad has.
        progress: called with what is being tried.

    Raises:
        ConfigError: no backend has this name.
        BundleError: a file of the bundle has changed since it was opened.
    """
    checks: list[Check] = []
    for name in BACKENDS if backend is None else (backend,):
        unable = _why_not_here(name)
        for mode in bundle.manifest.modes:
            if unable:
                checks += [Check(name, mode, "fp32", kind, "skipped", reason=unable) for kind in ("golden", "batch")]
                continue
            if progress is not None:
                progress(f"{name}, {mode}")
            checks += _verified_mode(bundle, name, mode)
    return Verification(tuple(checks))


def verify_engine(directory: Path) -> Verification:
    """Tries an engine as it was built.

    Args:
        directory: of the engine.

    Raises:
        EngineError: it is not an engine of this box as it is now, see :func:`edge_ad.engine.load_engine`; or it
            cannot be loaded.
        MissingExtraError: a package that its backend needs is not installed.
    """
    engine = read_engine(directory)
    manifest = engine.manifest
    differences = box_differences(manifest)
    if differences:
        raise EngineError(
            f"{directory} was not built for this box as it is now",
            why="; ".join(differences),
            remedy=f"build it again: {manifest.rebuild_command}",
        )
    opened = _open_checked(engine)
    subject = (manifest.backend, manifest.mode, manifest.precision)
    return Verification(tuple(_checks(opened, directory / GOLDEN, subject, manifest.max_batch)))


def _open_checked(engine: Engine) -> Backend:
    """Loads the payload, whose bytes must still be those that ``engine.json`` lists."""
    kind = backend_class(engine.manifest.backend)
    path = engine.directory / kind.payload_name
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read", why=str(error), remedy="run the command again") from error
    if bytes_digest(payload) != engine.manifest.files[kind.payload_name]:
        raise EngineError(f"{path} has just been changed", remedy="run the command again")
    return kind.open(payload, source=str(path), precision=engine.manifest.precision)


def _why_not_here(name: str) -> str:
    """Why a backend cannot run on this box; empty if it can.

    Raises:
        ConfigError: no backend has this name.
    """
    try:
        kind = backend_class(name)
        kind.box_facts()
    except (EngineError, MissingExtraError) as error:
        return f"{error.what}: {error.why}" if error.why else error.what
    return "" if "fp32" in kind.precisions else f"{name} does not compute in fp32"


def _verified_mode(bundle: Bundle, name: str, mode: str) -> Iterator[Check]:
    kind = backend_class(name)
    source = str(bundle.directory / model_name(mode))
    try:
        payload = kind.build(bundle.model(mode), source=source, precision="fp32", max_batch=BATCH, progress=None)
        backend = kind.open(payload, source=source, precision="fp32")
    except (EngineError, MissingExtraError) as error:
        yield from (Check(name, mode, "fp32", it, "failed", reason=str(error)) for it in ("golden", "batch"))
        return
    yield from _checks(backend, bundle.directory / golden_name(mode), (name, mode, "fp32"), BATCH)


def _checks(
    backend: Backend, golden_path: Path, subject: tuple[str, str, Precision], max_batch: int
) -> Iterator[Check]:
    """Both comparisons; closes the backend."""
    precision = subject[2]
    try:
        yield _check(subject, "golden", lambda: golden_differences(backend, golden_path, precision, max_batch=1))
        sizes = {spec.shape[0] for spec in backend.inputs}
        if max_batch == 1 or sizes != {None}:
            yield Check(*subject, "batch", "skipped", reason="it takes one frame at a time")
            return
        yield _check(subject, "batch", lambda: batch_differences(backend, golden_path, precision, max_batch))
    finally:
        backend.close()


def _check(
    subject: tuple[str, str, Precision], kind: Kind, compare: Callable[[], tuple[OutputDifference, ...]]
) -> Check:
    try:
        found = compare()
    except EngineError as error:
        return Check(*subject, kind, "failed", reason=str(error))
    worst = max(found, key=lambda item: (not item.passes, item.difference / max(item.allowed, 1e-30)))
    finite = math.isfinite(worst.difference)
    return Check(
        *subject,
        kind,
        "passed" if worst.passes else "failed",
        worst.output,
        worst.difference if finite else None,
        worst.allowed if math.isfinite(worst.allowed) else None,
        "" if finite else f"{worst.output} is missing, of another shape or not a number",
    )
