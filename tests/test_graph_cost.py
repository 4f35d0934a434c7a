from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from edge_ad.errors import ModelError
from edge_ad.graph_cost import graph_cost
from tests.onnx_graphs import inspection_graph

HEAD = '<ir_version: 9, opset_import: ["" : 18]>'


def model(text: str, **weights: tuple[int, ...]) -> bytes:
    """A graph with weights of ones; a name that begins with ``i`` has 8-bit integers."""
    proto = onnx.parser.parse_model(HEAD + text)
    for name, shape in weights.items():
        values = np.ones(shape, np.int8 if name.startswith("i") else np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    content: bytes = proto.SerializeToString()
    return content


def test_the_sample_graph_by_hand() -> None:
    cost = graph_cost(inspection_graph().SerializeToString())
    slope = 64 * 64 * 2 * 9
    stem = 32 * 32 * 16 * 5 * 9
    teacher = 32 * 32 * 16 * 16 * 9
    down = 16 * 16 * 32 * 16 * 9
    student = 16 * 16 * 32 * 16 * 4
    blurred = 64 * 64 * 25
    assert cost.macs_by_operator == {"Conv": slope + stem + teacher + down + blurred, "ConvTranspose": student}
    assert cost.macs == sum(cost.macs_by_operator.values())
    assert cost.io_bytes == 64 * 64 * (3 + 2 + 4) + 4
    weights = 4 * (2 * 9 + 16 * 5 * 9 + 16 + 16 * 16 * 9 + 32 * 16 * 9 + 32 * 16 * 4 + 25)
    assert weights < cost.weight_bytes < weights + 200, "and a few constants"
    assert cost.least_bytes == cost.weight_bytes + cost.io_bytes


def test_cost_grows_with_the_batch_but_not_the_weights() -> None:
    content = inspection_graph().SerializeToString()
    one, three = graph_cost(content), graph_cost(content, batch=3)
    assert three.macs == 3 * one.macs
    assert three.io_bytes == 3 * one.io_bytes
    assert three.weight_bytes == one.weight_bytes


@pytest.mark.parametrize(
    ("content", "macs"),
    [
        pytest.param(
            model("g (float[n,8,6,6] x) => (float[n,4,6,6] y) { y = Conv <group = 4> (x, w) }", w=(4, 2, 1, 1)),
            4 * 36 * 2,
            id="grouped",
        ),
        pytest.param(
            model(
                "g (float[n,4,5,5] x) => (float[n,6,a,b] y) { y = ConvTranspose <group = 2> (x, w) }", w=(4, 3, 2, 2)
            ),
            4 * 25 * 3 * 4,
            id="transposed, grouped",
        ),
        pytest.param(model("g (float[n,7] x) => (float[n,5] y) { y = MatMul (x, w) }", w=(7, 5)), 7 * 5, id="MatMul"),
        pytest.param(
            model("g (float[n,3,7] x) => (float[n,3,5] y) { y = MatMul (x, w) }", w=(2, 7, 5)),
            2 * 3 * 7 * 5,
            id="MatMul that broadcasts",
        ),
        pytest.param(
            model("g (float[n,7] x) => (float[n,5] y) { y = Gemm <transB = 1> (x, w) }", w=(5, 7)), 7 * 5, id="Gemm"
        ),
        pytest.param(
            model("g (float[7,4] x) => (float[4,5] y) { y = Gemm <transA = 1> (x, w) }", w=(7, 5)),
            4 * 7 * 5,
            id="Gemm, transposed data",
        ),
        pytest.param(
            model(
                """g (float[n,3,4,4] x) => (float[n,5,4,4] y)
                <float scale = {0.5}, uint8 zero = {128}, int8 izero = {0}>
                {
                  xq = QuantizeLinear (x, scale, zero)
                  xd = DequantizeLinear (xq, scale, zero)
                  wd = DequantizeLinear (iw, scale, izero)
                  y = Conv (xd, wd)
                }""",
                iw=(5, 3, 1, 1),
            ),
            5 * 16 * 3,
            id="weights behind DequantizeLinear",
        ),
        pytest.param(
            model("g (uint8[n,7] x) => (int32[n,5] y) { y = MatMulInteger (x, iw) }", iw=(7, 5)), 7 * 5, id="integers"
        ),
        pytest.param(
            model(
                """g (float[n,4,8,8] x) => (float[n,4,8,8] y)
                <int64[1] zero = {0}, int64[1] start = {0}, int64[1] end = {1}>
                {
                  shape = Shape (x)
                  batch = Slice (shape, start, end)
                  same = Slice (x, zero, batch, zero)
                  y = Conv (same, w)
                }""",
                w=(4, 4, 1, 1),
            ),
            4 * 64 * 4,
            id="a slice whose end follows from the batch",
        ),
        pytest.param(model("g (float[n,7] x) => (float[n,7] y) { y = Relu (x) }"), 0, id="nothing to multiply"),
    ],
)
def test_operators_by_hand(content: bytes, macs: int) -> None:
    assert graph_cost(content).macs == macs


def test_as_many_as_torch_counts() -> None:
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.Conv2d(8, 8, 3, groups=8, dilation=2),
        torch.nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1),
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layers(torch.zeros(1, 3, 33, 33))
    content = model(
        """g (float[n,3,33,33] x) => (float[n,4,c,d] y)
        {
          a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, v)
          b = Conv <group = 8, dilations = [2, 2]> (a, w)
          y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (b, u)
        }""",
        v=(8, 3, 3, 3),
        w=(8, 1, 3, 3),
        u=(8, 4, 4, 4),
    )
    assert graph_cost(content).macs == counter.get_total_flops() / 2


@pytest.mark.parametrize("content", [b"PLAN", b"\x08\x08" * 5])
def test_what_is_no_graph_is_an_error(content: bytes) -> None:
    with pytest.raises(ModelError):
        graph_cost(content)
