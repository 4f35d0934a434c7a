from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from onnx import TensorProto, numpy_helper

from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import WEIGHTS
from edge_ad.errors import BundleError
from edge_ad.onnx_weights import SHARED_BYTES, share_weights, weights_of, with_weights
from edge_ad.types import AnyArray
from tests.factories import make_feeds
from tests.onnx_graphs import inspection_graph


def pair() -> dict[str, onnx.ModelProto]:
    """Two models that differ in nothing but the bias of their stem and one of their large weights."""
    models = {"one": inspection_graph(), "two": inspection_graph()}
    for tensor in models["two"].graph.initializer:
        if tensor.name in ("stem_bias", "up_weight"):
            changed = numpy_helper.to_array(tensor) * np.float32(1.1)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    return models


def answers(model: bytes | str) -> list[AnyArray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, make_feeds()))


def shared(models: dict[str, onnx.ModelProto]) -> dict[str, dict[str, dict[str, str]]]:
    """By model and tensor, where its bytes lie."""
    return {
        name: {
            tensor.name: {entry.key: entry.value for entry in tensor.external_data}
            for tensor in model.graph.initializer
            if tensor.data_location == TensorProto.EXTERNAL
        }
        for name, model in models.items()
    }


def test_equal_weights_are_stored_once() -> None:
    models = pair()
    content = share_weights(models, WEIGHTS)
    places = shared(models)
    large = {"stem_weight", "teacher_weight", "down_weight", "up_weight"}
    assert {name: set(tensors) for name, tensors in places.items()} == {"one": large, "two": large}
    same = {name for name in large if places["one"][name] == places["two"][name]}
    assert same == large - {"up_weight"}
    referenced = sum(int(place["length"]) for tensors in places.values() for place in tensors.values())
    assert len(content) < 0.7 * referenced
    assert {place["location"] for tensors in places.values() for place in tensors.values()} == {WEIGHTS}


def test_any_reader_of_safetensors_finds_the_weights() -> None:
    models = {"one": inspection_graph()}
    tensors = safetensors.numpy.load(share_weights(models, WEIGHTS))
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in inspection_graph().graph.initializer}
    large = [x for x in expected.values() if x.nbytes >= SHARED_BYTES]
    assert len(tensors) == len(large)
    for x in large:
        assert any(x.shape == y.shape and np.array_equal(x, y) for y in tensors.values())


def test_runtimes_open_the_graphs_where_they_lie(tmp_path: Path) -> None:
    before, models = {name: answers(model.SerializeToString()) for name, model in pair().items()}, pair()
    (tmp_path / WEIGHTS).write_bytes(share_weights(models, WEIGHTS))
    for name, model in models.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(path))
        for given, expected in zip(answers(str(path)), before[name], strict=True):
            np.testing.assert_array_equal(given, expected)
    assert any(not np.array_equal(x, y) for x, y in zip(before["one"], before["two"], strict=True))


def test_a_model_with_its_weights_needs_no_file() -> None:
    models = pair()
    weights = {WEIGHTS: share_weights(models, WEIGHTS)}
    for name, original in pair().items():
        whole = with_weights(models[name].SerializeToString(), weights, name)
        for given, expected in zip(answers(whole), answers(original.SerializeToString()), strict=True):
            np.testing.assert_array_equal(given, expected)
        assert shared({name: onnx.load_from_string(whole)}) == {name: {}}
        assert with_weights(whole, {}, name) == whole, "what is whole stays as it is, byte by byte"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("location", "/etc/passwd", id="another file"),
        pytest.param("location", f"../{WEIGHTS}", id="outside"),
        pytest.param("offset", "-8", id="before the start"),
        pytest.param("offset", "1000000", id="behind the end"),
        pytest.param("length", "1000000", id="too long"),
        pytest.param("length", "0", id="empty"),
        pytest.param("length", "-8", id="negative"),
        pytest.param("offset", "many", id="no number"),
    ],
)
def test_a_pointer_that_leads_elsewhere_is_refused(key: str, value: str) -> None:
    models = {"one": inspection_graph()}
    weights = {WEIGHTS: share_weights(models, WEIGHTS)}
    tensor = next(tensor for tensor in models["one"].graph.initializer if tensor.name == "teacher_weight")
    next(entry for entry in tensor.external_data if entry.key == key).value = value
    for resolve in (with_weights, weights_of):
        with pytest.raises(BundleError, match=r"bundle/model\.onnx has no weights for teacher_weight.*export"):
            resolve(models["one"].SerializeToString(), weights, "bundle/model.onnx")


@pytest.mark.parametrize(
    ("data_type", "dims"),
    [
        pytest.param(TensorProto.FLOAT, [7], id="another size"),
        pytest.param(TensorProto.FLOAT, [-1], id="size left open"),
        pytest.param(TensorProto.FLOAT, [-1, -8], id="negative sizes"),
        pytest.param(TensorProto.STRING, [8], id="text"),
        pytest.param(TensorProto.UNDEFINED, [8], id="no type"),
        pytest.param(99, [8], id="unknown type"),
    ],
)
def test_weights_of_another_shape_or_type_are_refused(data_type: int, dims: list[int]) -> None:
    models = {"one": inspection_graph()}
    weights = {WEIGHTS: share_weights(models, WEIGHTS)}
    tensor = next(tensor for tensor in models["one"].graph.initializer if tensor.name == "teacher_weight")
    tensor.data_type, tensor.dims[:] = data_type, dims
    with pytest.raises(BundleError, match="has no weights for teacher_weight.*bytes are not of type"):
        weights_of(models["one"].SerializeToString(), weights, "one")


def test_two_weights_of_one_name_are_refused() -> None:
    """One of them would be looked for in the working directory."""
    models = {"one": inspection_graph()}
    weights = {WEIGHTS: share_weights(models, WEIGHTS)}
    tensors = models["one"].graph.initializer
    tensors.append(next(tensor for tensor in tensors if tensor.name == "teacher_weight"))
    for resolve in (with_weights, weights_of):
        with pytest.raises(BundleError, match="two weights of one name"):
            resolve(models["one"].SerializeToString(), weights, "one")


def test_weights_at_odd_places_are_moved_to_even_ones() -> None:
    models = {"one": inspection_graph()}
    weights = share_weights(models, WEIGHTS)
    even = weights_of(models["one"].SerializeToString(), {WEIGHTS: weights}, "one")
    for tensor in models["one"].graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "offset":
                entry.value = str(int(entry.value) + 1)
    odd = weights_of(models["one"].SerializeToString(), {WEIGHTS: b"x" + weights}, "one")
    for name, array in odd.items():
        assert array.flags.aligned
        np.testing.assert_array_equal(array, even[name])


def test_graphs_run_with_one_copy_of_their_weights() -> None:
    models = pair()
    weights = {WEIGHTS: share_weights(models, WEIGHTS)}
    for name, original in pair().items():
        graph = models[name].SerializeToString()
        backend = OnnxRuntimeBackend(graph, weights=weights_of(graph, weights, name))
        gc.collect()  # nothing of the weights may go while it runs
        found = backend.run(make_feeds())
        for given, expected in zip(found.values(), answers(original.SerializeToString()), strict=True):
            np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("content", [b"not a model" * 20, b"\xff" * 64], ids=["text", "bytes"])
def test_what_is_no_model_is_named(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"bundle/model\.onnx is not an ONNX model"):
        with_weights(content, {}, "bundle/model.onnx")
