"""A one-slot buffer between a camera that never waits and a consumer that is sometimes slower."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestSlot(Generic[T]):
    """Holds the newest item only: what was not taken in time is overwritten, and ``put`` says so.

    Safe for one or more threads on either side; neither side ever waits for the other's work.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None

    def put(self, item: T) -> bool:
        """Puts an item in the slot.

        Returns:
            True when it overwrote one that nobody had taken.
        """
        with self._changed:
            overwrites, self._item = self._item is not None, item
            self._changed.notify()
            return overwrites

    def get(self, timeout_s: float) -> T | None:
        """Takes the item, waiting for one up to ``timeout_s``; None when none came."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None, timeout_s)
            item, self._item = self._item, None
            return item
