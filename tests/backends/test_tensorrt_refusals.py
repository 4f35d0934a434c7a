"""What the real parser and builder refuse, and what the user is told to do about it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edge_ad.backends.tensorrt.build import plan_from_onnx
from edge_ad.errors import EngineError
from tests.onnx_graphs import graph_from_text, inspection_graph

pytestmark = pytest.mark.usefixtures("builder")

BIAS = f"float[8,3,1,1] w = {{{', '.join(['1'] * 24)}}}, int32[8] b = {{1, 2, 3, 4, 5, 6, 7, 8}}"
REFUSED = {
    "uint8 moved before it is cast": (
        "g (uint8[N,4,4,3] rgb) => (uint8[N,3,4,4] y) { y = Transpose <perm = [0, 3, 1, 2]> (rgb) }",
        r"\(Transpose\).*Remedy: .*convert to float before",
    ),
    "uint8 sliced before it is cast": (
        "g (uint8[N,4,2] d) => (uint8[N,4,1] y) <int64[1] zero = {0}, int64[1] one = {1}, int64[1] last = {2}>"
        "{ y = Slice (d, zero, one, last) }",
        r"\(Slice\).*Remedy: .*convert to float before",
    ),
    "uint16 input": (
        "g (uint16[N,4] d) => (float[N,4] y) { y = Cast <to = 1> (d) }",
        r"Remedy: .*no uint16.*two uint8 planes",
    ),
    "antialiased resize": (
        "g (float[N,3,8,8] x) => (float[N,3,4,4] y) <float[4] scales = {1, 1, 0.5, 0.5}>"
        '{ y = Resize <mode = "linear", antialias = 1> (x, , scales) }',
        r"\(Resize\).*Remedy: .*average pooling",
    ),
    "asymmetric quantisation": (
        "g (float[N,4] x) => (float[N,4] y) <float s = {0.1}, int8 z = {3}>"
        "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
        r"\(QuantizeLinear\).*Remedy: .*quantise for TensorRT",
    ),
    "quantised for the CPU": (
        "g (float[N,4] x) => (float[N,4] y) <float s = {0.1}, uint8 z = {128}>"
        "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
        r"\(QuantizeLinear\).*Remedy: .*quantise for TensorRT",
    ),
    "a scale that is not positive": (
        "g (float[N,4] x) => (float[N,4] y) <float s = {0}, int8 z = {0}>"
        "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
        r"\(QuantizeLinear\).*Remedy: .*quantise again with frames",
    ),
    "a quantised bias": (
        f"g (float[N,3,8,8] x) => (float[N,8,8,8] y) <float s = {{0.1}}, int32 z = {{0}}, {BIAS}>"
        "{ bias = DequantizeLinear (b, s, z) y = Conv (x, w, bias) }",
        r"\(DequantizeLinear\).*Remedy: .*QuantizeBias=False",
    ),
    "an operator that nobody has": (
        "g (float[N,4] x) => (float[N,4] y) { y = Brighten (x) }",
        r"\(Brighten\).*Remedy: .*lacks that operator",
    ),
    "an operator that TensorRT lacks": (
        "g (float[N,4,4] x) => (float[N] y) { y = Det (x) }",
        r"\(Det\).*Remedy: .*lacks that operator",
    ),
    "two types in one operator": (
        "g (float[N,4] x, float16[N,4] z) => (float[N,4] y) { y = Add (x, z) }",
        r"\(Add\).*Remedy: .*add a Cast",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_comes_with_its_remedy(case: str) -> None:
    text, message = REFUSED[case]
    with pytest.raises(EngineError, match=rf"bad\.onnx.*{message}"):
        plan_from_onnx(graph_from_text(text), source="bad.onnx", precision="fp32")


def test_what_is_not_onnx_is_damaged() -> None:
    with pytest.raises(EngineError, match=r"cannot parse junk\.onnx\. .+\. Remedy: the file is damaged"):
        plan_from_onnx(b"junk" * 100, source="junk.onnx", precision="fp32")


def test_other_refusals_of_the_builder_name_the_reason_and_a_way_out() -> None:
    text = """g (float[N,9000] x) => (float[N,5000] y, int64[N,5000] i) <int64[1] k = {5000}>
      { y, i = TopK (x, k) }"""
    with pytest.raises(EngineError, match=r"cannot build top\.onnx in fp32.*3840.*Remedy: .*--backend onnxruntime"):
        plan_from_onnx(graph_from_text(text), source="top.onnx", precision="fp32")


def test_a_nan_scale_is_refused() -> None:
    model = onnx.load_from_string(graph_from_text(REFUSED["a scale that is not positive"][0]))
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "s")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.array(np.nan, np.float32), "s"))
    with pytest.raises(EngineError, match="quantise again with frames"):
        plan_from_onnx(model.SerializeToString(), source="bad.onnx", precision="fp32")


def test_the_node_has_its_name() -> None:
    model = inspection_graph()
    node = next(node for node in model.graph.node if node.op_type == "Transpose")
    node.name, node.input[0] = "to_planar", "rgb"
    with pytest.raises(EngineError, match=r"node to_planar \(Transpose\)"):
        plan_from_onnx(model.SerializeToString(), source="bad.onnx", precision="fp32")
