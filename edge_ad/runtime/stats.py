"""Figures about a running line: latencies by stage, drops by cause, events, rate."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection
from typing import Any

import numpy as np

from edge_ad.types import Decision

DROP_CAUSES = ("queue", "camera")
"""Frames lost to the loop being busy, and frames that the camera's numbering shows were lost before us."""

WINDOW = 1000
"""So many of the newest values of each stage are kept."""

EVENTS = ("timeouts", "disconnects", "reconnects", "read_errors", "bugs")


class Statistics:
    """Collects figures from several threads; latencies and rate over a sliding window.

    Args:
        window: how many of the newest values of each stage the percentiles are of.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=window))
        # The first mark is the start, so that the rate of the first few frames is theirs.
        self._marks_s: deque[float] = deque([time.monotonic()], maxlen=window + 1)
        self._decisions: Counter[Decision] = Counter()
        self._dropped: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._sink_errors: Counter[str] = Counter()

    def record(self, stage: str, duration_ms: float) -> None:
        """Adds a duration of ``stage``, milliseconds."""
        with self._lock:
            self._stages[stage].append(duration_ms)

    def inspected(self, decision: Decision) -> None:
        """Counts a finished inspection."""
        with self._lock:
            self._decisions[decision] += 1
            self._marks_s.append(time.monotonic())

    def dropped(self, cause: str, frames: int = 1) -> None:
        """Counts frames that were never judged; ``cause`` is one of `DROP_CAUSES`."""
        with self._lock:
            self._dropped[cause] += frames

    def event(self, name: str) -> int:
        """Counts an event, one of `EVENTS`; returns how often it has happened."""
        with self._lock:
            self._events[name] += 1
            return self._events[name]

    def sink_failed(self, sink: str) -> int:
        """Counts a call of a sink that failed; returns how many have."""
        with self._lock:
            self._sink_errors[sink] += 1
            return self._sink_errors[sink]

    def summary(self) -> dict[str, Any]:
        """All figures, JSON-able.

        ``latency_ms`` holds p50, p95, p99 and max per stage over the window. ``fps`` is inspections
        per second over the window and up to now, so it sinks while nothing comes.
        """
        with self._lock:
            elapsed_s = time.monotonic() - self._marks_s[0]
            return {
                "inspected": self._decisions.total(),
                "decisions": {decision.value: self._decisions[decision] for decision in Decision},
                "fps": (len(self._marks_s) - 1) / elapsed_s if elapsed_s > 0 else 0.0,
                "latency_ms": {stage: percentiles(values) for stage, values in self._stages.items()},
                "dropped": {cause: self._dropped[cause] for cause in DROP_CAUSES},
                "events": {name: self._events[name] for name in EVENTS},
                "sink_errors": dict(self._sink_errors),
            }


def percentiles(values: Collection[float]) -> dict[str, float]:
    """p50, p95, p99 and max of at least one value; between two values they are interpolated."""
    p50, p95, p99, largest = np.percentile(np.array(list(values)), (50, 95, 99, 100))
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(largest)}
