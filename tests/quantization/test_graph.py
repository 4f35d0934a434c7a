"""Quantised graphs: where the pairs are, and that the answers stay close."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, numpy_helper

from edge_ad.backends.base import QuantizationStyle
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import FULL, read_bundle
from edge_ad.quantization.calibration import CalibrationSet
from edge_ad.quantization.graph import quantized_model
from edge_ad.quantization.lint import lint
from edge_ad.quantization.network import CONVOLUTIONS, network_nodes
from edge_ad.quantization.ranges import Ranges, activation_ranges, ranges_of
from edge_ad.quantization.sensitivity import convolutions
from edge_ad.types import AnyArray
from tests.factories import make_feeds
from tests.onnx_graphs import inspection_graph

STYLES: tuple[QuantizationStyle, ...] = ("cpu", "tensorrt")
LEARNED = ["stem", "teacher", "down", "student"]
"""Convolutions of the sample graph, by what they make."""

InInt8 = dict[QuantizationStyle, bytes]
both_styles = pytest.mark.parametrize("style", STYLES)


def named() -> ModelProto:
    """The sample graph, whose nodes are called as what they make."""
    model = inspection_graph()
    for node in model.graph.node:
        node.name = node.output[0]
    return model


@pytest.fixture(scope="module")
def sample() -> tuple[bytes, Ranges]:
    model = named().SerializeToString()
    return model, activation_ranges(model, [make_feeds(1, seed) for seed in range(4)])


@pytest.fixture(scope="module")
def trained(bundle_directory: Path, calibration_set: CalibrationSet) -> tuple[bytes, Ranges]:
    model = read_bundle(bundle_directory).model(FULL)
    return model, ranges_of(model, calibration_set, ["rgb", "depth"])


@pytest.fixture(scope="module")
def in_int8(trained: tuple[bytes, Ranges]) -> InInt8:
    return {style: quantized_model(*trained, style) for style in STYLES}


def makers(model: bytes) -> dict[str, NodeProto]:
    return {name: node for node in onnx.load_from_string(model).graph.node for name in node.output}


def quantized_convolutions(model: bytes) -> list[str]:
    """The names of the convolutions whose input and weight both come from integers."""
    made = makers(model)
    found = []
    for node in onnx.load_from_string(model).graph.node:
        sources = [made.get(name) for name in node.input[:2]] if node.op_type in CONVOLUTIONS else [None]
        if all(source is not None and source.op_type == "DequantizeLinear" for source in sources):
            found.append(node.name)
    return found


def outputs(model: bytes, feeds: dict[str, AnyArray]) -> dict[str, AnyArray]:
    return OnnxRuntimeBackend(model, optimize=False).run(feeds)


@both_styles
def test_the_sample_graph_is_quantised_and_clean(sample: tuple[bytes, Ranges], style: QuantizationStyle) -> None:
    quantized = quantized_model(*sample, style)
    assert lint(quantized, style) == []
    onnx.checker.check_model(onnx.load_from_string(quantized))
    assert quantized_convolutions(quantized) == LEARNED


@both_styles
def test_the_trained_graph_is_quantised_and_clean(
    trained: tuple[bytes, Ranges], in_int8: InInt8, style: QuantizationStyle
) -> None:
    quantized = in_int8[style]
    assert lint(quantized, style) == []
    onnx.checker.check_model(onnx.load_from_string(quantized))
    assert sorted(quantized_convolutions(quantized)) == sorted(convolutions(trained[0]))
    assert len(convolutions(trained[0])) > 50


@both_styles
def test_what_goes_in_and_out_stays(trained: tuple[bytes, Ranges], in_int8: InInt8, style: QuantizationStyle) -> None:
    before, after = (OnnxRuntimeBackend(model, optimize=False) for model in (trained[0], in_int8[style]))
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)


@both_styles
def test_answers_stay_close(sample: tuple[bytes, Ranges], style: QuantizationStyle) -> None:
    for seed in (0, 9):
        feeds = make_feeds(2, seed)
        expected, given = outputs(sample[0], feeds), outputs(quantized_model(*sample, style), feeds)
        for name, array in expected.items():
            error = np.abs(given[name] - array)
            assert 0 < error.max() < 0.1 * np.abs(array).max(), name
            assert error.mean() < 0.05 * array.std() or array.ndim == 1, name


@both_styles
def test_answers_of_the_trained_graph_stay_close(
    trained: tuple[bytes, Ranges], in_int8: InInt8, calibration_set: CalibrationSet, style: QuantizationStyle
) -> None:
    feeds = next(calibration_set.feeds("gate", ["rgb", "depth"]))
    expected, given = outputs(trained[0], feeds), outputs(in_int8[style], feeds)
    error = np.abs(given["anomaly_map"] - expected["anomaly_map"])
    assert 0 < error.mean() < 0.5 * expected["anomaly_map"].std()


@both_styles
def test_preprocessing_and_head_stay_in_floating_point(
    trained: tuple[bytes, Ranges], in_int8: InInt8, style: QuantizationStyle
) -> None:
    proto = onnx.load_from_string(trained[0])
    inside = {node.name for node in network_nodes(proto.graph)}
    made = makers(trained[0])
    entrances = {name for node in network_nodes(proto.graph) for name in node.input}
    outside = {name for name, node in made.items() if node.name not in inside} - entrances
    quantized = onnx.load_from_string(in_int8[style])
    pairs = [node for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
    assert pairs
    assert not outside & {node.input[0] for node in pairs}
    kinds = {node.op_type for node in proto.graph.node if node.name not in inside}
    assert {"Div", "Sqrt"} <= kinds or "ReduceL2" in kinds, "the head is among what is outside"


def test_the_head_reads_what_the_network_computes(in_int8: InInt8) -> None:
    """For TensorRT a teacher's map that a student is fed with in integers goes to the head as it is."""
    made = makers(in_int8["tensorrt"])
    readers = [
        (node.name, name)
        for node in onnx.load_from_string(in_int8["tensorrt"]).graph.node
        for name in node.input
        if node.op_type not in (*CONVOLUTIONS, "Add") and name in made and made[name].op_type == "DequantizeLinear"
    ]
    assert readers == []


@both_styles
def test_kept_layers_stay_and_what_depends_on_them(sample: tuple[bytes, Ranges], style: QuantizationStyle) -> None:
    quantized = quantized_model(*sample, style, keep=["stem"])
    assert quantized_convolutions(quantized) == ["teacher", "down", "student"]
    made = makers(quantized)
    assert made["stem"].input[:2] == made_input(sample[0], "stem")
    assert made["stem_relu"].input[0] == "stem"
    assert lint(quantized, style) == []


def made_input(model: bytes, name: str) -> list[str]:
    return list(makers(model)[name].input[:2])


@both_styles
def test_where_all_are_kept_the_graph_is_as_it_was(trained: tuple[bytes, Ranges], style: QuantizationStyle) -> None:
    assert quantized_model(*trained, style, keep=convolutions(trained[0])) == trained[0]


@both_styles
def test_each_kept_layer_brings_the_answers_closer(sample: tuple[bytes, Ranges], style: QuantizationStyle) -> None:
    feeds = make_feeds(2, 5)
    expected = outputs(sample[0], feeds)["anomaly_map"]
    errors = [
        np.abs(outputs(quantized_model(*sample, style, LEARNED[:kept]), feeds)["anomaly_map"] - expected).mean()
        for kept in (0, 3, 4)
    ]
    assert errors[0] > errors[1] > errors[2] == 0


@both_styles
def test_weights_have_a_scale_for_each_output_channel(sample: tuple[bytes, Ranges], style: QuantizationStyle) -> None:
    original = {tensor.name: numpy_helper.to_array(tensor) for tensor in named().graph.initializer}
    quantized = quantized_model(*sample, style)
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(quantized).graph.initializer}
    made, nodes = makers(quantized), {node.name: node for node in onnx.load_from_string(quantized).graph.node}
    for output, name, axis in (("stem", "stem_weight", 0), ("down", "down_weight", 0), ("student", "up_weight", 1)):
        pair = made[nodes[output].input[1]]
        scale, whole = constants[pair.input[1]], constants[pair.input[0]]
        weight = original[name]
        others = tuple(index for index in range(4) if index != axis)
        assert next(attribute.i for attribute in pair.attribute if attribute.name == "axis") == axis
        np.testing.assert_allclose(scale, np.abs(weight).max(others) / 127, rtol=0.01)
        assert whole.dtype == np.int8
        spread = scale.reshape([-1 if index == axis else 1 for index in range(4)])
        assert np.abs(whole * spread - weight).max() <= 0.51 * scale.max()


def test_activations_have_the_kind_that_the_runtime_wants(sample: tuple[bytes, Ranges]) -> None:
    for style in STYLES:
        dtype = np.uint8 if style == "cpu" else np.int8
        proto = onnx.load_from_string(quantized_model(*sample, style))
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        points = [constants[node.input[2]] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
        assert {point.dtype for point in points} == {np.dtype(dtype)}
        assert any(point.any() for point in points) == (style == "cpu")


RESIDUAL = """
<ir_version: 9, opset_import: ["" : 18]>
residual (float[1,8,8,8] x) => (float[1,8,8,8] y)
{
  first = Conv <pads = [1, 1, 1, 1]> (x, a)
  first_relu = Relu (first)
  second = Conv <pads = [1, 1, 1, 1]> (first_relu, b)
  second_relu = Relu (second)
  third = Conv <pads = [1, 1, 1, 1]> (second_relu, c)
  sum = Add (second_relu, third)
  y = Relu (sum)
}
"""


def residual() -> tuple[bytes, Ranges, AnyArray]:
    """x → two convolutions → r, then r + convolution(r)."""
    model = onnx.parser.parse_model(RESIDUAL)
    generator = np.random.default_rng(0)
    for name in "abc":
        weight = generator.normal(0, 0.15, (8, 8, 3, 3)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    for node in model.graph.node:
        node.name = node.output[0]
    content = model.SerializeToString()
    x = generator.normal(size=(1, 8, 8, 8)).astype(np.float32)
    return content, activation_ranges(content, [{"x": x}]), x


def test_a_shortcut_shares_the_pair_of_its_tensor() -> None:
    model, ranges, x = residual()
    quantized = quantized_model(model, ranges, "tensorrt")
    made = makers(quantized)
    assert made["sum"].input[1] == "third", "the convolution's own output goes into the sum as it is"
    assert made["sum"].input[0] == made["third"].input[0]
    assert made[made["sum"].input[0]].op_type == "DequantizeLinear"
    assert lint(quantized, "tensorrt") == []
    expected, given = outputs(model, {"x": x})["y"], outputs(quantized, {"x": x})["y"]
    assert 0 < np.abs(given - expected).max() < 0.05 * np.abs(expected).max()


def test_a_shortcut_that_no_convolution_reads_gets_a_pair_of_its_own() -> None:
    model, _, x = residual()
    proto = onnx.load_from_string(model)
    next(node for node in proto.graph.node if node.name == "sum").input[0] = "first_relu"
    next(node for node in proto.graph.node if node.name == "second").input[0] = "first_pool"
    pool = onnx.helper.make_node("MaxPool", ["first_relu"], ["first_pool"], "pool", kernel_shape=[3, 3], pads=[1] * 4)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes[:2], pool, *nodes[2:]])
    content = proto.SerializeToString()
    ranges = activation_ranges(content, [{"x": x}])
    quantized = quantized_model(content, ranges, "tensorrt")
    made = makers(quantized)
    pair = made[made["sum"].input[0]]
    assert pair.op_type == "DequantizeLinear"
    assert makers(quantized)[pair.input[0]].input[0] == "first_relu"
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(quantized).graph.initializer}
    low, high = ranges["first_relu"]
    assert constants[pair.input[1]] == pytest.approx(max(-low, high) / 127)
    assert lint(quantized, "tensorrt") == []
    expected, given = outputs(content, {"x": x})["y"], outputs(quantized, {"x": x})["y"]
    assert 0 < np.abs(given - expected).max() < 0.05 * np.abs(expected).max()


def test_the_shortcut_of_a_kept_layer_stays_too() -> None:
    model, ranges, _ = residual()
    made = makers(quantized_model(model, ranges, "tensorrt", keep=["third"]))
    assert list(made["sum"].input) == ["second_relu", "third"]
    assert made["third"].input[0] == "second_relu"
    assert quantized_convolutions(quantized_model(model, ranges, "tensorrt", keep=["third"])) == ["first", "second"]
