"""Where inspections go: memory, JSON lines, images, SQLite. Each sink is in its own file."""

from __future__ import annotations

import dataclasses
import math
from datetime import datetime, timezone
from typing import Any

from edge_ad.types import Inspection


def inspection_record(inspection: Inspection) -> dict[str, Any]:
    """What is kept of an inspection in writing: one schema for JSON lines and SQLite.

    Args:
        inspection: a finished inspection.

    Returns:
        JSON-able values. ``recorded_utc`` is the wall clock now (ISO 8601, milliseconds), as
        ``timestamp_ns`` is the host's monotonic clock and means nothing after a restart. A number
        that is not finite, or that an inspection without a result lacks, is None.
    """
    frame, verdict, result = inspection.frame, inspection.verdict, inspection.result
    latency_ms = {} if result is None else result.latency_ms
    return {
        "recorded_utc": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "timestamp_ns": frame.timestamp_ns,
        "sequence": frame.sequence,
        "source": frame.source,
        "part_id": frame.part_id,
        "decision": verdict.decision.value,
        "score": None if result is None else _finite(result.score),
        "threshold": _finite(verdict.threshold),
        "reason": verdict.reason,
        "regions": [dataclasses.asdict(region) for region in verdict.regions],
        "latency_ms": {stage: _finite(duration_ms) for stage, duration_ms in latency_ms.items()},
        "model_id": inspection.model_id or ("" if result is None else result.model_id),
        "mode": verdict.mode,
        "recipe": inspection.recipe,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
