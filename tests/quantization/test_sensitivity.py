"""The search for layers that must stay in floating point, with engines whose errors are known."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pytest

from edge_ad.quantization.gate import Gate, Run
from edge_ad.quantization.sensitivity import GROUPS, Opened, Sweep, convolutions, layers_to_keep, sweep
from edge_ad.types import AnyArray
from tests.onnx_graphs import inspection_graph
from tests.quantization.test_gate import frames, reference, scores

LAYERS = tuple(f"conv{number}" for number in range(8))
MANY = tuple(f"conv{number}" for number in range(3 * GROUPS))


class Engines:
    """Opens engines in which each layer in INT8 moves map and score by its own error; remembers what was opened."""

    def __init__(self, errors: Mapping[str, float]) -> None:
        self.errors = errors
        self.opened: list[frozenset[str]] = []
        self.alive = 0

    @contextmanager
    def __call__(self, kept: Collection[str]) -> Iterator[Run]:
        self.opened.append(frozenset(kept))
        error = sum(value for name, value in self.errors.items() if name not in kept)

        def run(feeds: Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
            outputs = reference(feeds)
            shift = np.float32(error * scores().std())
            return {"anomaly_map": outputs["anomaly_map"] + shift, "score": outputs["score"] + shift}

        self.alive += 1
        assert self.alive == 1, "one engine at a time"
        yield run
        self.alive -= 1


@pytest.fixture(scope="module")
def gate() -> Gate:
    """Allows scores to move by 0.25 of their standard deviation."""
    return Gate(reference, frames(12), None)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    value = scores()
    monkeypatch.setattr(f"{__name__}.scores", lambda: value)


def errors(names: Collection[str], **worst: float) -> dict[str, float]:
    return dict.fromkeys(names, 0.001) | worst


def test_the_worst_layers_come_first(gate: Gate) -> None:
    engines: Opened = Engines(errors(LAYERS, conv5=0.4, conv2=0.9))
    found = sweep(LAYERS, gate, engines, budget_s=60)
    assert found.order[:2] == (("conv2",), ("conv5",))
    assert set(found.order) == {(name,) for name in LAYERS}
    shares = {name: value / found.errors["conv2"] for name, value in found.errors.items()}
    assert shares["conv5"] == pytest.approx(0.4 / 0.9, abs=0.01)
    assert shares["conv0"] == pytest.approx(0.001 / 0.9, abs=0.001)


def test_each_layer_is_judged_alone(gate: Gate) -> None:
    engines = Engines(errors(LAYERS, conv2=0.9))
    sweep(LAYERS, gate, engines, budget_s=60)
    assert engines.opened == [frozenset(LAYERS) - {name} for name in LAYERS]


def test_only_groups_that_stand_out_are_looked_into(gate: Gate) -> None:
    engines = Engines(errors(MANY, conv13=0.9))
    found = sweep(MANY, gate, engines, budget_s=60)
    assert found.order[0] == ("conv13",)
    assert sorted(name for unit in found.order for name in unit) == sorted(MANY)
    assert ("conv0", "conv1", "conv2") in found.order
    assert len(engines.opened) == GROUPS + 3
    assert "conv0 … conv2" in found.errors


def test_when_time_is_up_groups_stay_whole(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    engines = Engines(errors(MANY, conv13=0.9))
    found = sweep(MANY, gate, engines, budget_s=0.5)
    assert found.order[0] == ("conv12", "conv13", "conv14")
    assert len(engines.opened) == GROUPS
    assert len(found.order) == GROUPS


def ordered(*units: str) -> Sweep:
    return Sweep(tuple(tuple(unit.split()) for unit in units), {})


def in_order(names: Collection[str]) -> Sweep:
    return ordered(*names)


@pytest.mark.parametrize("needed", [1, 2, 3, 4])
def test_the_fewest_layers_go_back(gate: Gate, needed: int) -> None:
    """Each of the first ones does too much harm by itself; up to half of all may go back."""
    engines = Engines(errors(LAYERS) | dict.fromkeys(LAYERS[:needed], 0.3))
    assert layers_to_keep(in_order(LAYERS), len(LAYERS), gate, engines) == LAYERS[:needed]
    assert len(set(engines.opened)) == len(engines.opened), "no engine is tried twice"


@pytest.mark.parametrize("layers", [6, 7])
def test_half_of_the_layers_is_tried_where_it_is_no_power_of_two(gate: Gate, layers: int) -> None:
    engines = Engines(errors(LAYERS[:layers]) | dict.fromkeys(LAYERS[:3], 0.3))
    assert layers_to_keep(in_order(LAYERS[:layers]), layers, gate, engines) == LAYERS[:3]


def test_more_than_half_is_never_tried(gate: Gate) -> None:
    engines = Engines(errors(LAYERS) | dict.fromkeys(LAYERS[:5], 0.3))
    assert layers_to_keep(in_order(LAYERS), len(LAYERS), gate, engines) is None
    assert max(map(len, engines.opened)) == 4


def test_layers_that_stay_together_go_back_together(gate: Gate) -> None:
    engines = Engines(errors(LAYERS, conv6=0.3))
    found = layers_to_keep(ordered("conv5 conv6 conv7", "conv0", "conv1"), len(LAYERS), gate, engines)
    assert found == ("conv5", "conv6", "conv7")


def test_nothing_helps_where_one_group_is_more_than_half(gate: Gate) -> None:
    engines = Engines(errors(LAYERS, conv6=0.3))
    assert layers_to_keep(ordered("conv3 conv4 conv5 conv6 conv7", "conv0"), len(LAYERS), gate, engines) is None
    assert engines.opened == []


def test_what_happens_is_told(gate: Gate) -> None:
    told: list[str] = []
    engines = Engines(errors(MANY, conv13=0.9))
    found = sweep(MANY, gate, engines, budget_s=60, progress=told.append)
    assert told[0] == f"which layers: group 1 of {GROUPS}"
    assert "which layers: conv13" in told
    layers_to_keep(found, len(MANY), gate, engines, told.append)
    assert told[-1] == f"1 of {len(MANY)} layers back in floating point"


def test_convolutions_are_named_in_order_of_execution() -> None:
    model = inspection_graph()
    for node in model.graph.node:
        node.name = f"make_{node.output[0]}"
    assert convolutions(model.SerializeToString()) == ["make_stem", "make_teacher", "make_down", "make_student"]
