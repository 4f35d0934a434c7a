"""The scores that ``edge-ad threshold`` works with, of parts that the model has not learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ad.bundle import MANIFEST, MODEL, Threshold, TrainingData, read_bundle
from edge_ad.cli.console import progress_bar
from edge_ad.data import Dataset
from edge_ad.data.dataset import GOOD
from edge_ad.data.digest import frames_digest
from edge_ad.extras import require
from edge_ad.predictor import open_predictor

SAME_FRAMES = "the validation frames, which also set the scale of the scores, stand for new parts"
"""Assumed where a bundle's threshold comes from the data of its training: a bundle has no cross-fitted scores."""


@dataclass(frozen=True, slots=True)
class GoodScores:
    """Scores of good validation frames by operating mode, and what a promise that rests on them assumes."""

    modes: Mapping[str, Sequence[float]]
    assumption: str = ""

    def assumed_by(self, threshold: Threshold) -> Threshold:
        """The threshold with this assumption beside its own."""
        both = " and ".join(text for text in (self.assumption, threshold.assumption) if text)
        return threshold.model_copy(update={"assumption": both})


def good_scores(model: Path, dataset: Dataset, modes: Sequence[str]) -> GoodScores:
    """Of the good validation frames.

    Those of a run's own data are taken from its checkpoint. They are cross-fitted: the model's head has learned its
    scale from these frames, and would score them a little lower than others (see ``edge_ad.head_statistics``).

    Raises:
        EdgeAdError: as ``open_predictor``, and for a frame that cannot be read or does not fit.
    """
    directory = bundle_directory(model)
    if directory is not None:
        own = _is_of(dataset, read_bundle(directory).manifest.training_data)
        scores = {mode: judged(model, dataset, "validation", mode, anomalous=False) for mode in modes}
        return GoodScores(scores, SAME_FRAMES if own else "")
    from edge_ad.models.checkpoint import read_checkpoint

    record = read_checkpoint(model)[0]
    kept = record.validation_scores if _is_of(dataset, record.data) else {}
    return GoodScores(
        {mode: kept.get(mode) or judged(model, dataset, "validation", mode, anomalous=False) for mode in modes}
    )


def judged(model: Path, dataset: Dataset, split: str, mode: str, *, anomalous: bool) -> list[float]:
    """Scores of the good or the defective frames of a split.

    Raises:
        EdgeAdError: as ``open_predictor``, and for a frame that cannot be read or does not fit.
    """
    frames, scores = dataset.frames(split), []
    predictor = open_predictor(model, mode)
    with progress_bar(f"judging {split} frames, {mode}") as bar:
        for index, item in enumerate(frames):
            if item.is_anomalous == anomalous:
                scores.append(predictor(item.frame).score)
            bar.update(bar.task_ids[0], completed=index + 1, total=len(frames))
    predictor.close()
    return scores


def cross_scores(
    dataset: Dataset, run: Path, folds: int, modes: Sequence[str], weights: Path | None
) -> dict[str, list[float]]:
    """Of the good training frames by mode, see ``edge_ad.cross_scoring.cross_scores``."""
    require("torch", extra="train")
    from edge_ad import cross_scoring
    from edge_ad.training import Progress

    directory = (run if run.is_dir() else run.parent) / "folds"
    with progress_bar("training folds") as bar:

        def show(fold: int, progress: Progress) -> None:
            description = f"fold {fold + 1} of {folds}: {progress.stage}"
            bar.update(bar.task_ids[0], description=description, completed=progress.step, total=progress.steps)

        return cross_scoring.cross_scores(
            dataset, run, folds, directory, modes=modes, weights_path=weights, progress=show
        )


def good_count(dataset: Dataset, *splits: str) -> int:
    """How many good frames there are in these splits."""
    return sum(entry.split in splits and entry.defect == GOOD for entry in dataset.entries)


def bundle_directory(model: Path) -> Path | None:
    """The bundle that ``model`` is or lies in; None where it is a run."""
    directory = model.parent if model.name == MODEL else model
    return directory if (directory / MANIFEST).is_file() else None


def _is_of(dataset: Dataset, data: TrainingData) -> bool:
    """Whether a model was trained on these very frames. The counts come first, as they need no reading."""
    if (good_count(dataset, "train"), good_count(dataset, "validation")) != (data.train_frames, data.validation_frames):
        return False
    frames = (item for split in ("train", "validation") for item in dataset.frames(split) if not item.is_anomalous)
    return frames_digest(frames) == data.sha256
