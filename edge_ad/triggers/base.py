"""What sources of triggers share: how a line of text names a part, and doing nothing where nothing is to be said."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from edge_ad.alarms import Alarm
from edge_ad.types import Inspection

OnTrigger = Callable[[str, str], None]
"""Called with a part's name and its recipe; either may be empty."""

MAX_LINE = 4096
"""Characters of one line; a longer one is refused whole."""

_log = logging.getLogger(__name__)


class TriggerSource:
    """Announces parts. As a sink it is told of each inspection, and it passes on what it can.

    Attributes:
        is_over: no trigger will come any more.
        refused: lines that announced no part.
        address: where it listens; empty where it does not.
    """

    is_over = False
    refused = 0
    address = ""

    def start(self, on_trigger: OnTrigger) -> None:
        """Begins to announce parts, from a thread of its own."""
        raise NotImplementedError

    def write(self, inspection: Inspection) -> None:
        """An inspection has been made; tells nobody."""

    def heartbeat(self, alarms: Sequence[Alarm]) -> None:
        """The line is alive; tells nobody."""

    def alarm(self, alarm: Alarm, raised: bool) -> None:
        """An alarm was raised, or is over; tells nobody."""

    def close(self) -> None:
        """Ends; may be called twice."""

    def announce(self, line: str, on_trigger: OnTrigger) -> str:
        """Announces the part that a line names.

        Returns:
            Why it names none; empty where it does.
        """
        try:
            if len(line) >= MAX_LINE:
                raise ValueError(f"a line has more than {MAX_LINE} characters")
            part_id, recipe = part_of(line)
        except ValueError as error:
            self.refused += 1
            _log.warning("a trigger was refused: %s", error)
            return str(error)
        on_trigger(part_id, recipe)
        return ""


def lines_of(stream: TextIO) -> Iterator[str]:
    """The lines of a stream with their ends; of one that is too long the first `MAX_LINE` characters alone."""
    while line := stream.readline(MAX_LINE):
        rest = line
        while len(rest) == MAX_LINE and not rest.endswith("\n"):
            rest = stream.readline(MAX_LINE)
        yield line


def part_of(line: str) -> tuple[str, str]:
    """The part and the recipe that a line names.

    Raises:
        ValueError: it names neither.
    """
    text = line.strip()
    if not text.startswith("{"):
        return text, ""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{text[:80]!r} is not JSON: {error}") from error
    unknown = message.keys() - {"part", "recipe"}
    values = [message.get(name, "") for name in ("part", "recipe")]
    if unknown or not all(type(value) in (str, int) for value in values):
        raise ValueError(f'{text[:80]!r}: write {{"part": "A-17"}} or {{"part": "A-17", "recipe": "lid"}}')
    part_id, recipe = str(values[0]), str(values[1])
    (part_id + recipe).encode()  # half a surrogate pair can be written as JSON, and nowhere else
    return part_id, recipe
