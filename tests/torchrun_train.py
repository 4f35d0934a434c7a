"""What the processes of a test run: trains a small model; the first one writes each step's losses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edge_ad.config import TrainConfig
from edge_ad.data import open_dataset
from edge_ad.training import Progress, train

if __name__ == "__main__":
    data, run_dir, settings, losses_path = sys.argv[1:]
    losses: list[tuple[float, ...]] = []

    def keep(progress: Progress) -> None:
        if progress.losses:
            losses.append(progress.losses)

    record = train(open_dataset(Path(data)), TrainConfig.model_validate_json(settings), Path(run_dir), progress=keep)
    with Path(losses_path).open("a") as stream:
        stream.write(json.dumps({"losses": losses, "scores": record.validation_scores}) + "\n")
