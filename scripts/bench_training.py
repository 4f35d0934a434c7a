"""What keeping the teacher's features saves: training with them in memory, in a file, and computed at every step.

    scripts/bench training [--backbones efficientnet_lite0,resnet18] [--steps 40]

The same run three times on a synthetic product, interleaved over rounds; medians, relative to memory. The
weights that come out are the same, which a test checks.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from edge_ad.config import TrainConfig
from edge_ad.data import open_dataset
from edge_ad.data.synthetic import write_synthetic
from edge_ad.training import Progress, train

PLACES = {
    "memory": {},
    "file": {"cache_bytes": 0},
    "nowhere": {"cache_bytes": 0, "cache_disk_bytes": 0},
}


def main(
    backbones: str = "efficientnet_lite0",
    weights: Path | None = None,
    steps: int = 40,
    rounds: int = 3,
    frames: int = 40,
) -> None:
    """Prints the seconds until the last step, and their ratio."""
    console = Console()
    table = Table("teacher", "features kept in", "seconds", "relative")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_synthetic(root / "data", train=frames, validation=4, test_good=1, test_per_defect=1)
        dataset = open_dataset(root / "data")
        for backbone in backbones.split(","):
            times: dict[str, list[float]] = {place: [] for place in PLACES}
            for index in range(rounds):
                for place, limits in PLACES.items():
                    config = TrainConfig(backbone=backbone, steps=steps, checkpoint_every_s=1e9, **limits)
                    clock = _Clock()
                    train(
                        dataset, config, root / f"{backbone}-{index}-{place}", weights_path=weights, progress=clock.note
                    )
                    times[place].append(clock.trained - clock.started)
                    console.print(f"[dim]{backbone} {place}: {times[place][-1]:.1f} s")
            medians = {place: statistics.median(values) for place, values in times.items()}
            for place, median in medians.items():
                table.add_row(backbone, place, f"{median:.1f}", f"{median / medians['memory']:.2f}")
    console.print(table)


class _Clock:
    """From reading the frames to the last step."""

    started = trained = 0.0

    def note(self, progress: Progress) -> None:
        """Called by the training."""
        if progress.stage == "reading frames":
            self.started = time.monotonic()
        if progress.stage == "training":
            self.trained = time.monotonic()


if __name__ == "__main__":
    typer.run(main)
