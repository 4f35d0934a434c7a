"""The runtime part over host memory and an engine that adds, since the real one needs a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_ad.backends.tensorrt import device_memory, loader, run
from edge_ad.backends.tensorrt.device_memory import open_device_memory
from edge_ad.backends.tensorrt.host_memory import HostMemory
from edge_ad.backends.tensorrt.run import TensorRTBackend
from edge_ad.errors import EngineError, MissingExtraError
from edge_ad.types import Backend, TensorSpec
from tests.backends.adding_engine import AddingEngine, make_backend, make_feeds


def test_describes_inputs_and_outputs() -> None:
    backend, _, _ = make_backend()
    assert isinstance(backend, Backend)
    assert backend.inputs == (TensorSpec("left", "uint8", (None, 3)), TensorSpec("right", "float32", (None, 3)))
    assert backend.outputs == (TensorSpec("total", "float32", (None, 3)),)
    assert backend.max_batch == 4


@pytest.mark.parametrize("cuda_graphs", [True, False], ids=["graphs", "no graphs"])
def test_gives_right_answers_whatever_batch_came_before(cuda_graphs: bool) -> None:
    backend, _, memory = make_backend(cuda_graphs)
    results = []
    for seed, batch in enumerate((4, 1, 3, 3, 3, 3, 2, 3, 3, 3)):
        feeds = make_feeds(batch, seed)
        results.append((feeds["left"] + feeds["right"], backend.run(feeds)["total"]))
        assert not memory.queue, "nothing may be left on the stream"
    for expected, total in results:  # compared last: a result must survive the runs after it
        np.testing.assert_array_equal(total, expected)


def test_input_shapes_are_set_only_when_the_batch_changes() -> None:
    backend, engine, _ = make_backend()
    for batch in (2, 2, 2):
        backend.run(make_feeds(batch))
    assert engine.context.batches == [4, 4, 2, 2]


def test_takes_arrays_that_are_not_contiguous() -> None:
    backend, _, _ = make_backend()
    feeds = {name: np.asfortranarray(array) for name, array in make_feeds(4).items()}
    np.testing.assert_array_equal(backend.run(feeds)["total"], feeds["left"] + feeds["right"])


def test_a_batch_beyond_the_profile_is_refused() -> None:
    backend, _, _ = make_backend()
    with pytest.raises(EngineError, match="batch is 5.*at most 4"):
        backend.run(make_feeds(5))


def test_a_failed_launch_is_an_error() -> None:
    try:
        loader.load_tensorrt()  # the reason comes from its logger
    except MissingExtraError as error:
        pytest.skip(str(error))
    backend, engine, _ = make_backend()
    engine.context.works = False
    with pytest.raises(EngineError, match="failed to run"):
        backend.run(make_feeds(1))


def test_close_frees_everything_and_may_be_called_twice() -> None:
    backend, _, memory = make_backend()
    assert len(memory.buffers) == 3
    backend.close()
    backend.close()
    assert memory.buffers == {}


def opened(monkeypatch: pytest.MonkeyPatch, accepts: bool) -> tuple[HostMemory, Callable[[], TensorRTBackend]]:
    """Host memory, and what opens a plan on it, with a runtime that takes every plan or none."""
    memory = HostMemory()
    engine = AddingEngine(memory) if accepts else None
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda payload: engine)
    logger = SimpleNamespace(take_errors=lambda: "another version")
    monkeypatch.setattr(loader, "require_driver", lambda: None)
    monkeypatch.setattr(loader, "load_tensorrt", lambda: SimpleNamespace(Runtime=lambda logger: runtime))
    monkeypatch.setattr(loader, "logger", lambda: logger)
    monkeypatch.setattr(run, "open_device_memory", lambda package: memory)
    return memory, lambda: TensorRTBackend.open(b"plan", source="model.plan")


def test_open_tells_how_much_memory_went(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, open_plan = opened(monkeypatch, accepts=True)
    backend = open_plan()
    assert backend.memory_bytes == sum(buffer.nbytes for buffer in memory.buffers.values()) == 4 * 3 * (1 + 4 + 4)


def test_a_plan_that_tensorrt_refuses_leaves_no_memory_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, open_plan = opened(monkeypatch, accepts=False)
    memory.alloc(8)
    with pytest.raises(EngineError, match=r"refuses model\.plan\. another version\. Remedy: build the engine again"):
        open_plan()
    assert memory.buffers == {}


def driver_is_there() -> bool:
    try:
        loader.require_driver()
    except EngineError:
        return False
    return True


without_driver = pytest.mark.skipif(driver_is_there(), reason="this box has a driver")

NO_CRASH = """
from edge_ad.errors import EngineError, MissingExtraError
from edge_ad.backends.tensorrt.run import TensorRTBackend
try:
    {call}
except EngineError as error:
    print(error)
"""


@without_driver
@pytest.mark.parametrize(
    "call",
    ["TensorRTBackend.open(bytes(1000), source='model.plan')", "TensorRTBackend.box_facts()"],
    ids=["open", "box_facts"],
)
def test_no_driver_is_an_error_and_no_crash(call: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_CRASH.format(call=call)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "no NVIDIA driver" in done.stdout
    assert "--backend onnxruntime" in done.stdout


@without_driver
def test_gpu_memory_without_a_driver_is_an_error() -> None:
    with pytest.raises((MissingExtraError, EngineError), match="cuda-bindings|no NVIDIA driver"):
        open_device_memory()


def test_gpu_memory_without_packages_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(module: str, *, extra: str) -> Any:
        raise MissingExtraError(f"{module} cannot be imported", why=f"no {module}")

    monkeypatch.setattr(device_memory, "require", nothing)
    with pytest.raises(MissingExtraError, match=r"edge-ad\[cuda-bindings\].*edge-ad\[pycuda\]"):
        open_device_memory()


def test_host_memory_does_nothing_before_synchronize() -> None:
    memory = HostMemory()
    source, target = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
    address = memory.alloc(source.nbytes)
    memory.h2d_async(address, source)
    memory.d2h_async(target, address)
    assert not target.any()
    memory.synchronize()
    np.testing.assert_array_equal(target, source)


@pytest.mark.gpu
@pytest.mark.skipif(not driver_is_there(), reason="needs an NVIDIA GPU and a driver")
def test_device_memory_keeps_what_was_sent() -> None:
    memory = open_device_memory()
    with memory.active():
        sent, received = memory.pinned(1000), memory.pinned(1000)
        sent[:] = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)
        address = memory.alloc(1000)
        memory.h2d_async(address, sent)
        memory.d2h_async(received, address)
        memory.synchronize()
        np.testing.assert_array_equal(received, sent)
        del sent, received
        memory.free()
