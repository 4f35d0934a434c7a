"""Inspections on their way out: each sink has a thread and a bounded queue, so none can hold up the line."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from edge_ad.errors import EdgeAdError
from edge_ad.runtime.stats import Statistics
from edge_ad.types import Inspection, Sink

CAPACITY = 32
"""Inspections that wait for one sink, with their frames: about a second of a live camera."""

LOOK_S = 0.1

CLOSE_S = 10.0
"""At the end, so long may a sink take for what is waiting."""

_log = logging.getLogger(__name__)


class Outlet:
    """One sink, written to by a thread of its own.

    Args:
        sink: receives the inspections in order.
        statistics: receives times, failures and losses.
        stop: lossless until it is set: waits when the queue is full. None or set, the oldest inspection in a full
            queue is lost and counted.
        capacity: of the queue.
    """

    def __init__(
        self, sink: Sink, statistics: Statistics, stop: threading.Event | None = None, capacity: int = CAPACITY
    ) -> None:
        self.name = type(sink).__name__
        self._sink, self._statistics = sink, statistics
        self._stop, self._capacity = stop, capacity
        self._waiting: deque[Inspection] = deque()
        self._changed = threading.Condition()
        self._closing = False
        # A daemon, as a sink that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"sink {self.name}", daemon=True)
        self._thread.start()

    def put(self, inspection: Inspection) -> None:
        """Queues an inspection."""
        with self._changed:
            while self._stop is not None and not self._stop.is_set() and len(self._waiting) >= self._capacity:
                self._changed.wait(LOOK_S)  # in turns: a sink that hangs must not keep the line from ending
            if len(self._waiting) >= self._capacity:
                self._waiting.popleft()
                self._statistics.dropped(f"undelivered to {self.name}")
            self._waiting.append(inspection)
            self._changed.notify_all()

    def __len__(self) -> int:
        """Inspections that wait."""
        return len(self._waiting)

    def finish(self) -> None:
        """Takes no more; what waits is still written."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Waits until all is written and the sink closed; what is not by then is counted as lost."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._statistics.dropped(f"undelivered to {self.name}", len(self._waiting))
            _log.error("%s does not come to an end; it is left behind with %d inspections", self.name, len(self))

    def _work(self) -> None:
        while (inspection := self._next()) is not None:
            started_s = time.perf_counter()
            self._attempt(lambda inspection=inspection: self._sink.write(inspection))  # type: ignore[misc]
            self._statistics.record("sinks", 1000 * (time.perf_counter() - started_s))
        self._attempt(self._sink.close)

    def _next(self) -> Inspection | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            inspection = self._waiting.popleft() if self._waiting else None
            self._changed.notify_all()
            return inspection

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if self._statistics.sink_failed(self.name) == 1:
                # Once: a full disk fails at every frame, and the log may be on it.
                _log.error("%s failed: %s", self.name, error, exc_info=not isinstance(error, EdgeAdError))


class Delivery:
    """All outlets of a line.

    Args:
        sinks: receive every inspection.
        statistics: receives times, failures and losses.
        stop: see `Outlet`.
    """

    def __init__(self, sinks: Sequence[Sink], statistics: Statistics, stop: threading.Event | None = None) -> None:
        self._outlets = [Outlet(sink, statistics, stop) for sink in sinks]

    def put(self, inspection: Inspection) -> None:
        """Queues an inspection for every sink."""
        for outlet in self._outlets:
            outlet.put(inspection)

    def depths(self) -> dict[str, int]:
        """Inspections that wait, by sink."""
        return {outlet.name: len(outlet) for outlet in self._outlets}

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Writes what waits and closes the sinks, all at once and within ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        for outlet in self._outlets:
            outlet.finish()
        for outlet in self._outlets:
            outlet.join(max(0.0, deadline_s - time.monotonic()))
