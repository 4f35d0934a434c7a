"""A frame in, an anomaly result out, whatever runs the model: checkpoint, bundle, engine or a server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ad.backends.golden import check_golden
from edge_ad.backends.kserve import open_served
from edge_ad.backends.kserve_uri import ServedModelUri
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import (
    FULL,
    MANIFEST,
    MODEL,
    RGB_ONLY,
    THREE_D_ONLY,
    Bundle,
    InputSpec,
    Manifest,
    RigReference,
    Thresholds,
    golden_name,
    model_name,
    read_bundle,
)
from edge_ad.drift.reference import Reference
from edge_ad.engine import ENGINE, load_engine
from edge_ad.errors import BundleError, DataError
from edge_ad.extras import require
from edge_ad.feeds import REMEDY, feeds_from_frame, map_on_frame
from edge_ad.types import AnomalyResult, Backend, Frame


@dataclass(frozen=True, slots=True)
class Predictor:
    """A loaded model.

    Attributes:
        backend: what runs it.
        spec: how frames feed it.
        thresholds: by operating mode.
        model_id: digest of the bundle, or of the checkpoint.
        description: one line for people.
        mode: the operating mode.
        reference: what good frames were like in training; None where an older version made the model.
        rig: that it was trained for, where it is known.
    """

    backend: Backend
    spec: InputSpec
    thresholds: Thresholds
    model_id: str
    description: str
    mode: str = FULL
    reference: Reference | None = None
    rig: RigReference | None = None

    def __call__(self, frame: Frame) -> AnomalyResult:
        """Judges one frame.

        Raises:
            DataError: the frame does not fit the model.
            EngineError: the backend failed.
        """
        started = time.perf_counter_ns()
        feeds = feeds_from_frame(
            frame, self.spec, [tensor.name for tensor in self.backend.inputs], self._remedy_without
        )
        fed = time.perf_counter_ns()
        outputs = self.backend.run(feeds)
        ran = time.perf_counter_ns()
        anomaly_map = map_on_frame(outputs["anomaly_map"][0], self.spec.roi, self.spec.frame_size_px)
        placed = time.perf_counter_ns()
        return AnomalyResult(
            anomaly_map=anomaly_map,
            score=float(outputs["score"][0]),
            modality_maps={
                name.removeprefix("map_"): array[0] for name, array in outputs.items() if name.startswith("map_")
            },
            latency_ms={
                "feed": (fed - started) / 1e6,
                "engine": (ran - fed) / 1e6,
                "map": (placed - ran) / 1e6,
            },
            model_id=self.model_id,
        )

    @property
    def threshold(self) -> float:
        """Of the operating mode.

        Raises:
            BundleError: it has none.
        """
        threshold = self.thresholds.modes.get(self.mode)
        if threshold is None:
            raise BundleError(
                f"{self.description} has no threshold",
                why=f"none is known for mode {self.mode!r}",
                remedy="set one with 'edge-ad threshold', or export it again",
            )
        return threshold.value

    def _remedy_without(self, name: str) -> str:
        """What to do where a frame lacks this input."""
        mode = THREE_D_ONLY if name == "rgb" else RGB_ONLY
        if self.mode != FULL or mode not in self.thresholds.modes:
            return REMEDY
        return (
            f"use a camera that delivers it; or go on without, with --mode {mode} "
            f"(an engine is built for that: edge-ad build-engine BUNDLE --mode {mode})"
        )

    def close(self) -> None:
        """Frees the backend."""
        self.backend.close()


def is_uri(model: str | Path) -> bool:
    """Whether a model is named by the URI of a server that runs it, and not by its path."""
    return "://" in str(model)


def open_predictor(model: str | Path, mode: str | None = None) -> Predictor:
    """Opens a run's directory or checkpoint, a bundle or one of its graphs, an engine, or a served model.

    Args:
        model: its path, or a URI as in ``edge_ad.backends.kserve_uri``.
        mode: the operating mode; by default all sensors, or what an engine or a graph was made for.

    Raises:
        ConfigError: the URI cannot be understood.
        DataError: the path is none of these.
        ModelError: it is one, but damaged or not for this box, or has no such mode; or the server does not run it.
        MissingExtraError: it is a checkpoint and torch is not installed, or served and its client is not.
    """
    if is_uri(model):
        return _served(ServedModelUri.parse(str(model)), mode)
    path = Path(model)
    directory = path.parent if path.name == MODEL else path
    if (directory / ENGINE).is_file():
        engine, backend = load_engine(directory, mode)
        built = engine.manifest
        described = _described(engine.bundle_manifest, built.mode, f"{built.backend} {built.precision}")
        spec = engine.bundle_manifest.input
        known = (engine.thresholds, built.bundle_digest, described, built.mode, engine.reference)
        return Predictor(backend, spec, *known, engine.bundle_manifest.training_data.rig)
    if path.suffix == ".onnx" and (path.parent / MANIFEST).is_file():
        graphs = {model_name(name): name for name in read_bundle(path.parent).manifest.modes}
        if path.name in graphs:
            directory, mode = path.parent, mode or graphs[path.name]
    mode = mode or FULL
    if (directory / MANIFEST).is_file():
        return bundle_predictors(read_bundle(directory), [mode])[0]
    if path.suffix == ".safetensors" or (path / "checkpoint.safetensors").is_file():
        require("torch", extra="train")
        from edge_ad.backends.torch import open_checkpoint

        backend, spec, thresholds, model_id, described, reference = open_checkpoint(path, mode)
        return Predictor(backend, spec, thresholds, model_id, described, mode, reference)
    raise DataError(
        f"{path} is no model",
        why="it is not there" if not path.exists() else f"it holds neither {ENGINE} nor {MANIFEST} nor a checkpoint",
        remedy="give a run of 'edge-ad train', a bundle of 'edge-ad export', or an engine of 'edge-ad build-engine'",
    )


def bundle_predictors(bundle: Bundle, modes: Sequence[str]) -> list[Predictor]:
    """Opens a bundle's graphs for these operating modes; they share their weights.

    Raises:
        BundleError, EngineError: it has no such mode, or is damaged.
    """
    weights, reference, manifest = bundle.weights(), bundle.reference(), bundle.manifest
    predictors = []
    for mode in modes:
        graph, own = bundle.model_parts(mode, weights)
        backend = OnnxRuntimeBackend(graph, source=str(bundle.directory / model_name(mode)), weights=own)
        check_golden(backend, bundle.directory / golden_name(mode), "fp32")
        known = (bundle.thresholds, bundle.digest, _described(manifest, mode, "onnx"), mode, reference)
        predictors.append(Predictor(backend, manifest.input, *known, manifest.training_data.rig))
    return predictors


def _served(uri: ServedModelUri, mode: str | None) -> Predictor:
    backend, bundle, mode = open_served(uri, mode)
    described = _described(bundle.manifest, mode, f"{backend.name} {uri.precision}")
    known = (bundle.thresholds, bundle.digest, described, mode, bundle.reference())
    return Predictor(backend, bundle.manifest.input, *known, bundle.manifest.training_data.rig)


def _described(manifest: Manifest, mode: str, runtime: str) -> str:
    return f"{manifest.model} {'+'.join(manifest.modes[mode].modalities)}, {runtime}"
