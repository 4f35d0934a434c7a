"""What the measured times of a benchmark amount to: percentiles, rates, shares of the box's peak, ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_ad.backends.base import QUANTIZED
from edge_ad.backends.golden import TOLERANCES
from edge_ad.benchmark import STAGES, Contestant, Peaks
from edge_ad.graph_cost import GraphCost
from edge_ad.intervals import Interval, ratio_of_medians
from edge_ad.runtime.stats import percentiles
from edge_ad.types import Frame


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """The engine alone at one batch size.

    Attributes:
        batch: frames per run.
        latency_ms: p50, p95, p99 and max of a run.
        frames_per_s: at the median.
        gflops: two operations a multiply-add, in the fastest run, as load from elsewhere says nothing of the engine;
            None where the graph is not at hand.
        gemm_share: ``gflops`` over those of the float32 matrix product; above 1 it can be for a lower precision.
        integer_share: the same over the product of 8-bit integers; None unless the engine is int8.
        copy_share: least bytes to be moved, over those that a copy in main memory moves in the time of the fastest
            run; None on a GPU.
    """

    batch: int
    latency_ms: dict[str, float]
    frames_per_s: float
    gflops: float | None = None
    gemm_share: float | None = None
    integer_share: float | None = None
    copy_share: float | None = None


@dataclass(frozen=True, slots=True)
class ContestantFigures:
    """All figures of one model.

    Attributes:
        path: as it was given.
        description: of the model, for people.
        mode: the operating mode.
        backend: what runs it.
        precision: of the arithmetic.
        latency_ms: by stage and ``total``: p50, p95, p99 and max.
        outside_engine_share: of the total, the median over the rounds.
        batches: the engine alone by batch size.
        skipped: batch sizes that were not measured, with the reason.
        memory_bytes: see ``edge_ad.benchmark.Memory``.
        macs: multiply-adds of one frame; None where the graph is not at hand.
        macs_by_operator: the same by ONNX operator.
        least_bytes: weights of the ONNX graph, inputs and outputs of one frame; None where it is not at hand.
    """

    path: str
    description: str
    mode: str
    backend: str
    precision: str
    latency_ms: dict[str, dict[str, float]]
    outside_engine_share: float
    batches: tuple[BatchFigures, ...]
    skipped: dict[int, str]
    memory_bytes: dict[str, int | None]
    macs: int | None
    macs_by_operator: dict[str, int]
    least_bytes: int | None


@dataclass(frozen=True, slots=True)
class PeakFigures:
    """What the box can do at most: its fastest runs in the rounds in which the engines were measured.

    Attributes:
        gemm_gflops: of a float32 matrix product, by backend.
        integer_gops: of a uint8 × int8 product, by backend.
        copy_gb_s: gigabytes read and written per second by a copy in main memory.
        copy_threads: that it ran on.
        absent: products that could not be measured, with the reason.
    """

    gemm_gflops: dict[str, float]
    integer_gops: dict[str, float]
    copy_gb_s: float
    copy_threads: int
    absent: dict[str, str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first model against the second one.

    Attributes:
        speedup: median total latency of the second over that of the first: above 1 the first is faster.
        speedup_interval: 95 %, from resampled rounds.
        engine_speedup: the same of the engine alone.
        engine_speedup_interval: 95 %.
        same_model: whether both were made from one and the same bundle and run the same mode.
        map_difference: the largest absolute difference of their maps on the frame, over the frames; None where
            there is no comparing, as they are not finite.
        map_peak: the largest absolute value of the first one's maps.
        map_allowed: tolerance of the lower precision.
        score_difference: the largest absolute difference of their scores; None as above.
        decisions_differ: frames on which their decisions are not the same.
        frames: compared.
        agree: whether the maps differ within the tolerance, and so the times are of the same work.
    """

    speedup: float
    speedup_interval: Interval
    engine_speedup: float
    engine_speedup_interval: Interval
    same_model: bool
    map_difference: float | None
    map_peak: float | None
    map_allowed: float | None
    score_difference: float | None
    decisions_differ: int
    frames: int
    agree: bool


def peak_figures(peaks: Peaks) -> PeakFigures:
    """The highest of the measured rates."""
    gemm, integer = (
        {name: max(rates) for name, rates in measured.items()} for measured in (peaks.gemm_gflops, peaks.integer_gops)
    )
    return PeakFigures(gemm, integer, max(peaks.copy_gb_s), peaks.copy_threads, dict(peaks.absent))


def contestant_figures(contestant: Contestant, cost: GraphCost | None, peaks: PeakFigures) -> ContestantFigures:
    """Figures from the measured times.

    Args:
        contestant: after the rounds.
        cost: of one frame; None where the graph is not at hand.
        peaks: of the same rounds.
    """
    stages = contestant.stages_ms
    total, engine = np.array(stages["total"]), np.array(stages["engine"])
    predictor = contestant.predictor
    return ContestantFigures(
        path=str(contestant.path),
        description=predictor.description,
        mode=predictor.mode,
        backend=predictor.backend.name,
        precision=contestant.precision,
        latency_ms={stage: percentiles(stages[stage]) for stage in (*STAGES, "total")},
        outside_engine_share=float(np.median(1 - engine / total)),
        batches=tuple(
            _batch_figures(batch, times, cost, peaks, contestant) for batch, times in contestant.batches_ms.items()
        ),
        skipped=dict(contestant.skipped),
        memory_bytes=asdict(contestant.memory),
        macs=None if cost is None else cost.macs,
        macs_by_operator={} if cost is None else dict(cost.macs_by_operator),
        least_bytes=None if cost is None else cost.least_bytes,
    )


def _batch_figures(
    batch: int, times_ms: Sequence[float], cost: GraphCost | None, peaks: PeakFigures, contestant: Contestant
) -> BatchFigures:
    latency_ms = percentiles(times_ms)
    frames_per_s = 1e3 * batch / latency_ms["p50"]
    fastest_s = min(times_ms) / 1e3
    if cost is None:
        return BatchFigures(batch, latency_ms, frames_per_s)
    gflops = 2 * cost.macs * batch / fastest_s / 1e9
    moved_gb_s = (cost.weight_bytes + cost.io_bytes * batch) / fastest_s / 1e9
    backend = contestant.predictor.backend.name
    gemm = peaks.gemm_gflops.get(backend)
    integer = peaks.integer_gops.get(backend) if contestant.precision in QUANTIZED else None
    return BatchFigures(
        batch,
        latency_ms,
        frames_per_s,
        gflops,
        gemm_share=gflops / gemm if gemm else None,
        integer_share=gflops / integer if integer else None,
        copy_share=None if contestant.uses_gpu else moved_gb_s / peaks.copy_gb_s,
    )


def compare(first: Contestant, second: Contestant, frames: Sequence[Frame]) -> Comparison:
    """Sets two models against each other: their times, and what they say of the same frames.

    Args:
        first: after the rounds.
        second: after the same rounds.
        frames: judged by both, once more.
    """
    speedup, interval = ratio_of_medians(second.stages_ms["total"], first.stages_ms["total"])
    engine, engine_interval = ratio_of_medians(second.stages_ms["engine"], first.stages_ms["engine"])
    allowed_share = max(TOLERANCES[first.precision], TOLERANCES[second.precision])
    maps, scores, peak, differ = 0.0, 0.0, 0.0, 0
    for frame in frames:
        (one, one_verdict), (other, other_verdict) = first.judged(frame), second.judged(frame)
        # np.maximum hands a NaN on, which max() may lose.
        maps = float(np.maximum(maps, np.abs(one.anomaly_map - other.anomaly_map).max()))
        scores = float(np.maximum(scores, abs(one.score - other.score)))
        peak = float(np.maximum(peak, np.abs(one.anomaly_map).max()))
        differ += one_verdict.decision is not other_verdict.decision
    ids = {(item.predictor.model_id, item.predictor.mode) for item in (first, second)}
    return Comparison(
        speedup=speedup,
        speedup_interval=interval,
        engine_speedup=engine,
        engine_speedup_interval=engine_interval,
        same_model=len(ids) == 1,
        map_difference=maps if np.isfinite(maps) else None,
        map_peak=peak if np.isfinite(peak) else None,
        map_allowed=allowed_share * peak if np.isfinite(peak) else None,
        score_difference=scores if np.isfinite(scores) else None,
        decisions_differ=differ,
        frames=len(frames),
        agree=maps <= allowed_share * peak,
    )


def report(
    contestants: Sequence[ContestantFigures], peaks: PeakFigures, comparison: Comparison | None, **settings: Any
) -> dict[str, Any]:
    """Everything, JSON-able; ``settings`` say how it was measured."""
    return {
        **settings,
        "contestants": [asdict(figures) for figures in contestants],
        "peaks": asdict(peaks),
        "comparison": None if comparison is None else asdict(comparison),
    }
