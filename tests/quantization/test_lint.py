"""One small graph per rule: right but for one thing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike
from onnx import ModelProto, NodeProto, numpy_helper

from edge_ad.backends.base import QuantizationStyle
from edge_ad.quantization.lint import lint

GRAPH = """
<ir_version: 9, opset_import: ["" : 19]>
small (float[1,8,8,8] x) => (float[1,8,16,16] y)
<float x_scale = {0.1}, int8 x_zero = {0}, float z_scale = {0.2}, int8 z_zero = {0}>
{
  x_q = QuantizeLinear (x, x_scale, x_zero)
  x_d = DequantizeLinear (x_q, x_scale, x_zero)
  w_d = DequantizeLinear <axis = 0> (w, w_scale, w_zero)
  z = Conv <pads = [1, 1, 1, 1]> (x_d, w_d, bias)
  z_relu = Relu (z)
  z_q = QuantizeLinear (z_relu, z_scale, z_zero)
  z_d = DequantizeLinear (z_q, z_scale, z_zero)
  u_d = DequantizeLinear <axis = 1> (u, u_scale, u_zero)
  y = ConvTranspose <strides = [2, 2]> (z_d, u_d)
}
"""


def graph() -> ModelProto:
    model = onnx.parser.parse_model(GRAPH)
    generator = np.random.default_rng(0)
    values = {
        "w": generator.integers(-127, 128, (8, 8, 3, 3)).astype(np.int8),
        "w_scale": np.full(8, 0.01, np.float32),
        "w_zero": np.zeros(8, np.int8),
        "u": generator.integers(-127, 128, (8, 8, 2, 2)).astype(np.int8),
        "u_scale": np.full(8, 0.01, np.float32),
        "u_zero": np.zeros(8, np.int8),
        "bias": np.ones(8, np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    for node in model.graph.node:
        node.name = f"make_{node.output[0]}"
    onnx.checker.check_model(model, full_check=True)
    return model


def constant(name: str, value: ArrayLike, dtype: type) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))

    return change


def node(model: ModelProto, output: str) -> NodeProto:
    found: NodeProto = next(node for node in model.graph.node if output in node.output)
    return found


def axis(output: str, value: int) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        node(model, output).attribute[0].i = value

    return change


def int32_bias(model: ModelProto) -> None:
    constant("bias", np.ones(8), np.int32)(model)
    model.graph.initializer.append(numpy_helper.from_array(np.full(8, 0.001, np.float32), "bias_scale"))
    made = onnx.helper.make_node("DequantizeLinear", ["bias", "bias_scale"], ["bias_d"], name="make_bias_d", axis=0)
    nodes = [made, *map(copied, model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    node(model, "z").input[2] = "bias_d"


def copied(original: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(original)
    return copy


def quantized_relu(model: ModelProto) -> None:
    node(model, "z_relu").input[0] = "x_d"


def half_scales(model: ModelProto) -> None:
    constant("x_scale", 0.1, np.float16)(model)
    model.opset_import[0].version = 18


def computed_scale(model: ModelProto) -> None:
    node(model, "z_q").input[1] = "x"


def test_a_good_graph_has_no_findings() -> None:
    for style in ("tensorrt", "cpu"):
        assert lint(graph().SerializeToString(), style) == []


@pytest.mark.parametrize(
    ("change", "rule", "where"),
    [
        pytest.param(constant("x_zero", 3, np.int8), "zero_point", "make_x_q", id="zero point"),
        pytest.param(constant("w_zero", [1] + [0] * 7, np.int8), "zero_point", "make_w_d", id="weight's zero point"),
        pytest.param(constant("x_scale", 0.0, np.float32), "scale", "make_x_q", id="scale 0"),
        pytest.param(constant("x_scale", -0.1, np.float32), "scale", "make_x_q", id="negative scale"),
        pytest.param(constant("w_scale", [np.nan] * 8, np.float32), "scale", "make_w_d", id="scale NaN"),
        pytest.param(constant("z_scale", np.inf, np.float32), "scale", "make_z_q", id="infinite scale"),
        pytest.param(computed_scale, "scale", "make_z_q", id="computed scale"),
        pytest.param(constant("x_zero", 0, np.uint8), "signed", "make_x_q", id="uint8"),
        pytest.param(axis("w_d", 1), "weight_axis", "make_z", id="Conv on axis 1"),
        pytest.param(axis("u_d", 0), "weight_axis", "make_y", id="ConvTranspose on axis 0"),
        pytest.param(half_scales, "half_scale", "make_x_q", id="float16 scale below opset 19"),
        pytest.param(int32_bias, "float_bias", "make_z", id="int32 bias"),
        pytest.param(quantized_relu, "convolution_inputs", "make_x_d", id="Relu"),
    ],
)
def test_each_breach_is_found(change: Callable[[ModelProto], None], rule: str, where: str) -> None:
    model = graph()
    change(model)
    found = lint(model.SerializeToString(), "tensorrt")
    assert {finding.rule for finding in found} == {rule}
    assert where in {finding.node for finding in found}
    assert all(finding.what and finding.why for finding in found)


@pytest.mark.parametrize(
    "change",
    [constant("x_zero", 3, np.int8), int32_bias, quantized_relu],
    ids=["zero point", "int32 bias", "Relu"],
)
def test_a_cpu_may_have_what_tensorrt_rejects(change: Callable[[ModelProto], None]) -> None:
    style: QuantizationStyle = "cpu"
    model = graph()
    change(model)
    assert lint(model.SerializeToString(), style) == []
