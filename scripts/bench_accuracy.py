"""How well each setting finds the defects of a data set: mean and spread over seeds, as a table.

    scripts/bench accuracy DATA [--category NAME,…] [--pairs 'rgb,depth rgb,normals'] [--seeds 3] [--steps 160]

Every run trains on train/, takes map statistics and threshold from validation/, and is judged on test/.
Finished runs are kept in --output and not repeated, so the command can be stopped and started again.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from edge_ad.config import PreprocessConfig, TrainConfig
from edge_ad.data import open_dataset
from edge_ad.evaluation import evaluate
from edge_ad.predictor import open_predictor
from edge_ad.training import Progress, train

METRICS = ("image_auroc", "pixel_auroc", "aupro_30", "aupro_1")


def main(
    data: Annotated[Path, typer.Argument(help="Directory of categories.")],
    category: Annotated[str, typer.Option(help="Several with commas.")] = "glazed_cookie,machined_plate",
    pairs: Annotated[str, typer.Option(help="Modalities, several sets with spaces.")] = "rgb,depth rgb,normals",
    backbone: str = "efficientnet_lite0",
    weights: Path | None = None,
    seeds: int = 3,
    steps: int = TrainConfig().steps,
    output: Path = Path("runs/accuracy"),
) -> None:
    """Trains and evaluates every combination, then prints the table."""
    console = Console()
    results: dict[tuple[str, str], list[dict[str, dict[str, float]]]] = {}
    for seed in range(seeds):
        for name in category.split(","):
            for modalities in pairs.split():
                run_dir = output / f"{name}-{modalities.replace(',', '+')}-{backbone}-{steps}-{seed}"
                report = _run(data / name, modalities, backbone, weights, seed, steps, run_dir, console)
                results.setdefault((name, modalities), []).append(report)
                _print(results, console)


def _run(
    data: Path,
    modalities: str,
    backbone: str,
    weights: Path | None,
    seed: int,
    steps: int,
    run_dir: Path,
    console: Console,
) -> dict[str, dict[str, float]]:
    report_path = run_dir / "report.json"
    if not report_path.is_file():
        dataset = open_dataset(data)
        chosen = modalities.split(",")
        config = TrainConfig.model_validate(
            {
                "model": "crd" if len(chosen) == 2 else "rd",
                "backbone": backbone,
                "preprocess": PreprocessConfig.model_validate({"modalities": chosen}),
                "steps": steps,
                "seed": seed,
            }
        )
        started = time.monotonic()

        def show(progress: Progress) -> None:
            if progress.step % 50 == 0:
                console.print(f"[dim]{run_dir.name}: {progress.stage} {progress.step}/{progress.steps}")

        train(dataset, config, run_dir, weights_path=weights, resume=True, progress=show)
        seconds = time.monotonic() - started
        predictor = open_predictor(run_dir)
        evaluation = evaluate(predictor, dataset.frames("test"), predictor.threshold, roi=predictor.spec.roi)
        report_path.write_text(json.dumps({"seconds": seconds, **evaluation.report()}, indent=1))
    report = json.loads(report_path.read_text())
    return {"all": report["metrics"], **report["modalities"]}


def _print(results: dict[tuple[str, str], list[dict[str, dict[str, float]]]], console: Console) -> None:
    table = Table("category", "modalities", "map", *METRICS, "seeds")
    for (name, modalities), reports in results.items():
        for part in reports[0]:
            cells = []
            for metric in METRICS:
                values = [100 * report[part][metric] for report in reports]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f}")
            table.add_row(name, modalities, part, *cells, str(len(reports)))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
