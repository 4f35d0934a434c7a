"""Whether the colour and depth that an SDK hands out together are one capture, and a new one."""

from __future__ import annotations

from collections import Counter


class PairCheck:
    """Refuses sets that are no new capture, and counts them.

    Args:
        max_skew_ms: colour and depth of one capture are exposed at most so far apart.
        dropped: counts by cause: ``sequence_gap`` (captures that never arrived), ``mispaired`` (two captures in
            one set) and ``repeated`` (a depth image that was there before).
    """

    def __init__(self, max_skew_ms: float, dropped: Counter[str]) -> None:
        self._max_skew_ms = max_skew_ms
        self._dropped = dropped
        self._seen: int | None = None

    def is_new_capture(self, number: int, skew_ms: float) -> bool:
        """Whether a set may become a frame.

        Args:
            number: the camera's own, of the depth image.
            skew_ms: between the two images.
        """
        seen = self._seen
        if seen is not None and number <= seen:
            self._dropped["repeated"] += 1
            return False
        if seen is not None and number > seen + 1:
            self._dropped["sequence_gap"] += number - seen - 1
        self._seen = number
        if skew_ms > self._max_skew_ms:
            self._dropped["mispaired"] += 1
            return False
        return True
