"""QuantizeLinear and DequantizeLinear nodes where each runtime wants them; own glue over onnxruntime.quantization.

``tensorrt``: at the inputs of convolutions only, s8 with zero point 0, weights per output channel, biases as they are;
and at the shortcut of a residual sum, so that TensorRT joins the sum with the convolution before it (NVIDIA,
"Working with Quantized Types").

``cpu``: around every operation between convolutions as well, activations u8 with a zero point, biases s32, which
lets ONNX Runtime and OpenVINO stay in integers from one convolution to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from edge_ad.backends.base import QuantizationStyle
from edge_ad.onnx_passes import sort_nodes
from edge_ad.quantization.network import CONVOLUTIONS, network_nodes
from edge_ad.quantization.ranges import Ranges, tensors_data

OPSET = 19
"""From here on scales may be float16, which INT8 with an FP16 rest needs."""

SMALLEST_RANGE = 1e-3
"""Of an activation: one that hardly changes must not get a scale of next to nothing."""


def quantized_model(model: bytes, ranges: Ranges, style: QuantizationStyle, keep: Collection[str] = ()) -> bytes:
    """A graph whose networks compute in INT8.

    Args:
        model: content of an ONNX file in float32.
        ranges: of its tensors, see :func:`edge_ad.quantization.ranges.activation_ranges`.
        style: for which runtime.
        keep: names of convolutions that stay in floating point, with what depends on them up to the next one.

    Returns:
        Content of an ONNX file with the same inputs and outputs.
    """
    proto = onnx.load_from_string(model)
    del proto.graph.value_info[:]
    proto = onnx.shape_inference.infer_shapes(proto)
    for_cpu = style == "cpu"
    nodes = _quantizable(network_nodes(proto.graph), keep)
    if not for_cpu:
        nodes = [node for node in nodes if node.op_type in CONVOLUTIONS]
    if not nodes:
        return model
    options: dict[str, Any] = {"MinimumRealRange": SMALLEST_RANGE}
    if not for_cpu:
        options |= {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(CONVOLUTIONS),
        }
    quantizer = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8 if for_cpu else QuantType.QInt8,
        tensors_range=tensors_data(ranges),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in nodes}),
        extra_options=options,
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    del quantized.graph.value_info[:]
    if not for_cpu:
        _restore_other_readers(quantized.graph)
        _quantize_shortcuts(quantized.graph, ranges)
    sort_nodes(quantized.graph)  # the quantizer appends its pairs at the end
    if quantized.opset_import[0].version < OPSET:
        quantized = onnx.version_converter.convert_version(quantized, OPSET)
    content: bytes = quantized.SerializeToString()
    return content


def _quantizable(nodes: list[NodeProto], keep: Collection[str]) -> list[NodeProto]:
    """The nodes of a network that may compute in integers."""
    floating: set[str] = set()
    found = []
    for node in nodes:
        stays = node.name in keep if node.op_type in CONVOLUTIONS else not floating.isdisjoint(node.input)
        if stays:
            floating.update(node.output)
        else:
            found.append(node)
    return found


def _restore_other_readers(graph: GraphProto) -> None:
    """Gives what reads a quantised tensor without being a convolution, such as the head, the tensor as it was."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in (*CONVOLUTIONS, "QuantizeLinear", "DequantizeLinear"):
            continue
        for index, name in enumerate(node.input):
            if name in makers and makers[name].op_type == "DequantizeLinear":
                node.input[index] = makers[makers[name].input[0]].input[0]


def _quantize_shortcuts(graph: GraphProto, ranges: Ranges) -> None:
    """Gives the shortcut of each residual sum a pair of its own, or the one that its tensor has already."""
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    pairs = {
        makers[node.input[0]].input[0]: node.output[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in makers
    }
    nodes: list[NodeProto] = []
    for node in graph.node:
        shortcut = _shortcut(node, makers, readers) if node.op_type == "Add" else None
        if shortcut is not None and node.input[shortcut] in ranges:
            name = node.input[shortcut]
            if name not in pairs:
                pairs[name] = f"{name}_shortcut_dequantized"
                nodes += _pair(graph, name, ranges[name])
            node.input[shortcut] = pairs[name]
        nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _shortcut(node: NodeProto, makers: dict[str, NodeProto], readers: Counter[str]) -> int | None:
    """Which operand is the shortcut: the other one is a quantised convolution's own output; None where neither is."""
    alone = [name in makers and readers[name] == 1 and _is_quantized(makers[name], makers) for name in node.input]
    if not any(alone):
        return None
    return 1 if alone[0] else 0


def _is_quantized(node: NodeProto, makers: dict[str, NodeProto]) -> bool:
    """True for a convolution that computes in integers."""
    maker = makers.get(node.input[0]) if node.op_type in CONVOLUTIONS else None
    return maker is not None and maker.op_type == "DequantizeLinear"


def _pair(graph: GraphProto, name: str, extremes: tuple[float, float]) -> list[NodeProto]:
    """Quantize and dequantize ``name``, s8 symmetric."""
    scale = np.float32(max(-extremes[0], extremes[1], SMALLEST_RANGE / 2) / 127)
    constants = (f"{name}_shortcut_scale", f"{name}_shortcut_zero_point")
    for constant, value in zip(constants, (scale, np.int8(0)), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), constant))
    return [
        helper.make_node("QuantizeLinear", [name, *constants], [f"{name}_shortcut_quantized"]),
        helper.make_node(
            "DequantizeLinear", [f"{name}_shortcut_quantized", *constants], [f"{name}_shortcut_dequantized"]
        ),
    ]
