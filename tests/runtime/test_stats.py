from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.runtime.host import HostFigures
from edge_ad.runtime.stats import AGE, DROP_CAUSES, EVENTS, RECOVERIES, STAGES, Statistics
from edge_ad.types import Decision


@pytest.fixture
def pass_s(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass, from 1000 s on the monotonic clock."""
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])

    def wait(seconds: float) -> None:
        now_s[0] += seconds

    return wait


def recorded(statistics: Statistics, values_ms: NDArray[np.float64]) -> None:
    for value_ms in values_ms:
        statistics.record("predict", float(value_ms))


def durations_ms(count: int, seed: int = 0, mean_ms: float = 20.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).gamma(2.0, mean_ms / 2, size=count)


def assert_figures_of(found: dict[str, float], values_ms: NDArray[np.float64]) -> None:
    """Against numpy, whose percentile without interpolation is a value that was recorded."""
    for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
        assert found[name] == pytest.approx(np.percentile(values_ms, share, method="lower"), rel=0.0101), name
    assert found["max"] == values_ms.max()


def test_an_empty_summary_names_every_count(pass_s: Callable[[float], None]) -> None:
    summary = Statistics().summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary == {
        "inspected": 0,
        "decisions": {"OK": 0, "NG": 0, "ERROR": 0},
        "fps": 0.0,
        "uptime_s": 0.0,
        "latency_ms": {},
        "latency_ms_total": {},
        "dropped": dict.fromkeys(DROP_CAUSES, 0),
        "events": dict.fromkeys(EVENTS, 0),
        "sink_errors": {},
        "queues": {},
        "temperature_c": {},
        "host": {},
    }


def test_counts() -> None:
    statistics = Statistics()
    for decision in (Decision.OK, Decision.OK, Decision.NG):
        statistics.inspected(decision)
    statistics.dropped("queue")
    statistics.dropped("camera", 4)
    statistics.dropped("sun in the lens")
    assert [statistics.event("timeouts") for _ in range(2)] == [1, 2]
    assert statistics.event("belt stopped") == 1
    assert [statistics.sink_failed("SqliteSink") for _ in range(2)] == [1, 2]
    summary = statistics.summary()
    assert summary["inspected"] == 3
    assert summary["decisions"] == {"OK": 2, "NG": 1, "ERROR": 0}
    counted = {cause: count for cause, count in summary["dropped"].items() if count}
    assert counted == {"queue": 1, "camera": 4, "sun in the lens": 1}
    assert summary["dropped"].keys() > {*DROP_CAUSES}
    assert {name: count for name, count in summary["events"].items() if count} == {"timeouts": 2, "belt stopped": 1}
    assert summary["sink_errors"] == {"SqliteSink": 2}


def test_what_is_named_apart_is_among_all() -> None:
    assert set(RECOVERIES) < set(EVENTS)
    assert AGE in STAGES


def test_gauges_know_the_present_and_the_worst() -> None:
    statistics = Statistics()
    for depth in (1, 7, 2):
        statistics.gauge("sqlite", depth)
    statistics.gauge("ring", 0)
    assert statistics.summary()["queues"] == {"sqlite": {"now": 2, "max": 7}, "ring": {"now": 0, "max": 0}}


def test_temperatures_and_the_process_are_the_newest() -> None:
    statistics = Statistics()
    statistics.temperature("camera", 41.0)
    statistics.host(HostFigures({"cpu": 60.0}, {"threads": 4, "rss_bytes": 10}))
    statistics.host(HostFigures({"cpu": 62.5}, {"threads": 5}))
    summary = statistics.summary()
    assert summary["temperature_c"] == {"camera": 41.0, "cpu": 62.5}
    assert summary["host"] == {"threads": 5}, "what is not told any more is absent"


def test_percentiles_agree_with_numpy() -> None:
    statistics = Statistics()
    values_ms = durations_ms(5000)
    recorded(statistics, values_ms)
    summary = statistics.summary()
    assert_figures_of(summary["latency_ms"]["predict"], values_ms)
    assert summary["latency_ms_total"] == summary["latency_ms"]


def test_one_value_is_every_percentile() -> None:
    statistics = Statistics()
    statistics.record("predict", 12.34)
    found = statistics.summary()["latency_ms"]["predict"]
    assert found == pytest.approx(dict.fromkeys(("p50", "p95", "p99", "max"), 12.34), rel=0.0101)
    assert found["max"] == 12.34 >= found["p99"]


@pytest.mark.parametrize("odd_ms", [0.0, -1.0, 1e-12, 1e9], ids=str)
def test_odd_durations_are_taken(odd_ms: float) -> None:
    statistics = Statistics()
    statistics.record("age", odd_ms)
    assert statistics.summary()["latency_ms"]["age"]["p50"] == pytest.approx(odd_ms, rel=0.0101)


def test_the_window_slides_and_the_whole_run_stays(pass_s: Callable[[float], None]) -> None:
    statistics = Statistics(window_s=60)
    slow_ms, quick_ms = durations_ms(500, 1, mean_ms=200), durations_ms(500, 2, mean_ms=10)
    recorded(statistics, slow_ms)
    pass_s(30)
    recorded(statistics, quick_ms)
    both_ms = np.concatenate((slow_ms, quick_ms))
    assert_figures_of(statistics.summary()["latency_ms"]["predict"], both_ms)
    pass_s(30)
    summary = statistics.summary()
    assert_figures_of(summary["latency_ms"]["predict"], quick_ms)
    assert_figures_of(summary["latency_ms_total"]["predict"], both_ms)
    pass_s(30)
    summary = statistics.summary()
    assert summary["latency_ms"] == {} == statistics.latency_ms()
    assert_figures_of(summary["latency_ms_total"]["predict"], both_ms)


def test_every_value_is_in_the_window_for_at_least_eleven_of_twelve_parts(pass_s: Callable[[float], None]) -> None:
    statistics = Statistics(window_s=60)
    pass_s(4.999)  # the end of a part: the shortest stay
    statistics.record("predict", 1.0)
    for _ in range(54):
        pass_s(1)
        assert "predict" in statistics.latency_ms()
    pass_s(6)
    assert "predict" not in statistics.latency_ms()


def test_memory_does_not_grow_with_the_run(pass_s: Callable[[float], None]) -> None:
    statistics = Statistics(window_s=60)
    sizes = []
    for _ in range(3):
        for value_ms in durations_ms(600, mean_ms=5):
            pass_s(0.5)
            statistics.record("predict", float(value_ms))
            statistics.inspected(Decision.OK)
        kept = statistics._stages["predict"]
        sizes.append((len(kept._closed), len(statistics._inspected_s)))
    assert sizes == [(11, 120 + 1)] * 3


def test_rate_counts_from_the_start_and_then_over_the_window(pass_s: Callable[[float], None]) -> None:
    statistics = Statistics(window_s=10)
    for _ in range(2):
        pass_s(0.5)
        statistics.inspected(Decision.OK)
    assert statistics.summary()["fps"] == pytest.approx(2.0)
    for _ in range(100):
        pass_s(0.25)
        statistics.inspected(Decision.OK)
    assert statistics.summary()["fps"] == pytest.approx(4.0, abs=0.11)
    assert statistics.summary()["uptime_s"] == pytest.approx(26.0)
    pass_s(5)
    assert statistics.summary()["fps"] == pytest.approx(2.0, abs=0.11), "the rate must sink while nothing comes"
    pass_s(6)
    assert statistics.summary()["fps"] == 0.0


def test_threads_lose_no_count() -> None:
    statistics = Statistics()

    def work() -> None:
        for _ in range(2000):
            statistics.event("timeouts")
            statistics.inspected(Decision.OK)
            statistics.record("read", 1.0)
            statistics.gauge("ring", 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        statistics.summary()
    summary = statistics.summary()
    assert (summary["events"]["timeouts"], summary["inspected"]) == (8000, 8000)
    assert (
        sum(sketch.count for _, sketch in statistics._stages["read"]._closed) + (statistics._stages["read"]._open.count)
        == 8000
    )
