"""More good scores from few frames: models trained without a part of them score that part.

The training frames are cut into K runs of neighbours, since neighbours in time are often alike. K models are
trained as the run was, each without one of them, and score the frames that they have not seen, standardised by
the same validation frames. The scores join those of the validation frames by the run's own model.

This is cross-conformal prediction (Vovk, Annals of Mathematics and Artificial Intelligence 2015) with another
model on the line, so nothing is guaranteed any more: the K models have learned from fewer frames, their scores
depend on one another, and only where training is stable do they score as the run's model does (Barber et al.,
"Predictive inference with the jackknife+", Annals of Statistics 2021). ``cross_scored`` says so in the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ad.bundle import Threshold
from edge_ad.data.digest import frames_digest
from edge_ad.errors import CheckpointError, ConfigError
from edge_ad.models.checkpoint import has_teacher, load_detector, read_checkpoint
from edge_ad.models.weights import load_teacher
from edge_ad.predictor import open_predictor
from edge_ad.training import Progress, train
from edge_ad.training_data import Category, good_frames
from edge_ad.types import Intrinsics, LabelledFrame

OTHER_MODELS = "models trained without a part of the frames score as this one does"


@dataclass(frozen=True, slots=True)
class Fold:
    """A category without some of its training frames, which are ``held_out``."""

    category: str
    intrinsics: Intrinsics | None
    train: Sequence[LabelledFrame]
    validation: Sequence[LabelledFrame]
    held_out: Sequence[LabelledFrame]

    def frames(self, split: str) -> Sequence[LabelledFrame]:
        """As ``edge_ad.training_data.Category`` has it."""
        return {"train": self.train, "validation": self.validation}[split]


def folds_of(dataset: Category, count: int) -> list[Fold]:
    """Cuts the training frames into ``count`` runs of neighbours, each held out of one fold.

    Raises:
        ConfigError: there are fewer than 2, or too few frames for so many.
        DataError: frames are missing.
    """
    frames, validation = good_frames(dataset, "train"), good_frames(dataset, "validation")
    if not 2 <= count <= len(frames) or len(frames) - -(-len(frames) // count) < 2:
        raise ConfigError(
            f"{len(frames)} training frames cannot be cut into {count} folds",
            why="each fold holds out one frame or more, and leaves two or more to train with",
            remedy="take --folds 5, or capture more",
        )
    cuts = [len(frames) * index // count for index in range(count + 1)]
    return [
        Fold(
            dataset.category,
            dataset.intrinsics,
            [*frames[:start], *frames[end:]],
            validation,
            frames[start:end],
        )
        for start, end in zip(cuts, cuts[1:], strict=False)
    ]


def cross_scores(
    dataset: Category,
    run: Path,
    count: int,
    directory: Path,
    *,
    modes: Sequence[str] = ("full",),
    weights_path: Path | None = None,
    progress: Callable[[int, Progress], None] = lambda fold, progress: None,
) -> dict[str, list[float]]:
    """Scores every good training frame of a run by a model that has not seen it.

    Args:
        dataset: what the run was trained on.
        run: a finished run, whose settings the folds take over.
        count: folds, and so models to train.
        directory: keeps the folds' runs; one that is finished is not trained again, a stopped one goes on.
        modes: operating modes to score in.
        weights_path: of the teacher; by default its published weights.
        progress: called with the fold, from 0, and where its training is.

    Returns:
        By mode, scores in the order of the training frames.

    Raises:
        CheckpointError: the run is not finished, or was trained on other frames or with another teacher, or
            ``directory`` holds folds of another run.
        EdgeAdError: as ``edge_ad.training.train``.
    """
    record, tensors = read_checkpoint(run)
    folds = folds_of(dataset, count)
    frames = [item for fold in folds for item in fold.held_out]
    if frames_digest([*frames, *folds[0].validation]) != record.data.sha256:
        raise CheckpointError(
            f"{run} was not trained on these frames of {dataset.category}",
            why="their digest is another one",
            remedy="name the data that it was trained on, or leave out --folds",
        )
    teacher = load_detector(run)[0].method.make_teacher(load_teacher(record.training.backbone, weights_path))
    if not has_teacher(tensors, teacher):
        raise CheckpointError(
            f"{run} was trained with another teacher",
            why=f"the weights of {record.training.backbone} are not those that it holds",
            remedy="pass its --weights FILE, or leave out --folds",
        )
    scores: dict[str, list[float]] = {mode: [] for mode in modes}
    for index, fold in enumerate(folds):
        place = directory / f"fold-{index + 1}-of-{count}"

        def told(stage: Progress, index: int = index) -> None:
            progress(index, stage)

        try:
            rig = record.data.rig
            train(fold, record.training, place, weights_path=weights_path, rig=rig, resume=True, progress=told)
        except CheckpointError as error:
            raise CheckpointError(error.what, why=error.why, remedy=f"remove {directory}") from error
        for mode, values in _scores(place, fold.held_out, modes).items():
            scores[mode] += values
    return scores


def cross_scored(threshold: Threshold, folds: int, frames: int) -> Threshold:
    """The threshold with the note that ``frames`` of its scores come from models of ``folds`` folds."""
    assumption = f"{OTHER_MODELS} and {threshold.assumption}" if threshold.assumption else OTHER_MODELS
    method = f"{threshold.method}; {frames} of the scores by cross-scoring in {folds} folds, without guarantee"
    return threshold.model_copy(update={"method": method, "assumption": assumption})


def _scores(run: Path, frames: Sequence[LabelledFrame], modes: Sequence[str]) -> Mapping[str, list[float]]:
    scores = {}
    for mode in modes:
        predictor = open_predictor(run, mode=mode)
        try:
            scores[mode] = [predictor(item.frame).score for item in frames]
        finally:
            predictor.close()
    return scores
