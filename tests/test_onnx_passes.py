"""Rewrites of graphs: what is gone, and that every answer stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import ModelProto, numpy_helper

from edge_ad.onnx_passes import fold_factors
from edge_ad.types import AnyArray

X = np.random.default_rng(1).normal(size=(1, 4, 6, 6)).astype(np.float32)
HEADER = '<ir_version: 9, opset_import: ["" : 18]>'


def graph(body: str, outputs: str = "float[N,4,H,W] y") -> ModelProto:
    """A graph of ``body`` over x (1, 4, 6, 6), weights w and v (4, 4, 3, 3) and bias b (4)."""
    constants = "<float two = {2}, float minus = {-2}, float[1,1,1,1] half = {0.5}, float[4] each = {1, 2, 3, 4}>"
    model = onnx.parser.parse_model(f"{HEADER} one (float[1,4,6,6] x) => ({outputs}) {constants} {{ {body} }}")
    generator = np.random.default_rng(0)
    for name, shape in (("w", (4, 4, 3, 3)), ("v", (4, 4, 3, 3)), ("b", (4,))):
        if any(name in node.input for node in model.graph.node):
            weight = generator.normal(size=shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(weight, name))
    onnx.checker.check_model(model)
    return model


def answers(model: ModelProto) -> list[AnyArray]:
    return [np.asarray(array) for array in onnx.reference.ReferenceEvaluator(model).run(None, {"x": X})]


def folded(model: ModelProto) -> tuple[ModelProto, int]:
    """The graph after the pass; all answers have been compared."""
    expected, names = answers(model), [output.name for output in model.graph.output]
    weights = len(model.graph.initializer)
    removed = fold_factors(model)
    onnx.checker.check_model(model)
    assert [output.name for output in model.graph.output] == names
    for given, array in zip(answers(model), expected, strict=True):
        np.testing.assert_allclose(given, array, rtol=1e-5, atol=1e-5)
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read, "no weight is left that nobody reads"
    assert removed or len(model.graph.initializer) <= weights
    return model, removed


@pytest.mark.parametrize(
    ("body", "removed"),
    [
        pytest.param("c = Conv (x, w, b) m = Mul (c, two) y = Abs (m)", 1, id="after a convolution"),
        pytest.param("c = Conv (x, w, b) m = Mul (two, c) y = Abs (m)", 1, id="the other way round"),
        pytest.param("c = Conv (x, w) m = Mul (c, minus) y = Abs (m)", 1, id="a negative one"),
        pytest.param("c = Conv (x, w, b) m = Mul (c, half) y = Abs (m)", 1, id="an array of one"),
        pytest.param("c = ConvTranspose (x, w, b) m = Mul (c, two) y = Abs (m)", 1, id="transposed"),
        pytest.param("c = Conv (x, w, b) r = Relu (c) m = Mul (r, two) y = Abs (m)", 1, id="through Relu"),
        pytest.param("c = Conv (x, w, b) m = Mul (c, two) n = Mul (m, half) y = Abs (n)", 2, id="two in a row"),
        pytest.param("c = Conv (x, w, b) m = Mul (c, two) p = Abs (m) q = Neg (m) y = Add (p, q)", 1, id="two readers"),
        pytest.param(
            "k = Constant <value = float {3}> () c = Conv (x, w) m = Mul (c, k) y = Abs (m)", 1, id="Constant"
        ),
        pytest.param("c = Conv (x, w, b) r = Relu (c) m = Mul (r, minus) y = Abs (m)", 0, id="Relu and a negative one"),
        pytest.param("c = Conv (x, w, b) r = Sigmoid (c) m = Mul (r, two) y = Abs (m)", 0, id="through Sigmoid"),
        pytest.param("c = Conv (x, w, b) m = Mul (c, each) y = Abs (m)", 0, id="a factor for each column"),
        pytest.param("c = Conv (x, w, b) y = Mul (c, two)", 0, id="a graph's output"),
        pytest.param("c = Conv (x, w, b) m = Mul (c, two) y = Add (m, c)", 0, id="a second reader"),
        pytest.param("c = Conv (x, w, b) r = Relu (c) m = Mul (r, two) y = Add (m, c)", 0, id="a reader before Relu"),
        pytest.param("c = Conv (x, w, b) r = Relu (c) m = Mul (r, two) y = Add (m, r)", 0, id="a reader after Relu"),
        pytest.param("a = Abs (x) m = Mul (a, two) y = Conv (m, w)", 0, id="before a convolution"),
        pytest.param("u = Abs (w) c = Conv (x, u) m = Mul (c, two) y = Abs (m)", 0, id="computed weights"),
        pytest.param("c = Conv (x, w) d = Conv (x, v) m = Mul (c, d) y = Abs (m)", 0, id="no constant"),
    ],
)
def test_a_factor_goes_where_it_may(body: str, removed: int) -> None:
    model = graph(body)
    before = [node.op_type for node in model.graph.node].count("Mul")
    after, count = folded(model)
    assert count == removed
    assert [node.op_type for node in after.graph.node].count("Mul") == before - removed


def test_shared_weights_stay_for_those_who_share_them() -> None:
    body = "c = Conv (x, w, b) m = Mul (c, two) d = Conv (x, w, b) y = Add (m, d)"
    model = graph(body)
    original = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    after, count = folded(model)
    assert count == 1
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    second = next(node for node in after.graph.node if node.output[0] == "d")
    for index, name in ((1, "w"), (2, "b")):
        np.testing.assert_array_equal(weights[second.input[index]], original[name])
    first = next(node for node in after.graph.node if node.output[0] == "c")
    np.testing.assert_array_equal(weights[first.input[1]], 2 * original["w"])


def test_both_who_share_weights_may_have_a_factor() -> None:
    body = "c = Conv (x, w) m = Mul (c, two) d = Conv (x, w) n = Mul (d, half) y = Add (m, n)"
    assert folded(graph(body))[1] == 2


def test_a_convolution_that_is_an_output_itself_keeps_its_answers() -> None:
    body = "c = Conv (x, w, b) m = Mul (c, two) y = Abs (m)"
    assert folded(graph(body, "float[N,4,H,W] y, float[N,4,H,W] c"))[1] == 0
