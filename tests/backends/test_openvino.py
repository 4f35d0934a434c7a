from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_ad.backends import usable_backends
from edge_ad.backends.base import Precision
from edge_ad.backends.golden import check_golden
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend, available_cores
from edge_ad.backends.openvino import OpenVinoBackend, _capabilities
from edge_ad.bundle import FULL, read_bundle
from edge_ad.errors import EngineError, MissingExtraError
from edge_ad.quantization.calibration import CalibrationSet
from edge_ad.quantization.graph import quantized_model
from edge_ad.quantization.ranges import activation_ranges
from edge_ad.types import AnyArray, Backend, TensorSpec
from tests.factories import make_feeds

pytest.importorskip("openvino")

Feeds = dict[str, AnyArray]


@pytest.fixture(scope="module")
def model(sample_bundle: Path) -> bytes:
    return (sample_bundle / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def backend(model: bytes) -> OpenVinoBackend:
    return OpenVinoBackend.open(model, source="model.onnx")


def setting(backend: OpenVinoBackend, name: str) -> object:
    """What the compiled model says of itself."""
    return backend._request.get_compiled_model().get_property(name)


@pytest.mark.parametrize("max_batch", [1, 2, 8])
def test_gives_the_golden_answers(backend: Backend, sample_bundle: Path, max_batch: int) -> None:
    assert check_golden(backend, sample_bundle / "golden.safetensors", "fp32", max_batch) < 1e-3


def test_describes_inputs_and_outputs(backend: Backend) -> None:
    assert isinstance(backend, Backend)
    assert backend.inputs == (
        TensorSpec("rgb", "uint8", (None, 64, 64, 3)),
        TensorSpec("depth", "uint8", (None, 64, 64, 2)),
    )
    assert backend.outputs == (
        TensorSpec("anomaly_map", "float32", (None, 64, 64)),
        TensorSpec("score", "float32", (None,)),
    )


def test_answers_as_onnx_runtime_does(backend: Backend, model: bytes) -> None:
    feeds = make_feeds(3, seed=4)
    expected, given = OnnxRuntimeBackend(model).run(feeds), backend.run(feeds)
    assert given.keys() == expected.keys()
    for name, array in expected.items():
        assert given[name].dtype == array.dtype
        np.testing.assert_allclose(given[name], array, atol=1e-3 * np.abs(array).max())


@pytest.mark.parametrize("mode", [FULL, "rgb_only", "3d_only"])
def test_a_trained_model_answers_as_in_onnx_runtime(
    bundle_directory: Path, calibration_set: CalibrationSet, mode: str
) -> None:
    bundle = read_bundle(bundle_directory)
    trained = bundle.model(mode)
    ours, reference = OpenVinoBackend.open(trained, source="model.onnx"), OnnxRuntimeBackend(trained)
    assert (ours.inputs, ours.outputs) == (reference.inputs, reference.outputs)
    for feeds in list(calibration_set.feeds("gate", [spec.name for spec in ours.inputs]))[:2]:
        expected, given = reference.run(feeds), ours.run(feeds)
        for name, array in expected.items():
            np.testing.assert_allclose(given[name], array, atol=1e-3 * np.abs(array).max())


def test_results_belong_to_the_caller(backend: Backend) -> None:
    first = backend.run(make_feeds(1, seed=1))
    before = {name: array.copy() for name, array in first.items()}
    backend.run(make_feeds(1, seed=2))
    for name, array in before.items():
        np.testing.assert_array_equal(first[name], array)


def test_arrays_need_not_be_contiguous(backend: Backend) -> None:
    feeds = make_feeds(2)
    strided = {name: np.repeat(array, 2, axis=2)[:, :, ::2] for name, array in feeds.items()}
    assert not strided["rgb"].flags.c_contiguous
    expected = backend.run(feeds)
    np.testing.assert_array_equal(backend.run(strided)["anomaly_map"], expected["anomaly_map"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda f: {"rgb": f["rgb"]}, "'depth' is missing", id="missing"),
        pytest.param(lambda f: f | {"mask": f["rgb"]}, "'mask' is not an input", id="extra"),
        pytest.param(lambda f: f | {"rgb": f["rgb"].astype(np.float32)}, "'rgb' is float32", id="dtype"),
        pytest.param(lambda f: f | {"rgb": f["rgb"][:, :32]}, r"'rgb' has shape \(2, 32", id="size"),
        pytest.param(lambda f: f | {"depth": f["depth"][:1]}, r"'depth' has shape \(1, .*\(2, 64", id="batches differ"),
    ],
)
def test_wrong_feeds_are_named(backend: Backend, change: Callable[[Feeds], Feeds], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        backend.run(change(make_feeds(2)))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="truncated"),
        pytest.param(lambda content: b"not a model" * 20, id="garbage"),
    ],
)
def test_a_damaged_model_is_named(model: bytes, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(EngineError, match="broken.onnx cannot be loaded by OpenVINO"):
        OpenVinoBackend.open(damage(model), source="broken.onnx")


def in_int8(model: bytes) -> bytes:
    return quantized_model(model, activation_ranges(model, [make_feeds(1, seed) for seed in range(2)]), "cpu")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_bf16_is_never_taken_unasked(model: bytes, precision: Precision) -> None:
    import openvino

    payload = in_int8(model) if precision == "int8" else model
    opened = OpenVinoBackend.open(payload, source="model.onnx", precision=precision)
    assert setting(opened, "INFERENCE_PRECISION_HINT") == openvino.Type.f32


@pytest.mark.skipif("BF16" not in _capabilities(), reason="this CPU has no BF16")
def test_bf16_is_taken_when_asked_for(model: bytes) -> None:
    import openvino

    payload = OpenVinoBackend.build(model, source="model.onnx", precision="bf16", max_batch=1, progress=None)
    opened = OpenVinoBackend.open(payload, source="model.onnx", precision="bf16")
    assert setting(opened, "INFERENCE_PRECISION_HINT") == openvino.Type.bf16
    assert opened.outputs[0].dtype == "float32"


def test_bf16_is_refused_where_the_cpu_lacks_it(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_ad.backends.openvino._capabilities", lambda: ("FP32", "INT8"))
    with pytest.raises(EngineError, match="cannot run in bf16 here. this CPU does not compute in it"):
        OpenVinoBackend.build(model, source="model.onnx", precision="bf16", max_batch=1, progress=None)


@pytest.mark.parametrize("precision", ["fp16", "int8_fp16"])
def test_what_needs_tensorrt_is_refused(model: bytes, precision: Precision) -> None:
    with pytest.raises(EngineError, match=f"{precision} needs TensorRT"):
        OpenVinoBackend.build(model, source="model.onnx", precision=precision, max_batch=1, progress=None)


def test_int8_answers_stay_close(model: bytes) -> None:
    feeds = make_feeds(2, seed=6)
    expected = OnnxRuntimeBackend(model).run(feeds)["anomaly_map"]
    given = OpenVinoBackend.open(in_int8(model), source="model.onnx", precision="int8").run(feeds)["anomaly_map"]
    assert 0 < np.abs(given - expected).max() < 0.1 * np.abs(expected).max()


def test_threads_follow_the_cores(backend: OpenVinoBackend) -> None:
    assert setting(backend, "INFERENCE_NUM_THREADS") == available_cores()
    assert setting(backend, "ENABLE_CPU_PINNING") is False


def test_may_be_closed_twice(model: bytes) -> None:
    opened = OpenVinoBackend.open(model, source="model.onnx")
    opened.close()
    opened.close()


def test_a_missing_package_names_the_extra(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for use in (OpenVinoBackend.box_facts, lambda: OpenVinoBackend.open(model, source="model.onnx")):
        with pytest.raises(MissingExtraError, match=r"pip install 'edge-ad\[openvino\]'"):
            use()
    assert "openvino" not in usable_backends("auto")
    with pytest.raises(MissingExtraError):
        usable_backends("openvino")


def test_the_version_is_part_of_what_engines_depend_on() -> None:
    import openvino

    version = OpenVinoBackend.box_facts().backend_version
    assert version.startswith("openvino 20")
    assert openvino.__version__.startswith(version.removeprefix("openvino "))
