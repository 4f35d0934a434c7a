"""Percentiles over a sliding window and over a whole run, in memory that does not grow with either."""

from __future__ import annotations

import threading
import time
from collections import deque

from ddsketch import LogCollapsingLowestDenseDDSketch

Percentiles = dict[str, float]
"""``p50``, ``p95``, ``p99`` and ``max``."""

WINDOW_S = 60.0
"""The newest so many seconds are a window."""

SLOTS = 12
"""A window is of so many parts; the oldest leaves it at once, so that it is 55 to 60 s long."""

RELATIVE_ERROR = 0.01
"""How far a percentile may be off, as a share of itself."""


class _Sketch(LogCollapsingLowestDenseDDSketch):
    """Counts of values in bins whose widths grow with the value (DDSketch, VLDB 2019)."""

    def __init__(self) -> None:
        super().__init__(RELATIVE_ERROR)

    def percentiles(self) -> Percentiles:
        # The largest is known exactly, and no percentile lies above it.
        p50, p95, p99 = (min(self.get_quantile_value(share) or 0.0, self._max) for share in (0.5, 0.95, 0.99))
        return {"p50": p50, "p95": p95, "p99": p99, "max": self._max}


def _merged(*sketches: _Sketch) -> _Sketch:
    merged = _Sketch()
    for sketch in sketches:
        merged.merge(sketch)
    return merged


class SlidingPercentiles:
    """Takes values from any thread, in microseconds each.

    Args:
        window_s: length of the window, seconds.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._slot_s = window_s / SLOTS
        self._lock = threading.Lock()
        self._slot, self._open = 0, _Sketch()
        self._closed: deque[tuple[int, _Sketch]] = deque()
        # Sums of the closed slots, made when the slot changes, so that asking costs two merges and not a dozen.
        self._window, self._total = _Sketch(), _Sketch()

    def add(self, value: float) -> None:
        """Takes a value."""
        with self._lock:
            self._turn()
            self._open.add(value)

    def window(self) -> Percentiles | None:
        """p50, p95, p99 and max of the window; None where it is empty."""
        with self._lock:
            self._turn()
            newest = _merged(self._window, self._open)
        return newest.percentiles() if newest.count else None

    def total(self) -> Percentiles | None:
        """p50, p95, p99 and max since the start; None before the first value."""
        with self._lock:
            every = _merged(self._total, self._open)
        return every.percentiles() if every.count else None

    def _turn(self) -> None:
        slot = int(time.monotonic() / self._slot_s)
        if slot == self._slot:
            return
        if self._open.count:
            self._closed.append((self._slot, self._open))
            self._total.merge(self._open)
            self._open = _Sketch()
        while self._closed and self._closed[0][0] <= slot - SLOTS:
            self._closed.popleft()
        self._window = _merged(*(sketch for _, sketch in self._closed))
        self._slot = slot
