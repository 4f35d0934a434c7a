"""What is wrong with the line at this moment, in plain words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person should look at.

    Attributes:
        name: what it is about, such as ``camera`` or ``drift.exposure``; one alarm at a time has it.
        text: what is wrong and what to do, in plain words.
        since_s: when it was raised, seconds since the epoch.
    """

    name: str
    text: str
    since_s: float


Listener = Callable[[Alarm, bool], None]
"""Told of each alarm that is raised (True) or cleared (False)."""


class Alarms:
    """The alarms that are on; safe for use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: dict[str, Alarm] = {}
        self._raised: dict[str, int] = {}
        self._listeners: list[Listener] = []

    def alert(self, name: str, text: str) -> None:
        """Raises an alarm, or changes the text of one that is on already, which counts and tells nothing anew."""
        with self._lock:
            known = self._active.get(name)
            alarm = Alarm(name, text, time.time() if known is None else known.since_s)
            self._active[name] = alarm
            if known is None:
                self._raised[name] = self._raised.get(name, 0) + 1
            listeners = [] if known is not None else list(self._listeners)
        for listener in listeners:
            listener(alarm, True)

    def clear(self, name: str) -> None:
        """Ends an alarm; nothing where it is not on."""
        with self._lock:
            alarm = self._active.pop(name, None)
            listeners = [] if alarm is None else list(self._listeners)
        for listener in listeners:
            assert alarm is not None
            listener(alarm, False)

    def active(self) -> tuple[Alarm, ...]:
        """Those that are on, the oldest first."""
        with self._lock:
            return tuple(sorted(self._active.values(), key=lambda alarm: alarm.since_s))

    def raised(self) -> dict[str, int]:
        """How often each has been raised."""
        with self._lock:
            return dict(self._raised)

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Tells ``listener`` of changes for the length of a ``with`` block, in the thread that makes them."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)
