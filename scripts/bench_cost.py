"""What each method costs: parameters, multiply-adds, latency of the ONNX Runtime engine, per operating mode.

    scripts/bench cost [--backbone efficientnet_lite0] [--size 256] [--rounds 20] [--only "rd rgb,crd"]

Weights are random, as cost does not depend on them. Latencies are medians of one frame at a time, all graphs
in turn, and given relative to the first one's: a busy machine slows all of them.
"""

from __future__ import annotations

import statistics
import time
from typing import Annotated, Any

import numpy as np
import torch
import typer
from bench_methods import PAIR, SETTINGS, Setting
from rich.console import Console
from rich.table import Table

from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import FULL, InputSpec
from edge_ad.config import PreprocessConfig
from edge_ad.data.synthetic import SyntheticProduct
from edge_ad.export import onnx_from_graph
from edge_ad.export_graphs import graphs
from edge_ad.feeds import feeds_from_frame
from edge_ad.graph_cost import graph_cost
from edge_ad.models.cmdiad import Cmdiad
from edge_ad.models.detector import Detector, DetectorConfig
from edge_ad.models.preprocess import GeometryStatistics
from edge_ad.types import Roi

COSTED = {
    "rd rgb": Setting("rd", ("rgb",)),
    "rd depth": Setting("rd", ("depth",)),
    "rd rgb+depth": Setting("rd", PAIR),
    **{name: setting for name, setting in SETTINGS.items() if name not in ("rd", "crd no dropout", "crd standardized")},
}


def main(
    backbone: str = "efficientnet_lite0",
    size: int = 256,
    rounds: int = 20,
    only: Annotated[str, typer.Option(help="Several with commas; by default all.")] = ",".join(COSTED),
) -> None:
    """Prints the table."""
    console = Console()
    frame = SyntheticProduct(256, seed=0).render(0).frame
    spec = InputSpec(
        frame_size_px=(256, 256),
        roi=Roi(0, 0, 256, 256),
        depth="uint16_planes",
        depth_unit_m=frame.depth_unit_m,
        intrinsics=frame.intrinsics,
    )
    rows: list[tuple[str, float, float, Any, dict[str, Any]]] = []
    for name in only.split(","):
        setting = COSTED[name]
        detector = _detector(setting, backbone, size, spec)
        millions = sum(x.numel() for x in (*detector.teacher.parameters(), *detector.method.parameters())) / 1e6
        every = feeds_from_frame(frame, spec, detector.config.preprocess.input_names)
        pairs = {key: torch.from_numpy(np.concatenate([x, x])) for key, x in every.items()}
        for graph in graphs(detector, pairs):
            if not graph.is_whole:
                break
            console.print(f"[dim]{name} {graph.name}")
            content = onnx_from_graph(graph).SerializeToString()
            backend = OnnxRuntimeBackend.open(content, source=name)
            mode = graph.name.removeprefix("model_").replace("model", FULL)
            feeds = {key: every[key] for key in graph.inputs}
            rows.append((f"{name}, {mode}", millions, graph_cost(content).macs / 1e9, backend, feeds))
    times: list[list[float]] = [[] for _ in rows]
    for index in range(rounds + 2):
        for kept, (*_, backend, feeds) in zip(times, rows, strict=True):
            started = time.perf_counter()
            backend.run(feeds)
            if index >= 2:
                kept.append(1000 * (time.perf_counter() - started))
    medians = [statistics.median(kept) for kept in times]
    table = Table("graph", "parameters of the model, M", "GMAC", "ms", "relative", title=f"{backbone}, {size}²")
    for (name, millions, giga, *_), median in zip(rows, medians, strict=True):
        table.add_row(name, f"{millions:.1f}", f"{giga:.2f}", f"{median:.0f}", f"{median / medians[0]:.2f}")
    console.print(table)


def _detector(setting: Setting, backbone: str, size: int, spec: InputSpec) -> Detector:
    values = {
        "model": setting.model,
        "backbone": backbone,
        "preprocess": PreprocessConfig(modalities=setting.modalities, image_size_px=size),
        "input": spec,
        "geometry": GeometryStatistics(reference_m=0.5),
        **setting.options,
    }
    detector = Detector(DetectorConfig.model_validate(values)).eval()
    if isinstance(detector.method, Cmdiad):
        for bank in detector.method.banks.values():
            tokens: Any = bank.tokens
            bank.tokens = torch.randn(detector.config.cmdiad.bank_limit, tokens.shape[1])
    return detector


if __name__ == "__main__":
    typer.run(main)
