from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from edge_ad.cross_scoring import cross_scored, cross_scores, folds_of
from edge_ad.data import Dataset
from edge_ad.errors import CheckpointError, ConfigError
from edge_ad.models.checkpoint import read_checkpoint
from edge_ad.models.weights import load_teacher
from edge_ad.predictor import open_predictor
from edge_ad.thresholding import promise, threshold_from_scores
from edge_ad.training import Progress, train
from tests.datasets import QUICK, ListedFrames, listed


@pytest.fixture(scope="module")
def frames(dataset: Dataset) -> ListedFrames:
    return listed(dataset, 7, 3)


@pytest.fixture(scope="module")
def run(frames: ListedFrames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cross") / "run"
    train(frames, QUICK, directory)
    return directory


def test_folds_are_neighbours_and_hold_out_every_frame_once(frames: ListedFrames) -> None:
    folds = folds_of(frames, 3)
    sources = [item.frame.source for item in frames.train]
    assert [[item.frame.source for item in fold.held_out] for fold in folds] == [sources[:2], sources[2:4], sources[4:]]
    for fold in folds:
        held_out = {item.frame.source for item in fold.held_out}
        assert [item.frame.source for item in fold.frames("train")] == [x for x in sources if x not in held_out]
        assert fold.frames("validation") == list(frames.validation)


@pytest.mark.parametrize("count", [-1, 1, 8])
def test_so_many_folds_cannot_be_made(frames: ListedFrames, count: int) -> None:
    with pytest.raises(ConfigError, match=f"7 training frames cannot be cut into {count} folds"):
        folds_of(frames, count)


def test_folds_have_the_teacher_of_the_run(frames: ListedFrames, run: Path, tmp_path: Path) -> None:
    weights = {name: x.float() * 1.01 for name, x in load_teacher(QUICK.backbone).state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"trained with another teacher.*--weights"):
        cross_scores(frames, run, 3, tmp_path / "folds", weights_path=tmp_path / "w.safetensors")
    assert not (tmp_path / "folds").exists()


def test_each_frame_is_scored_by_a_model_that_has_not_seen_it(frames: ListedFrames, run: Path, tmp_path: Path) -> None:
    told: list[tuple[int, Progress]] = []

    def tell(fold: int, progress: Progress) -> None:
        told.append((fold, progress))

    scores = cross_scores(frames, run, 3, tmp_path, progress=tell)["full"]
    assert len(scores) == 7
    assert np.isfinite(scores).all()
    assert {fold for fold, _ in told} == {0, 1, 2}
    record = read_checkpoint(tmp_path / "fold-2-of-3")[0]
    assert (record.data.train_frames, record.data.validation_frames, record.training) == (5, 3, QUICK)
    predictor = open_predictor(tmp_path / "fold-2-of-3")
    assert scores[2:4] == [predictor(item.frame).score for item in frames.train[2:4]]

    told.clear()  # what is finished is not trained again
    assert cross_scores(frames, run, 3, tmp_path, progress=tell)["full"] == scores
    assert [progress for _, progress in told if progress.stage == "training"] == []


def test_other_frames_than_the_runs_are_refused(frames: ListedFrames, run: Path, tmp_path: Path) -> None:
    others = replace(frames, train=frames.train[1:])
    with pytest.raises(CheckpointError, match="was not trained on these frames"):
        cross_scores(others, run, 3, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folds_of_another_run_are_refused(frames: ListedFrames, run: Path, tmp_path: Path) -> None:
    train(folds_of(frames, 3)[0], QUICK.model_copy(update={"seed": 5}), tmp_path / "fold-1-of-3")
    with pytest.raises(CheckpointError, match=f"other settings.*remove {tmp_path}"):
        cross_scores(frames, run, 3, tmp_path)


def test_a_cross_scored_threshold_says_that_it_is_no_guarantee() -> None:
    threshold = cross_scored(threshold_from_scores([1.0, 2.0, 3.0, 4.0]), folds=2, frames=3)
    assert "3 of the scores by cross-scoring in 2 folds, without guarantee" in threshold.method
    assert promise(threshold).endswith("if models trained without a part of the frames score as this one does")
