"""What the commands share: consoles, progress bars, printing reports as JSON or as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

notes = Console(stderr=True, highlight=False)
"""For people: progress and remarks. Standard output stays free for results."""

results = Console(highlight=False)
"""For results: tables, or JSON lines with ``--json``."""


def comma_separated(text: str | None) -> tuple[str, ...]:
    """The parts of ``rgb, normals``; none of None or an empty text."""
    return tuple(part.strip() for part in text.split(",")) if text else ()


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    results.out(json.dumps(value, indent=1), highlight=False)


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """A bar with a first task called ``description``, gone when it ends; nothing where no terminal is."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as progress:
        progress.add_task(description, total=None, remark="")
        yield progress
