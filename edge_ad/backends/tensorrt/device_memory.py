"""GPU memory, pinned host memory and one stream, as integers and NumPy arrays.

``pycuda`` is tried first, then ``cuda-bindings``; ``host_memory.py`` does the same on plain memory. Copies and
kernels queue up on the stream and have happened only after ``synchronize``, in the fake too. A step that repeats
can be captured: recorded as a CUDA graph, and from then on queued by one call.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from edge_ad.backends.tensorrt.driver_calls import CudaGraph, DriverCalls
from edge_ad.errors import EngineError, MissingExtraError
from edge_ad.extras import require
from edge_ad.types import AnyArray, UInt8Array


class DeviceMemory(Protocol):
    """Memory of one GPU. Every other use of it stands inside ``with memory.active():``.

    Attributes:
        stream: handle of the one stream.
    """

    stream: int

    def active(self) -> AbstractContextManager[None]:
        """Makes the GPU current in this thread, and turns its failures into EngineError."""

    def alloc(self, size_bytes: int) -> int:
        """Address of new GPU memory."""

    def pinned(self, size_bytes: int) -> UInt8Array:
        """New page-locked host memory, uint8 (size_bytes,), which the GPU reads and writes directly."""

    def h2d_async(self, address: int, host: AnyArray) -> None:
        """Queues a copy of the C-contiguous array ``host`` to the GPU."""

    def d2h_async(self, host: AnyArray, address: int) -> None:
        """Queues a copy from the GPU that fills the C-contiguous array ``host``."""

    def synchronize(self) -> None:
        """Waits until everything queued has been done."""

    def begin_capture(self) -> None:
        """From now on copies and kernels are recorded instead of queued, always with the same addresses."""

    def end_capture(self) -> CudaGraph:
        """Ends the recording; must be called, and raises, also where recording failed."""

    def launch(self, graph: CudaGraph) -> None:
        """Queues what was recorded."""

    def free_graph(self, graph: CudaGraph) -> None:
        """Gives back a graph, which must not be running."""

    def free_bytes(self) -> int:
        """Memory of the GPU that nothing uses."""

    def free(self) -> None:
        """Gives back the stream and all memory; arrays from ``pinned`` must not be used any more."""


PACKAGES = ("pycuda", "cuda-bindings")
"""What reaches the GPU's memory, in the order in which they are tried."""


def open_device_memory(package: str | None = None) -> DeviceMemory:
    """Memory of the first GPU that this process sees.

    Args:
        package: one of ``PACKAGES``; None for the first one that can be imported.

    Raises:
        EngineError: the GPU cannot be used.
        MissingExtraError: the package cannot be imported, or none of them.
    """
    missing = []
    for name in (package,) if package else PACKAGES:
        try:
            if name == "pycuda":
                return PycudaMemory(require("pycuda.driver", extra="pycuda"))
            return CudaBindingsMemory(require("cuda.bindings.runtime", extra="cuda-bindings"))
        except MissingExtraError as error:
            missing.append(f"{name}: {error.why}")
    raise MissingExtraError(
        "GPU memory cannot be reached",
        why="; ".join(missing),
        remedy="pip install 'edge-ad[cuda-bindings]', or 'edge-ad[pycuda]' where nvcc is installed",
    )


class _WithDriver:
    """What goes to the driver directly, whatever package reaches the memory."""

    stream: int

    def __init__(self) -> None:
        self._calls = DriverCalls()

    def begin_capture(self) -> None:
        """See :class:`DeviceMemory`."""
        self._calls.begin_capture(self.stream)

    def end_capture(self) -> CudaGraph:
        """See :class:`DeviceMemory`."""
        return self._calls.end_capture(self.stream)

    def launch(self, graph: CudaGraph) -> None:
        """See :class:`DeviceMemory`."""
        self._calls.launch(graph, self.stream)

    def free_graph(self, graph: CudaGraph) -> None:
        """See :class:`DeviceMemory`."""
        self._calls.free_graph(graph)

    def free_bytes(self) -> int:
        """See :class:`DeviceMemory`."""
        return self._calls.free_bytes()


class PycudaMemory(_WithDriver):
    """Over ``pycuda.driver``, in the device's primary context, which TensorRT uses too."""

    def __init__(self, cuda: Any) -> None:
        super().__init__()
        self._cuda = cuda
        self._allocations: list[Any] = []
        with self._translated():
            cuda.init()
            self._context = cuda.Device(0).retain_primary_context()
        with self.active():
            self._stream = cuda.Stream()
            self.stream = self._stream.handle

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """See :class:`DeviceMemory`. PyCUDA wants every push undone in the thread that made it."""
        with self._translated():
            self._context.push()
            try:
                yield
            finally:
                self._cuda.Context.pop()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            raise EngineError("the GPU failed", why=str(error), remedy="see `edge-ad doctor`") from error

    def alloc(self, size_bytes: int) -> int:
        """See :class:`DeviceMemory`."""
        self._allocations.append(self._cuda.mem_alloc(size_bytes))
        return int(self._allocations[-1])

    def pinned(self, size_bytes: int) -> UInt8Array:
        """See :class:`DeviceMemory`."""
        array: UInt8Array = self._cuda.pagelocked_empty(size_bytes, np.uint8)
        self._allocations.append(array.base)
        return array

    def h2d_async(self, address: int, host: AnyArray) -> None:
        """See :class:`DeviceMemory`."""
        self._cuda.memcpy_htod_async(address, host, self._stream)

    def d2h_async(self, host: AnyArray, address: int) -> None:
        """See :class:`DeviceMemory`."""
        self._cuda.memcpy_dtoh_async(host, address, self._stream)

    def synchronize(self) -> None:
        """See :class:`DeviceMemory`."""
        self._stream.synchronize()

    def free(self) -> None:
        """See :class:`DeviceMemory`."""
        while self._allocations:
            self._allocations.pop().free()
        self._stream = None


class CudaBindingsMemory(_WithDriver):
    """Over ``cuda.bindings.runtime``, whose calls use the primary context by themselves."""

    def __init__(self, cuda: Any) -> None:
        super().__init__()
        self._cuda = cuda
        self._device: list[int] = []
        self._pinned: list[int] = []
        self._check(cuda.cudaSetDevice(0))
        self.stream = int(self._check(cuda.cudaStreamCreate()))

    def _check(self, answer: tuple[Any, ...]) -> Any:
        """The value of a call that returned (error, value), or None if it returned only (error,)."""
        code, *values = answer
        if int(code) != 0:
            raise EngineError("the GPU failed", why=f"{code.name} ({int(code)})", remedy="see `edge-ad doctor`")
        return values[0] if values else None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """See :class:`DeviceMemory`."""
        self._check(self._cuda.cudaSetDevice(0))
        yield

    def alloc(self, size_bytes: int) -> int:
        """See :class:`DeviceMemory`."""
        self._device.append(int(self._check(self._cuda.cudaMalloc(size_bytes))))
        return self._device[-1]

    def pinned(self, size_bytes: int) -> UInt8Array:
        """See :class:`DeviceMemory`."""
        address = int(self._check(self._cuda.cudaHostAlloc(size_bytes, 0)))
        self._pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))

    def h2d_async(self, address: int, host: AnyArray) -> None:
        """See :class:`DeviceMemory`."""
        self._copy(address, host.ctypes.data, host.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def d2h_async(self, host: AnyArray, address: int) -> None:
        """See :class:`DeviceMemory`."""
        self._copy(host.ctypes.data, address, host.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def _copy(self, target: int, source: int, size_bytes: int, kind: Any) -> None:
        self._check(self._cuda.cudaMemcpyAsync(target, source, size_bytes, kind, self.stream))

    def synchronize(self) -> None:
        """See :class:`DeviceMemory`."""
        self._check(self._cuda.cudaStreamSynchronize(self.stream))

    def free(self) -> None:
        """See :class:`DeviceMemory`."""
        while self._device:
            self._check(self._cuda.cudaFree(self._device.pop()))
        while self._pinned:
            self._check(self._cuda.cudaFreeHost(self._pinned.pop()))
        if self.stream:
            self._check(self._cuda.cudaStreamDestroy(self.stream))
            self.stream = 0
