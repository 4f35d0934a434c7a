"""Types the networks of an ONNX graph in float16 and leaves everything else in float32.

Convolutions are where the time goes, and half precision is enough for them. Depth in millimetres, inverse
depth, vector lengths with an epsilon of 1e-6, standardisation and the blur need float32. The rule that tells
them apart looks at the graph, not at names: a convolution with many output channels has learned weights and
is typed float16, and so is an activation, sum, concatenation or pooling whose inputs all are. Casts stand
where the two meet, so the graph's inputs and outputs keep their types.

MatMul stays in float32: CMDIAD's looks for the nearest neighbour by |b|² - 2 q·b, where float16 rounds away
what tells neighbours apart, and its small hallucinating network is a few percent of that search.

Quantised graphs have QuantizeLinear and DequantizeLinear at the inputs of convolutions. These take the type of
what they stand at: QuantizeLinear that of its input, DequantizeLinear that of its reader, and of both kinds where
it has both kinds of readers, so that a convolution never reads through a cast, behind which TensorRT would not
find the integers. A float16 convolution needs float16 scales that are normal numbers. Small weights may have
smaller scales; such a convolution stays in float32, which costs little, as it computes with integers anyway.

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

SCALES_OPSET, SCALES_IR = 19, 9
"""The first ONNX release whose QuantizeLinear and DequantizeLinear take float16. Of the operators that exporters
write for the one before, all mean the same in it."""

_FOLLOWERS = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity"}
    | {"LeakyRelu", "MaxPool", "Pad", "PRelu", "Relu", "Reshape", "Sigmoid", "Slice", "Split", "Transpose"}
)


def half_precision_model(model: bytes) -> bytes:
    """The model with its networks in float16.

    Args:
        model: content of an ONNX file whose tensors are float32; may be quantised.

    Returns:
        Content of an ONNX file with the same inputs and outputs. Scales of quantised tensors are rounded to
        float16 everywhere, so that both sides of a pair agree.

    Raises:
        MissingExtraError: the package ``onnx`` is not installed.
    """
    onnx: Any = require("onnx", extra="tensorrt")
    from edge_ad.onnx_passes import sort_nodes

    proto = onnx.load_from_string(model)
    sort_nodes(proto.graph)
    proto = onnx.shape_inference.infer_shapes(proto)
    _Rewriter(onnx, proto.graph).run()
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in proto.graph.node):
        for opset in proto.opset_import:
            opset.version = max(opset.version, SCALES_OPSET) if opset.domain == "" else opset.version
        proto.ir_version = max(proto.ir_version, SCALES_IR)
    rewritten: bytes = proto.SerializeToString()
    return rewritten


class _Rewriter:
    """One pass over the nodes, in order of execution.

    Of a float tensor ``x``, the graph holds the float32 value as ``x``, the float16 value as ``x__half``,
    or both; a cast is added where the first reader wants what is not there yet. What DequantizeLinear gives
    is made where it is wanted first, once for each type.
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
        self._makers = {output: node for node in graph.node for output in node.output}
        self._normal = self._rounded_scales()
        self._network: set[str] = set()  # tensors that float16 nodes made
        self._either: set[str] = set()  # dequantised ones, which come in the type that is wanted
        self._has_half: set[str] = set()
        self._lacks_float: set[str] = set()
        self._nodes: list[Any] = []

    def run(self) -> None:
        """Rewrites the graph in place."""
        for node in self._graph.node:
            if node.op_type == "DequantizeLinear":
                self._postpone(node)
                continue
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

    def _rounded_scales(self) -> set[str]:
        """Rounds scales to float16, in float32, where all of a tensor's are normal numbers; the names of those."""
        limits, rounded = np.finfo(np.float16), set()
        names = {n.input[1] for n in self._graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
        for name in names & self._weights.keys():
            scales = self._onnx.numpy_helper.to_array(self._weights[name])
            if scales.dtype == np.float32 and (scales >= limits.tiny).all() and (scales <= limits.max).all():
                exact = scales.astype(np.float16).astype(np.float32)
                self._weights[name].CopyFrom(self._onnx.numpy_helper.from_array(exact, name))
                rounded.add(name)
        return rounded

    def _is_network(self, node: Any) -> bool:
        if node.op_type == "QuantizeLinear":
            return node.input[0] in self._network and node.input[1] in self._normal
        if node.op_type in ("Conv", "ConvTranspose"):
            sources = [self._makers.get(name) for name in node.input]
            scales = {maker.input[1] for maker in sources if maker and maker.op_type == "DequantizeLinear"}
            return scales <= self._normal and self._is_learned(node)
        read = {name for name in node.input if name in self._float and name not in self._weights}
        inside = read & self._network
        return node.op_type in _FOLLOWERS and bool(inside) and self._either.issuperset(read - inside)

    def _is_learned(self, convolution: Any) -> bool:
        name = convolution.input[1]
        while name in self._makers and self._makers[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = self._makers[name].input[0]
        if name not in self._weights:
            return False
        shape = self._weights[name].dims
        group = next((int(a.i) for a in convolution.attribute if a.name == "group"), 1)
        channels = shape[0] if convolution.op_type == "Conv" else shape[1] * group
        return bool(channels >= LEARNED_CHANNELS)

    def _postpone(self, node: Any) -> None:
        """Leaves a DequantizeLinear to its readers; what comes of a network and is read by one stays in it."""
        name = node.output[0]
        self._lacks_float.add(name)
        if node.input[1] in self._normal:
            (self._network if node.input[0] in self._network else self._either).add(name)

    def _retype(self, node: Any) -> None:
        for index, name in enumerate(node.input):
            if name in self._float:
                self._need_half(name)
                node.input[index] = _half(name)
        for index, name in enumerate(node.output):
            self._network.add(name)
            if name in self._float:
                node.output[index] = _half(name)
                self._has_half.add(name)
                self._lacks_float.add(name)

    def _need_half(self, name: str) -> None:
        if name in self._has_half:
            return
        self._has_half.add(name)
        maker = self._makers.get(name)
        if maker and maker.op_type == "DequantizeLinear" and maker.input[1] in self._normal:
            self._need_half(maker.input[1])
            typed = self._onnx.NodeProto()
            typed.CopyFrom(maker)
            typed.name, typed.input[1], typed.output[0] = (
                f"dequantize_{_half(name)}",
                _half(maker.input[1]),
                _half(name),
            )
            self._nodes.append(typed)
        elif name in self._weights:
            largest = np.finfo(np.float16).max
            values = np.clip(self._onnx.numpy_helper.to_array(self._weights[name]), -largest, largest)
            tensor = self._onnx.numpy_helper.from_array(values.astype(np.float16), _half(name))
            self._graph.initializer.append(tensor)
        else:
            self._need_float(name)
            self._cast(name, _half(name), self._onnx.TensorProto.FLOAT16)

    def _need_float(self, name: str) -> None:
        if name not in self._lacks_float:
            return
        self._lacks_float.remove(name)
        maker = self._makers[name]
        if maker.op_type == "DequantizeLinear":
            self._nodes.append(maker)
        else:
            self._cast(_half(name), name, self._onnx.TensorProto.FLOAT)

    def _cast(self, source: str, target: str, kind: int) -> None:
        cast = self._onnx.helper.make_node("Cast", [source], [target], name=f"cast_to_{target}", to=kind)
        self._nodes.append(cast)


def _half(name: str) -> str:
    return name + HALF_SUFFIX
