"""Our engines against eager PyTorch and against plain exports, on this machine's CPU.

    scripts/bench engines [--models crd,rd] [--backbones efficientnet_lite0,resnet18] [--rounds 20] [--output FILE]

All contestants of a model take turns in one process, so that a busy machine slows all alike; the ratios of their
medians are what counts. Weights are random, as speed does not depend on them.

    research       eager PyTorch as research code runs it: the teacher once per modality, maps resized one by one,
                   summed and smoothed by NumPy and SciPy
    plain          the networks alone (teacher, student, distance maps; rd) exported by torch.onnx as they are, from a
                   normalised image on: what other toolkits run; no camera bytes, no preprocessing
    ours           the whole inspection, from the camera's bytes to map and score
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import onnxruntime
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.backends.onnxruntime import OnnxRuntimeBackend, available_cores
from edge_ad.backends.openvino import OpenVinoBackend
from edge_ad.bundle import InputSpec
from edge_ad.config import PreprocessConfig
from edge_ad.data.synthetic import SyntheticProduct
from edge_ad.export import onnx_from_graph
from edge_ad.export_graphs import Graph, graphs
from edge_ad.feeds import feeds_from_frame
from edge_ad.models.detector import Detector, DetectorConfig
from edge_ad.models.preprocess import GeometryStatistics
from edge_ad.quantization.graph import quantized_model
from edge_ad.quantization.ranges import activation_ranges
from edge_ad.types import AnyArray, Frame, Roi

SIZE: Final = 256
WARM_UP: Final = 3
PAUSE_S: Final = 0.05
MODALITIES: Final = {"crd": ("rgb", "depth"), "rd": ("rgb",)}
Step = Callable[[], object]


def main(
    models: Annotated[str, typer.Option(help="Several with commas: crd, rd.")] = "crd,rd",
    backbones: Annotated[str, typer.Option(help="Several with commas.")] = "efficientnet_lite0,resnet18",
    rounds: Annotated[int, typer.Option(min=3)] = 20,
    output: Annotated[Path | None, typer.Option(help="The medians as JSON.")] = None,
) -> None:
    """Prints medians and ratios."""
    console, rows = Console(), []
    table = Table("model", "teacher", "contestant", "median ms", "research / it", "fp32 of ours / it")
    for model in models.split(","):
        for backbone in backbones.split(","):
            medians = _medians(_contestants(model, backbone), rounds)
            ours = min(value for name, value in medians.items() if name.startswith("ours") and name.endswith("fp32"))
            for name, median in medians.items():
                table.add_row(
                    model,
                    backbone,
                    name,
                    f"{median:.1f}",
                    f"{medians['research'] / median:.2f}",
                    f"{ours / median:.2f}",
                )
            rows.append({"model": model, "backbone": backbone, "median_ms": medians})
            console.print(f"[dim]{model} {backbone} done", highlight=False)
    console.print(table)
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, openvino {_openvino_version()}"
    console.print(f"{versions}; {available_cores()} threads each, {SIZE}², one frame at a time, {rounds} rounds")
    if output is not None:
        output.write_text(json.dumps({"versions": versions, "rounds": rounds, "results": rows}, indent=1))


def _openvino_version() -> str:
    return OpenVinoBackend.box_facts().backend_version.removeprefix("openvino ")


def _medians(contestants: Mapping[str, Step], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(WARM_UP + rounds):
        for name, step in contestants.items():
            time.sleep(PAUSE_S)  # until the threads of the one before have stopped spinning
            started = time.perf_counter()
            step()
            if index >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def _contestants(model: str, backbone: str) -> dict[str, Step]:
    torch.set_num_threads(available_cores())
    frame = SyntheticProduct(SIZE, seed=0).render(0).frame
    detector, spec = _detector(model, backbone, frame)
    names = detector.operating().input_names
    samples = [feeds_from_frame(SyntheticProduct(SIZE, seed=0).render(i).frame, spec, names) for i in range(4)]
    batched = {name: torch.from_numpy(np.concatenate([one[name] for one in samples])) for name in names}
    fused = onnx_from_graph(next(iter(graphs(detector, batched)))).SerializeToString()
    int8 = quantized_model(fused, activation_ranges(fused, samples), "cpu")
    steps: dict[str, Step] = {"research": lambda: _research_step(detector, spec, frame)}
    if model == "rd":
        steps |= _plain(detector, batched)
    for name, content in (("fp32", fused), ("int8", int8)):
        for kind in (OnnxRuntimeBackend, OpenVinoBackend):
            backend = kind.open(content, source=backbone)
            steps[f"ours {backend.name} {name}"] = _ours(backend, spec, frame, names)
    return steps


def _ours(backend: Any, spec: InputSpec, frame: Frame, names: tuple[str, ...]) -> Step:
    return lambda: backend.run(feeds_from_frame(frame, spec, names))


def _detector(model: str, backbone: str, frame: Frame) -> tuple[Detector, InputSpec]:
    uses_depth = "depth" in MODALITIES[model]
    spec = InputSpec(
        frame_size_px=(SIZE, SIZE),
        roi=Roi(0, 0, SIZE, SIZE),
        depth="uint16_planes" if uses_depth else "none",
        depth_unit_m=frame.depth_unit_m,
        intrinsics=frame.intrinsics,
    )
    config = DetectorConfig.model_validate(
        {
            "model": model,
            "backbone": backbone,
            "preprocess": PreprocessConfig.model_validate({"modalities": MODALITIES[model]}),
            "input": spec,
            "geometry": GeometryStatistics(reference_m=0.5),
        }
    )
    torch.manual_seed(0)
    detector = Detector(config).eval()
    for parameter in detector.parameters():
        parameter.requires_grad_(False)
    return detector, spec


class _Networks(nn.Module):
    """Teacher, student and the distance at each scale: a normalised image in, three maps out."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        method: Any = self.detector.method
        own = self.detector.teacher({"rgb": images[0]})["rgb"]
        return tuple(method.compared(own, method.students["rgb"](own)))


def _plain(detector: Detector, batched: Mapping[str, Tensor]) -> dict[str, Step]:
    images, _ = detector.preprocess(batched, ("rgb",))
    outputs = ("stride4", "stride8", "stride16")
    graph = Graph("networks", _Networks(detector), (images["rgb"],), ("image",), outputs)
    content = onnx_from_graph(graph).SerializeToString()
    feeds: dict[str, AnyArray] = {"image": images["rgb"][:1].numpy()}
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    openvino = OpenVinoBackend.open(content, source="networks")
    return {
        "plain onnxruntime fp32": lambda: session.run(None, feeds),
        "plain openvino fp32": lambda: openvino.run(feeds),
    }


@torch.no_grad()
def _research_step(detector: Detector, spec: InputSpec, frame: Frame) -> float:
    names = detector.operating().input_names
    inputs = {name: torch.from_numpy(array) for name, array in feeds_from_frame(frame, spec, names).items()}
    modalities = detector.config.preprocess.modalities
    images, _ = detector.preprocess(inputs, modalities)
    features = {name: detector.scaling(detector.teacher({name: image}))[name] for name, image in images.items()}
    total = np.zeros((SIZE, SIZE))
    method: Any = detector.method
    for name, own in features.items():
        student = method.students[name]
        restored = student(own, features[method.other(name)]).mixed if len(modalities) > 1 else student(own)
        anomaly_map = np.zeros((SIZE, SIZE))
        for target, output in zip(own, restored, strict=True):
            distance = 1 - F.cosine_similarity(target, output)
            resized = F.interpolate(distance[:, None], size=SIZE, mode="bilinear", align_corners=True)
            anomaly_map += resized[0, 0].numpy()
        total += (anomaly_map - anomaly_map.mean()) / anomaly_map.std()
    return float(gaussian_filter(total, sigma=4).max())


if __name__ == "__main__":
    typer.run(main)
