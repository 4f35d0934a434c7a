"""Every method on a data set: accuracy over seeds and training time, as the tables of docs/results.md.

    scripts/bench methods DATA [--backbone efficientnet_lite0] [--seeds 3] [--only crd,rd] [--output runs/methods]

Each run trains on train/, takes map statistics from validation/ and is judged on test/. Finished runs are kept in
--output and not repeated, so the command can be stopped and started again, and several can share the work.
"""

from __future__ import annotations

import fcntl
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from edge_ad.bundle import FULL
from edge_ad.config import TrainConfig
from edge_ad.data import Dataset, open_dataset
from edge_ad.feeds import feeds_from_frame, map_on_frame
from edge_ad.metrics import image_auroc, partial_area, pixel_auroc, pro_curve
from edge_ad.models.anomaly_map import AnomalyHead
from edge_ad.models.checkpoint import load_detector
from edge_ad.models.crd import Crd
from edge_ad.models.detector import Detector
from edge_ad.models.layers import Features
from edge_ad.training import Progress, train
from edge_ad.types import Float32Array

PAIR = ("rgb", "depth")


@dataclass(frozen=True)
class Setting:
    """One kind of run; ``controls`` also judges it without a sensor, hallucinated and otherwise."""

    model: str
    modalities: tuple[str, ...] = PAIR
    options: dict[str, Any] = field(default_factory=dict)
    controls: bool = False


SETTINGS: dict[str, Setting] = {
    "rd": Setting("rd", ("rgb", "depth", "normals"), controls=True),
    "crd": Setting("crd", controls=True),
    "crd normals": Setting("crd", ("rgb", "normals")),
    "mmrd": Setting("mmrd"),
    "mmrd normals": Setting("mmrd", ("rgb", "normals")),
    "mmrd all": Setting("mmrd", ("rgb", "depth", "normals")),
    "cmdiad rgb": Setting("cmdiad", options={"cmdiad": {"main": "rgb"}}),
    "cmdiad 3d": Setting("cmdiad", options={"cmdiad": {"main": "3d"}}),
    "cmdiad both": Setting("cmdiad", options={"cmdiad": {"main": "both"}}),
    "crd no filter": Setting("crd", options={"crd": {"filter": False}}),
    "crd no amplifier": Setting("crd", options={"crd": {"amplifier": False}}),
    "crd no dropout": Setting("crd", options={"crd": {"modality_dropout": 0.0}}),
    "crd standardized": Setting("crd", options={"standardize_features": True}, controls=True),
    "fd": Setting("fd"),
}


def main(
    data: Annotated[Path, typer.Argument(help="Directory of categories.")],
    category: Annotated[str, typer.Option(help="Several with commas.")] = "glazed_cookie,machined_plate",
    backbone: str = "efficientnet_lite0",
    weights: Path | None = None,
    seeds: int = 3,
    steps: Annotated[int | None, typer.Option(help="By default the method's.")] = None,
    size: int = 256,
    precision: str = "fp32",
    only: Annotated[str, typer.Option(help="Settings, several with commas; by default all.")] = ",".join(SETTINGS),
    output: Path = Path("runs/methods"),
) -> None:
    """Trains and judges every setting that is not done yet."""
    console = Console()
    for seed in range(seeds):
        for name in only.split(","):
            for product in category.split(","):
                setting = SETTINGS[name]
                values = {
                    "model": setting.model,
                    "backbone": backbone,
                    "preprocess": {"modalities": setting.modalities, "image_size_px": size},
                    **({} if steps is None else {"steps": steps}),
                    "seed": seed,
                    "precision": precision,
                    **setting.options,
                }
                place = output / f"{backbone}-{size}" / name.replace(" ", "_") / f"{product}-{seed}"
                run(data / product, TrainConfig.model_validate(values), weights, place, setting.controls, console)
    print(markdown(output / f"{backbone}-{size}"))


def run(data: Path, config: TrainConfig, weights: Path | None, place: Path, controls: bool, console: Console) -> None:
    """One run, unless it is done or another process is at it."""
    if (place / "views.json").is_file():
        return
    place.mkdir(parents=True, exist_ok=True)
    lock = (place / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    dataset = open_dataset(data)
    started = time.monotonic()

    def show(progress: Progress) -> None:
        if progress.step % 80 == 0:
            console.print(f"[dim]{place}: {progress.stage} {progress.step}/{progress.steps}")

    train(dataset, config, place, weights_path=weights, resume=True, progress=show)
    seconds = time.monotonic() - started
    detector, _ = load_detector(place)
    views: dict[str, dict[str, float]] = {}
    for mode in detector.method.modes if controls else (FULL,):
        views |= {f"{mode} {name}": value for name, value in judged(detector.operating(mode), dataset).items()}
    if isinstance(detector.method, Crd) and controls:
        for mode in ("rgb_only", "3d_only"):
            for assist in ("zeroed", "self", "self filter"):
                views[f"{mode} {assist}"] = judged(Control(detector, mode, assist, dataset), dataset)["all"]
    (place / "checkpoint.safetensors").unlink()
    report = {"seconds": seconds, "config": config.model_dump(mode="json"), "views": views}
    (place / "views.json").write_text(json.dumps(report, indent=1))
    console.print(f"{place}: " + ", ".join(f"{name} {100 * view['image_auroc']:.1f}" for name, view in views.items()))


def markdown(place: Path) -> str:
    """Mean ± standard deviation over the seeds that are done, in per cent, a table for each category."""
    found: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for path in sorted(place.glob("*/*/views.json")):
        product = path.parent.name.rpartition("-")[0]
        report = json.loads(path.read_text())
        for view, metrics in report["views"].items():
            row = {**metrics, "seconds": report["seconds"]}
            found.setdefault(product, {}).setdefault((path.parents[1].name.replace("_", " "), view), []).append(row)
    lines = []
    for product, rows in found.items():
        lines += [
            "",
            f"**{product}**",
            "",
            "| model | map | I-AUROC | P-AUROC | AUPRO@30% | AUPRO@1% | seconds | seeds |",
        ]
        lines.append("|---" * 8 + "|")
        for (name, view), reports in rows.items():
            cells = []
            for metric in ("image_auroc", "pixel_auroc", "aupro_30", "aupro_1"):
                values = [100 * report[metric] for report in reports]
                spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.1f}{spread}")
            seconds = statistics.median(report["seconds"] for report in reports)
            lines.append(f"| {name} | {view} | {' | '.join(cells)} | {seconds:.0f} | {len(reports)} |")
    return "\n".join(lines)


class Control(nn.Module):
    """Inspecting with one sensor without hallucination.

    In place of the other one's features are zeros, or the own ones; or these are in place of the filter's output
    only, while the amplifier has the hallucinated ones.
    """

    def __init__(self, detector: Detector, mode: str, assist: str, dataset: Dataset) -> None:
        super().__init__()
        self.detector, self.assist = detector, assist
        self.modalities = detector.method.modes[mode]
        config = detector.config.preprocess
        self.input_names = config.inputs_for(self.modalities)
        self.output_names = ("anomaly_map", "score")
        self.head = AnomalyHead(detector.config.head, self.modalities, config.image_size_px)
        good = [self.distances(arrays) for arrays, *_ in samples(self, dataset, "validation")]
        joined = {name: [torch.cat(x) for x in zip(*(d[name] for d, _ in good), strict=True)] for name in good[0][0]}
        regions = [region for _, region in good if region is not None]
        self.head.learn(joined, torch.cat(regions) if regions else None)

    @torch.no_grad()
    def distances(self, arrays: list[Tensor]) -> tuple[dict[str, Features], Tensor | None]:
        """As the detector's, with the assist in place of the missing features."""
        batch, region = self.detector.batch(dict(zip(self.input_names, arrays, strict=True)), self.modalities)
        method: Any = self.detector.method
        (name,) = self.modalities
        own, student = batch.features[name], method.students[name]
        if self.assist == "self filter":
            hallucinated = method.hallucinated(method.other(name), own)
            _, mixed = student.restore(own, own, student.tuners.amplify(hallucinated))
        else:
            mixed = student(own, own if self.assist == "self" else [torch.zeros_like(x) for x in own]).mixed
        return {name: method.compared(own, mixed)}, region

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Anomaly map and score."""
        anomaly_map, score, _ = self.head(*self.distances(list(arrays)))
        return anomaly_map, score


def samples(graph: Any, dataset: Dataset, split: str) -> Iterator[tuple[list[Tensor], Any]]:
    """The graph's inputs for each frame, with the frame's labels."""
    for item in dataset.frames(split):
        feeds = feeds_from_frame(item.frame, graph.detector.config.input, graph.input_names)
        yield [torch.from_numpy(feeds[name]) for name in graph.input_names], item


def judged(graph: Any, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Metrics of the graph's map, of each modality's, and of their sums in pairs."""
    labels, masks, scores = [], [], []
    maps: dict[str, list[Float32Array]] = {}
    for arrays, item in samples(graph, dataset, "test"):
        with torch.inference_mode():
            outputs = dict(zip(graph.output_names, graph(*arrays), strict=True))
        labels.append(item.is_anomalous)
        masks.append(item.gt_mask if item.gt_mask is not None else np.zeros(item.frame.size_px, bool))
        scores.append(float(outputs.pop("score")[0]))
        for name, array in outputs.items():
            maps.setdefault(name.removeprefix("map_"), []).append(array[0].numpy())
    spec = graph.detector.config.input
    names = [name for name in maps if name != "anomaly_map"]
    views: dict[str, tuple[list[Float32Array], list[float] | None]] = {"all": (maps["anomaly_map"], scores)}
    if len(names) > 1:
        views |= {name: (maps[name], None) for name in names}
    if len(names) == 3:
        for other in names[1:]:
            pairs = zip(maps["rgb"], maps[other], strict=True)
            views[f"rgb+{other}"] = ([first + second for first, second in pairs], None)
    result = {}
    for name, (given, found) in views.items():
        placed = [map_on_frame(x, spec.roi, spec.frame_size_px) for x in given]
        result[name] = measured(labels, masks, found or [float(x.max()) for x in given], placed)
    return result


def measured(labels: list[bool], masks: list[Any], scores: list[float], maps: list[Float32Array]) -> dict[str, float]:
    """The four metrics."""
    rates, overlaps = pro_curve(masks, maps)
    return {
        "image_auroc": image_auroc(labels, scores),
        "pixel_auroc": pixel_auroc(masks, maps),
        "aupro_30": partial_area(rates, overlaps, 0.3),
        "aupro_1": partial_area(rates, overlaps, 0.01),
    }


if __name__ == "__main__":
    typer.run(main)
