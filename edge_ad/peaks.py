"""What this box can do at most, measured beside an engine: a matrix product, and a copy in memory.

The matrix product runs on the engine's own backend, as a chain of square layers that hold their weights. What goes in
and out is a vector, so that nothing but arithmetic takes time, also where data has to travel to a GPU.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
from onnx import numpy_helper

from edge_ad.backends import backend_class
from edge_ad.backends.onnxruntime import available_cores
from edge_ad.types import AnyArray, Backend

SIDE = 1024
"""Rows and columns of each matrix: 4 MB in float32, large enough for any CPU's and most GPUs' best rate."""

LAYERS = 3
COPY_BYTES = 64 * 2**20
"""More than the caches of the boxes that this is for."""

FLOAT_CHAIN = f"""
<ir_version: 9, opset_import: ["" : 18]>
peak (float[{SIDE},1] x) => (float[{SIDE}] y)
<int64[2] square = {{{SIDE}, {SIDE}}}, int64[1] rows = {{0}}>
{{
  wide = Expand (x, square)
  a = MatMul (wide, weight_0)  b = MatMul (a, weight_1)  c = MatMul (b, weight_2)
  y = ReduceMax <keepdims = 0> (c, rows)
}}
"""

# There is no chain of these without requantising in between; three products of one input are as good.
INTEGER_PRODUCTS = f"""
<ir_version: 9, opset_import: ["" : 18]>
peak (uint8[{SIDE},1] x) => (int32[{SIDE}] y)
<int64[2] square = {{{SIDE}, {SIDE}}}, int64[1] rows = {{0}}>
{{
  wide = Expand (x, square)
  a = MatMulInteger (wide, weight_0)  b = MatMulInteger (wide, weight_1)  c = MatMulInteger (wide, weight_2)
  most = Max (a, b, c)
  y = ReduceMax <keepdims = 0> (most, rows)
}}
"""


class GemmPeak:
    """A matrix product of known size on one backend.

    Args:
        backend: its name in ``edge_ad.backends.BACKENDS``.
        integer: multiply uint8 by int8 instead of float32 by float32.

    Raises:
        EngineError: the backend cannot run it here.
        MissingExtraError: a package that the backend needs is not installed.
    """

    macs = LAYERS * SIDE**3

    def __init__(self, backend: str, *, integer: bool = False) -> None:
        kind, model = backend_class(backend), _model(integer=integer)
        payload = kind.build(model, source="the matrix product", precision="fp32", max_batch=1, progress=None)
        self._backend: Backend = kind.open(payload, source="the matrix product", precision="fp32")
        (spec,) = self._backend.inputs
        self._feeds: dict[str, AnyArray] = {spec.name: np.ones((SIDE, 1), spec.dtype)}
        self._backend.run(self._feeds)

    def run_ms(self) -> float:
        """Multiplies once; the time it took, milliseconds."""
        started = time.perf_counter_ns()
        self._backend.run(self._feeds)
        return (time.perf_counter_ns() - started) / 1e6

    def close(self) -> None:
        """Frees the backend."""
        self._backend.close()


class CopyPeak:
    """A copy between two arrays in main memory, by as many threads as there are cores."""

    def __init__(self) -> None:
        self.threads = available_cores()
        self._parts = np.array_split(np.ones((2, COPY_BYTES // 8), np.float64), self.threads, axis=1)
        self._pool = ThreadPoolExecutor(self.threads)
        self.run_ms()

    def run_ms(self) -> float:
        """Copies once; the time it took, milliseconds."""
        started = time.perf_counter_ns()
        # NumPy lets go of the interpreter lock while it copies.
        list(self._pool.map(lambda part: np.copyto(part[1], part[0]), self._parts))
        return (time.perf_counter_ns() - started) / 1e6

    def close(self) -> None:
        """Ends the threads and frees the arrays."""
        self._pool.shutdown()
        self._parts = []


def _model(*, integer: bool) -> bytes:
    model = onnx.parser.parse_model(INTEGER_PRODUCTS if integer else FLOAT_CHAIN)
    generator = np.random.default_rng(0)
    for index in range(LAYERS):
        if integer:
            weight: AnyArray = generator.integers(-127, 128, (SIDE, SIDE), np.int8)
        else:
            # Of variance 1 / SIDE, so that the chain's values neither grow nor vanish into subnormal numbers.
            weight = (generator.standard_normal((SIDE, SIDE)) / np.sqrt(SIDE)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, f"weight_{index}"))
    content: bytes = model.SerializeToString()
    return content
