"""Keeps inspections in a list: for tests, notebooks and short runs, as it keeps every frame."""

from __future__ import annotations

from edge_ad.types import Inspection


class MemorySink:
    """A list of inspections.

    Attributes:
        inspections: in the order of arrival.
        closed: whether the line has ended.
    """

    def __init__(self) -> None:
        self.inspections: list[Inspection] = []
        self.closed = False

    def write(self, inspection: Inspection) -> None:
        """Appends the inspection."""
        self.inspections.append(inspection)

    def close(self) -> None:
        """Notes that the line has ended; the inspections stay."""
        self.closed = True
