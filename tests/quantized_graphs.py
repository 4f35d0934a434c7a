"""Q/DQ graphs in TensorRT's style, and how to run them without a runtime's own idea of fusing them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnxruntime

from edge_ad.quantization.graph import quantized_model
from edge_ad.quantization.ranges import activation_ranges
from edge_ad.types import AnyArray


def quantized_for_tensorrt(model: bytes, feeds: Mapping[str, AnyArray]) -> bytes:
    """The model with its learned convolutions quantised, activations by the extremes that ``feeds`` give."""
    proto = onnx.load_from_string(model)
    for node in proto.graph.node:
        node.name = node.name or node.output[0]  # as exporters do; what is quantised is told by name
    model = proto.SerializeToString()
    samples = len(next(iter(feeds.values())))
    each = ({name: array[index : index + 1] for name, array in feeds.items()} for index in range(samples))
    return quantized_model(model, activation_ranges(model, each), "tensorrt")


def run_as_written(model: bytes, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """The outputs by name, from ONNX Runtime without any optimisation that would fuse Q/DQ in its own way."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))
