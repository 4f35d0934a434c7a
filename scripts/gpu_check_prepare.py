"""The torch side of gpu_check: graphs, golden answers, PyTorch's own timings, and what the GPU can do at best."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from gpu_check_results import CASES, GOLDEN, MODEL, PREPARED, QUANTIZED, Row, read_results, timed, write_results
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edge_ad.bundle import InputSpec
from edge_ad.config import PreprocessConfig
from edge_ad.data.synthetic import SyntheticProduct
from edge_ad.export import onnx_from_graph, parity
from edge_ad.export_graphs import graphs
from edge_ad.feeds import feeds_from_frame
from edge_ad.files import write_bytes
from edge_ad.models.detector import Detector, DetectorConfig
from edge_ad.models.preprocess import GeometryStatistics
from edge_ad.quantization.graph import quantized_model
from edge_ad.quantization.ranges import activation_ranges
from edge_ad.types import AnyArray, Roi

MODALITIES = ("rgb", "depth")
BATCHES = (1, 16)
GEMM_SIDE, COPY_BYTES, ROUNDS = 8192, 2**30, 30


@dataclass(frozen=True)
class Choices:
    """What to prepare: side of frames and input, frames with golden answers, timed runs, and whether to compile."""

    size_px: int
    samples: int
    rounds: int
    compile: bool


def prepare_all(output: Path, models: tuple[str, ...], backbones: tuple[str, ...], choices: Choices) -> None:
    """Writes the cases that are not there yet, and ``prepare.json``, which keeps what it has of other cases."""
    console, path, cuda = Console(), output / PREPARED, torch.cuda.is_available()
    facts, rows = read_results(path)
    cases: dict[str, dict[str, float]] = facts.get("cases", {}) if _same_settings(facts, choices) else {}
    rows = [row for row in rows if row.case in cases]
    facts = {"modalities": "+".join(MODALITIES), **_settings(choices), "cases": cases, **_box(facts)}
    if cuda and "roofline" not in facts:
        facts["roofline"] = roofline()
    for model, backbone in itertools.product(models, backbones):
        name = f"{model}-{backbone}"
        detector, arrays = _detector(model, backbone, choices)
        if name not in cases:
            cases[name] = _write_case(output / CASES / name, detector, arrays)
        case = cases[name]
        console.print(f"{name}: {case['gmac']:.2f} GMAC, ONNX and PyTorch differ by {case['parity']:.1e}")
        if cuda:
            timed_rows = _torch_rows(name, detector, arrays, choices, console)
            rows = [row for row in rows if row.case != name] + timed_rows
        write_results(path, facts, rows)
    if not cuda:
        console.print("no GPU is visible to torch: graphs and golden answers only")


def _settings(choices: Choices) -> dict[str, int]:
    return {"size_px": choices.size_px, "samples": choices.samples}


def _same_settings(facts: Mapping[str, Any], choices: Choices) -> bool:
    return all(facts.get(name) == value for name, value in _settings(choices).items())


def _box(before: Mapping[str, Any]) -> dict[str, Any]:
    """What tells this box; where a GPU was seen before and is not now, what was measured on it stays."""
    facts: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    if torch.cuda.is_available():
        facts |= {"gpu": torch.cuda.get_device_name(0), "cuda": torch.version.cuda}
        if before.get("gpu") != facts["gpu"]:
            return facts
    return facts | {name: before[name] for name in ("gpu", "cuda", "roofline") if name in before}


def _detector(model: str, backbone: str, choices: Choices) -> tuple[Detector, dict[str, Tensor]]:
    """A detector with random weights whose values stay in range, and camera arrays (samples, …)."""
    size_px = choices.size_px
    product = SyntheticProduct(size_px, seed=0)
    frames = [product.render(index).frame for index in range(choices.samples)]
    spec = InputSpec(
        frame_size_px=(size_px, size_px),
        roi=Roi(0, 0, size_px, size_px),
        depth="uint16_planes",
        depth_unit_m=frames[0].depth_unit_m,
        intrinsics=frames[0].intrinsics,
    )
    values = {
        "model": model,
        "backbone": backbone,
        "preprocess": PreprocessConfig(modalities=MODALITIES, image_size_px=size_px),
        "input": spec,
        "geometry": GeometryStatistics(reference_m=0.5),
    }
    torch.manual_seed(0)
    detector = Detector(DetectorConfig.model_validate(values)).eval()
    names = detector.operating().input_names
    feeds = [feeds_from_frame(frame, spec, names) for frame in frames]
    arrays = {name: torch.from_numpy(np.concatenate([feed[name] for feed in feeds])) for name in names}
    _settle(detector, arrays)
    return detector, arrays


@torch.no_grad()
def _settle(detector: Detector, arrays: Mapping[str, Tensor]) -> None:
    """Gives each BatchNorm the statistics of these frames: otherwise values vanish from layer to layer."""
    layers = [layer for layer in detector.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the average of all batches, here of one
        layer.train()
    graph = detector.operating()
    graph(*(arrays[name] for name in graph.input_names))
    for layer in layers:
        layer.eval()


def _write_case(directory: Path, detector: Detector, arrays: Mapping[str, Tensor]) -> dict[str, float]:
    """Writes graph, quantised graph and golden answers; returns what it costs and how far ONNX Runtime is off."""
    pairs = {name: torch.cat([x[:1], x[:1]]) for name, x in arrays.items()}
    graph = next(graphs(detector, pairs))
    content = onnx_from_graph(graph).SerializeToString()
    feeds = {name: arrays[name].numpy() for name in graph.inputs}
    with torch.no_grad():
        answers = graph.module(*(arrays[name] for name in graph.inputs))
        with FlopCounterMode(display=False) as counter:
            graph.module(*(arrays[name][:1] for name in graph.inputs))
    golden: dict[str, AnyArray] = {f"input.{name}": array for name, array in feeds.items()}
    for name, answer in zip(graph.outputs, answers, strict=True):
        golden[f"output.{name}"] = np.ascontiguousarray(answer.numpy())
    write_bytes(directory / MODEL, content)
    write_bytes(directory / QUANTIZED, _quantized(content, feeds))
    write_bytes(directory / GOLDEN, safetensors.numpy.save(golden))
    millions = sum(x.numel() for x in (*detector.teacher.parameters(), *detector.method.parameters())) / 1e6
    copied = sum(array[:1].nbytes for array in golden.values())
    return {
        "gmac": counter.get_total_flops() / 2e9,
        "parameters_m": millions,
        "copied_bytes": copied,
        "parity": parity(graph, content),
    }


def _quantized(model: bytes, feeds: Mapping[str, AnyArray]) -> bytes:
    """The graph in INT8 for TensorRT, calibrated on the golden samples, which is enough to time it."""
    samples = len(next(iter(feeds.values())))
    each = ({name: array[index : index + 1] for name, array in feeds.items()} for index in range(samples))
    return quantized_model(model, activation_ranges(model, each), "tensorrt")


def _torch_rows(
    name: str, detector: Detector, arrays: Mapping[str, Tensor], choices: Choices, console: Console
) -> list[Row]:
    """Times the same step in PyTorch: pinned host arrays → GPU → host."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    graph: Any = detector.operating().cuda().eval()
    rows = []
    runners = {"torch eager": graph} | ({"torch.compile": torch.compile(graph)} if choices.compile else {})
    for runner, module in runners.items():
        for precision in ("fp32", "fp16"):
            for batch in BATCHES:
                host = [_tiled(arrays[key], batch).pin_memory() for key in graph.input_names]
                row = Row(name, runner, precision, batch)
                try:
                    row = timed(row, _torch_step(module, host, precision), choices.rounds)
                except (RuntimeError, torch.cuda.OutOfMemoryError) as error:  # a variant that fails is a result
                    row = replace(row, error=str(error).partition("\n")[0])
                console.print(f"  {runner} {precision} batch {batch}: {row.p50_ms or row.error}")
                rows.append(row)
    detector.cpu()
    return rows


def _torch_step(module: Callable[..., Any], host: list[Tensor], precision: str) -> Callable[[], object]:
    @torch.inference_mode()
    def step() -> list[Tensor]:
        with torch.autocast("cuda", torch.float16, enabled=precision == "fp16"):
            results = module(*(x.cuda(non_blocking=True) for x in host))
        return [result.cpu() for result in results]

    return step


def _tiled(x: Tensor, batch: int) -> Tensor:
    return x[torch.arange(batch) % len(x)]


def roofline() -> dict[str, float]:
    """What this GPU reaches when nothing holds it up: matrix products (TFLOP/s or TOP/s) and copies (GB/s)."""
    operations, found = 2 * GEMM_SIDE**3, {}
    for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
        a, b = (torch.randn(GEMM_SIDE, GEMM_SIDE, device="cuda", dtype=dtype) for _ in range(2))
        found[name] = operations / _gpu_seconds(partial(torch.matmul, a, b)) / 1e12
    a, b = (torch.randint(-8, 8, (GEMM_SIDE, GEMM_SIDE), device="cuda", dtype=torch.int8) for _ in range(2))
    found["int8"] = operations / _gpu_seconds(lambda: torch._int_mm(a, b.t())) / 1e12
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target, host = torch.empty_like(source), torch.empty(COPY_BYTES // 4, dtype=torch.uint8).pin_memory()
    found["device_copy"] = 2 * COPY_BYTES / _gpu_seconds(lambda: target.copy_(source)) / 1e9
    found["host_to_device"] = len(host) / _gpu_seconds(lambda: target[: len(host)].copy_(host, non_blocking=True)) / 1e9
    return found


def _gpu_seconds(work: Callable[[], object]) -> float:
    """Median seconds of one call, by CUDA events."""
    times = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return float(np.median(times))
