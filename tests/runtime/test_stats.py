from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

from edge_ad.runtime.stats import DROP_CAUSES, EVENTS, Statistics
from edge_ad.types import Decision


def test_an_empty_summary_names_every_count() -> None:
    summary = Statistics().summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary == {
        "inspected": 0,
        "decisions": {"OK": 0, "NG": 0, "ERROR": 0},
        "fps": 0.0,
        "latency_ms": {},
        "dropped": dict.fromkeys(DROP_CAUSES, 0),
        "events": dict.fromkeys(EVENTS, 0),
        "sink_errors": {},
    }


def test_counts() -> None:
    statistics = Statistics()
    for decision in (Decision.OK, Decision.OK, Decision.NG):
        statistics.inspected(decision)
    statistics.dropped("queue")
    statistics.dropped("camera", 4)
    assert [statistics.event("timeouts") for _ in range(2)] == [1, 2]
    assert [statistics.sink_failed("SqliteSink") for _ in range(2)] == [1, 2]
    summary = statistics.summary()
    assert summary["inspected"] == 3
    assert summary["decisions"] == {"OK": 2, "NG": 1, "ERROR": 0}
    assert summary["dropped"] == {"queue": 1, "camera": 4}
    assert summary["events"]["timeouts"] == 2
    assert summary["sink_errors"] == {"SqliteSink": 2}


def test_percentiles_are_those_of_the_newest_values() -> None:
    statistics = Statistics(window=100)
    values_ms = np.random.default_rng(0).gamma(2.0, size=250)
    for value_ms in values_ms:
        statistics.record("predict", float(value_ms))
    stage = statistics.summary()["latency_ms"]["predict"]
    newest = values_ms[-100:]
    assert stage["p50"] == pytest.approx(np.median(newest))
    assert stage["p95"] == pytest.approx(np.percentile(newest, 95))
    assert stage["p99"] == pytest.approx(np.percentile(newest, 99))
    assert stage["max"] == pytest.approx(newest.max())


def test_rate_counts_from_the_start_and_then_over_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    statistics = Statistics(window=4)
    for step_s in (0.5, 0.5):
        now_s[0] += step_s
        statistics.inspected(Decision.OK)
    assert statistics.summary()["fps"] == pytest.approx(2.0)
    for _ in range(6):
        now_s[0] += 0.1
        statistics.inspected(Decision.OK)
    assert statistics.summary()["fps"] == pytest.approx(10.0)
    now_s[0] += 3.6
    assert statistics.summary()["fps"] == pytest.approx(1.0), "the rate must sink while nothing comes"


def test_threads_lose_no_count() -> None:
    statistics = Statistics()

    def work() -> None:
        for _ in range(2000):
            statistics.event("timeouts")
            statistics.inspected(Decision.OK)
            statistics.record("read", 1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        statistics.summary()
    summary = statistics.summary()
    assert (summary["events"]["timeouts"], summary["inspected"]) == (8000, 8000)
