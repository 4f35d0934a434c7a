"""When a frame arrived, had nobody kept it waiting: a process that was paused must not pass an old frame off as new."""

from __future__ import annotations

import math

HALF_WINDOW_S = 15.0
"""The shortest way from sensor to host is sought in so many newest seconds, to twice as many: clocks drift apart."""

RESTARTED_S = 30.0
"""A frame that seems to have waited for longer tells that the sensor's clock was set anew."""


class SteadyClock:
    """Turns a live sensor's times into times of arrival on the host's monotonic clock.

    The way of a frame from sensor to host takes a little more or less each time, and much more where the reader was
    paused or busy while the SDK kept the frame. The shortest way of late, added to the sensor's own time, is when the
    frame would have arrived without that.
    """

    def __init__(self) -> None:
        self._shortest_s = self._shortest_before_s = math.inf
        self._since_s = self._last_s = -math.inf

    def arrival_ns(self, sensor_s: float, now_ns: int) -> int:
        """When a frame arrived, or would have.

        Args:
            sensor_s: its time by the sensor's clock, whose zero may be anywhere; one that stands still tells nothing.
            now_ns: when it was received, on the host's monotonic clock.

        Returns:
            On the host's monotonic clock, never after ``now_ns``.
        """
        now_s = now_ns / 1e9
        way_s = now_s - sensor_s
        if way_s - min(self._shortest_s, self._shortest_before_s) > RESTARTED_S or sensor_s <= self._last_s:
            self._shortest_s = self._shortest_before_s = math.inf
            self._since_s = now_s
        self._last_s = sensor_s
        if now_s - self._since_s > HALF_WINDOW_S:
            self._shortest_before_s, self._shortest_s, self._since_s = self._shortest_s, math.inf, now_s
        self._shortest_s = min(self._shortest_s, way_s)
        waited_s = way_s - min(self._shortest_s, self._shortest_before_s)
        return now_ns - round(1e9 * max(0.0, waited_s))
