"""CUDA graphs and free memory through the driver's library itself.

PyCUDA has no graphs in the releases that run beside TensorRT 8, and a stream's handle is the same to all, so one
implementation serves both packages that reach the GPU's memory.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from edge_ad.backends.tensorrt.loader import error_name, require_driver
from edge_ad.errors import EngineError

_THREAD_LOCAL = 1  # CUstreamCaptureMode: what other threads do does not spoil the capture
_HANDLE, _SIZE = ctypes.c_void_p, ctypes.c_size_t


@dataclass(frozen=True, slots=True)
class CudaGraph:
    """A recorded step, ready to be launched: handles of the ``CUgraph`` and its ``CUgraphExec``."""

    graph: int
    executable: int


class DriverCalls:
    """What both packages leave out. The caller has made the GPU current.

    Args:
        driver: the driver's library; by default the one of this box.

    Raises:
        EngineError: there is no driver. Every method raises it when the driver refuses.
    """

    def __init__(self, driver: ctypes.CDLL | None = None) -> None:
        self._driver = driver or require_driver()

    def begin_capture(self, stream: int) -> None:
        """From now on the stream records what is queued instead of doing it."""
        self._call("cuStreamBeginCapture_v2", _HANDLE(stream), ctypes.c_int(_THREAD_LOCAL))

    def end_capture(self, stream: int) -> CudaGraph:
        """Ends the recording, also one that has failed, and makes the graph ready to launch."""
        graph, executable = _HANDLE(), _HANDLE()
        self._call("cuStreamEndCapture", _HANDLE(stream), ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        except EngineError:
            self._call("cuGraphDestroy", graph)
            raise
        return CudaGraph(graph.value or 0, executable.value or 0)

    def launch(self, graph: CudaGraph, stream: int) -> None:
        """Queues all of a graph at once."""
        self._call("cuGraphLaunch", _HANDLE(graph.executable), _HANDLE(stream))

    def free_graph(self, graph: CudaGraph) -> None:
        """Gives a graph back; it must not be running."""
        self._call("cuGraphExecDestroy", _HANDLE(graph.executable))
        self._call("cuGraphDestroy", _HANDLE(graph.graph))

    def free_bytes(self) -> int:
        """Memory of the current GPU that nothing uses."""
        free, total = _SIZE(), _SIZE()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise EngineError(
                "the GPU failed",
                why=f"{name} answered {error_name(self._driver, code)}",
                remedy="see `edge-ad doctor`",
            )
