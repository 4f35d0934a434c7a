"""Figures about a running line: latencies by stage, drops by cause, events, queues, temperatures, rate."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Collection
from typing import Any

import numpy as np

from edge_ad.runtime.host import HostFigures
from edge_ad.runtime.windows import WINDOW_S, Percentiles, SlidingPercentiles
from edge_ad.types import Decision

DROP_CAUSES = ("queue", "camera", "stale", "mispaired", "overrun", "ring")
"""Why frames are never judged; a summary always lists these, others where they happened.

``queue``: the loop was busy. ``camera``: the camera's numbering shows that they were lost before us.
``stale``: too old to be judged. ``mispaired``: colour and depth of two captures. ``overrun``: triggered
while the one before was under way. ``ring``: overwritten in shared memory before they were read.
"""

EVENTS = (
    "timeouts",
    "disconnects",
    "camera_losses",
    "reconnects",
    "restarts",
    "reopens",
    "resets",
    "respawns",
    "read_errors",
    "late",
    "overrun",
    "no_frame",
    "stalled",
    "answered_late",
    "duplicates",
    "inference_stalls",
    "bugs",
)
"""What happens to a line; a summary always lists these, others where they happened."""

RECOVERIES = ("restarts", "reopens", "resets", "respawns", "reconnects")
"""Those events that are attempts to get a camera back, from the mildest, and their success."""

AGE = "age"
"""The stage that is end to end: from the capture's arrival to its verdict."""

STAGES = {
    AGE: "capture to verdict",
    "answer": "trigger to verdict",
    "read": "waiting for the camera",
    "predict": "the model, of which",
    "predict.feed": "frame to inputs",
    "predict.engine": "inference",
    "predict.map": "map to the frame's size",
    "judge": "threshold and regions",
    "sinks": "writing results",
    "camera away": "from loss to return",
}
"""What the stages of a line are: the sum of all first, then in the order of a frame's way."""


class Statistics:
    """Collects figures from several threads.

    Args:
        window_s: over how many of the newest seconds latencies and rate are.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._lock = threading.Lock()
        self._started_s = time.monotonic()
        self._stages: dict[str, SlidingPercentiles] = {}
        self._inspected_s: deque[float] = deque()
        self._decisions: Counter[Decision] = Counter()
        self._dropped: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._sink_errors: Counter[str] = Counter()
        self._queues: dict[str, dict[str, float]] = {}
        self._temperature_c: dict[str, float] = {}
        self._host: dict[str, float] = {}

    def record(self, stage: str, duration_ms: float) -> None:
        """Adds a duration of ``stage``, milliseconds."""
        values = self._stages.get(stage)
        if values is None:
            with self._lock:
                values = self._stages.setdefault(stage, SlidingPercentiles(self._window_s))
        values.add(duration_ms)

    def inspected(self, decision: Decision) -> None:
        """Counts a finished inspection."""
        with self._lock:
            self._decisions[decision] += 1
            self._inspected_s.append(time.monotonic())
            self._forget()

    def dropped(self, cause: str, frames: int = 1) -> None:
        """Counts frames that were never judged; ``cause`` is one of `DROP_CAUSES`, or another."""
        with self._lock:
            self._dropped[cause] += frames

    def event(self, name: str) -> int:
        """Counts an event, one of `EVENTS` or another; returns how often it has happened."""
        with self._lock:
            self._events[name] += 1
            return self._events[name]

    def sink_failed(self, sink: str) -> int:
        """Counts a call of a sink that failed; returns how many have."""
        with self._lock:
            self._sink_errors[sink] += 1
            return self._sink_errors[sink]

    def gauge(self, name: str, value: float) -> None:
        """Notes how many wait in the queue ``name`` at this moment."""
        with self._lock:
            seen = self._queues.setdefault(name, {"now": value, "max": value})
            seen["now"], seen["max"] = value, max(seen["max"], value)

    def temperature(self, source: str, celsius: float) -> None:
        """Notes how warm ``source`` is at this moment."""
        with self._lock:
            self._temperature_c[source] = celsius

    def host(self, figures: HostFigures) -> None:
        """Notes how this process and its machine are at this moment."""
        with self._lock:
            self._temperature_c.update(figures.temperature_c)
            self._host = dict(figures.process)

    def latency_ms(self) -> dict[str, Percentiles]:
        """p50, p95, p99 and max over the window, by stage; what nothing was recorded of is absent."""
        return {stage: found for stage, values in self._recorded() if (found := values.window()) is not None}

    def summary(self) -> dict[str, Any]:
        """All figures, JSON-able.

        ``latency_ms`` holds p50, p95, p99 and max by stage over the window, ``latency_ms_total`` since
        the start: percentiles are right to 1 %, the max exactly. ``fps`` is inspections per second over
        the window and up to now, so it sinks while nothing comes. ``queues`` holds ``now`` and ``max``
        by queue, ``host`` what `HostFigures.process` does.
        """
        latency_ms = self.latency_ms()
        total_ms = {stage: found for stage, values in self._recorded() if (found := values.total()) is not None}
        with self._lock:
            self._forget()
            uptime_s = time.monotonic() - self._started_s
            counted_s = min(uptime_s, self._window_s)
            return {
                "inspected": self._decisions.total(),
                "decisions": {decision.value: self._decisions[decision] for decision in Decision},
                "fps": len(self._inspected_s) / counted_s if counted_s > 0 else 0.0,
                "uptime_s": uptime_s,
                "latency_ms": latency_ms,
                "latency_ms_total": total_ms,
                "dropped": {**dict.fromkeys(DROP_CAUSES, 0), **self._dropped},
                "events": {**dict.fromkeys(EVENTS, 0), **self._events},
                "sink_errors": dict(self._sink_errors),
                "queues": {name: dict(seen) for name, seen in self._queues.items()},
                "temperature_c": dict(self._temperature_c),
                "host": dict(self._host),
            }

    def _recorded(self) -> list[tuple[str, SlidingPercentiles]]:
        with self._lock:
            return list(self._stages.items())

    def _forget(self) -> None:
        oldest_s = time.monotonic() - self._window_s
        while self._inspected_s and self._inspected_s[0] < oldest_s:
            self._inspected_s.popleft()


def percentiles(values: Collection[float]) -> Percentiles:
    """p50, p95, p99 and max of at least one value; between two values they are interpolated."""
    p50, p95, p99, largest = np.percentile(np.array(list(values)), (50, 95, 99, 100))
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(largest)}
