"""Builds an engine: of all ways to run a model on this box, the fastest that provably judges like it.

Each candidate (a backend and a precision) is built, opened and tried on the golden samples. One in fewer bits than
float32 must pass the accuracy gate on the calibration set's other frames; an INT8 candidate that does not gets its
worst layers back in floating point until it does. Those that are left are timed side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from edge_ad import __version__
from edge_ad.backends import BackendName, backend_class, usable_backends
from edge_ad.backends.base import QUANTIZED, Precision, Progress
from edge_ad.bundle import FULL, Bundle, Threshold
from edge_ad.candidates import Build, Evidence
from edge_ad.engine import (
    ENGINE,
    Candidate,
    Engine,
    EngineKey,
    Request,
    box_differences,
    checked_engine,
    contents_of,
    install_engine,
)
from edge_ad.errors import ConfigError, EdgeAdError, EngineError
from edge_ad.settings import validated

PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "int8", "int8_fp16"]


def _silent(message: str) -> None:
    """Tells nobody."""


def build_engine(
    bundle: Bundle,
    directory: Path,
    *,
    backend: BackendName,
    precision: PrecisionName,
    mode: str = FULL,
    max_batch: int = 1,
    evidence: Evidence | None = None,
    progress: Progress | None = None,
) -> Engine:
    """Builds an engine for this box and tries it on the bundle's golden samples.

    An engine that is already in ``directory`` stays until the new one has passed. If it was built from the
    same bundle under the same conditions, its payload is used again and only the thresholds are new.

    Args:
        bundle: what to build.
        directory: the engine's directory, made or replaced.
        backend: ``auto`` tries TensorRT where it can run, otherwise all that run on the CPU.
        precision: ``auto`` tries all that can be judged. Where an INT8 engine does not pass, the best that does is
            built in its place: see ``Engine.manifest.candidates``.
        mode: the operating mode to run: all sensors, or fewer.
        max_batch: the largest batch that will be run.
        evidence: what to judge by; INT8 and BF16 need a calibration set.
        progress: called with short messages while the build goes on.

    Raises:
        ConfigError: a setting is out of range, or INT8 is asked for without a calibration set.
        BundleError: the bundle has no such mode, or has changed since it was opened.
        DataError: the calibration set is damaged, or was made for another model.
        EngineError: the backend cannot build or run it here, its answers differ from the golden ones, or the
            directory cannot be written or holds something else.
        MissingExtraError: a package that the backend needs is not installed.
    """
    if max_batch < 1:
        raise ConfigError(f"max_batch {max_batch} is too small", remedy="use 1 or more")
    directory, evidence = directory.resolve(), evidence or Evidence()
    if directory.is_file() or (directory.is_dir() and not (directory / ENGINE).is_file() and any(directory.iterdir())):
        raise EngineError(
            f"{directory} is not an engine", why="something else is there", remedy="name a new or empty directory"
        )
    backends = usable_backends(backend)
    planned = _planned(backends, precision, judged=evidence.calibration is not None)
    request = Request(
        backend=backend,
        precision=precision,
        calibration=evidence.calibration.digest if evidence.calibration else "",
        ranges=evidence.ranges if evidence.calibration else "",
        defects=evidence.defects_digest,
        considered=tuple(backend_class(name).box_facts().backend_version for name in backends),
    )
    before = _built_before(directory, bundle, request, mode, max_batch)
    build = None
    if before is not None:
        engine, payload = before
        key = EngineKey(**{name: getattr(engine.manifest, name) for name in EngineKey.model_fields})
        name, candidates = backend_class(key.backend).payload_name, engine.manifest.candidates
        if engine.manifest.chosen.gate is not None and engine.thresholds.modes.get(mode) != _threshold(bundle, mode):
            # The gate looks at what the threshold makes of the scores.
            build = Build(bundle, mode, max_batch, evidence, progress or _silent)
            again = build.judged(engine.manifest.chosen, payload)
            candidates = tuple(again if one == engine.manifest.chosen else one for one in candidates)
        if not any(one.refused for one in candidates if (one.backend, one.precision) == (key.backend, key.precision)):
            return install_engine(directory, key, candidates, contents_of(bundle, mode, name, payload))
    build = build or Build(bundle, mode, max_batch, evidence, progress or _silent)
    candidates, chosen, payload = _fastest(build, planned, backends)
    key = _key(bundle, chosen, request, mode, max_batch)
    name = backend_class(chosen.backend).payload_name
    return install_engine(directory, key, candidates, contents_of(bundle, mode, name, payload))


def _fastest(
    build: Build, planned: Sequence[tuple[str, Precision]], backends: Sequence[str]
) -> tuple[tuple[Candidate, ...], Candidate, bytes]:
    """Tries all that is planned; what was found out, the fastest that can be used, and its payload.

    Raises:
        EngineError: none can be used.
    """
    built = build.timed([build.candidate(*one) for one in planned])
    for index, (candidate, _) in sorted(enumerate(built), key=lambda item: item[1][0].median_ms or 0.0):
        refused = candidate.refused and candidate.gate is not None and candidate.precision in QUANTIZED
        best = min((one.median_ms or 0.0 for one, _ in built if not one.refused), default=math.inf)
        # With layers back in floating point it would be slower still.
        if refused and (candidate.median_ms or 0.0) < best:
            built[index] = build.mended(candidate)
            if not built[index][0].refused:
                built = build.timed(built)
    if all(one.refused for one, _ in built) and any(one in QUANTIZED for _, one in planned):
        others = [one for one in _in_its_place(backends) if one not in planned]
        built += build.timed([build.candidate(*one) for one in others])
    usable = [one for one in built if not one[0].refused]
    if not usable:
        reasons = "; ".join(f"{one.backend} {one.precision}: {one.refused}" for one, _ in built)
        raise EngineError(
            f"no engine of {build.bundle.directory} can be used here",
            why=reasons,
            remedy="try another --backend, and report this",
        )
    chosen, payload = min(usable, key=lambda pair: pair[0].median_ms or 0.0)
    return tuple(one for one, _ in built), chosen, payload


def _planned(backends: Sequence[str], precision: PrecisionName, *, judged: bool) -> list[tuple[str, Precision]]:
    """The candidates to try.

    Raises:
        ConfigError: no backend computes in the precision, or nothing is there to judge it by.
    """
    if not judged and precision in (*QUANTIZED, "bf16"):
        raise ConfigError(
            f"{precision} needs a calibration set",
            why="good frames tell its ranges, and whether it judges as the model does",
            remedy="make one with 'edge-ad calibrate BUNDLE DATASET' and pass it with --calibration",
        )
    planned: list[tuple[str, Precision]] = []
    for name in backends:
        offered = backend_class(name).precisions
        wanted: Sequence[Precision] = offered if precision == "auto" else (precision,)
        unjudged: tuple[Precision, ...] = ("fp32", "fp16")
        planned += [
            (name, one) for one in wanted if one in offered and (judged or precision != "auto" or one in unjudged)
        ]
    if not planned:
        offered_by = "; ".join(f"{name}: {', '.join(backend_class(name).precisions)}" for name in backends)
        raise ConfigError(
            f"nothing here computes in {precision}", why=f"there is {offered_by}", remedy="choose one of these"
        )
    return planned


def _in_its_place(backends: Sequence[str]) -> list[tuple[str, Precision]]:
    """What to build where no quantised engine passes: FP16 and FP32 where there is FP16, FP32 elsewhere."""
    places: list[tuple[str, Precision]] = []
    for name in backends:
        half: tuple[Precision, ...] = ("fp16",) if "fp16" in backend_class(name).precisions else ()
        places += [(name, one) for one in (*half, "fp32")]
    return places


def _key(bundle: Bundle, chosen: Candidate, request: Request, mode: str, max_batch: int) -> EngineKey:
    kind = backend_class(chosen.backend)
    settings = {
        "bundle_digest": bundle.digest,
        "mode": mode,
        "request": request.model_dump(),
        "backend": chosen.backend,
        "precision": chosen.precision,
        "max_batch": max_batch,
        "input_shapes": {tensor.name: tensor.shape for tensor in bundle.mode(mode).inputs},
        "options": dict(kind.options),
        "edge_ad_version": __version__,
        **asdict(kind.box_facts()),
    }
    return validated(EngineKey, settings, "the engine's settings")


def _threshold(bundle: Bundle, mode: str) -> Threshold | None:
    return bundle.thresholds.modes.get(mode)


def _built_before(
    directory: Path, bundle: Bundle, request: Request, mode: str, max_batch: int
) -> tuple[Engine, bytes] | None:
    """The engine in ``directory``, with its payload, if it is sound and was built for the same request on this box."""
    try:
        engine, payload = checked_engine(directory)
        manifest = engine.manifest
        same = (manifest.bundle_digest, manifest.request, manifest.mode, manifest.max_batch, manifest.edge_ad_version)
        if same != (bundle.digest, request, mode, max_batch, __version__) or box_differences(manifest):
            return None
        if manifest.options != dict(backend_class(manifest.backend).options):
            return None
    except EdgeAdError:  # damaged, foreign, or of a version that knows other backends
        return None
    return engine, payload
