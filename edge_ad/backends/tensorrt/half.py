"""Types the networks of an ONNX graph in float16 and leaves everything else in float32.

Convolutions are where the time goes, and half precision is enough for them. Depth in millimetres, inverse
depth, vector lengths with an epsilon of 1e-6, standardisation and the blur need float32. The rule that tells
them apart looks at the graph, not at names: a convolution with many output channels has learned weights and
is typed float16, and so is an activation, sum, concatenation or pooling whose inputs all are. Casts stand
where the two meet, so the graph's inputs and outputs keep their types.

``onnxconverter_common.float16`` takes a list of nodes to leave alone instead, but writes an invalid model
when a constant is used on both sides of the list, as exporters like to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_ad.extras import require

LEARNED_CHANNELS = 8
"""Network layers have at least this many output channels; image filters (Sobel, box, Gaussian) fewer."""

HALF_SUFFIX = "__half"
"""Ends the names of float16 tensors."""

_FOLLOWERS = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity"}
    | {"LeakyRelu", "MaxPool", "Pad", "PRelu", "Relu", "Reshape", "Sigmoid", "Slice", "Split", "Transpose"}
)


def half_precision_model(model: bytes) -> bytes:
    """The model with its networks in float16.

    Args:
        model: content of an ONNX file whose tensors are float32.

    Returns:
        Content of an ONNX file with the same inputs and outputs.

    Raises:
        MissingExtraError: the package ``onnx`` is not installed.
    """
    onnx: Any = require("onnx", extra="tensorrt")
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    _Rewriter(onnx, proto.graph).run()
    rewritten: bytes = proto.SerializeToString()
    return rewritten


class _Rewriter:
    """One pass over the nodes, which ONNX keeps in order of execution.

    Of a float tensor ``x``, the graph holds the float32 value as ``x``, the float16 value as ``x__half``,
    or both; a cast is added where the first reader wants what is not there yet.
    """

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx, self._graph = onnx, graph
        constants = {
            node.output[0]: node.attribute[0].t
            for node in graph.node
            if node.op_type == "Constant" and node.attribute[0].name == "value"
        }
        self._weights = {tensor.name: tensor for tensor in graph.initializer} | constants
        values = (*graph.input, *graph.value_info, *graph.output)
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        types |= {name: tensor.data_type for name, tensor in self._weights.items()}
        self._float = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT}
        self._network: set[str] = set()  # tensors that float16 nodes made
        self._has_half: set[str] = set()
        self._lacks_float: set[str] = set()
        self._nodes: list[Any] = []

    def run(self) -> None:
        """Rewrites the graph in place."""
        for node in self._graph.node:
            if self._is_network(node):
                self._retype(node)
            else:
                for name in node.input:
                    self._need_float(name)
            self._nodes.append(node)
        for output in self._graph.output:
            self._need_float(output.name)
        read = {name for node in self._nodes for name in node.input}
        weights = [tensor for tensor in self._graph.initializer if tensor.name in read]
        for kept, field in ((self._nodes, self._graph.node), (weights, self._graph.initializer)):
            del field[:]
            field.extend(kept)

    def _is_network(self, node: Any) -> bool:
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in self._weights:
            shape = self._weights[node.input[1]].dims
            group = next((int(a.i) for a in node.attribute if a.name == "group"), 1)
            channels = shape[0] if node.op_type == "Conv" else shape[1] * group
            return bool(channels >= LEARNED_CHANNELS)
        read = [name for name in node.input if name in self._float and name not in self._weights]
        return node.op_type in _FOLLOWERS and bool(read) and self._network.issuperset(read)

    def _retype(self, node: Any) -> None:
        for index, name in enumerate(node.input):
            if name in self._float:
                self._need_half(name)
                node.input[index] = _half(name)
        for index, name in enumerate(node.output):
            if name in self._float:
                node.output[index] = _half(name)
                self._network.add(name)
                self._has_half.add(name)
                self._lacks_float.add(name)

    def _need_half(self, name: str) -> None:
        if name in self._has_half:
            return
        self._has_half.add(name)
        if name in self._weights:
            largest = np.finfo(np.float16).max
            values = np.clip(self._onnx.numpy_helper.to_array(self._weights[name]), -largest, largest)
            tensor = self._onnx.numpy_helper.from_array(values.astype(np.float16), _half(name))
            self._graph.initializer.append(tensor)
        else:
            self._cast(name, _half(name), self._onnx.TensorProto.FLOAT16)

    def _need_float(self, name: str) -> None:
        if name in self._lacks_float:
            self._lacks_float.remove(name)
            self._cast(_half(name), name, self._onnx.TensorProto.FLOAT)

    def _cast(self, source: str, target: str, kind: int) -> None:
        cast = self._onnx.helper.make_node("Cast", [source], [target], name=f"cast_to_{target}", to=kind)
        self._nodes.append(cast)


def _half(name: str) -> str:
    return name + HALF_SUFFIX
