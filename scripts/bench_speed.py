"""The fused ONNX Runtime graph against eager PyTorch run the way research code runs it.

    scripts/bench speed [--backbones efficientnet_lite0,resnet18] [--rounds 30]

Both get the same camera frame and end with an anomaly map and a score. The research way: the teacher once
per modality, every output of the students, maps resized one by one, standardised, summed and smoothed in
NumPy and SciPy. Interleaved in one process, so that a busy machine slows both; weights are random, as
speed does not depend on them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any, Final

import numpy as np
import onnxruntime
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import InputSpec
from edge_ad.config import PreprocessConfig
from edge_ad.data.synthetic import SyntheticProduct
from edge_ad.export import onnx_from_graph
from edge_ad.export_graphs import graphs
from edge_ad.feeds import feeds_from_frame
from edge_ad.models.detector import Detector, DetectorConfig
from edge_ad.models.preprocess import GeometryStatistics
from edge_ad.types import Roi

MODALITIES: Final = ("rgb", "normals")


def main(
    backbones: Annotated[str, typer.Option(help="Several with commas.")] = "efficientnet_lite0,resnet18",
    rounds: int = 30,
) -> None:
    """Prints medians and their ratio."""
    table = Table("teacher", "research way, ms", "fused engine, ms", "ratio of medians")
    for backbone in backbones.split(","):
        research, engine = _contestants(backbone)
        times: tuple[list[float], list[float]] = ([], [])
        for index in range(rounds + 3):
            for step, kept in zip((research, engine), times, strict=True):
                started = time.perf_counter()
                step()
                if index >= 3:
                    kept.append(1000 * (time.perf_counter() - started))
        slow, fast = (statistics.median(values) for values in times)
        table.add_row(backbone, f"{slow:.1f}", f"{fast:.1f}", f"{slow / fast:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"torch {torch.__version__} and onnxruntime {onnxruntime.__version__}, {torch.get_num_threads()} threads, "
        f"{' + '.join(MODALITIES)}, 256², one frame at a time, {rounds} rounds"
    )


def _contestants(backbone: str) -> tuple[Callable[[], None], Callable[[], None]]:
    product = SyntheticProduct(256, seed=0)
    frame = product.render(0).frame
    spec = InputSpec(
        frame_size_px=(256, 256),
        roi=Roi(0, 0, 256, 256),
        depth="uint16_planes",
        depth_unit_m=frame.depth_unit_m,
        intrinsics=frame.intrinsics,
    )
    config = DetectorConfig(
        backbone=backbone,
        preprocess=PreprocessConfig(modalities=MODALITIES),
        input=spec,
        geometry=GeometryStatistics(reference_m=0.5),
    )
    detector = Detector(config).eval()
    for parameter in detector.parameters():
        parameter.requires_grad_(False)
    names = detector.operating().input_names
    arrays = {name: torch.from_numpy(x) for name, x in feeds_from_frame(frame, spec, names).items()}
    batched = {name: torch.cat([x, x]) for name, x in arrays.items()}
    content = onnx_from_graph(next(iter(graphs(detector, batched)))).SerializeToString()
    backend = OnnxRuntimeBackend.open(content, source=backbone)

    def research() -> None:
        feeds = feeds_from_frame(frame, spec, names)
        _research_step(detector, {name: torch.from_numpy(x) for name, x in feeds.items()})

    def engine() -> None:
        backend.run(feeds_from_frame(frame, spec, names))

    return research, engine


@torch.no_grad()
def _research_step(detector: Detector, inputs: dict[str, torch.Tensor]) -> tuple[np.ndarray[Any, Any], float]:
    images, _ = detector.preprocess(inputs, MODALITIES)
    features = {name: detector.scaling(detector.teacher({name: image}))[name] for name, image in images.items()}
    total = np.zeros((256, 256))
    method: Any = detector.method
    for name, own in features.items():
        outputs = method.students[name](own, features[method.other(name)])
        anomaly_map = np.zeros((256, 256))
        for target, restored in zip(own, outputs.mixed, strict=True):
            distance = 1 - F.cosine_similarity(target, restored)
            resized = F.interpolate(distance[:, None], size=256, mode="bilinear", align_corners=True)
            anomaly_map += resized[0, 0].numpy()
        total += (anomaly_map - anomaly_map.mean()) / anomaly_map.std()
    smooth = gaussian_filter(total, sigma=4)
    return smooth, float(smooth.max())


if __name__ == "__main__":
    typer.run(main)
