from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_ad.backends import BACKENDS
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.benchmark import STAGES, Contestant, Peaks, resident_bytes, run_rounds
from edge_ad.benchmark_figures import (
    Comparison,
    ContestantFigures,
    PeakFigures,
    compare,
    contestant_figures,
    peak_figures,
    report,
)
from edge_ad.benchmark_frames import chosen_frames
from edge_ad.bundle import read_bundle
from edge_ad.engine_build import build_engine
from edge_ad.graph_cost import graph_cost
from edge_ad.types import Frame
from tests.factories import make_bundle

ROUNDS = 4
BATCHES = (1, 2, 3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle")).directory


@pytest.fixture(scope="module")
def engine(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the bundle, for batches of up to two."""
    directory = tmp_path_factory.mktemp("engines") / "widget"
    return build_engine(read_bundle(bundle), directory, backend="onnxruntime", precision="fp32", max_batch=2).directory


@pytest.fixture(scope="module")
def frames(engine: Path) -> list[Frame]:
    contestant = Contestant(engine)
    return chosen_frames(None, contestant.golden_path, contestant.predictor.spec, set(contestant.input_names))


@pytest.fixture(scope="module")
def peaks() -> Iterator[Peaks]:
    """Of ONNX Runtime; no contestant is needed for that but its name."""
    measured = Peaks([])
    measured.measure()
    yield measured
    measured.close()


def measured(
    paths: Sequence[Path], frames: Sequence[Frame]
) -> tuple[list[Contestant], list[ContestantFigures], PeakFigures]:
    contestants = [Contestant(path) for path in paths]
    for contestant in contestants:
        contestant.warm_up(frames, BATCHES, 1)
    limits = Peaks(contestants)
    told: list[int] = []
    run_rounds(contestants, frames, BATCHES, limits, rounds=ROUNDS, progress=told.append)
    assert told == list(range(1, ROUNDS + 1))
    figures = peak_figures(limits)
    limits.close()
    return contestants, [contestant_figures(item, item.cost(), figures) for item in contestants], figures


@pytest.fixture(scope="module")
def both(
    engine: Path, bundle: Path, frames: list[Frame]
) -> tuple[list[Contestant], list[ContestantFigures], PeakFigures]:
    return measured([engine, bundle], frames)


Both = tuple[list[Contestant], list[ContestantFigures], PeakFigures]


def test_percentiles_are_numpys_over_one_value_a_round(both: Both) -> None:
    for contestant, figures in zip(both[0], both[1], strict=True):
        assert list(figures.latency_ms) == [*STAGES, "total"]
        for stage, row in figures.latency_ms.items():
            values = contestant.stages_ms[stage]
            assert len(values) == ROUNDS
            assert list(row.values()) == np.percentile(values, (50, 95, 99, 100)).tolist()
        for batch in figures.batches:
            values = contestant.batches_ms[batch.batch]
            assert len(values) == ROUNDS
            assert batch.latency_ms["p95"] == np.percentile(values, 95)
            assert batch.frames_per_s == pytest.approx(1000 * batch.batch / np.median(values))


def test_stages_add_up_to_no_more_than_the_total(both: Both) -> None:
    for contestant, figures in zip(both[0], both[1], strict=True):
        stages = contestant.stages_ms
        parts = np.sum([stages[stage] for stage in STAGES], axis=0)
        assert (parts <= stages["total"]).all()
        shares = [1 - engine / total for engine, total in zip(stages["engine"], stages["total"], strict=True)]
        assert figures.outside_engine_share == pytest.approx(np.median(shares))


def test_a_batch_above_the_engines_largest_is_skipped_with_a_note(both: Both) -> None:
    engine, bundle = both[1]
    assert [row.batch for row in engine.batches] == [1, 2]
    assert engine.skipped == {3: "the engine was built for at most 2"}
    assert ([row.batch for row in bundle.batches], bundle.skipped) == ([1, 2, 3], {})


def test_shares_of_the_peak_follow_from_times_and_work(both: Both, bundle: Path) -> None:
    contestants, figures, limits = both
    cost = graph_cost((bundle / "model.onnx").read_bytes())
    gemm = limits.gemm_gflops["onnxruntime"]
    assert gemm > 0 and limits.copy_gb_s > 0 and limits.copy_threads >= 1
    assert (limits.integer_gops, limits.absent) == ({}, {}), "no int8 engine competes"
    for contestant, item in zip(contestants, figures, strict=True):
        assert (item.macs, item.least_bytes) == (cost.macs, cost.least_bytes)
        for row in item.batches:
            fastest_s = min(contestant.batches_ms[row.batch]) / 1000
            gflops = 2 * cost.macs * row.batch / fastest_s / 1e9
            moved_gb_s = (cost.weight_bytes + row.batch * cost.io_bytes) / fastest_s / 1e9
            assert row.gflops == pytest.approx(gflops)
            assert row.gemm_share == pytest.approx(gflops / gemm)
            assert row.copy_share == pytest.approx(moved_gb_s / limits.copy_gb_s)
            assert row.integer_share is None


def test_memory_is_told_where_the_system_tells_it(both: Both) -> None:
    now, most = resident_bytes()
    if now is None or most is None:
        pytest.skip("this system does not tell")
    for item in both[1]:
        memory = item.memory_bytes
        assert memory["before"] is not None and memory["peak"] is not None
        assert 10e6 < memory["before"] <= memory["peak"] <= most
        assert None not in (memory["opening"], memory["running"])
        assert memory["device"] is None


def test_a_backend_that_counts_its_devices_memory_is_asked(
    bundle: Path, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntimeBackend, "memory_bytes", 123, raising=False)
    contestant = Contestant(bundle)
    contestant.warm_up(frames, (1,), 1)
    assert contestant.memory.device == 123


def test_the_same_model_compared_with_itself_agrees(both: Both, frames: list[Frame]) -> None:
    comparison = compare(both[0][0], both[0][1], frames)
    assert comparison.same_model and comparison.agree
    assert comparison.map_difference is not None and comparison.map_allowed is not None
    assert comparison.map_difference <= comparison.map_allowed < 0.01
    assert (comparison.decisions_differ, comparison.frames) == (0, 2)
    medians = [np.median(item.stages_ms["total"]) for item in both[0]]
    assert comparison.speedup == pytest.approx(medians[1] / medians[0])
    low, high = comparison.speedup_interval
    assert low <= comparison.speedup <= high
    document = report(both[1], both[2], comparison, rounds=ROUNDS)
    assert json.loads(json.dumps(document, allow_nan=False))["comparison"]["agree"] is True


def test_models_that_judge_differently_are_told_apart(
    engine: Path, frames: list[Frame], tmp_path: Path, both: Both
) -> None:
    other = make_bundle(tmp_path / "other", seed=8).directory
    (first, second), _, _ = measured([engine, other], frames)
    comparison = compare(first, second, frames)
    maps = [np.abs(first.predictor(frame).anomaly_map - second.predictor(frame).anomaly_map).max() for frame in frames]
    assert not comparison.agree and not comparison.same_model
    assert comparison.map_difference == pytest.approx(max(maps))
    assert comparison.map_peak == pytest.approx(
        max(np.abs(first.predictor(frame).anomaly_map).max() for frame in frames)
    )


def test_a_map_that_is_not_finite_never_agrees(
    both: Both, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = both[0][1]
    run = second.predictor.backend.run
    calls = iter(range(10))

    def spoiled(feeds: object) -> object:
        outputs = run(feeds)  # type: ignore[arg-type]
        if next(calls) == 0:
            outputs["anomaly_map"][0, 0, 0] = np.nan
        return outputs

    monkeypatch.setattr(second.predictor.backend, "run", spoiled)
    comparison: Comparison = compare(both[0][0], both[0][1], frames)
    assert (comparison.map_difference, comparison.agree, comparison.decisions_differ) == (None, False, 1)
    json.dumps(report(both[1], both[2], comparison), allow_nan=False)


def test_an_int8_engine_is_also_set_against_an_integer_product(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    contestant = both[0][0]
    monkeypatch.setattr(contestant, "precision", "int8")
    limits = Peaks([contestant])
    limits.measure()
    figures = peak_figures(limits)
    limits.close()
    assert figures.integer_gops["onnxruntime"] > 0
    for row in contestant_figures(contestant, contestant.cost(), figures).batches:
        assert row.gflops is not None and row.gemm_share is not None
        assert row.integer_share == pytest.approx(row.gflops / figures.integer_gops["onnxruntime"])


def test_without_the_graph_there_is_no_share(engine: Path, both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    contestant, _, limits = both[0][0], both[1], both[2]
    figures = contestant_figures(contestant, None, limits)
    assert (figures.macs, figures.least_bytes, figures.macs_by_operator) == (None, None, {})
    assert {row.gemm_share for row in figures.batches} == {None}
    assert all(row.frames_per_s > 0 for row in figures.batches)
    monkeypatch.setattr(contestant, "uses_gpu", True)
    on_gpu = contestant_figures(contestant, contestant.cost(), limits)
    assert {row.copy_share for row in on_gpu.batches} == {None}, "main memory is not what it uses"


def test_a_backend_that_cannot_multiply_here_is_named(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "onnxruntime", "tests.test_verification:Broken")
    limits = Peaks(both[0])
    limits.measure()
    figures = peak_figures(limits)
    limits.close()
    assert (figures.gemm_gflops, figures.absent) == ({}, {"onnxruntime": "no kernel for Conv"})


def test_a_copy_needs_no_backend(peaks: Peaks) -> None:
    figures = peak_figures(peaks)
    assert figures.copy_gb_s > 0
    assert figures.gemm_gflops == {}
