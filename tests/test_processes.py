"""Two processes that torchrun starts learn what one learns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from edge_ad.config import TrainConfig
from edge_ad.models.checkpoint import read_checkpoint
from tests.datasets import CRD

SCRIPT = Path(__file__).with_name("torchrun_train.py")
CONFIG = CRD.model_copy(update={"steps": 6, "checkpoint_every_s": 0.0})


def trained(processes: int, data: Path, directory: Path, config: TrainConfig) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    arguments = [str(data), str(directory / "run"), config.model_dump_json(), str(directory / "losses.jsonl")]
    command = [sys.executable, *launch, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_two_processes_learn_what_one_learns(synthetic_root: Path, tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        directory = tmp_path / str(processes)
        directory.mkdir()
        done = trained(processes, synthetic_root, directory, CONFIG)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "Warning" not in done.stderr
        lines = [json.loads(line) for line in (directory / "losses.jsonl").read_text().splitlines()]
        assert len(lines) == processes
        # All processes report the whole batch's loss and end with the first one's record.
        assert all(line == lines[0] for line in lines)
        found.append(lines[0])
    losses = [np.array(each["losses"]) for each in found]
    assert losses[0].shape == (6, 2)
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)
    assert losses[0][-1].sum() < losses[0][0].sum()
    np.testing.assert_allclose(found[1]["scores"]["full"], found[0]["scores"]["full"], rtol=0.1)
    _, tensors = read_checkpoint(tmp_path / "2" / "run")
    assert all(bool(np.isfinite(x.numpy()).all()) for x in tensors.values())


def test_a_batch_that_cannot_be_shared_is_refused(synthetic_root: Path, tmp_path: Path) -> None:
    done = trained(2, synthetic_root, tmp_path, CONFIG.model_copy(update={"batch_size": 3}))
    assert done.returncode != 0
    assert "a batch of 3 frames cannot be shared out to 2 processes" in done.stderr
