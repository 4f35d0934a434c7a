"""How fast models run on this box: one alone or two side by side, in turns, so that what slows one slows both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_ad.backends import BACKENDS
from edge_ad.backends.base import QUANTIZED, Precision
from edge_ad.bundle import GOLDEN, MANIFEST, MODEL, golden_name, read_bundle
from edge_ad.engine import ENGINE, read_engine
from edge_ad.errors import EngineError, MissingExtraError
from edge_ad.feeds import feeds_from_frame
from edge_ad.graph_cost import GraphCost, graph_cost
from edge_ad.peaks import CopyPeak, GemmPeak
from edge_ad.predictor import Predictor, open_predictor
from edge_ad.scoring import judge
from edge_ad.types import AnomalyResult, AnyArray, Frame, Verdict

STAGES = ("feed", "engine", "map", "verdict")
"""Frame → arrays; arrays → outputs; network map → frame; result → decision and regions."""

PEAK_ROUNDS = 20
"""So often, spread over the rounds, the box's own limits are measured too."""

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of this process in bytes (Linux; else None), and of the device where the backend says it.

    Attributes:
        before: the model was opened.
        opening: growth by that, and by running its golden samples if it is an engine.
        running: growth by running every batch size for the first time.
        peak: the most until then, of the whole process with all models that are open.
        device: what the backend's ``memory_bytes`` says; None where it has none.
    """

    before: int | None
    opening: int | None
    running: int | None
    peak: int | None
    device: int | None


class Contestant:
    """A model that is measured.

    Args:
        path: what :func:`edge_ad.predictor.open_predictor` opens.

    Attributes:
        predictor: the opened model.
        precision: of the arithmetic.
        max_batch: the largest batch it may be given; None for any.
        uses_gpu: an engine that was built for one.
        golden_path: of its golden samples; None for a checkpoint.
        stages_ms: measured milliseconds by stage and ``total``, one value a round.
        batches_ms: the same of the engine alone, by batch size.
        skipped: why a batch size was not measured.

    Raises:
        EdgeAdError: as ``open_predictor``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        before, _ = resident_bytes()
        self.predictor: Predictor = open_predictor(path)
        opened, peak = resident_bytes()
        self.memory = Memory(before, _growth(before, opened), None, peak, None)
        self.precision: Precision = "fp32"
        self.max_batch: int | None = None
        self.uses_gpu = False
        self.golden_path: Path | None = None
        self._graph_path: Path | None = None
        directory = path.parent if path.is_file() else path
        if (directory / ENGINE).is_file():
            manifest = read_engine(directory).manifest
            self.precision, self.max_batch = manifest.precision, manifest.max_batch
            self.uses_gpu = bool(manifest.gpu)
            self.golden_path = directory / GOLDEN
            self._graph_path = directory / MODEL
        elif (directory / MANIFEST).is_file():
            self.golden_path = directory / golden_name(self.predictor.mode)
        self.stages_ms: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "total")}
        self.batches_ms: dict[int, list[float]] = {}
        self.skipped: dict[int, str] = {}
        self._feeds: dict[int, dict[str, AnyArray]] = {}

    @property
    def input_names(self) -> list[str]:
        """Of the graph."""
        return [spec.name for spec in self.predictor.backend.inputs]

    def cost(self) -> GraphCost | None:
        """Of one run with one frame; None where the model is not at hand as ONNX (a TensorRT plan, a checkpoint).

        Raises:
            ModelError: the graph cannot be analysed.
        """
        if self._graph_path is not None:
            return graph_cost(self._graph_path.read_bytes()) if self._graph_path.is_file() else None
        if self.golden_path is not None:
            return graph_cost(read_bundle(self.golden_path.parent).model(self.predictor.mode))
        return None

    def warm_up(self, frames: Sequence[Frame], batches: Iterable[int], times: int) -> None:
        """Lays out the batches that it can take and runs everything ``times`` times, at least once, unmeasured.

        Raises:
            DataError: a frame does not fit the model.
            EngineError: the backend failed.
        """
        predictor = self.predictor
        laid_out = [feeds_from_frame(frame, predictor.spec, self.input_names) for frame in frames]
        for batch in batches:
            reason = self._why_not(batch)
            if reason:
                self.skipped[batch] = reason
                continue
            parts = [laid_out[index % len(laid_out)] for index in range(batch)]
            self._feeds[batch] = {name: np.concatenate([part[name] for part in parts]) for name in self.input_names}
        before, _ = resident_bytes()
        for index in range(max(1, times)):
            self.step(frames[index % len(frames)])
            for feeds in self._feeds.values():
                predictor.backend.run(feeds)
        warm, peak = resident_bytes()
        device = getattr(predictor.backend, "memory_bytes", None)
        self.memory = replace(self.memory, running=_growth(before, warm), peak=peak, device=device)
        self.stages_ms = {stage: [] for stage in self.stages_ms}
        self.batches_ms = {batch: [] for batch in self._feeds}

    def judged(self, frame: Frame) -> tuple[AnomalyResult, Verdict]:
        """What it says of a frame, unmeasured."""
        result = self.predictor(frame)
        return result, judge(result, self.predictor.threshold)

    def step(self, frame: Frame) -> None:
        """Judges one frame as the line does, and keeps how long each stage took."""
        started = time.perf_counter_ns()
        result = self.predictor(frame)
        mapped = time.perf_counter_ns()
        judge(result, self.predictor.threshold)
        ended = time.perf_counter_ns()
        for stage, duration_ms in result.latency_ms.items():
            self.stages_ms[stage].append(duration_ms)
        self.stages_ms["verdict"].append((ended - mapped) / 1e6)
        self.stages_ms["total"].append((ended - started) / 1e6)

    def run_batch(self, batch: int) -> None:
        """Runs the engine alone once, if it takes this batch size, and keeps how long it took."""
        if batch in self._feeds:
            started = time.perf_counter_ns()
            self.predictor.backend.run(self._feeds[batch])
            self.batches_ms[batch].append((time.perf_counter_ns() - started) / 1e6)

    def _why_not(self, batch: int) -> str:
        if self.max_batch is not None and batch > self.max_batch:
            return f"the engine was built for at most {self.max_batch}"
        sizes = {spec.shape[0] for spec in self.predictor.backend.inputs} - {None, batch}
        return f"the graph takes {sizes.pop()} frames at a time" if sizes else ""


class Peaks:
    """What the box can do at most, for the backends that compete.

    Attributes:
        gemm_gflops: measured rates of float32 products, by backend.
        integer_gops: of products of 8-bit integers, by backend, only where an int8 engine competes.
        copy_gb_s: of the copy in main memory.
        copy_threads: that it runs on.
        absent: why a product could not be measured, by backend.
    """

    def __init__(self, contestants: Sequence[Contestant]) -> None:
        self.absent: dict[str, str] = {}
        self.gemm_gflops: dict[str, list[float]] = {}
        self.integer_gops: dict[str, list[float]] = {}
        self.copy_gb_s: list[float] = []
        self._gemms: list[tuple[GemmPeak, list[float]]] = []
        for contestant in contestants:
            name = contestant.predictor.backend.name
            if name in BACKENDS:
                self._open(name, self.gemm_gflops, integer=False)
                if contestant.precision in QUANTIZED:
                    self._open(name, self.integer_gops, integer=True)
        self._copy = CopyPeak()
        self.copy_threads = self._copy.threads

    def _open(self, name: str, rates: dict[str, list[float]], *, integer: bool) -> None:
        if name in rates:
            return
        try:
            gemm = GemmPeak(name, integer=integer)
        except (EngineError, MissingExtraError) as error:
            self.absent[f"{name} int8" if integer else name] = error.why or error.what
        else:
            self._gemms.append((gemm, rates.setdefault(name, [])))

    def measure(self) -> None:
        """Measures each once."""
        for gemm, rates in self._gemms:
            rates.append(gemm.best_gflops())
        self.copy_gb_s.append(self._copy.gb_s())

    def close(self) -> None:
        """Frees everything."""
        for gemm, _ in self._gemms:
            gemm.close()
        self._copy.close()


def run_rounds(
    contestants: Sequence[Contestant],
    frames: Sequence[Frame],
    batches: Sequence[int],
    peaks: Peaks,
    *,
    rounds: int,
    progress: Progress | None = None,
) -> None:
    """Measures all in turn: A, B, A, B, …, one frame as the line does it, then the engine alone at each batch size.

    Args:
        contestants: warmed up with the same ``batches``.
        frames: taken in turn.
        batches: sizes.
        peaks: measured now and then between them.
        rounds: how often.
        progress: called with the number of rounds done.

    Raises:
        EngineError: a backend failed.
    """
    between = max(1, rounds // PEAK_ROUNDS)
    for index in range(rounds):
        for contestant in contestants:
            contestant.step(frames[index % len(frames)])
        for batch in batches:
            for contestant in contestants:
                contestant.run_batch(batch)
        if index % between == 0:
            peaks.measure()
        if progress is not None:
            progress(index + 1)


def resident_bytes() -> tuple[int | None, int | None]:
    """Resident memory of this process now, and the most it ever was; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None, None
    kilobytes = {name: text.split()[0] for name, _, text in (line.partition(":") for line in lines) if "kB" in text}
    now, most = (int(kilobytes[name]) * 1024 if name in kilobytes else None for name in ("VmRSS", "VmHWM"))
    return now, most


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
