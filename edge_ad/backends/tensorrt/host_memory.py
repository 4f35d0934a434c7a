"""GPU memory that is none, for tests and for trying code without a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from edge_ad.backends.tensorrt.driver_calls import CudaGraph
from edge_ad.errors import EngineError
from edge_ad.types import AnyArray, UInt8Array


class HostMemory:
    """The fake of ``DeviceMemory``: "GPU memory" is host memory, and the stream a list of things to do.

    Attributes:
        stream: the one stream, which has no handle.
        buffers: "GPU memory" by address.
        queue: what has been queued and not yet done.
        graphs: what each graph does.
    """

    def __init__(self) -> None:
        self.stream = 1
        self.buffers: dict[int, UInt8Array] = {}
        self.queue: list[Callable[[], object]] = []
        self.graphs: dict[CudaGraph, list[Callable[[], object]]] = {}
        self._recording: list[Callable[[], object]] | None = None
        self._captured = 0

    def active(self) -> AbstractContextManager[None]:
        """See :class:`DeviceMemory`."""
        return contextlib.nullcontext()

    def alloc(self, size_bytes: int) -> int:
        """See :class:`DeviceMemory`."""
        buffer = np.zeros(size_bytes, np.uint8)
        self.buffers[buffer.ctypes.data] = buffer
        return buffer.ctypes.data

    def pinned(self, size_bytes: int) -> UInt8Array:
        """See :class:`DeviceMemory`."""
        return np.zeros(size_bytes, np.uint8)

    def enqueue(self, work: Callable[[], object]) -> None:
        """Queues or records one piece of work, as a kernel launch does."""
        (self.queue if self._recording is None else self._recording).append(work)

    def h2d_async(self, address: int, host: AnyArray) -> None:
        """See :class:`DeviceMemory`."""
        target, source = self.buffers[address][: host.nbytes], host.reshape(-1).view(np.uint8)
        self.enqueue(lambda: np.copyto(target, source))

    def d2h_async(self, host: AnyArray, address: int) -> None:
        """See :class:`DeviceMemory`."""
        target, source = host.reshape(-1).view(np.uint8), self.buffers[address][: host.nbytes]
        self.enqueue(lambda: np.copyto(target, source))

    def synchronize(self) -> None:
        """See :class:`DeviceMemory`; while recording it is refused, as CUDA does."""
        if self._recording is not None:
            raise EngineError("the GPU failed", why="a stream that is being captured cannot be waited for")
        while self.queue:
            self.queue.pop(0)()

    def begin_capture(self) -> None:
        """See :class:`DeviceMemory`."""
        if self._recording is not None:
            raise EngineError("the GPU failed", why="the stream is being captured already")
        self._recording = []

    def end_capture(self) -> CudaGraph:
        """See :class:`DeviceMemory`."""
        if self._recording is None:
            raise EngineError("the GPU failed", why="the stream is not being captured")
        self._captured += 1
        graph = CudaGraph(self._captured, self._captured)
        self.graphs[graph], self._recording = self._recording, None
        return graph

    def launch(self, graph: CudaGraph) -> None:
        """See :class:`DeviceMemory`."""
        self.queue.extend(self.graphs[graph])

    def free_graph(self, graph: CudaGraph) -> None:
        """See :class:`DeviceMemory`."""
        del self.graphs[graph]

    def free_bytes(self) -> int:
        """See :class:`DeviceMemory`; as of a GPU with 1 GiB."""
        return 2**30 - sum(buffer.nbytes for buffer in self.buffers.values())

    def free(self) -> None:
        """See :class:`DeviceMemory`."""
        self.buffers.clear()
        self.queue.clear()
