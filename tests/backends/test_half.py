from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_ad.backends.golden import check_golden
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.backends.tensorrt.half import half_precision_model
from tests.factories import make_feeds
from tests.onnx_graphs import inspection_graph

NETWORK = {"stem", "stem_relu", "teacher", "down", "down_relu", "student"}


@pytest.fixture(scope="module")
def half() -> onnx.ModelProto:
    return onnx.load_from_string(half_precision_model(inspection_graph().SerializeToString()))


def test_the_networks_and_only_they_are_float16(half: onnx.ModelProto) -> None:
    onnx.checker.check_model(half, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    made = {node.output[0] for node in half.graph.node if node.op_type != "Cast"}
    assert {name for name in made if types.get(name) == onnx.TensorProto.FLOAT16} == {f"{n}__half" for n in NETWORK}


def test_inputs_and_outputs_keep_their_types(half: onnx.ModelProto) -> None:
    original = inspection_graph().graph
    assert list(half.graph.input) == list(original.input)
    assert list(half.graph.output) == list(original.output)


def test_weights_are_stored_once(half: onnx.ModelProto) -> None:
    weights = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert weights["teacher_weight__half"] == onnx.TensorProto.FLOAT16
    assert "teacher_weight" not in weights
    assert weights["gaussian"] == onnx.TensorProto.FLOAT
    assert {"zero", "zero__half"} <= set(weights), "a constant read on both sides has both types"


def test_answers_stay_near_those_of_float32(half: onnx.ModelProto, sample_bundle: Path) -> None:
    backend = OnnxRuntimeBackend(half.SerializeToString())
    difference = check_golden(backend, sample_bundle / "golden.safetensors", "fp16")
    assert 1e-5 < difference < 0.05


def test_far_depth_does_not_overflow(half: onnx.ModelProto) -> None:
    feeds = make_feeds(1) | {"depth": np.full((1, 64, 64, 2), 255, np.uint8)}  # 65535 units > float16's 65504
    result = OnnxRuntimeBackend(half.SerializeToString()).run(feeds)
    expected = OnnxRuntimeBackend(inspection_graph().SerializeToString()).run(feeds)
    np.testing.assert_allclose(result["anomaly_map"], expected["anomaly_map"], atol=0.05)


def test_constants_beyond_float16_saturate() -> None:
    model = inspection_graph()
    bound = next(tensor for tensor in model.graph.initializer if tensor.name == "six")
    bound.CopyFrom(onnx.numpy_helper.from_array(np.array(3.4e38, np.float32), "six"))
    half = onnx.load_from_string(half_precision_model(model.SerializeToString()))
    saturated = next(tensor for tensor in half.graph.initializer if tensor.name == "six__half")
    assert onnx.numpy_helper.to_array(saturated) == np.float16(65504)


def test_constant_nodes_are_read_like_weights() -> None:
    model = inspection_graph()
    graph = model.graph
    six = next(tensor for tensor in graph.initializer if tensor.name == "six")
    graph.node.insert(0, onnx.helper.make_node("Constant", [], ["six"], value=six))
    graph.initializer.remove(six)
    half = onnx.load_from_string(half_precision_model(model.SerializeToString()))
    assert "six__half" in {tensor.name for tensor in half.graph.initializer}
    assert "six" not in {name for node in half.graph.node for name in node.input}
