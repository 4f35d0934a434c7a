"""Ctrl-C and SIGTERM as a request to finish what is in hand, not as an exception in the middle of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Sets ``stop`` on the first SIGINT or SIGTERM; a second one acts as it would without us.

    Outside the main thread, which alone may handle signals, it does nothing.

    Args:
        stop: set within the ``with`` block only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        restore()
        # In a thread: setting it here could wait for a lock that the interrupted code holds.
        threading.Thread(target=stop.set).start()

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
