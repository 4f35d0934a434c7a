"""Runs a TensorRT plan: named arrays in, named arrays out, over pinned memory and one stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edge_ad.backends.base import BoxFacts, Precision, Progress, QuantizationStyle, check_feeds
from edge_ad.backends.tensorrt import loader
from edge_ad.backends.tensorrt.build import plan_from_onnx
from edge_ad.backends.tensorrt.device_memory import DeviceMemory, open_device_memory
from edge_ad.errors import EngineError
from edge_ad.types import AnyArray, TensorSpec, UInt8Array

_DTYPES = {
    "BOOL": "bool",
    "FLOAT": "float32",
    "HALF": "float16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
}


@dataclass(frozen=True, slots=True)
class _Buffer:
    """One tensor's memory on both sides, large enough for the largest batch."""

    address: int
    pinned: UInt8Array
    dtype: np.dtype[Any]

    def host(self, shape: tuple[int, ...]) -> AnyArray:
        """The beginning of the host memory as an array of ``shape``."""
        size_bytes = int(np.prod(shape)) * self.dtype.itemsize
        return self.pinned[:size_bytes].view(self.dtype).reshape(shape)


class TensorRTBackend:
    """Runs a deserialized engine; all memory is allocated once, for the largest batch.

    Args:
        engine: a TensorRT ``ICudaEngine`` whose only dynamic size is the batch.
        memory: of the GPU that the engine is for; closed with the backend.

    Raises:
        EngineError: the GPU has too little memory.
    """

    payload_name: ClassVar[str] = "model.plan"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int8_fp16")
    quantization: ClassVar[QuantizationStyle] = "tensorrt"
    options: ClassVar[Mapping[str, str]] = {"tf32": "off"}

    def __init__(self, engine: Any, memory: DeviceMemory) -> None:
        self.name = "tensorrt"
        self._memory = memory
        self._engine = engine
        self._context: Any = None
        self._buffers: dict[str, _Buffer] = {}
        self._batch = 0
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
        self.inputs = tuple(self._spec(name) for name in given)
        self.outputs = tuple(self._spec(name) for name in names if name not in given)
        largest = {name: self._largest(name) for name in given}
        self.max_batch = min(shape[0] for shape in largest.values())
        with memory.active():
            self._context = engine.create_execution_context()
            if self._context is None:
                raise EngineError("TensorRT cannot make room to run the engine", why=loader.logger().take_errors())
            self._set_batch(self.max_batch)
            for spec in self.inputs + self.outputs:
                self._buffers[spec.name] = self._allocate(spec)

    @classmethod
    def box_facts(cls) -> BoxFacts:
        """TensorRT's version and the GPU; see :func:`edge_ad.backends.tensorrt.loader.box_facts`."""
        return loader.box_facts()

    @classmethod
    def build(
        cls, model: bytes, *, source: str, precision: Precision, max_batch: int, progress: Progress | None
    ) -> bytes:
        """Compiles a plan; see :func:`edge_ad.backends.tensorrt.build.plan_from_onnx`.

        What running it needs is looked for first, since a build can take many minutes.
        """
        loader.require_driver()
        memory = open_device_memory()
        with memory.active():
            memory.free()
        return plan_from_onnx(model, source=source, precision=precision, max_batch=max_batch, progress=progress)

    @classmethod
    def open(cls, payload: bytes, *, source: str, precision: Precision = "fp32") -> TensorRTBackend:
        """Deserializes a plan. A plan is native code: check where it comes from before this.

        Raises:
            EngineError: there is no driver, or TensorRT refuses the plan.
            MissingExtraError: TensorRT, or a package to reach GPU memory, is not installed.
        """
        loader.require_driver()
        trt = loader.load_tensorrt()
        logger = loader.logger()
        logger.take_errors()
        memory = open_device_memory()
        with memory.active():
            try:
                engine = trt.Runtime(logger).deserialize_cuda_engine(payload)
                if engine is None:
                    raise EngineError(
                        f"TensorRT refuses {source}",
                        why=logger.take_errors(),
                        remedy="build the engine again on this box",
                    )
                return cls(engine, memory)
            except BaseException:
                memory.free()
                raise

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Runs the engine once; see :meth:`edge_ad.types.Backend.run`."""
        batch = check_feeds(feeds, self.inputs, self.max_batch)
        with self._memory.active():
            if batch != self._batch:
                self._set_batch(batch)
            for spec in self.inputs:
                buffer, array = self._buffers[spec.name], feeds[spec.name]
                host = buffer.host(array.shape)
                np.copyto(host, array)
                self._memory.h2d_async(buffer.address, host)
            if not self._context.execute_async_v3(self._memory.stream):
                raise EngineError("TensorRT failed to run the engine", why=loader.logger().take_errors())
            results = {}
            for spec in self.outputs:
                buffer = self._buffers[spec.name]
                results[spec.name] = buffer.host(tuple(self._context.get_tensor_shape(spec.name)))
                self._memory.d2h_async(results[spec.name], buffer.address)
            self._memory.synchronize()
        return {name: host.copy() for name, host in results.items()}

    def close(self) -> None:
        """Frees the engine, its context and all memory; may be called twice."""
        with self._memory.active():
            self._buffers = {}
            self._context = None
            self._engine = None
            self._memory.free()

    def _spec(self, name: str) -> TensorSpec:
        shape = (None if size == -1 else size for size in self._engine.get_tensor_shape(name))
        return TensorSpec(name, _DTYPES[self._engine.get_tensor_dtype(name).name], tuple(shape))

    def _largest(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._engine.get_tensor_shape(name))
        return tuple(self._engine.get_tensor_profile_shape(name, 0)[2]) if -1 in shape else shape

    def _set_batch(self, batch: int) -> None:
        for spec in self.inputs:
            if not self._context.set_input_shape(spec.name, (batch, *spec.shape[1:])):
                raise EngineError(
                    f"TensorRT refuses a batch of {batch} for {spec.name!r}",
                    why=loader.logger().take_errors(),
                )
        self._batch = batch

    def _allocate(self, spec: TensorSpec) -> _Buffer:
        shape, dtype = tuple(self._context.get_tensor_shape(spec.name)), np.dtype(spec.dtype)
        size_bytes = int(np.prod(shape)) * dtype.itemsize
        buffer = _Buffer(self._memory.alloc(size_bytes), self._memory.pinned(size_bytes), dtype)
        self._context.set_tensor_address(spec.name, buffer.address)
        return buffer
