"""TensorRT 8, where types in the ONNX file are hints: flags and pins keep what later releases promise.

A flag allows a precision anywhere; float32 outside the networks is then asked for layer by layer. Its parser reads
scales as float32 whatever they are, so a quantised graph keeps them, and its networks are left free to be float16
instead of being typed so. A quantised layer must not be pinned: it would no longer compute with integers.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from edge_ad.backends.base import QUANTIZED, Precision
from edge_ad.backends.tensorrt.half import HALF_SUFFIX
from edge_ad.extras import require


def needs_flags(trt: ModuleType) -> bool:
    """True where TensorRT does not know strong types."""
    return not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def keep_types(trt: ModuleType, network: Any, config: Any, precision: Precision, free: frozenset[str]) -> None:
    """Sets the flags that ``precision`` needs, and pins what is outside the networks to float32.

    Args:
        trt: TensorRT.
        network: parsed.
        config: of the build.
        precision: of the arithmetic.
        free: names of the tensors that may have another type than float32, see :func:`free_tensors`.
    """
    if precision in QUANTIZED:
        config.set_flag(trt.BuilderFlag.INT8)
    if precision not in ("fp16", "int8_fp16"):
        return  # only int8 is allowed, and that only between Q and DQ
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(output) for output in range(layer.num_outputs)]
        if all(tensor.dtype == trt.DataType.FLOAT and tensor.name not in free for tensor in outputs):
            layer.precision = trt.DataType.FLOAT


def free_tensors(typed: bytes) -> frozenset[str]:
    """Which tensors may leave float32: those that are float16 in ``typed``, and what is made of quantised ones.

    Args:
        typed: content of the ONNX file with its networks in float16; the float32 one has the same names without
            the suffix.
    """
    onnx: Any = require("onnx", extra="tensorrt")
    free, dequantized = set(), set()
    for node in onnx.load_from_string(typed).graph.node:
        if node.op_type == "DequantizeLinear":
            dequantized.update(node.output)
        if dequantized.intersection((*node.input, *node.output)) or any(x.endswith(HALF_SUFFIX) for x in node.output):
            free.update(node.output)
    return frozenset(free | {name.removesuffix(HALF_SUFFIX) for name in free})


def with_float_weights(model: bytes) -> bytes:
    """The quantised model with float32 weights that a QuantizeLinear rounds: the same numbers.

    TensorRT 8 takes quantised weights only so; files store them as int8 with a DequantizeLinear alone.
    """
    from edge_ad.onnx_passes import sort_nodes

    onnx: Any = require("onnx", extra="tensorrt")
    proto = onnx.load_from_string(model)
    sort_nodes(proto.graph)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes = []
    for node in proto.graph.node:
        stored = tensors.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if stored is not None and stored.data_type == onnx.TensorProto.INT8:
            values, scales = (onnx.numpy_helper.to_array(tensors[name]) for name in node.input[:2])
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            shape = [1] * values.ndim
            if scales.size > 1:
                shape[axis] = scales.size
            plain, rounded = f"{node.output[0]}_float", f"{node.output[0]}_rounded"
            weights = values.astype(np.float32) * scales.reshape(shape)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, plain))
            quantize = onnx.helper.make_node("QuantizeLinear", [plain, *node.input[1:]], [rounded], f"round_{plain}")
            quantize.attribute.extend(node.attribute)
            nodes.append(quantize)
            node.input[0] = rounded
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    rewritten: bytes = proto.SerializeToString()
    return rewritten
