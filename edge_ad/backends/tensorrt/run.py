"""Runs a TensorRT plan: named arrays in, named arrays out, over pinned memory and one stream.

A step is the copies to the GPU, the engine, and the copies back. From its second run with the same batch on it is a
CUDA graph: captured once, then queued by one call. TensorRT may change what it keeps on the GPU when the shapes
change, so a graph is for one batch and is given up with it. The line always has the same batch, and a load whose
batch changes every time just never captures.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edge_ad.backends.base import BoxFacts, Precision, Progress, QuantizationStyle, check_feeds
from edge_ad.backends.tensorrt import loader
from edge_ad.backends.tensorrt.build import plan_from_onnx
from edge_ad.backends.tensorrt.device_memory import DeviceMemory, open_device_memory
from edge_ad.backends.tensorrt.driver_calls import CudaGraph
from edge_ad.errors import EngineError
from edge_ad.types import AnyArray, TensorSpec, UInt8Array

_LOG = logging.getLogger("edge_ad.tensorrt")
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
        cuda_graphs: capture steps that repeat; where that fails, the log says so once and steps run one by one.

    Attributes:
        memory_bytes: of the GPU's memory that ``open`` saw go, which other processes falsify; None without it.

    Raises:
        EngineError: the GPU has too little memory.
    """

    payload_name: ClassVar[str] = "model.plan"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int8_fp16")
    quantization: ClassVar[QuantizationStyle] = "tensorrt"
    options: ClassVar[Mapping[str, str]] = {"tf32": "off"}

    def __init__(self, engine: Any, memory: DeviceMemory, *, cuda_graphs: bool = True) -> None:
        self.name = "tensorrt"
        self.memory_bytes: int | None = None
        self._memory = memory
        self._engine = engine
        self._context: Any = None
        self._buffers: dict[str, _Buffer] = {}
        self._batch = 0
        self._cuda_graphs = cuda_graphs
        self._graph: CudaGraph | None = None
        self._is_warm = False  # has run with this batch, so that TensorRT has nothing left to set up
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
        self.inputs = tuple(self._spec(name) for name in given)
        self.outputs = tuple(self._spec(name) for name in names if name not in given)
        largest = {name: self._largest(name) for name in given}
        self.max_batch = min(shape[0] for shape in largest.values())
        with memory.active():
            self._context = _execution_context(engine)
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
    def open(
        cls,
        payload: bytes,
        *,
        source: str,
        precision: Precision = "fp32",
        cuda_graphs: bool = True,
        memory_package: str | None = None,
    ) -> TensorRTBackend:
        """Deserializes a plan. A plan is native code: check where it comes from before this.

        Args:
            payload: the plan.
            source: its name, for errors.
            precision: of the arithmetic, which the plan itself has fixed.
            cuda_graphs: see the class.
            memory_package: see :func:`edge_ad.backends.tensorrt.device_memory.open_device_memory`.

        Raises:
            EngineError: there is no driver, or TensorRT refuses the plan.
            MissingExtraError: TensorRT, or a package to reach GPU memory, is not installed.
        """
        loader.require_driver()
        trt = loader.load_tensorrt()
        logger = loader.logger()
        logger.take_errors()
        memory = open_device_memory(memory_package)
        with memory.active():
            try:
                free_bytes = memory.free_bytes()
                engine = trt.Runtime(logger).deserialize_cuda_engine(payload)
                if engine is None:
                    raise EngineError(
                        f"TensorRT refuses {source}",
                        why=logger.take_errors(),
                        remedy="build the engine again on this box",
                    )
                backend = cls(engine, memory, cuda_graphs=cuda_graphs)
                backend.memory_bytes = free_bytes - memory.free_bytes()
                return backend
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
                array = feeds[spec.name]
                np.copyto(self._buffers[spec.name].host(array.shape), array)
            self._step()
            self._memory.synchronize()
            # Copied, as the next run writes into the same memory.
            return {spec.name: self._host(spec).copy() for spec in self.outputs}

    def _step(self) -> None:
        """Queues one step, as a graph if there is or can be one."""
        if self._graph is None and self._cuda_graphs and self._is_warm:
            self._capture()
        if self._graph is None:
            self._enqueue()
        else:
            self._memory.launch(self._graph)
        self._is_warm = True

    def _enqueue(self) -> None:
        for spec in self.inputs:
            self._memory.h2d_async(self._buffers[spec.name].address, self._host(spec))
        if not self._context.execute_async_v3(self._memory.stream):
            raise EngineError("TensorRT failed to run the engine", why=loader.logger().take_errors())
        for spec in self.outputs:
            self._memory.d2h_async(self._host(spec), self._buffers[spec.name].address)

    def _capture(self) -> None:
        """Makes a graph of the step; where that cannot be, steps are queued one by one from now on."""
        try:
            capturable = getattr(self._context, "is_stream_capturable", None)  # TensorRT-RTX knows before
            if capturable is not None and not capturable(self._memory.stream):
                raise EngineError("the engine has steps that a CUDA graph cannot hold")
            with self._memory.active():  # so that what pycuda raises is an EngineError in here already
                self._memory.begin_capture()
                try:
                    self._enqueue()
                except BaseException:
                    with contextlib.suppress(EngineError):
                        self._memory.free_graph(self._memory.end_capture())
                    raise
                self._graph = self._memory.end_capture()
        except EngineError as error:
            self._cuda_graphs = False
            _LOG.warning("running without CUDA graphs: %s", error)

    def _drop_graph(self) -> None:
        self._is_warm = False
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._memory.free_graph(graph)

    def _host(self, spec: TensorSpec) -> AnyArray:
        """The tensor in host memory, of the batch that is set."""
        return self._buffers[spec.name].host(tuple(self._context.get_tensor_shape(spec.name)))

    def close(self) -> None:
        """Frees the engine, its context and all memory; may be called twice."""
        with self._memory.active():
            self._drop_graph()
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
        self._drop_graph()
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


def _execution_context(engine: Any) -> Any:
    """A context; TensorRT-RTX's compiles the kernels for each batch at once, as a graph would keep stopgap ones."""
    config: Any = engine.create_runtime_config() if hasattr(engine, "create_runtime_config") else None
    strategy = getattr(config, "dynamic_shapes_kernel_specialization_strategy", None)
    if strategy is None:
        return engine.create_execution_context()
    config.dynamic_shapes_kernel_specialization_strategy = type(strategy).EAGER
    return engine.create_execution_context(config)
