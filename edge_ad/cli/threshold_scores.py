"""The scores that ``edge-ad threshold`` works with, of parts that the model has not learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ad.bundle import MANIFEST, Threshold, read_bundle
from edge_ad.cli.console import progress_bar
from edge_ad.data import Dataset
from edge_ad.data.dataset import GOOD
from edge_ad.data.digest import frame_digest
from edge_ad.errors import DataError
from edge_ad.extras import require
from edge_ad.predictor import open_predictor

SAME_FRAMES = "the validation frames, which also set the scale of the scores, stand for new parts"
"""Assumed where a bundle's threshold comes from the data of its training: a bundle has no cross-fitted scores."""


@dataclass(frozen=True, slots=True)
class GoodScores:
    """Scores of good validation frames by operating mode.

    Attributes:
        modes: the scores by operating mode.
        assumption: of a promise that rests on them.
        product: that the model has learned.
    """

    modes: Mapping[str, Sequence[float]]
    assumption: str = ""
    product: str = ""

    def assumed_by(self, threshold: Threshold) -> Threshold:
        """The threshold with this assumption beside its own."""
        both = " and ".join(text for text in (self.assumption, threshold.assumption) if text)
        return threshold.model_copy(update={"assumption": both})


def good_scores(model: Path, dataset: Dataset, modes: Sequence[str]) -> GoodScores:
    """Of the good validation frames.

    A run has kept the scores of its own ones. They are cross-fitted: the model's head has learned its scale from
    these frames, and would score them a little lower than others (see ``edge_ad.head_statistics``).

    Raises:
        DataError: the model has learned from some of them.
        EdgeAdError: as ``open_predictor``, and for a frame that cannot be read or does not fit.
    """
    kept: Mapping[str, Sequence[float]] = {}
    directory = bundle_directory(model)
    if directory is not None:
        data = read_bundle(directory).manifest.training_data
    else:
        from edge_ad.models.checkpoint import read_checkpoint

        record = read_checkpoint(model)[0]
        data, kept = record.data, record.validation_scores
    learned, own = data.frames[: data.train_frames], data.frames[data.train_frames :]
    digests = [frame_digest(item) for item in dataset.frames("validation") if not item.is_anomalous]
    if met := sum(digest in learned for digest in digests):
        raise DataError(
            f"the model has learned from {met} of the {len(digests)} good validation frames of {dataset.root}",
            why="it scores these lower than new parts, and no promise could rest on them",
            remedy="train again, or give good parts that it has not met",
        )
    known = [own.index(digest) if digest in own else None for digest in digests]
    scores = {}
    for mode in modes:
        places = known if mode in kept else [None] * len(known)
        rest = iter(judged(model, dataset, "validation", mode, anomalous=False, wanted=[x is None for x in places]))
        scores[mode] = [next(rest) if place is None else kept[mode][place] for place in places]
    assumed = directory is not None and any(place is not None for place in known)
    return GoodScores(scores, SAME_FRAMES if assumed else "", data.category)


def judged(
    model: Path, dataset: Dataset, split: str, mode: str, *, anomalous: bool, wanted: Sequence[bool] | None = None
) -> list[float]:
    """Scores of the good or the defective frames of a split, or of those of them that are ``wanted``.

    Raises:
        EdgeAdError: as ``open_predictor``, and for a frame that cannot be read or does not fit.
    """
    places = [index for index, entry in enumerate(dataset.frames(split).entries) if (entry.defect != GOOD) == anomalous]
    if wanted is not None:
        places = [place for place, want in zip(places, wanted, strict=True) if want]
    if not places:
        return []
    frames, scores = dataset.frames(split), []
    predictor = open_predictor(model, mode)
    with progress_bar(f"judging {split} frames, {mode}") as bar:
        for done, place in enumerate(places, 1):
            scores.append(predictor(frames[place].frame).score)
            bar.update(bar.task_ids[0], completed=done, total=len(places))
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
    directory = model.parent if model.suffix == ".onnx" else model
    return directory if (directory / MANIFEST).is_file() else None
