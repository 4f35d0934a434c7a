"""What one run of an ONNX graph costs at least: multiply-adds, and the bytes that must be moved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, ValueInfoProto, numpy_helper

from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.errors import ModelError

COUNTED: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "Conv": (0, 1),
        "ConvInteger": (0, 1),
        "ConvTranspose": (0, 1),
        "Gemm": (0, 1),
        "MatMul": (0, 1),
        "MatMulInteger": (0, 1),
        "QLinearConv": (0, 3),
        "QLinearMatMul": (0, 3),
    }
)
"""Operator → which of its inputs are multiplied: the data's and the weights' number."""


@dataclass(frozen=True, slots=True)
class GraphCost:
    """The cost of one run.

    Attributes:
        macs: multiply-adds of convolutions and matrix products; what runs element by element is not counted.
        macs_by_operator: the same by operator.
        weight_bytes: of all initializers, each of which is read at least once.
        io_bytes: of the graph's inputs and outputs.
    """

    macs: int
    macs_by_operator: Mapping[str, int]
    weight_bytes: int
    io_bytes: int

    @property
    def least_bytes(self) -> int:
        """What must at least be moved to and from memory, if everything in between stayed in caches."""
        return self.weight_bytes + self.io_bytes


def graph_cost(model: bytes, batch: int = 1) -> GraphCost:
    """Counts the multiply-adds of a graph, also where weights come through DequantizeLinear.

    A convolution has ``outputs * kernel * input channels / groups``, a transposed one ``inputs * kernel * output
    channels / groups`` (those included that its padding cuts away), a matrix product ``rows * columns * depth``.

    Args:
        model: content of an ONNX file that holds its weights.
        batch: frames per run: the size given to the dynamic dimensions of the inputs.

    Raises:
        ModelError: it is not ONNX, or ONNX Runtime cannot run it.
    """
    try:
        proto = onnx.load_model_from_string(model)
    except DecodeError as error:
        raise ModelError("this is not an ONNX model", why=str(error), remedy="export the bundle again") from error
    nodes = [node for node in proto.graph.node if node.op_type in COUNTED]
    weights = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    shapes, io_bytes = _run_shapes(proto, {name for node in nodes for name in _operands(node)} - weights.keys(), batch)
    shapes.update(weights)
    counts: Counter[str] = Counter()
    for node in nodes:
        counts[node.op_type] += _macs(node, shapes)
    return GraphCost(
        macs=counts.total(),
        macs_by_operator=MappingProxyType(dict(counts)),
        weight_bytes=sum(numpy_helper.to_array(tensor).nbytes for tensor in proto.graph.initializer),
        io_bytes=io_bytes,
    )


def _run_shapes(proto: ModelProto, names: set[str], batch: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """The shapes of these tensors, and the bytes of the graph's inputs and outputs, in a run on ones.

    Shape inference would do without running, but loses track where a slice's end is computed from the batch.
    """
    own = [output.name for output in proto.graph.output]
    given = {value.name for value in proto.graph.input}
    proto.graph.output.extend(ValueInfoProto(name=name) for name in sorted(names - given - set(own)))
    backend = OnnxRuntimeBackend.open(proto.SerializeToString(), source="the graph")
    feeds = {tensor.name: np.ones([size or batch for size in tensor.shape], tensor.dtype) for tensor in backend.inputs}
    outputs = backend.run(feeds)
    backend.close()
    io_bytes = sum(array.nbytes for array in (*feeds.values(), *(outputs[name] for name in own)))
    return {name: array.shape for name, array in {**feeds, **outputs}.items()}, io_bytes


def _operands(node: NodeProto) -> tuple[str, str, str]:
    """The names of data, weights and output."""
    data, weight = COUNTED[node.op_type]
    return node.input[data], node.input[weight], node.output[0]


def _macs(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    data, weight, output = (shapes[name] for name in _operands(node))
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(weight[1:])
    if "Conv" in node.op_type:
        return math.prod(output) * math.prod(weight[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(output) * data[0 if transposed else -1]
