"""The graph of every method, mode and precision through TensorRT's real parser and builder.

``crd`` is a trained bundle on EfficientNet-Lite0; the others have random weights on ResNet-18, which does not change
what TensorRT thinks of their operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from edge_ad.backends.base import Precision
from edge_ad.backends.tensorrt.build import plan_from_onnx
from edge_ad.backends.tensorrt.half import half_precision_model
from edge_ad.bundle import golden_name, read_bundle
from edge_ad.export import onnx_from_graph
from edge_ad.export_graphs import graphs
from edge_ad.models.cmdiad import Bank, Cmdiad
from edge_ad.models.detector import Detector, DetectorConfig
from edge_ad.types import AnyArray, Intrinsics
from tests.models.methods import PAIR, SPEC, make_config
from tests.quantized_graphs import quantized_for_tensorrt, run_as_written

pytestmark = pytest.mark.usefixtures("builder")

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8_fp16")
MODES = ("full", "rgb_only", "3d_only")
RANDOM = [
    *(("rd", PAIR, mode) for mode in MODES),
    *(("fd", ("rgb", "normals"), mode) for mode in MODES),
    ("mmrd", PAIR, "full"),
    ("cmdiad", PAIR, "full"),
]


@dataclass(frozen=True)
class Model:
    """A float32 graph, the same quantised, and inputs."""

    plain: bytes
    quantized: bytes
    feeds: dict[str, AnyArray]


@pytest.fixture(scope="module", params=MODES)
def crd(request: pytest.FixtureRequest, bundle_directory: Path) -> Model:
    bundle, mode = read_bundle(bundle_directory), request.param
    golden = safetensors.numpy.load(bundle.content(golden_name(mode)))
    feeds = {name.removeprefix("input."): array for name, array in golden.items() if name.startswith("input.")}
    plain = bundle.model(mode)
    return Model(plain, quantized_for_tensorrt(plain, feeds), feeds)


@pytest.fixture(scope="module")
def detectors() -> dict[str, tuple[Detector, dict[str, torch.Tensor]]]:
    """By method, with camera arrays for it."""
    intrinsics = Intrinsics(fx=70, fy=70, cx=40, cy=32, width_px=80, height_px=64)
    generator, made = torch.Generator().manual_seed(0), {}
    samples = {
        "rgb": torch.randint(0, 256, (2, 64, 80, 3), dtype=torch.uint8, generator=generator),
        "depth": 0.5 + 0.1 * torch.rand(2, 64, 80, generator=generator),
    }
    for name, modalities, _ in RANDOM:
        config = dict(make_config(name, modalities, "resnet18"))
        torch.manual_seed(0)
        detector = Detector(DetectorConfig(**config, input=SPEC.model_copy(update={"intrinsics": intrinsics}))).eval()
        if isinstance(detector.method, Cmdiad):
            for bank in detector.method.banks.values():
                assert isinstance(bank, Bank)
                bank.tokens = torch.randn(50, bank.tokens.shape[1], generator=generator)
        made[name] = detector, samples
    return made


@pytest.fixture(scope="module", params=RANDOM, ids=lambda case: f"{case[0]}-{case[2]}")
def other(request: pytest.FixtureRequest, detectors: dict[str, tuple[Detector, dict[str, torch.Tensor]]]) -> Model:
    method, _, mode = request.param
    detector, samples = detectors[method]
    wanted = "model" if mode == "full" else f"model_{mode}"
    graph = next(graph for graph in graphs(detector, samples) if graph.name == wanted)
    feeds = dict(zip(graph.inputs, (x.numpy() for x in graph.arguments), strict=True))
    plain = onnx_from_graph(graph).SerializeToString()
    return Model(plain, quantized_for_tensorrt(plain, feeds), feeds)


def check_builds(model: Model) -> None:
    sizes = {}
    for precision in PRECISIONS:
        content = model.quantized if precision in ("int8", "int8_fp16") else model.plain
        sizes[precision] = len(plan_from_onnx(content, source="model.onnx", precision=precision, max_batch=2))
    assert sizes["fp16"] < sizes["fp32"], sizes


def check_answers(model: Model) -> None:
    """Typing a graph float16 moves its map by less than what the precision is allowed."""
    for content in (model.plain, model.quantized):
        expected = run_as_written(content, model.feeds)["anomaly_map"]
        given = run_as_written(half_precision_model(content), model.feeds)["anomaly_map"]
        assert np.sqrt(np.mean((given - expected) ** 2)) < 0.02 * np.abs(expected).max()


def test_crd_builds_in_every_mode_and_precision(crd: Model) -> None:
    check_builds(crd)


def test_crd_keeps_its_answers_in_float16(crd: Model) -> None:
    check_answers(crd)


def test_the_other_methods_build_in_every_mode_and_precision(other: Model) -> None:
    check_builds(other)


def test_the_other_methods_keep_their_answers_in_float16(other: Model) -> None:
    check_answers(other)
