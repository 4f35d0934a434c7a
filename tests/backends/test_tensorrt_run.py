"""The runtime part over host memory and an engine that adds, since the real one needs a GPU."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from enum import Enum, auto
from typing import Any

import numpy as np
import pytest

from edge_ad.backends.tensorrt import device_memory, loader
from edge_ad.backends.tensorrt.device_memory import HostMemory, open_device_memory
from edge_ad.backends.tensorrt.run import TensorRTBackend
from edge_ad.errors import EngineError, MissingExtraError
from edge_ad.types import AnyArray, Backend, TensorSpec


class Kind(Enum):
    INPUT = auto()
    OUTPUT = auto()
    FLOAT = auto()
    UINT8 = auto()


class AddingEngine:
    """``total`` (N, 3) float32 = ``left`` (N, 3) uint8 + ``right`` (N, 3) float32, for N up to 4."""

    tensors = {
        "left": (Kind.INPUT, Kind.UINT8),
        "right": (Kind.INPUT, Kind.FLOAT),
        "total": (Kind.OUTPUT, Kind.FLOAT),
    }
    num_io_tensors = 3

    def __init__(self, memory: HostMemory) -> None:
        self.memory = memory
        self.context = AddingContext(memory)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Kind:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Kind:
        return self.tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 3)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 3), (4, 3), (4, 3)]

    def create_execution_context(self) -> AddingContext:
        return self.context


class AddingContext:
    def __init__(self, memory: HostMemory) -> None:
        self.memory = memory
        self.addresses: dict[str, int] = {}
        self.batches: list[int] = []
        self.works = True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batches.append(shape[0])
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.batches[-1], 3)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name not in self.addresses, "memory is allocated once"
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self.memory.stream
        if self.works:
            self.memory.queue.append(self._add)
        return self.works

    def _add(self) -> None:
        count = self.batches[-1] * 3
        left = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(self.addresses["left"]))
        right, total = (
            np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses[name]))
            for name in ("right", "total")
        )
        np.add(left, right, out=total)


def make_backend() -> tuple[TensorRTBackend, AddingEngine, HostMemory]:
    memory = HostMemory()
    engine = AddingEngine(memory)
    return TensorRTBackend(engine, memory), engine, memory


def make_feeds(batch: int, seed: int = 0) -> dict[str, AnyArray]:
    generator = np.random.default_rng(seed)
    left = generator.integers(0, 256, (batch, 3), dtype=np.uint8)
    return {"left": left, "right": generator.standard_normal((batch, 3)).astype(np.float32)}


def test_describes_inputs_and_outputs() -> None:
    backend, _, _ = make_backend()
    assert isinstance(backend, Backend)
    assert backend.inputs == (TensorSpec("left", "uint8", (None, 3)), TensorSpec("right", "float32", (None, 3)))
    assert backend.outputs == (TensorSpec("total", "float32", (None, 3)),)
    assert backend.max_batch == 4


def test_gives_right_answers_whatever_batch_came_before() -> None:
    backend, _, memory = make_backend()
    results = []
    for seed, batch in enumerate((4, 1, 3, 3, 2)):
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
    with pytest.raises((MissingExtraError, EngineError), match="cuda-bindings|cudaErrorInsufficientDriver"):
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
