"""Float16 in graphs with QuantizeLinear and DequantizeLinear, judged by ONNX Runtime without optimisations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from edge_ad.backends.base import Precision
from edge_ad.backends.tensorrt import build
from edge_ad.backends.tensorrt.half import half_precision_model
from edge_ad.backends.tensorrt.weakly_typed import free_tensors, with_float_weights
from tests.factories import make_feeds
from tests.onnx_graphs import graph_from_text, inspection_graph
from tests.quantized_graphs import quantized_for_tensorrt, run_as_written

CONVOLUTIONS = ("stem", "teacher", "down", "student")


@pytest.fixture(scope="module")
def quantized() -> bytes:
    return quantized_for_tensorrt(inspection_graph().SerializeToString(), make_feeds(4, seed=3))


@pytest.fixture(scope="module")
def half(quantized: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(half_precision_model(quantized))


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def with_scale(model: bytes, convolution: str, index: int, factor: float) -> bytes:
    """The model with the scales of one input of a convolution multiplied; its numbers are no longer sensible."""
    proto = onnx.load_from_string(model)
    made = makers(proto)
    name = made[made[convolution].input[index]].input[1]
    scale = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(scale) * np.float32(factor)
    scale.CopyFrom(onnx.numpy_helper.from_array(np.asarray(values, np.float32), name))
    content: bytes = proto.SerializeToString()
    return content


def test_it_is_valid_at_the_opset_that_takes_float16_scales(half: onnx.ModelProto) -> None:
    onnx.checker.check_model(half, full_check=True)
    assert [opset.version for opset in half.opset_import] == [19]


def test_convolutions_read_integers_through_float16_alone(half: onnx.ModelProto) -> None:
    made, types = makers(half), kinds(half)
    for name in CONVOLUTIONS:
        convolution = made[f"{name}__half"]
        for value in convolution.input[:2]:
            dequantize = made[value]
            assert dequantize.op_type == "DequantizeLinear", f"{name} reads {value} through {dequantize.op_type}"
            assert types[dequantize.input[0]] == onnx.TensorProto.INT8
            assert types[dequantize.input[1]] == onnx.TensorProto.FLOAT16
    quantizes = [node for node in half.graph.node if node.op_type == "QuantizeLinear"]
    read = {types[node.input[0]] for node in quantizes}
    assert read == {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}, "of the image, and of what networks made"
    assert all(types[node.input[0]] == types[node.input[1]] for node in quantizes)


def test_answers_are_those_of_the_quantised_graph(half: onnx.ModelProto, quantized: bytes) -> None:
    feeds = make_feeds(4, seed=5)
    expected = run_as_written(quantized, feeds)["anomaly_map"]
    given = run_as_written(half.SerializeToString(), feeds)["anomaly_map"]
    exact = run_as_written(inspection_graph().SerializeToString(), feeds)["anomaly_map"]
    typing, quantizing = (float(np.sqrt(np.mean((x - expected) ** 2))) for x in (given, exact))
    assert 0 < typing < 0.5 * quantizing


def test_both_sides_of_a_pair_have_one_scale(half: onnx.ModelProto) -> None:
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    made = makers(half)
    pairs = [
        (made[node.input[0]].input[1], node.input[1])
        for node in half.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in made
    ]
    assert len(pairs) == 3, "rgb and normals; the stem for teacher and down; down for the student"
    for quantize, dequantize in pairs:
        assert values[quantize].astype(np.float32) == values[dequantize].astype(np.float32)


@pytest.mark.parametrize("index", [pytest.param(0, id="activation"), pytest.param(1, id="weights")])
@pytest.mark.parametrize("factor", [1e-4, 1e8], ids=["too small", "too large"])
def test_a_convolution_whose_scale_float16_lacks_stays_in_float32(quantized: bytes, index: int, factor: float) -> None:
    model = with_scale(quantized, "down", index, factor)
    half = onnx.load_from_string(half_precision_model(model))
    made, types = makers(half), kinds(half)
    for value in made["down"].input[:2]:
        assert made[value].op_type == "DequantizeLinear"
        assert types[made[value].input[1]] == onnx.TensorProto.FLOAT
    limits = np.finfo(np.float16)
    scales = [tensor for tensor in half.graph.initializer if tensor.name.endswith("_scale__half")]
    for tensor in scales:
        array = onnx.numpy_helper.to_array(tensor)
        assert (array >= limits.tiny).all() and np.isfinite(array).all()
    # The teacher reads the same tensor: by weights it is still float16, by the shared activation it cannot be.
    assert ("teacher__half" in made) == (index == 1)
    run_as_written(half.SerializeToString(), make_feeds(1))


def test_weights_for_tensorrt_8_are_the_same_numbers(quantized: bytes) -> None:
    rewritten = onnx.load_from_string(with_float_weights(quantized))
    onnx.checker.check_model(rewritten, full_check=True)
    stored = {tensor.name: tensor.data_type for tensor in rewritten.graph.initializer}
    made = makers(rewritten)
    for name in CONVOLUTIONS:
        quantize = made[made[made[name].input[1]].input[0]]
        assert (quantize.op_type, stored[quantize.input[0]]) == ("QuantizeLinear", onnx.TensorProto.FLOAT)
    feeds = make_feeds(2)
    expected = run_as_written(quantized, feeds)
    for name, array in run_as_written(rewritten.SerializeToString(), feeds).items():
        np.testing.assert_array_equal(array, expected[name])


def test_tensorrt_8_may_leave_float32_in_networks_and_quantised_layers_only(quantized: bytes) -> None:
    model = with_scale(quantized, "down", 1, 1e-4)
    free = free_tensors(half_precision_model(model))
    floats = {name for name, kind in kinds(onnx.load_from_string(model)).items() if kind == onnx.TensorProto.FLOAT}
    made = makers(onnx.load_from_string(model))
    layers = {name for name in free & floats & made.keys() if made[name].op_type != "DequantizeLinear"}
    assert layers == {"stem", "stem_relu", "teacher", "down", "student"}, "down is quantised, if not float16"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8_fp16"])
def test_tensorrt_8_parses_float32_scales_in_every_precision(quantized: bytes, precision: Precision) -> None:
    """Its parser reads the bytes of a float16 scale as float32."""
    flags: Any = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0))
    model = quantized if precision.startswith("int8") else inspection_graph().SerializeToString()
    parsed, free = build._typed(flags, model, precision)
    types = kinds(onnx.load_from_string(parsed))
    scales = [name for name in types if name.endswith("_scale")]
    assert {types[name] for name in scales} <= {onnx.TensorProto.FLOAT}
    assert bool(scales) == precision.startswith("int8")
    assert ("student" in free) == precision.endswith("fp16")
    assert "anomaly_map" not in free


RESIDUAL = """g (float[N,8,8,8] x) => (float[N,8,8,8] y)
<float s = {0.01}, float tiny = {1e-6}, int8 z = {0}, int8[8,8,1,1] w = {WEIGHTS}>
{ xq = QuantizeLinear (x, s, z)   xd = DequantizeLinear (xq, s, z)
  w1 = DequantizeLinear (w, s, z)   w2 = DequantizeLinear (w, SCALE, z)
  own = Conv (xd, w1)   body = Conv (own, w2)
  ownq = QuantizeLinear (own, s, z)   shortcut = DequantizeLinear (ownq, s, z)
  sum = Add (body, shortcut)   y = Relu (sum) }""".replace("WEIGHTS", ", ".join(str(index) for index in range(64)))


@pytest.mark.parametrize(("scale", "inside"), [("s", True), ("tiny", False)])
def test_a_quantised_shortcut_has_the_type_of_what_it_is_added_to(scale: str, inside: bool) -> None:
    model = graph_from_text(RESIDUAL.replace("SCALE", scale))
    half = onnx.load_from_string(half_precision_model(model))
    made = makers(half)
    total = made["sum__half" if inside else "sum"]
    assert [made[name].op_type for name in total.input] == ["Conv", "DequantizeLinear"]
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 8, 8, 8)).astype(np.float32)}
    expected = run_as_written(model, feeds)["y"]
    np.testing.assert_allclose(run_as_written(half.SerializeToString(), feeds)["y"], expected, atol=0.05)


def test_nodes_out_of_order_are_put_into_it(quantized: bytes) -> None:
    model = onnx.load_from_string(quantized)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    half = half_precision_model(model.SerializeToString())
    onnx.checker.check_model(onnx.load_from_string(half), full_check=True)
    feeds = make_feeds(1)
    expected = run_as_written(half_precision_model(quantized), feeds)
    for name, array in run_as_written(half, feeds).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-5)
