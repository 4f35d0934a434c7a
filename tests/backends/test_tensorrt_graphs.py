"""The real parser and builder over every graph of a bundle. TensorRT-RTX does this without a GPU."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_ad.backends.base import BoxFacts, Precision
from edge_ad.backends.tensorrt import build, loader, timing_cache
from edge_ad.backends.tensorrt.build import plan_from_onnx
from edge_ad.backends.tensorrt.weakly_typed import with_float_weights
from edge_ad.bundle import WEIGHTS
from edge_ad.errors import EngineError
from edge_ad.onnx_weights import with_weights
from edge_ad.peaks import LAYERS, SIDES, gemm_model
from tests.factories import make_feeds
from tests.onnx_graphs import graph_from_text
from tests.quantized_graphs import quantized_for_tensorrt

pytestmark = pytest.mark.usefixtures("builder")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("bundle", "max_batch"), [("bundle_directory", 1), ("rd_bundle_directory", 4)])
def test_every_graph_builds(request: pytest.FixtureRequest, bundle: str, precision: Precision, max_batch: int) -> None:
    directory: Path = request.getfixturevalue(bundle)
    graphs, refused = sorted(directory.glob("*.onnx")), {}
    weights = {WEIGHTS: (directory / WEIGHTS).read_bytes()}
    for path in graphs:
        model = with_weights(path.read_bytes(), weights, path.name)
        try:
            assert plan_from_onnx(model, source=path.name, precision=precision, max_batch=max_batch)
        except EngineError as error:
            refused[path.name] = str(error)
    assert len(graphs) >= 3
    assert refused == {}


def test_half_precision_makes_a_smaller_plan(sample_bundle: Path) -> None:
    model = (sample_bundle / "model.onnx").read_bytes()
    full, half = (plan_from_onnx(model, source="model.onnx", precision=precision) for precision in ("fp32", "fp16"))
    assert len(half) < len(full)


def test_float32_is_not_tf32(builder: ModuleType, sample_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[Any] = []
    monkeypatch.setattr(build, "_built", lambda trt, builder, network, config, *rest: configs.append(config))
    plan_from_onnx((sample_bundle / "model.onnx").read_bytes(), source="model.onnx", precision="fp32")
    assert not configs[0].get_flag(builder.BuilderFlag.TF32)


def test_progress_is_told(sample_bundle: Path) -> None:
    told: list[str] = []
    model = (sample_bundle / "model.onnx").read_bytes()
    plan_from_onnx(model, source="model.onnx", precision="fp32", progress=told.append)
    assert "is building, which can take minutes" in told[0]
    assert any(re.fullmatch(r"Building engine \(\d+ of \d+\)", message) for message in told)
    assert any(re.fullmatch(r"Building engine \(\d+ of \d+\): .+ \(\d+ of \d+\)", message) for message in told)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")  # it takes timing caches, and does nothing
def test_a_release_that_measures_keeps_its_timing_cache(
    builder: ModuleType, sample_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = BoxFacts("tensorrt 10.3.0", "Orin (nvgpu)", "8.7", "540.4.0 (CUDA 12.6)")
    monkeypatch.setenv("EDGE_AD_HOME", str(tmp_path))
    monkeypatch.setattr(loader, "builds_without_driver", lambda trt: False)
    monkeypatch.setattr(loader, "require_driver", lambda: None)
    monkeypatch.setattr(loader, "box_facts", lambda: facts)
    given: list[bytes] = []
    create = builder.IBuilderConfig.create_timing_cache

    def watched(config: Any, known: bytes) -> Any:
        given.append(known)
        return create(config, known)

    monkeypatch.setattr(builder.IBuilderConfig, "create_timing_cache", watched)
    model = (sample_bundle / "model.onnx").read_bytes()
    for _ in range(2):
        plan_from_onnx(model, source="model.onnx", precision="fp32")
    kept = timing_cache.cache_path(facts).read_bytes()
    assert given[0] == b"" and given[1] and kept.endswith(given[1])


def test_quantised_weights_as_tensorrt_8_takes_them_build(sample_bundle: Path) -> None:
    quantized = quantized_for_tensorrt((sample_bundle / "model.onnx").read_bytes(), make_feeds(2))
    assert plan_from_onnx(with_float_weights(quantized), source="model.onnx", precision="int8")


def test_without_a_progress_monitor_the_wait_is_announced(
    builder: ModuleType, sample_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in TensorRT 8.6."""
    monkeypatch.delattr(builder, "IProgressMonitor")
    told: list[str] = []
    model = (sample_bundle / "model.onnx").read_bytes()
    plan_from_onnx(model, source="model.onnx", precision="fp32", progress=told.append)
    assert told == [f"TensorRT {builder.__version__} is building, which can take minutes"]


def test_a_failure_while_telling_progress_ends_the_build(sample_bundle: Path) -> None:
    def interrupt(message: str) -> None:
        if message.startswith("Building engine"):
            raise KeyboardInterrupt

    model = (sample_bundle / "model.onnx").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        plan_from_onnx(model, source="model.onnx", precision="fp32", progress=interrupt)


@pytest.mark.parametrize(
    "shape", [pytest.param("N,M,8,8", id="two dynamic sizes"), pytest.param("2,3,8,8", id="another fixed batch")]
)
def test_only_the_batch_may_be_dynamic(shape: str) -> None:
    with pytest.raises(EngineError, match=r"input 'x' of model\.onnx has shape"):
        plan_from_onnx(
            graph_from_text(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Relu (x) }}"),
            source="model.onnx",
            precision="fp32",
            max_batch=4,
        )


def test_a_fixed_batch_builds() -> None:
    model = graph_from_text("g (float[2,3,8,8] x) => (float[2,3,8,8] y) { y = Relu (x) }")
    assert plan_from_onnx(model, source="model.onnx", precision="fp32", max_batch=2)


def test_missing_driver_is_an_error_before_the_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise EngineError("there is no NVIDIA driver on this box")

    monkeypatch.setattr(loader, "builds_without_driver", lambda trt: False)
    monkeypatch.setattr(loader, "require_driver", no_driver)
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        plan_from_onnx(b"", source="model.onnx", precision="fp32")


def test_the_product_of_a_benchmark_builds_and_is_not_folded() -> None:
    plan = plan_from_onnx(gemm_model(SIDES[0], integer=False), source="product", precision="fp32")
    assert len(plan) > LAYERS * 4 * SIDES[0] ** 2, "the weights are in it"
