"""The bookkeeping of ``scripts/gpu_check.py check``, with ONNX Runtime in the place of TensorRT."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edge_ad.backends.base import BoxFacts, Precision, Progress, QuantizationStyle
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.backends.tensorrt import device_memory
from edge_ad.backends.tensorrt.half import half_precision_model
from edge_ad.backends.tensorrt.host_memory import HostMemory
from edge_ad.errors import EngineError, MissingExtraError
from tests.factories import make_bundle, make_feeds
from tests.quantized_graphs import quantized_for_tensorrt

CASE = "rd-tiny"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8_fp16")


class LikeTensorRT:
    """Builds and opens as TensorRT's backend does, and runs in ONNX Runtime."""

    payload_name: ClassVar[str] = "model.plan"
    precisions: ClassVar[tuple[Precision, ...]] = PRECISIONS
    quantization: ClassVar[QuantizationStyle] = "tensorrt"
    options: ClassVar[Mapping[str, str]] = {}
    built: ClassVar[list[tuple[str, int]]] = []
    fails: ClassVar[dict[str, BaseException]] = {}

    @classmethod
    def box_facts(cls) -> BoxFacts:
        return BoxFacts("tensorrt 8.6.0", "a GPU", "9.0", "550.54 (CUDA 12.4)")

    @classmethod
    def build(
        cls, model: bytes, *, source: str, precision: Precision, max_batch: int, progress: Progress | None
    ) -> bytes:
        cls.built.append((precision, max_batch))
        if precision in cls.fails:
            raise cls.fails[precision]
        # int8_fp16 stays as int8: ONNX Runtime's optimiser is wrong about float16 scales.
        return half_precision_model(model) if precision == "fp16" else model

    @classmethod
    def open(cls, payload: bytes, *, source: str, precision: Precision, **options: Any) -> OnnxRuntimeBackend:
        assert options["memory_package"] == "cuda-bindings" and options["cuda_graphs"] in (True, False)
        return OnnxRuntimeBackend.open(payload, source=source)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script's module, on a box with cuda-bindings alone."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    module = importlib.import_module("gpu_check_engines")

    def open_device_memory(package: str) -> HostMemory:
        if package == "pycuda":
            raise MissingExtraError("pycuda cannot be imported")
        return HostMemory()

    monkeypatch.setattr(device_memory, "open_device_memory", open_device_memory)
    monkeypatch.setattr(module, "backend_class", lambda name: LikeTensorRT)
    monkeypatch.setattr(LikeTensorRT, "built", [])
    monkeypatch.setattr(LikeTensorRT, "fails", {})
    return module


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What ``prepare`` would have written, of a tiny graph."""
    directory = tmp_path / "cases" / CASE
    make_bundle(directory)
    quantized = quantized_for_tensorrt((directory / "model.onnx").read_bytes(), make_feeds(2))
    (directory / "quantized.onnx").write_bytes(quantized)
    return tmp_path


def rows(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((output / "check-tensorrt.json").read_text())["rows"]
    return found


def plan(engines: Any, *precisions: str, rebuild: bool = False) -> Any:
    return engines.Plan((CASE,), precisions, (1, 2), 3, rebuild)


def test_every_precision_batch_and_variant_has_its_row(engines: Any, output: Path) -> None:
    assert engines.check_all(output, "tensorrt", plan(engines), float("inf"))
    found = rows(output)
    variants = ("cuda-bindings, CUDA graphs", "cuda-bindings, no CUDA graphs")
    expected = [(precision, batch, name) for precision in PRECISIONS for batch in (1, 2) for name in variants]
    assert [(row["precision"], row["batch"], row["variant"]) for row in found] == expected
    assert all(0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] for row in found)
    by_precision = {row["precision"]: row["difference"] for row in found}
    assert by_precision["fp32"] < by_precision["fp16"] < by_precision["int8"]
    report = importlib.import_module("gpu_check_report").markdown(output)
    assert "tensorrt 8.6.0, a GPU, compute capability 9.0, driver 550.54 (CUDA 12.4)" in report
    assert report.count("| tensorrt (cuda-bindings, CUDA graphs) |") == 8


def test_a_second_call_goes_on(engines: Any, output: Path) -> None:
    assert engines.check_all(output, "tensorrt", plan(engines, "fp32"), float("inf"))
    assert engines.check_all(output, "tensorrt", plan(engines, "fp32", "fp16"), float("inf"))
    assert LikeTensorRT.built == [("fp32", 1), ("fp32", 2), ("fp16", 1), ("fp16", 2)]
    assert not engines.check_all(output, "tensorrt", plan(engines, "int8"), 0.0)
    assert len(LikeTensorRT.built) == 4


def test_a_rebuild_is_timed_apart(engines: Any, output: Path) -> None:
    assert engines.check_all(output, "tensorrt", plan(engines, "fp32", rebuild=True), float("inf"))
    assert LikeTensorRT.built == [("fp32", 1)] * 2 + [("fp32", 2)] * 2
    assert all(row["build_s"] >= 0 and row["rebuild_s"] >= 0 for row in rows(output))


def test_an_engine_that_cannot_be_built_is_a_result(engines: Any, output: Path) -> None:
    LikeTensorRT.fails["int8"] = EngineError("TensorRT cannot build model.onnx in int8", why="no kernel")
    assert not engines.check_all(output, "tensorrt", plan(engines, "int8", "fp32"), float("inf"))
    errors = {(row["precision"], row["batch"]): row["error"] for row in rows(output)}
    assert errors[("fp32", 1)] == "" and "no kernel" in errors[("int8", 1)]
    assert "no kernel" in importlib.import_module("gpu_check_report").markdown(output)


def test_wrong_answers_are_said_and_timed_all_the_same(engines: Any, output: Path) -> None:
    other = make_bundle(output / "other", seed=8).directory / "model.onnx"
    (output / "cases" / CASE / "model.onnx").write_bytes(other.read_bytes())
    assert not engines.check_all(output, "tensorrt", plan(engines, "fp32"), float("inf"))
    assert all("does not give the answers" in row["error"] and row["p50_ms"] > 0 for row in rows(output))


def test_an_engine_that_takes_the_process_with_it_is_not_tried_again(engines: Any, output: Path) -> None:
    LikeTensorRT.fails["fp16"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        engines.check_all(output, "tensorrt", plan(engines, "fp32", "fp16"), float("inf"))
    assert [row["error"] for row in rows(output)] == [""] * 4 + [engines.UNFINISHED]
    LikeTensorRT.fails.clear()
    assert not engines.check_all(output, "tensorrt", plan(engines, "fp16"), float("inf"))
    assert LikeTensorRT.built[-2:] == [("fp16", 1), ("fp16", 2)], "batch 1 before the interruption, batch 2 after it"
