"""The real parser and builder over every graph of a bundle. TensorRT-RTX does this without a GPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from edge_ad.backends.base import Precision
from edge_ad.backends.tensorrt import build, loader
from edge_ad.backends.tensorrt.build import plan_from_onnx
from edge_ad.bundle import WEIGHTS
from edge_ad.errors import EngineError
from edge_ad.onnx_weights import with_weights
from edge_ad.peaks import LAYERS, SIDES, gemm_model


@pytest.fixture(scope="module", autouse=True)
def builder() -> ModuleType:
    """Skips where TensorRT is not installed, or is one that needs a driver that is absent; a broken one fails."""
    if not any(find_spec(name) for name in ("tensorrt", "tensorrt_rtx")):
        pytest.skip("TensorRT is not installed")
    trt = loader.load_tensorrt()
    if not loader.builds_without_driver(trt):
        try:
            loader.require_driver()
        except EngineError as error:
            pytest.skip(str(error))
    return trt


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
    assert any("Building engine" in message for message in told)


def test_a_failure_while_telling_progress_ends_the_build(sample_bundle: Path) -> None:
    def interrupt(message: str) -> None:
        raise KeyboardInterrupt

    model = (sample_bundle / "model.onnx").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        plan_from_onnx(model, source="model.onnx", precision="fp32", progress=interrupt)


def _graph(text: str) -> bytes:
    content: bytes = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]>\n{text}').SerializeToString()
    return content


def test_a_parser_error_names_node_operator_and_cause() -> None:
    model = onnx.load_from_string(
        _graph("g (uint8[N,4,4,3] rgb) => (uint8[N,3,4,4] y) { y = Transpose <perm = [0, 3, 1, 2]> (rgb) }")
    )
    model.graph.node[0].name = "to_planar"
    with pytest.raises(EngineError, match=r"cannot parse colour\.onnx.*to_planar \(Transpose\): .*UInt8"):
        plan_from_onnx(model.SerializeToString(), source="colour.onnx", precision="fp32")


def test_a_builder_error_gives_the_reason() -> None:
    text = """g (float[N,3,8,8] x) => (float[N,3,4,4] y) <float[4] scales = {1, 1, 0.5, 0.5}>
      { y = Resize <mode = "linear", antialias = 1> (x, , scales) }"""
    with pytest.raises(EngineError, match=r"resize\.onnx.*ntialias"):
        plan_from_onnx(_graph(text), source="resize.onnx", precision="fp32")


def test_what_is_not_onnx_is_named() -> None:
    with pytest.raises(EngineError, match=r"cannot parse junk\.onnx\. .+\. Remedy"):
        plan_from_onnx(b"junk" * 100, source="junk.onnx", precision="fp32")


@pytest.mark.parametrize(
    "shape", [pytest.param("N,M,8,8", id="two dynamic sizes"), pytest.param("2,3,8,8", id="another fixed batch")]
)
def test_only_the_batch_may_be_dynamic(shape: str) -> None:
    with pytest.raises(EngineError, match=r"input 'x' of model\.onnx has shape"):
        plan_from_onnx(
            _graph(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Relu (x) }}"),
            source="model.onnx",
            precision="fp32",
            max_batch=4,
        )


def test_a_fixed_batch_builds() -> None:
    model = _graph("g (float[2,3,8,8] x) => (float[2,3,8,8] y) { y = Relu (x) }")
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
