"""A linter for Q/DQ graphs: what TensorRT rejects, silently misreads or runs slowly, found without TensorRT.

Each rule has been tried on TensorRT-RTX's parser and builder; ``why`` says what happened there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from edge_ad.backends.base import QuantizationStyle
from edge_ad.quantization.network import CONVOLUTIONS
from edge_ad.types import AnyArray

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
WEIGHT_AXES = {"Conv": 0, "ConvTranspose": 1}
"""The output channels of a convolution's weights."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach: the rule's name, the node, what is wrong and what comes of it."""

    rule: str
    node: str
    what: str
    why: str


class _Graph:
    def __init__(self, model: bytes) -> None:
        proto = onnx.load_from_string(model)
        self.nodes = list(proto.graph.node)
        self.opset = next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
        self.weights: dict[str, TensorProto] = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.maker: dict[str, NodeProto] = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def pairs(self) -> Iterator[NodeProto]:
        """Every node that has a scale and a zero point."""
        return (node for node in self.nodes if node.op_type in (QUANTIZE, DEQUANTIZE))

    def constant(self, node: NodeProto, index: int) -> AnyArray | None:
        """The value of a node's input, None where it is absent or computed."""
        name = node.input[index] if index < len(node.input) else ""
        return np.asarray(numpy_helper.to_array(self.weights[name])) if name in self.weights else None

    def dequantized(self, node: NodeProto, index: int) -> NodeProto | None:
        """The DequantizeLinear node that makes a node's input."""
        maker = self.maker.get(node.input[index]) if index < len(node.input) else None
        return maker if maker is not None and maker.op_type == DEQUANTIZE else None


def lint(model: bytes, style: QuantizationStyle) -> list[Finding]:
    """What is wrong with a quantised graph; nothing for a good one.

    Args:
        model: content of an ONNX file.
        style: for which runtime it is. For CPUs only the rules about scales and axes hold.
    """
    graph = _Graph(model)
    rules = [*BOTH, *(TENSORRT if style == "tensorrt" else ())]
    return [Finding(rule.__name__.strip("_"), *found) for rule in rules for found in rule(graph)]


Breach = tuple[str, str, str]
Rule = Callable[[_Graph], Iterator[Breach]]


def _scale(graph: _Graph) -> Iterator[Breach]:
    for node in graph.pairs():
        scale = graph.constant(node, 1)
        if scale is None:
            yield node.name, "its scale is computed", "the parser wants a constant"
        elif not (np.isfinite(scale).all() and (scale > 0).all()):
            yield node.name, "a scale is zero, negative or not finite", "the parser rejects it"


def _weight_axis(graph: _Graph) -> Iterator[Breach]:
    for node in graph.nodes:
        weight = graph.dequantized(node, 1) if node.op_type in CONVOLUTIONS else None
        scale = None if weight is None else graph.constant(weight, 1)
        if weight is None or scale is None or scale.size == 1:
            continue
        axis = next((attribute.i for attribute in weight.attribute if attribute.name == "axis"), 1)
        if axis != WEIGHT_AXES[node.op_type]:
            why = (
                "accepted, and wrong answers follow"
                if node.op_type == "ConvTranspose"
                else "accepted, but it falls off the INT8 path"
            )
            yield node.name, f"its weights are scaled along axis {axis}, not {WEIGHT_AXES[node.op_type]}", why


def _half_scale(graph: _Graph) -> Iterator[Breach]:
    for node in graph.pairs():
        scale = graph.constant(node, 1)
        if scale is not None and scale.dtype == np.float16 and graph.opset < 19:
            yield (
                node.name,
                f"its scale is float16 in opset {graph.opset}",
                "allowed from opset 19 on; ONNX Runtime rejects it",
            )


def _zero_point(graph: _Graph) -> Iterator[Breach]:
    for node in graph.pairs():
        zero_point = graph.constant(node, 2)
        if zero_point is not None and zero_point.any():
            yield node.name, "its zero point is not 0", "the parser rejects it"


def _signed(graph: _Graph) -> Iterator[Breach]:
    for node in graph.pairs():
        zero_point = graph.constant(node, 2)
        unsigned_by_default = zero_point is None and node.op_type == QUANTIZE
        if unsigned_by_default or (zero_point is not None and zero_point.dtype == np.uint8):
            yield node.name, "it quantises to uint8", "accepted, and silently treated as int8"


def _float_bias(graph: _Graph) -> Iterator[Breach]:
    for node in graph.nodes:
        if node.op_type in CONVOLUTIONS and graph.dequantized(node, 2) is not None:
            yield node.name, "its bias is dequantised from int32", "the parser rejects it"


def _convolution_inputs(graph: _Graph) -> Iterator[Breach]:
    for node in graph.nodes:
        if node.op_type != DEQUANTIZE:
            continue
        for reader in graph.readers.get(node.output[0], []):
            if reader.op_type not in (*CONVOLUTIONS, "Add"):
                yield node.name, f"it feeds {reader.op_type} {reader.name}", "accepted: slower, and less accurate"


BOTH: tuple[Rule, ...] = (_scale, _weight_axis, _half_scale)
TENSORRT: tuple[Rule, ...] = (_zero_point, _signed, _float_bias, _convolution_inputs)
