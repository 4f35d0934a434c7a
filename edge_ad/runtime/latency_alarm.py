"""Says so when results come too late, and what takes the time."""

from __future__ import annotations

import math
from collections.abc import Mapping

from edge_ad.alarms import Alarms
from edge_ad.errors import ConfigError
from edge_ad.runtime.stats import AGE, STAGES, Statistics

CALM = 0.9
"""The alarm ends below this share of the limit, so that it does not flicker."""

NOT_WITHIN = (AGE, "answer", "read", "camera away", "sinks")
"""Stages that are no part of a result's age: they contain it, or end before it begins, or come after it."""


class LatencyAlarm:
    """Watches the 99th percentile of the age of results over the window; the alarm is ``latency``.

    Args:
        statistics: of the line.
        alarms: where it is raised and cleared.
        max_latency_ms: from a capture's arrival to its verdict.

    Raises:
        ConfigError: the limit is not positive.
    """

    def __init__(self, statistics: Statistics, alarms: Alarms, max_latency_ms: float) -> None:
        if not (math.isfinite(max_latency_ms) and max_latency_ms > 0):
            raise ConfigError(
                f"the latency limit is {max_latency_ms} ms",
                why="every result takes longer than nothing",
                remedy="give the milliseconds that a verdict may take",
            )
        self._statistics, self._alarms, self._max_latency_ms = statistics, alarms, max_latency_ms
        self._late = False

    def check(self) -> None:
        """Raises, renews or clears the alarm; called about once a second, from one thread."""
        latency_ms = self._statistics.latency_ms()
        # Without a result in the window nothing is known to be late; the silence has an alarm of its own.
        age_ms = latency_ms[AGE]["p99"] if AGE in latency_ms else 0.0
        self._late = age_ms > self._max_latency_ms * (CALM if self._late else 1.0)
        if not self._late:
            self._alarms.clear("latency")
            return
        self._alarms.alert(
            "latency",
            f"results come late: 1 in 100 took {age_ms:.0f} ms or more in the last minute, the limit is "
            f"{self._max_latency_ms:g} ms. {_slowest(latency_ms)}",
        )


def _slowest(latency_ms: Mapping[str, Mapping[str, float]]) -> str:
    """Where the time goes, in plain words; down to the part of a stage where parts are known."""
    p99_ms = {stage: values["p99"] for stage, values in latency_ms.items() if stage not in NOT_WITHIN}
    whole_ms = {stage: value_ms for stage, value_ms in p99_ms.items() if "." not in stage}
    if not whole_ms:
        return "No stage was measured"
    stage = max(whole_ms, key=whole_ms.__getitem__)
    parts_ms = {part: value_ms for part, value_ms in p99_ms.items() if part.startswith(f"{stage}.")}
    if parts_ms:
        stage = max(parts_ms, key=parts_ms.__getitem__)
    meaning = f" ({STAGES[stage]})" if stage in STAGES else ""
    slowest = f"he slowest stage is {stage}{meaning}: {p99_ms[stage]:.0f} ms"
    idle_ms = latency_ms[AGE]["p99"] - sum(whole_ms.values())
    return f"Most of it is waiting for the frames before; t{slowest}" if idle_ms > p99_ms[stage] else f"T{slowest}"
