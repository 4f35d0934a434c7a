"""One way to run a model on this box: built, opened, tried on the golden samples, judged by the gate, timed."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge_ad.backends import backend_class
from edge_ad.backends.base import QUANTIZED, EngineBackend, Precision, Progress, QuantizationStyle
from edge_ad.backends.golden import check_golden, read_golden_inputs
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import Bundle, golden_name, model_name
from edge_ad.data import Dataset
from edge_ad.data.digest import frames_digest
from edge_ad.engine import Candidate
from edge_ad.errors import DataError, EngineError
from edge_ad.feeds import feeds_from_frame
from edge_ad.quantization.calibration import CalibrationSet, RangeMethod
from edge_ad.quantization.gate import Gate, Labelled, Run
from edge_ad.types import AnyArray, BoolArray

if TYPE_CHECKING:  # their modules load onnx, which a line that runs what is built does without
    from edge_ad.quantization.ranges import Ranges
    from edge_ad.quantization.sensitivity import Sweep

WARM_UP, ROUNDS = 3, 15
SEARCH_BUDGET_S = 240.0


@dataclass(frozen=True)
class Evidence:
    """What engines are judged by, beside the golden samples.

    Attributes:
        calibration: the set, whose gate frames are judged.
        ranges: how ranges are measured on its other frames.
        defects: a test set with masks at the network's size, and its digest.
    """

    calibration: CalibrationSet | None = None
    ranges: RangeMethod = "minmax"
    defects: Labelled | None = None
    defects_digest: str = ""


@dataclass
class Build:
    """One model in one operating mode, on its way to an engine."""

    bundle: Bundle
    mode: str
    max_batch: int
    evidence: Evidence
    progress: Progress
    model: bytes = field(init=False)
    gate: Gate | None = field(init=False)
    _measured: Ranges | None = field(init=False, default=None)
    _sweeps: dict[QuantizationStyle, Sweep] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.model = self.bundle.model(self.mode)
        self.source = str(self.bundle.directory / model_name(self.mode))
        self.names = [tensor.name for tensor in self.bundle.mode(self.mode).inputs]
        self.gate = None
        frames = self.evidence.calibration
        if frames is not None:
            frames.check_fits(self.bundle)
            self.progress("judging the gate's frames in fp32")
            threshold = self.bundle.thresholds.modes.get(self.mode)
            with closing(OnnxRuntimeBackend.open(self.model, source=self.source)) as reference:
                self.gate = Gate(
                    reference.run,
                    list(frames.feeds("gate", self.names)),
                    None if threshold is None else threshold.value,
                    self.evidence.defects,
                )

    def candidate(self, backend: str, precision: Precision) -> tuple[Candidate, bytes]:
        """Builds and judges one way to run the model, with all layers in its precision.

        Returns:
            What was found out, and the payload; that is there also where the gate was not passed.
        """
        kind, tried = backend_class(backend), Candidate(backend=backend, precision=precision)
        self.progress(f"{backend} {precision}: building")
        try:
            return self._judged(kind, tried)
        except EngineError as error:
            return tried.model_copy(update={"refused": str(error)}), b""

    def mended(self, candidate: Candidate) -> tuple[Candidate, bytes]:
        """A quantised candidate that did not pass, with as many layers back in floating point as it takes.

        Returns:
            What was found out, and the payload; the candidate as it was and nothing where half of the layers
            are not enough.
        """
        from edge_ad.quantization.sensitivity import convolutions, layers_to_keep, sweep

        kind, label = backend_class(candidate.backend), f"{candidate.backend} {candidate.precision}"
        gate, layers = self._gate(), convolutions(self.model)

        @contextmanager
        def opened(kept: Collection[str]) -> Iterator[Run]:
            model = self._model(kind, candidate, kept)
            # Where building takes minutes, ONNX Runtime computes what the graph says, node by node.
            with closing(
                OnnxRuntimeBackend(model, source=self.source, optimize=False)
                if kind.quantization == "tensorrt"
                else kind.open(model, source=self.source, precision=candidate.precision)
            ) as backend:
                yield backend.run

        def told(text: str) -> None:
            self.progress(f"{label} does not pass; {text}")

        try:
            if kind.quantization not in self._sweeps:
                self._sweeps[kind.quantization] = sweep(layers, gate, opened, budget_s=SEARCH_BUDGET_S, progress=told)
            found = self._sweeps[kind.quantization]
            kept = layers_to_keep(found, len(layers), gate, opened, told)
            if kept is None:
                return candidate, b""
            mended, payload = self._judged(kind, candidate.model_copy(update={"refused": ""}), kept)
        except EngineError as error:
            return candidate.model_copy(update={"refused": str(error)}), b""
        errors = {name: round(value, 6) for name, value in found.errors.items()}
        return mended.model_copy(update={"kept": kept, "sensitivity": errors}), payload

    def _judged(
        self, kind: type[EngineBackend], tried: Candidate, kept: Collection[str] = ()
    ) -> tuple[Candidate, bytes]:
        payload = kind.build(
            self._model(kind, tried, kept),
            source=self.source,
            precision=tried.precision,
            max_batch=self.max_batch,
            progress=self.progress,
        )
        return self.judged(tried, payload), payload

    def judged(self, tried: Candidate, payload: bytes) -> Candidate:
        """The candidate with what the gate says of its payload, which must also give the golden answers.

        Raises:
            EngineError: it cannot be opened or run; or it gives other answers and there is no gate to judge it by.
        """
        kind = backend_class(tried.backend)
        golden = self.bundle.directory / golden_name(self.mode)
        with closing(kind.open(payload, source=self.source, precision=tried.precision)) as backend:
            if tried.precision == "fp32" or self.gate is None:
                check_golden(backend, golden, tried.precision, self.max_batch)
                return tried
            self.progress(f"{tried.backend} {tried.precision}: judging")
            report = self.gate.report(backend.run)
            reasons = list(report.failed)
            try:
                check_golden(backend, golden, tried.precision, self.max_batch)
            except EngineError as error:
                reasons.append(f"{error.what}, {error.why}")
        return tried.model_copy(update={"gate": report, "refused": "; ".join(reasons)})

    def _gate(self) -> Gate:
        assert self.gate is not None, "quantised engines are planned only where a calibration set is"
        return self.gate

    def _ranges(self, tried: Candidate) -> Ranges:
        from edge_ad.quantization.ranges import ranges_of

        frames = self.evidence.calibration
        assert frames is not None
        if self._measured is None:
            total = len(frames.recipe.calibration)
            self._measured = ranges_of(
                self.model,
                frames,
                self.names,
                self.evidence.ranges,
                lambda done: self.progress(f"{tried.backend} {tried.precision}: ranges of {done} of {total} frames"),
            )
        return self._measured

    def _model(self, kind: type[EngineBackend], tried: Candidate, kept: Collection[str]) -> bytes:
        """The graph as the backend takes it."""
        from edge_ad.quantization.graph import quantized_model
        from edge_ad.quantization.lint import lint

        if tried.precision not in QUANTIZED:
            return self.model
        model = quantized_model(self.model, self._ranges(tried), kind.quantization, kept)
        for finding in lint(model, kind.quantization)[:1]:
            raise EngineError(
                f"the quantised {self.source} breaks the rule {finding.rule}",
                why=f"{finding.node}: {finding.what} ({finding.why})",
                remedy="report this; until then use another precision",
            )
        return model

    def timed(self, built: Sequence[tuple[Candidate, bytes]]) -> list[tuple[Candidate, bytes]]:
        """The same with their median milliseconds; all take turns, so that a busy machine slows all alike."""
        golden = read_golden_inputs(self.bundle.directory / golden_name(self.mode))
        feeds = {name: array[:1] for name, array in golden.items()}
        self.progress("timing")
        with ExitStack() as stack:
            steps: dict[int, Callable[[], object]] = {}
            tried = list(built)
            for index, (one, payload) in enumerate(built):
                try:
                    if payload:
                        opened = backend_class(one.backend).open(payload, source=self.source, precision=one.precision)
                        backend = stack.enter_context(closing(opened))
                        backend.run(feeds)
                        steps[index] = partial(backend.run, feeds)
                except EngineError as error:  # for instance when there is no room for all of them
                    tried[index] = one.model_copy(update={"refused": str(error)}), b""
            for index, times in zip(steps, interleaved_ms(list(steps.values())), strict=True):
                one, payload = tried[index]
                tried[index] = one.model_copy(update={"median_ms": round(statistics.median(times), 3)}), payload
        return tried


def interleaved_ms(steps: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Milliseconds of each step, in turns, after some rounds to warm up."""
    times: list[list[float]] = [[] for _ in steps]
    for index in range(WARM_UP + ROUNDS):
        for step, kept in zip(steps, times, strict=True):
            started = time.perf_counter_ns()
            step()
            if index >= WARM_UP:
                kept.append((time.perf_counter_ns() - started) / 1e6)
    return times


def defects_from_dataset(bundle: Bundle, mode: str, dataset: Dataset) -> tuple[Labelled, str]:
    """The test split of a data set to judge by, masks at the network's size, and its digest.

    Raises:
        DataError: it has no test split with good and defective parts, a mask is missing, or a frame does not fit.
    """
    spec, info = bundle.manifest.input, bundle.mode(mode)
    names = [tensor.name for tensor in info.inputs]
    size = next(tensor.shape for tensor in info.outputs if tensor.name == "anomaly_map")[1:]
    items = list(dataset.frames("test"))
    feeds: list[Mapping[str, AnyArray]] = []
    masks: list[BoolArray | None] = []
    for item in items:
        feeds.append(feeds_from_frame(item.frame, spec, names))
        if not item.is_anomalous:
            masks.append(None)
            continue
        if item.gt_mask is None:
            raise DataError(f"{item.path} has no mask", why="the gate compares AUPRO", remedy="add its mask to gt/")
        mask = spec.roi.crop(item.gt_mask).astype(np.float32)
        masks.append(cv2.resize(mask, (int(size[1] or 0), int(size[0] or 0)), interpolation=cv2.INTER_AREA) > 0)
    if not any(mask is None for mask in masks) or all(mask is None for mask in masks):
        raise DataError(f"{dataset.root} cannot judge", why="its test split needs good and defective parts")
    labels = [hashlib.sha256(b"" if mask is None else mask.tobytes()).hexdigest() for mask in masks]
    digest = hashlib.sha256("".join([frames_digest(items), *labels]).encode()).hexdigest()
    return Labelled(feeds, masks), digest
