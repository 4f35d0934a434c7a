from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_ad.backends import BACKENDS
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.errors import EngineError
from edge_ad.graph_cost import graph_cost
from edge_ad.peaks import LAYERS, CopyPeak, GemmPeak, gemm_model


@pytest.mark.parametrize("integer", [False, True], ids=["float32", "int8"])
def test_a_product_is_the_work_that_its_rate_counts(integer: bool) -> None:
    content = gemm_model(64, integer=integer)
    assert graph_cost(content).macs == LAYERS * 64**3
    x = np.arange(64)[None] - (0 if integer else 32)
    backend = OnnxRuntimeBackend.open(content, source="product")
    (given,) = backend.run({"x": x.astype(np.uint8 if integer else np.float32)}).values()
    tensors = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(content).graph.initializer
    }
    weights = [tensors[f"weight_{index}"].astype(np.float64) for index in range(LAYERS)]
    if integer:
        expected = np.max([x @ weight for weight in weights], axis=0)
        np.testing.assert_array_equal(given, expected)
    else:
        rows = x + tensors["weight_rows"].astype(np.float64)
        expected = (rows @ weights[0] @ weights[1] @ weights[2]).max(axis=0, keepdims=True)
        np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("integer", [False, True], ids=["float32", "int8"])
def test_rates_are_positive_and_finite(integer: bool) -> None:
    gemm = GemmPeak("onnxruntime", integer=integer)
    rate = gemm.best_gflops()
    gemm.close()
    assert 0 < rate < float("inf")


def test_a_copy_moves_at_a_rate() -> None:
    copy = CopyPeak()
    assert copy.gb_s() > 0 and copy.threads >= 1
    copy.close()


def test_a_backend_that_cannot_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "broken", "tests.test_verification:Broken")
    with pytest.raises(EngineError, match="no kernel"):
        GemmPeak("broken")
