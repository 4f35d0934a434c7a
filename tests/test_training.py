from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edge_ad import training
from edge_ad.data import Dataset
from edge_ad.errors import CheckpointError
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.checkpoint import (
    CHECKPOINT,
    CheckpointRecord,
    load_detector,
    read_checkpoint,
    read_golden,
    write_checkpoint,
)
from edge_ad.training import Progress, train
from tests.datasets import CRD, QUICK, SIZE_PX, ListedFrames, listed


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = load_file(one / CHECKPOINT), load_file(other / CHECKPOINT)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_run_records_what_it_is(trained_run: Path, dataset: Dataset) -> None:
    record, _ = read_checkpoint(trained_run)
    assert record.finished
    assert record.training == CRD
    assert record.step == CRD.steps
    assert (record.data.category, record.data.train_frames, record.data.validation_frames) == ("housing", 10, 5)
    modes = ["full", "rgb_only", "3d_only"]
    assert list(record.validation_scores) == list(record.thresholds.modes) == modes
    for mode, scores in record.validation_scores.items():
        assert len(scores) == 5
        assert np.isfinite(scores).all()
        assert record.thresholds.modes[mode].frames == 5
    assert len(set(record.validation_scores.values())) == 3
    assert record.detector.input.depth == "uint16_planes"
    golden = read_golden(trained_run)
    assert {name: tuple(x.shape) for name, x in golden.items()} == {
        "rgb": (3, SIZE_PX, SIZE_PX, 3),
        "depth": (3, SIZE_PX, SIZE_PX, 2),
    }


def test_the_same_seed_gives_the_same_weights(dataset: Dataset, tmp_path: Path) -> None:
    frames = listed(dataset, 4, 3)
    train(frames, QUICK, tmp_path / "one")
    train(frames, QUICK, tmp_path / "two")
    assert_same_weights(tmp_path / "one", tmp_path / "two")
    train(frames, QUICK.model_copy(update={"seed": 1}), tmp_path / "three")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "one", tmp_path / "three")


def test_losses_fall_and_are_told(dataset: Dataset, tmp_path: Path) -> None:
    told: list[Progress] = []
    train(listed(dataset, 4, 3), QUICK.model_copy(update={"steps": 10}), tmp_path, progress=told.append)
    steps = [progress for progress in told if progress.stage == "training"]
    assert [progress.step for progress in steps] == list(range(1, 11))
    assert steps[-1].losses[0] < 0.9 * steps[0].losses[0]
    assert [progress.stage for progress in told if progress.stage != "training"] == [
        "reading frames",
        "computing the teacher's features",
        "measuring good frames",
    ]


def test_training_goes_the_same_way_wherever_features_are_kept(dataset: Dataset, tmp_path: Path) -> None:
    frames = listed(dataset, 4, 3)
    for place, memory_bytes, disk_bytes in (("memory", 1 << 30, 0), ("disk", 0, 1 << 30), ("nowhere", 0, 0)):
        update = {"cache_bytes": memory_bytes, "cache_disk_bytes": disk_bytes}
        train(frames, QUICK.model_copy(update=update), tmp_path / place)
        assert [path.name for path in (tmp_path / place).iterdir()] == [CHECKPOINT]
    assert_same_weights(tmp_path / "memory", tmp_path / "disk")
    # The teacher's kernels may round in another way for another number of frames.
    a, b = (load_file(tmp_path / place / CHECKPOINT) for place in ("memory", "nowhere"))
    assert a.keys() == b.keys()
    for name, x in a.items():
        assert torch.allclose(x, b[name], rtol=1e-3, atol=1e-4), name


def test_bfloat16_trains_to_float32_weights(dataset: Dataset, tmp_path: Path) -> None:
    told: dict[str, list[tuple[float, ...]]] = {"fp32": [], "bf16": []}
    for precision, losses in told.items():
        config = QUICK.model_copy(update={"steps": 4, "precision": precision})

        def note(progress: Progress, losses: list[tuple[float, ...]] = losses) -> None:
            losses.extend([progress.losses] if progress.losses else [])

        record = train(listed(dataset, 4, 3), config, tmp_path / precision, progress=note)
        assert np.isfinite(record.validation_scores["full"]).all()
        floating = {x.dtype for x in load_file(tmp_path / precision / CHECKPOINT).values() if x.is_floating_point()}
        assert floating == {torch.float32}
    np.testing.assert_allclose(told["bf16"], told["fp32"], rtol=0.1)
    assert told["bf16"] != told["fp32"]
    assert told["bf16"][-1] < told["bf16"][0]


RUN = """
import signal
import sys
from pathlib import Path
from edge_ad.config import TrainConfig
from edge_ad.data import open_dataset
from edge_ad.training import train

def tell(progress):
    print(progress.stage, progress.step, flush=True)
    if progress.step == 12:
        signal.pause()  # on a busy machine the kill may come late

config = TrainConfig.model_validate_json(sys.argv[3])
train(open_dataset(Path(sys.argv[1])), config, Path(sys.argv[2]), progress=tell)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(synthetic_root: Path, dataset: Dataset, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"steps": 16})
    arguments = [str(synthetic_root), str(tmp_path / "killed"), config.model_dump_json()]
    with subprocess.Popen([sys.executable, "-c", RUN, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("training 4"):
                process.kill()
                break
    stopped = read_checkpoint(tmp_path / "killed")[0]
    assert not stopped.finished
    assert 3 <= stopped.step < config.steps
    with pytest.raises(CheckpointError, match=rf"not finished. it stopped at step {stopped.step} of 16"):
        load_detector(tmp_path / "killed")
    resumed = train(dataset, config, tmp_path / "killed", resume=True)
    assert resumed == train(dataset, config, tmp_path / "whole")
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")


@pytest.fixture
def unfinished(dataset: Dataset, tmp_path: Path) -> Path:
    """A run that was interrupted after its second step."""

    def interrupt(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(listed(dataset, 4, 3), QUICK, tmp_path, progress=interrupt)
    assert read_checkpoint(tmp_path)[0].step == 2
    return tmp_path


def test_a_slow_disk_gets_fewer_checkpoints(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write_slowly(path: Path, record: CheckpointRecord, tensors: dict[str, Tensor]) -> None:
        time.sleep(0.5)
        write_checkpoint(path, record, tensors)
        written.append(path)

    monkeypatch.setattr(training, "write_checkpoint", write_slowly)
    config = QUICK.model_copy(update={"steps": 12, "checkpoint_every_s": 1e-3})
    train(listed(dataset, 4, 3), config, tmp_path)
    assert 2 <= len(written) < 6  # the last is the finished run's


@pytest.mark.parametrize(
    ("changes", "frames", "what"),
    [
        pytest.param({"seed": 5}, 4, "other settings", id="settings"),
        pytest.param({}, 5, "other training data", id="data"),
    ],
)
def test_another_run_is_not_resumed(
    dataset: Dataset, unfinished: Path, changes: dict[str, int], frames: int, what: str
) -> None:
    before = (unfinished / CHECKPOINT).read_bytes()
    with pytest.raises(CheckpointError, match=rf"cannot be resumed. it was made with {what}"):
        train(listed(dataset, frames, 3), QUICK.model_copy(update=changes), unfinished, resume=True)
    assert (unfinished / CHECKPOINT).read_bytes() == before


def test_a_run_may_go_on_on_another_machine(dataset: Dataset, unfinished: Path) -> None:
    """With less memory and another pace of checkpoints."""
    config = QUICK.model_copy(update={"cache_bytes": 0, "cache_disk_bytes": 0, "checkpoint_every_s": 60.0})
    assert train(listed(dataset, 4, 3), config, unfinished, resume=True).finished


def test_an_adapted_teacher_is_taken_from_the_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    """Another number of threads would measure its BatchNorm a little differently."""
    mmrd = {"model": "mmrd", "mmrd": CRD.mmrd.model_copy(update={"adaptation_passes": 1})}
    config = CRD.model_copy(update={**mmrd, "steps": 3, "checkpoint_every_s": 0.0})

    def interrupt(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(listed(dataset, 4, 3), config, tmp_path, progress=interrupt)
    record, tensors = read_checkpoint(tmp_path)
    name = next(x for x in tensors if x.startswith("detector.teacher.") and x.endswith("running_mean"))
    elsewhere = tensors[name] + 1e-3
    write_checkpoint(tmp_path / CHECKPOINT, record, {**tensors, name: elsewhere})
    finished = train(listed(dataset, 4, 3), config, tmp_path, resume=True)
    assert finished.finished
    assert torch.equal(read_checkpoint(tmp_path)[1][name.removeprefix("detector.")], elsewhere)
    assert train(listed(dataset, 4, 3), config, tmp_path, resume=True) == finished


def test_a_run_of_another_version_is_not_resumed(
    dataset: Dataset, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.__version__", "99.0")
    with pytest.raises(CheckpointError, match="cannot be resumed. it was made with other software"):
        train(listed(dataset, 4, 3), QUICK, unfinished, resume=True)


@pytest.mark.parametrize(
    ("backbone", "what"), [("efficientnet_lite0", "other teacher weights"), ("resnet18", "other settings")]
)
def test_a_run_with_another_teacher_is_not_resumed(
    dataset: Dataset, unfinished: Path, tmp_path: Path, backbone: str, what: str
) -> None:
    torch.manual_seed(0)
    save_file(BACKBONES[backbone].build().state_dict(), tmp_path / "teacher.safetensors")
    config = QUICK.model_copy(update={"backbone": backbone})
    with pytest.raises(CheckpointError, match=rf"cannot be resumed. it was made with {what}"):
        train(listed(dataset, 4, 3), config, unfinished, weights_path=tmp_path / "teacher.safetensors", resume=True)


def test_a_run_is_not_replaced_unasked(dataset: Dataset, trained_run: Path) -> None:
    with pytest.raises(CheckpointError, match="is there already.*--resume"):
        train(dataset, CRD, trained_run)


def test_resuming_a_finished_run_changes_nothing(dataset: Dataset, trained_run: Path) -> None:
    before = (trained_run / CHECKPOINT).read_bytes()
    assert train(dataset, CRD, trained_run, resume=True) == read_checkpoint(trained_run)[0]
    assert (trained_run / CHECKPOINT).read_bytes() == before


FULL_DISK = """
import resource, sys
from pathlib import Path
from edge_ad.config import TrainConfig
from edge_ad.data import open_dataset
from edge_ad.errors import OutputError
from edge_ad.training import train

def fill_the_disk(progress):
    if progress.step == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

try:
    config = TrainConfig.model_validate_json(sys.argv[3])
    train(open_dataset(Path(sys.argv[1])), config, Path(sys.argv[2]), progress=fill_the_disk)
except OutputError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_checkpoint_before(synthetic_root: Path, tmp_path: Path) -> None:
    arguments = [str(synthetic_root), str(tmp_path), QUICK.model_dump_json()]
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True, check=True)
    assert f"{tmp_path / CHECKPOINT} cannot be written" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    assert read_checkpoint(tmp_path)[0].step == 1


def test_nothing_but_train_and_validation_is_read(rd_run: Path) -> None:
    """``ListedFrames`` raises when it is asked for another split."""
    with pytest.raises(AssertionError):
        ListedFrames((), (), None).frames("test")
    assert read_checkpoint(rd_run)[0].finished
