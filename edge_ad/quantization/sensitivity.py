"""Which layers must stay in floating point for a quantised engine to judge well: one sweep, then a search.

Each group of neighbouring convolutions is quantised alone and the change of the map measured; the worst groups are
looked into one convolution at a time. Errors of different layers hardly know of each other, so they add up, and
those that do most harm for the multiply-adds they save go back first, until the gate is passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import onnx

from edge_ad.quantization.gate import Gate, GateReport, Run
from edge_ad.quantization.network import CONVOLUTIONS, network_nodes

GROUPS = 12
LOOKED_INTO = 3
FRAMES = 6
"""Frames that an error is measured on."""

Opened = Callable[[Collection[str]], AbstractContextManager[Run]]
"""Builds and opens the engine in which the named convolutions stay in floating point."""


@dataclass(frozen=True, slots=True)
class Found:
    """The layers that were put back, the report then, and each unit's error when quantised alone."""

    kept: tuple[str, ...]
    report: GateReport
    errors: dict[str, float]


def convolutions(model: bytes) -> list[str]:
    """The names of a graph's quantisable convolutions, in order of execution."""
    graph = onnx.load_from_string(model).graph
    return [node.name for node in network_nodes(graph) if node.op_type in CONVOLUTIONS]


def search(
    model: bytes, gate: Gate, opened: Opened, *, budget_s: float, progress: Callable[[str], None] = lambda text: None
) -> Found | None:
    """Puts back as few layers as it takes to pass the gate.

    Args:
        model: content of the ONNX file in float32.
        gate: to pass.
        opened: makes engines.
        budget_s: the sweep ends after so long, with what it knows by then.
        progress: called with short messages.

    Returns:
        What was found, or None where even with the worse half put back the gate is not passed.
    """
    names = convolutions(model)
    order, errors = _worst_first(names, gate, opened, time.monotonic() + budget_s, progress)
    tried: dict[int, GateReport] = {}

    def passes(count: int) -> bool:
        kept = [name for unit in order[:count] for name in unit]
        progress(f"{len(kept)} of {len(names)} layers back in floating point")
        with opened(kept) as run:
            tried[count] = gate.report(run)
        return tried[count].passed

    enough = next((count for count in _doubling(order, len(names) // 2) if passes(count)), None)
    if enough is None:
        return None
    low = max((count for count, report in tried.items() if not report.passed), default=0)
    while enough - low > 1:
        middle = (low + enough) // 2
        low, enough = (low, middle) if passes(middle) else (middle, enough)
    kept = tuple(name for unit in order[:enough] for name in unit)
    return Found(kept, tried[enough], errors)


def _doubling(order: Sequence[tuple[str, ...]], most: int) -> Iterator[int]:
    """1, 2, 4 … units, as long as they hold no more than ``most`` layers."""
    count = 1
    while count <= len(order) and sum(len(unit) for unit in order[:count]) <= most:
        yield count
        count *= 2


def _worst_first(
    names: Sequence[str], gate: Gate, opened: Opened, end: float, progress: Callable[[str], None]
) -> tuple[list[tuple[str, ...]], dict[str, float]]:
    """Units of layers, the most harmful for their number first, and the error of each."""

    def error(unit: tuple[str, ...]) -> float:
        with opened([name for name in names if name not in unit]) as run:
            return gate.map_error(run, FRAMES)

    size = -(-len(names) // GROUPS)
    groups = [tuple(names[start : start + size]) for start in range(0, len(names), size)]
    found: dict[tuple[str, ...], float] = {}
    for number, unit in enumerate(groups, 1):
        progress(f"sweep: group {number} of {len(groups)}")
        found[unit] = error(unit)
    for group in sorted(groups, key=lambda unit: -found[unit])[:LOOKED_INTO]:
        for name in group:
            if time.monotonic() > end:
                break
            progress(f"sweep: {name}")
            found[(name,)] = error((name,))
        if all((name,) in found for name in group):
            del found[group]
        else:
            for name in group:
                found.pop((name,), None)
    order = sorted(found, key=lambda unit: -found[unit] / len(unit))
    return order, {unit[0] if len(unit) == 1 else f"{unit[0]} … {unit[-1]}": found[unit] for unit in order}
