"""Which part a triggered capture shows, where the camera itself cannot say."""

from __future__ import annotations

import time
from collections import deque

LOST_AFTER_S = 3.0
"""A capture that has not come so long after its trigger was lost in the camera."""


class TriggeredParts:
    """Names captures by the order of their triggers, and rather not at all than wrongly.

    A camera that was triggered while it was busy, or whose capture got lost, sends one capture less than it
    had triggers, and nobody can say which; so a capture is named only when a single one is on its way.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, str]] = deque()

    def triggered(self, part_id: str) -> None:
        """Notes a trigger."""
        now_s = time.monotonic()
        while self._waiting and now_s - self._waiting[0][0] > LOST_AFTER_S:
            self._waiting.popleft()
        self._waiting.append((now_s, part_id))

    def captured(self) -> str | None:
        """The part of the capture that has just come; None where it is not certain."""
        certain = len(self._waiting) == 1
        part_id = self._waiting.popleft()[1] if self._waiting else ""
        return part_id if certain and part_id else None

    def clear(self) -> None:
        """Forgets the triggers: the stream begins afresh."""
        self._waiting.clear()
