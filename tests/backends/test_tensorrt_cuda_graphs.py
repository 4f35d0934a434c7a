"""Capturing and replaying steps, over host memory, and what is asked of the driver for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edge_ad.backends.tensorrt.device_memory import DeviceMemory
from edge_ad.backends.tensorrt.driver_calls import CudaGraph, DriverCalls
from edge_ad.backends.tensorrt.host_memory import HostMemory
from edge_ad.backends.tensorrt.run import TensorRTBackend
from edge_ad.errors import EngineError
from tests.backends.adding_engine import AddingEngine, make_backend, make_feeds


def test_a_step_that_repeats_becomes_a_graph_of_its_batch() -> None:
    backend, engine, memory = make_backend()
    launches, graphs = [], []
    for seed, batch in enumerate((2, 2, 2, 2, 3, 2, 2)):
        backend.run(make_feeds(batch, seed))
        launches.append(engine.context.launches)
        graphs.append(len(memory.graphs))
    # 2: warm-up, capture, replay, replay; 3: warm-up; 2 again: warm-up, capture
    assert launches == [1, 2, 2, 2, 3, 4, 5]
    assert graphs == [0, 1, 1, 1, 0, 0, 1]
    backend.close()
    assert memory.graphs == {}


def test_without_graphs_every_step_is_launched() -> None:
    backend, engine, memory = make_backend(cuda_graphs=False)
    for _ in range(3):
        backend.run(make_feeds(2))
    assert engine.context.launches == 3
    assert memory.graphs == {}


class Uncapturable(HostMemory):
    """Where capturing fails: when it begins, or when it ends, as CUDA says after something forbidden."""

    def __init__(self, fails_at: str) -> None:
        super().__init__()
        self.fails_at = fails_at

    def begin_capture(self) -> None:
        if self.fails_at == "begin":
            raise EngineError("the GPU failed", why="CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900)")
        super().begin_capture()

    def end_capture(self) -> CudaGraph:
        graph = super().end_capture()
        if self.fails_at == "end":
            self.free_graph(graph)
            raise EngineError("the GPU failed", why="CUDA_ERROR_STREAM_CAPTURE_INVALIDATED (901)")
        return graph


@pytest.fixture
def warnings_logged() -> Iterator[list[str]]:
    messages: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("edge_ad.tensorrt"), Kept(logging.WARNING)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.mark.parametrize("fails_at", ["begin", "launch", "end", "asked"])
def test_where_capturing_fails_steps_run_one_by_one(fails_at: str, warnings_logged: list[str]) -> None:
    memory = Uncapturable(fails_at)
    engine = AddingEngine(memory)
    backend = TensorRTBackend(engine, memory)
    if fails_at == "asked":
        engine.context.is_stream_capturable = lambda stream: False
    if fails_at == "launch":
        engine.context.before_launch = memory.synchronize
    for seed in range(4):
        feeds = make_feeds(2, seed)
        np.testing.assert_array_equal(backend.run(feeds)["total"], feeds["left"] + feeds["right"])
    assert memory.graphs == {}
    assert len(warnings_logged) == 1
    assert warnings_logged[0].startswith("running without CUDA graphs")


def test_host_memory_replays_a_graph_on_the_same_addresses() -> None:
    memory: DeviceMemory = HostMemory()
    source, target = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
    address = memory.alloc(source.nbytes)
    memory.begin_capture()
    memory.h2d_async(address, source)
    memory.d2h_async(target, address)
    with pytest.raises(EngineError, match="cannot be waited for"):
        memory.synchronize()
    graph = memory.end_capture()
    memory.synchronize()
    assert not target.any(), "recorded, not done"
    for value in (3, 5):
        source[:] = value
        memory.launch(graph)
        memory.synchronize()
        np.testing.assert_array_equal(target, value)


class Driver:
    """Answers like libcuda: fills in handles, 0 for success, and a code for the call that ``fails``."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.calls: list[tuple[str, list[Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name == "cuGetErrorName":
                arguments[1]._obj.value = b"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
                return 0
            self.calls.append((name, [getattr(argument, "value", None) for argument in arguments]))
            for argument in arguments:
                if hasattr(argument, "_obj"):
                    argument._obj.value = 100 + len(self.calls)
            return 901 if name == self.fails else 0

        return call


def test_graphs_take_the_drivers_calls() -> None:
    driver: Any = Driver()
    calls = DriverCalls(driver)
    calls.begin_capture(7)
    graph = calls.end_capture(7)
    assert graph == CudaGraph(graph=102, executable=103)
    calls.launch(graph, 7)
    calls.free_graph(graph)
    assert calls.free_bytes() == 107
    assert driver.calls == [
        ("cuStreamBeginCapture_v2", [7, 1]),
        ("cuStreamEndCapture", [7, None]),
        ("cuGraphInstantiateWithFlags", [None, 102, 0]),
        ("cuGraphLaunch", [103, 7]),
        ("cuGraphExecDestroy", [103]),
        ("cuGraphDestroy", [102]),
        ("cuMemGetInfo_v2", [None, None]),
    ]


def test_a_graph_that_cannot_be_instantiated_is_given_back() -> None:
    driver: Any = Driver(fails="cuGraphInstantiateWithFlags")
    with pytest.raises(
        EngineError, match=r"cuGraphInstantiateWithFlags answered CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    ):
        DriverCalls(driver).end_capture(7)
    assert driver.calls[-1] == ("cuGraphDestroy", [101])
