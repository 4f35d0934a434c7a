"""Q/DQ graphs in TensorRT's style: symmetric int8 at the inputs of learned convolutions, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from edge_ad.types import AnyArray

LEARNED_CHANNELS = 8
OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": ["Conv", "ConvTranspose"],
}


def quantized_for_tensorrt(model: bytes, feeds: Mapping[str, AnyArray]) -> bytes:
    """The model with its learned convolutions quantised, activations by the largest value that ``feeds`` give."""
    proto = onnx.load_from_string(model)
    for node in proto.graph.node:
        node.name = node.name or node.output[0]  # what is quantised is told by name
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    learned = [node for node in proto.graph.node if _is_learned(node, weights)]
    tensors = sorted({node.input[0] for node in learned})
    ranges = TensorsData(CalibrationMethod.MinMax, _ranges(proto, tensors, feeds))
    quantizer = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=ranges,
        nodes_to_quantize=[node.name for node in learned],
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", "ConvTranspose"],
        extra_options=OPTIONS,
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: bytes = quantizer.model.model.SerializeToString()
    return quantized


def run_as_written(model: bytes, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """The outputs by name, from ONNX Runtime without any optimisation that would fuse Q/DQ in its own way."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _is_learned(node: Any, weights: Mapping[str, Any]) -> bool:
    if node.op_type not in ("Conv", "ConvTranspose") or node.input[1] not in weights:
        return False
    group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    shape = weights[node.input[1]].dims
    return bool((shape[0] if node.op_type == "Conv" else shape[1] * group) >= LEARNED_CHANNELS)


def _ranges(proto: Any, tensors: list[str], feeds: Mapping[str, AnyArray]) -> dict[str, tuple[AnyArray, AnyArray]]:
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    values = run_as_written(watched.SerializeToString(), feeds)
    return {name: (np.float32(value.min()), np.float32(value.max())) for name, value in values.items()}
