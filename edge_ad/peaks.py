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

SIDES = (384, 1024, 2048)
"""Rows and columns of the matrices. A small product is over before a busy machine interrupts it; only a large one keeps
many cores, or a GPU, at work."""

LONG_MS = 20.0
"""A product that takes so long is large enough."""

LAYERS = 3
COPY_BYTES = 64 * 2**20
"""More than the caches of the boxes that this is for."""

FLOAT_CHAIN = """
<ir_version: 9, opset_import: ["" : 18]>
peak (float[1,SIDE] x) => (float[1,SIDE] y)
<int64[1] rows = {0}>
{
  wide = Add (x, weight_rows)
  a = MatMul (wide, weight_0)  b = MatMul (a, weight_1)  c = MatMul (b, weight_2)
  y = ReduceMax (c, rows)
}
"""

# There is no chain of these without requantising in between; three products of one input are as good.
INTEGER_PRODUCTS = """
<ir_version: 9, opset_import: ["" : 18]>
peak (uint8[1,SIDE] x) => (int32[1,SIDE] y)
<int64[2] square = {SIDE, SIDE}, int64[1] rows = {0}>
{
  wide = Expand (x, square)
  a = MatMulInteger (wide, weight_0)  b = MatMulInteger (wide, weight_1)  c = MatMulInteger (wide, weight_2)
  most = Max (a, b, c)
  y = ReduceMax (most, rows)
}
"""


class GemmPeak:
    """Matrix products of several sizes on one backend.

    Args:
        backend: its name in ``edge_ad.backends.BACKENDS``.
        integer: multiply uint8 by int8 instead of float32 by float32.

    Raises:
        EngineError: the backend cannot run it here.
        MissingExtraError: a package that the backend needs is not installed.
    """

    def __init__(self, backend: str, *, integer: bool = False) -> None:
        kind = backend_class(backend)
        self._products: list[tuple[int, Backend, dict[str, AnyArray]]] = []
        try:
            for side in SIDES:
                model, source = gemm_model(side, integer=integer), "the matrix product"
                payload = kind.build(model, source=source, precision="fp32", max_batch=1, progress=None)
                product = kind.open(payload, source=source, precision="fp32")
                (spec,) = product.inputs
                self._products.append((side, product, {spec.name: np.ones((1, side), spec.dtype)}))
                self._run_ms(*self._products[-1][1:])
                if self._run_ms(*self._products[-1][1:]) > LONG_MS:
                    break
        except BaseException:
            self.close()
            raise

    def best_gflops(self) -> float:
        """Multiplies once in every size; the highest rate, 10⁹ operations per second, two a multiply-add."""
        return max(2 * LAYERS * side**3 / self._run_ms(product, feeds) / 1e6 for side, product, feeds in self._products)

    def close(self) -> None:
        """Frees the backend."""
        for _, product, _ in self._products:
            product.close()

    @staticmethod
    def _run_ms(product: Backend, feeds: dict[str, AnyArray]) -> float:
        started = time.perf_counter_ns()
        product.run(feeds)
        return (time.perf_counter_ns() - started) / 1e6


class CopyPeak:
    """A copy between two arrays in main memory, by as many threads as there are cores."""

    def __init__(self) -> None:
        self.threads = available_cores()
        self._parts = np.array_split(np.ones((2, COPY_BYTES // 8), np.float64), self.threads, axis=1)
        self._pool = ThreadPoolExecutor(self.threads)
        self.gb_s()

    def gb_s(self) -> float:
        """Copies once; gigabytes read and written per second."""
        started = time.perf_counter_ns()
        # NumPy lets go of the interpreter lock while it copies.
        list(self._pool.map(lambda part: np.copyto(part[1], part[0]), self._parts))
        return 2 * COPY_BYTES / (time.perf_counter_ns() - started)

    def close(self) -> None:
        """Ends the threads and frees the arrays."""
        self._pool.shutdown()
        self._parts = []


def gemm_model(side: int, *, integer: bool) -> bytes:
    """The ONNX file of products of ``(side, side)`` matrices: a chain in float32, or side by side in 8-bit integers."""
    text = INTEGER_PRODUCTS if integer else FLOAT_CHAIN
    model = onnx.parser.parse_model(text.replace("SIDE", str(side)))
    generator = np.random.default_rng(0)
    weights = {name for node in model.graph.node for name in node.input if name.startswith("weight_")}
    for name in sorted(weights):
        if integer:
            weight: AnyArray = generator.integers(-127, 128, (side, side), np.int8)
        else:
            # Of variance 1 / side, so that the chain's values neither grow nor vanish into subnormal numbers.
            weight = generator.standard_normal((side, side), np.float32) / np.float32(np.sqrt(side))
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    content: bytes = model.SerializeToString()
    return content
