"""Which layers must stay in floating point for a quantised engine to judge well: one sweep, then a search.

Each group of neighbouring convolutions is quantised alone and the change of the map measured; groups that stand out
are looked into one convolution at a time. Errors of different layers hardly know of each other, so they add up, and
the layers that do most harm go back first, until the gate is passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate

import onnx

from edge_ad.quantization.gate import Gate, Run
from edge_ad.quantization.network import CONVOLUTIONS, network_nodes

GROUPS = 12
LOOKED_INTO, STANDS_OUT = 3, 1.5
"""At most so many groups are looked into, and only those with so many times the mean error."""

FRAMES = 6
"""Frames that an error is measured on."""

Opened = Callable[[Collection[str]], AbstractContextManager[Run]]
"""Builds and opens the engine in which the named convolutions stay in floating point."""


Unit = tuple[str, ...]
"""Layers that stay together."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Units of layers, the most harmful first, and the map's change when only they are in INT8."""

    order: tuple[Unit, ...]
    errors: dict[str, float]


def convolutions(model: bytes) -> list[str]:
    """The names of a graph's quantisable convolutions, in order of execution."""
    graph = onnx.load_from_string(model).graph
    return [node.name for node in network_nodes(graph) if node.op_type in CONVOLUTIONS]


def layers_to_keep(
    sweep: Sweep, layers: int, gate: Gate, opened: Opened, progress: Callable[[str], None] = lambda text: None
) -> tuple[str, ...] | None:
    """As few layers as it takes to pass the gate when they stay in floating point.

    Args:
        sweep: which do most harm.
        layers: that the graph has; no more than half of them are put back.
        gate: to pass.
        opened: makes engines.
        progress: called with short messages.

    Returns:
        Their names, or None where the gate is not passed with half of them.
    """
    order = sweep.order
    tried: dict[int, bool] = {}

    def passes(count: int) -> bool:
        kept = [name for unit in order[:count] for name in unit]
        progress(f"{len(kept)} of {layers} layers back in floating point")
        with opened(kept) as run:
            tried[count] = gate.report(run).passed
        return tried[count]

    enough = next((count for count in _doubling(order, layers // 2) if passes(count)), None)
    if enough is None:
        return None
    low = max((count for count, passed in tried.items() if not passed), default=0)
    while enough - low > 1:
        middle = (low + enough) // 2
        low, enough = (low, middle) if passes(middle) else (middle, enough)
    return tuple(name for unit in order[:enough] for name in unit)


def _doubling(order: Sequence[Unit], most: int) -> Iterator[int]:
    """1, 2, 4 … units, and at last as many as hold no more than ``most`` layers."""
    last = sum(held <= most for held in accumulate(len(unit) for unit in order))
    count = 1
    while count < last:
        yield count
        count *= 2
    if last:
        yield last


def sweep(
    names: Sequence[str],
    gate: Gate,
    opened: Opened,
    *,
    budget_s: float,
    progress: Callable[[str], None] = lambda text: None,
) -> Sweep:
    """Finds out which layers do most harm.

    Args:
        names: of the convolutions, in order of execution.
        gate: whose frames are looked at.
        opened: makes engines.
        budget_s: after so long the looking into groups ends with what is known by then.
        progress: called with short messages.
    """
    end = time.monotonic() + budget_s

    def error(unit: Unit) -> float:
        with opened([name for name in names if name not in unit]) as run:
            return gate.map_error(run, FRAMES)

    size = -(-len(names) // GROUPS)
    groups = [tuple(names[start : start + size]) for start in range(0, len(names), size)]
    found: dict[Unit, float] = {}
    for number, unit in enumerate(groups, 1):
        progress(f"which layers: group {number} of {len(groups)}")
        found[unit] = error(unit)
    mean = sum(found.values()) / len(found)
    several = [unit for unit in sorted(groups, key=lambda unit: -found[unit]) if len(unit) > 1]
    worst = [unit for unit in several if found[unit] > STANDS_OUT * mean]
    for group in worst[:LOOKED_INTO]:
        single: dict[Unit, float] = {}
        for name in group:
            if time.monotonic() > end:
                break
            progress(f"which layers: {name}")
            single[(name,)] = error((name,))
        else:
            del found[group]
            found |= single
    order = tuple(sorted(found, key=lambda unit: -found[unit] / len(unit)))
    return Sweep(order, {unit[0] if len(unit) == 1 else f"{unit[0]} … {unit[-1]}": found[unit] for unit in order})
