"""Triggers on standard input, a line for each part; its end is the end of the run."""

from __future__ import annotations

import io
import logging
import sys
import threading
from typing import TextIO

from edge_ad.errors import ConfigError
from edge_ad.triggers.base import OnTrigger, TriggerSource, lines_of

_log = logging.getLogger(__name__)


class StdinTriggers(TriggerSource):
    """Reads part names.

    Args:
        stream: of text lines; standard input where there is none.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    @classmethod
    def from_uri(cls, address: str, options: dict[str, object]) -> StdinTriggers:
        """Makes the source of ``stdin``.

        Raises:
            ConfigError: something follows it.
        """
        if address or options:
            raise ConfigError("stdin takes no address and no options", remedy="write --trigger stdin")
        return cls()

    def start(self, on_trigger: OnTrigger) -> None:
        """Reads in a thread of its own; a daemon, as reading cannot be interrupted."""
        stream = sys.stdin if self._stream is None else self._stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what is no UTF-8 is a strange name, not the end

        def work() -> None:
            try:
                for line in lines_of(stream):
                    self.announce(line, on_trigger)
            except (OSError, ValueError) as error:  # ValueError: it was closed
                _log.error("standard input cannot be read any more: %s", error)
            finally:
                self.is_over = True

        threading.Thread(target=work, name="triggers", daemon=True).start()

    def close(self) -> None:
        """Nothing is held open."""
