"""An engine that adds, over host memory: TensorRT's interface without TensorRT."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum, auto

import numpy as np

from edge_ad.backends.tensorrt.host_memory import HostMemory
from edge_ad.backends.tensorrt.run import TensorRTBackend
from edge_ad.types import AnyArray


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
        self.launches = 0
        self.before_launch: Callable[[], object] = lambda: None
        self.is_stream_capturable: Callable[[int], bool] = lambda stream: True

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
        self.launches += 1
        self.before_launch()
        if self.works:
            batch = self.batches[-1]  # a launch keeps the shapes that it was given
            self.memory.enqueue(lambda: self._add(batch))
        return self.works

    def _add(self, batch: int) -> None:
        count = batch * 3
        left = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(self.addresses["left"]))
        right, total = (
            np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses[name]))
            for name in ("right", "total")
        )
        np.add(left, right, out=total)


def make_backend(cuda_graphs: bool = True) -> tuple[TensorRTBackend, AddingEngine, HostMemory]:
    memory = HostMemory()
    engine = AddingEngine(memory)
    return TensorRTBackend(engine, memory, cuda_graphs=cuda_graphs), engine, memory


def make_feeds(batch: int, seed: int = 0) -> dict[str, AnyArray]:
    generator = np.random.default_rng(seed)
    left = generator.integers(0, 256, (batch, 3), dtype=np.uint8)
    return {"left": left, "right": generator.standard_normal((batch, 3)).astype(np.float32)}
