"""Triggers by the clock."""

from __future__ import annotations

import threading
import time

from pydantic import Field

from edge_ad.settings import Settings, validated
from edge_ad.triggers.base import OnTrigger, TriggerSource


class TimerOptions(Settings):
    """What may follow ``timer://?``.

    Attributes:
        rate: parts a second.
        parts: ends after so many; 0 for no end.
    """

    rate: float = Field(default=1.0, gt=0, le=1000)
    parts: int = Field(default=0, ge=0)


class TimerTriggers(TriggerSource):
    """Announces parts 1, 2, 3, … at a steady rate."""

    def __init__(self, options: TimerOptions) -> None:
        self._options = options
        self._stop = threading.Event()

    @classmethod
    def from_uri(cls, address: str, options: dict[str, object]) -> TimerTriggers:
        """Makes the source of ``timer://?rate=2&parts=0``.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        return cls(validated(TimerOptions, options, "trigger timer://"))

    def start(self, on_trigger: OnTrigger) -> None:
        """Counts in a thread of its own."""

        def work() -> None:
            due_s, number = time.monotonic(), 0
            while not self._stop.wait(max(0.0, due_s - time.monotonic())):
                if self._options.parts and number >= self._options.parts:
                    break
                number += 1
                due_s += 1 / self._options.rate
                on_trigger(str(number), "")
            self.is_over = True

        threading.Thread(target=work, name="triggers", daemon=True).start()

    def close(self) -> None:
        """Ends the clock."""
        self._stop.set()
