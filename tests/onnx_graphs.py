"""A small graph with everything that the real ones have and that runtimes differ about.

Camera bytes (uint8, batch first, channels last) → colour and surface slope → two small networks →
cosine distance → blurred anomaly map and its maximum.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

GRAPH = """
<ir_version: 9, opset_import: ["" : 18]>
inspection (uint8[batch,64,64,3] rgb, uint8[batch,64,64,2] depth)
  => (float[batch,64,64] anomaly_map, float[batch] score)
<float zero = {0}, float one = {1}, float epsilon = {1e-6}, float nearest_m = {0.05}, float metre_per_unit = {0.001},
 float half_range = {127.5}, float[2] byte_weights = {1, 256}, float mean = {1.0}, float deviation = {0.05},
 int64[1] channel = {1}, int64[1] last = {3}, int64[2] image = {1, 2}, float[4] scales = {1, 1, 2, 2}>
{
  rgb_float = Cast <to = 1> (rgb)
  rgb_planar = Transpose <perm = [0, 3, 1, 2]> (rgb_float)
  rgb_centred = Sub (rgb_planar, half_range)
  colour = Div (rgb_centred, half_range)

  depth_bytes = Cast <to = 1> (depth)
  depth_parts = Mul (depth_bytes, byte_weights)
  depth_units = ReduceSum (depth_parts, last)
  depth_planar = Transpose <perm = [0, 3, 1, 2]> (depth_units)
  depth_m = Mul (depth_planar, metre_per_unit)
  returned = Greater (depth_m, zero)
  returned_float = Cast <to = 1> (returned)
  depth_safe = Max (depth_m, nearest_m)
  inverse = Div (returned_float, depth_safe)
  slope = Conv <pads = [1, 1, 1, 1]> (inverse, sobel)
  slope_squared = Mul (slope, slope)
  slope_sum = ReduceSum (slope_squared, channel)
  slope_offset = Add (slope_sum, one)
  slope_length = Sqrt (slope_offset)
  normals = Div (slope, slope_length)

  seen = Concat <axis = 1> (colour, normals)
  stem = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (seen, stem_weight, stem_bias)
  stem_relu = Clip (stem, zero, six)
  teacher = Conv <pads = [1, 1, 1, 1]> (stem_relu, teacher_weight)
  down = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (stem_relu, down_weight)
  down_relu = Relu (down)
  student = ConvTranspose <strides = [2, 2]> (down_relu, up_weight)

  product = Mul (teacher, student)
  dot = ReduceSum (product, channel)
  teacher_squared = Mul (teacher, teacher)
  teacher_sum = ReduceSum (teacher_squared, channel)
  teacher_length = Sqrt (teacher_sum)
  student_squared = Mul (student, student)
  student_sum = ReduceSum (student_squared, channel)
  student_length = Sqrt (student_sum)
  lengths = Mul (teacher_length, student_length)
  lengths_safe = Max (lengths, epsilon)
  cosine = Div (dot, lengths_safe)
  distance = Sub (one, cosine)

  large = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (distance, , scales)
  centred = Sub (large, mean)
  standard = Div (centred, deviation)
  blurred = Conv <pads = [2, 2, 2, 2]> (standard, gaussian)
  anomaly_map = Squeeze (blurred, channel)
  score = ReduceMax <keepdims = 0> (anomaly_map, image)
}
"""


def _weights(seed: int) -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(seed)

    def random(*shape: int) -> NDArray[np.float32]:
        weights: NDArray[np.float32] = generator.standard_normal(shape, np.float32)
        weights *= np.sqrt(2.0 / np.prod(shape[1:]))
        return weights

    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32) / 8
    gaussian = np.exp(-0.5 * np.arange(-2, 3) ** 2 / 1.5**2)
    gaussian = np.outer(gaussian, gaussian) / gaussian.sum() ** 2
    return {
        "six": np.array(6, np.float32),
        "sobel": np.stack([sobel, sobel.T])[:, None],
        "stem_weight": random(16, 5, 3, 3),
        "stem_bias": random(16, 1)[:, 0],
        "teacher_weight": random(16, 16, 3, 3),
        "down_weight": random(32, 16, 3, 3),
        "up_weight": random(32, 16, 2, 2),
        "gaussian": gaussian[None, None].astype(np.float32),
    }


MIXING = """
  each = Div (centred, deviation)
  mixed = ReduceMean (each, first)
  half_mixed = Mul (mixed, half)
  standard = Sub (each, half_mixed)
"""
"""In the place of the standardisation: what a frame gets depends on the others of its batch."""


def inspection_graph(seed: int = 7, *, mixes_batch: bool = False) -> onnx.ModelProto:
    """The graph: ``rgb`` (N, 64, 64, 3) and ``depth`` (N, 64, 64, 2) to ``anomaly_map`` and ``score``."""
    text = GRAPH
    if mixes_batch:
        text = text.replace("standard = Div (centred, deviation)", MIXING)
        text = text.replace("float zero = {0}", "float zero = {0}, float half = {0.5}, int64[1] first = {0}")
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:  # exported nodes have names too
        node.name = f"make_{node.output[0]}"
    weights = _weights(seed).items()
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights)
    onnx.checker.check_model(model, full_check=True)
    return model


def graph_from_text(text: str) -> bytes:
    """An ONNX file's content from a graph in ONNX's text syntax."""
    content: bytes = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]>\n{text}').SerializeToString()
    return content
