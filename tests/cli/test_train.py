from __future__ import annotations

import signal
from pathlib import Path

import pytest

from edge_ad.models.checkpoint import read_checkpoint
from tests.cli.command_line import edge_ad, start


def test_ctrl_c_keeps_the_steps_that_are_done(synthetic_root: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text('model = "rd"\n[preprocess]\nimage_size_px = 64\nmodalities = ["depth"]')
    command = ("train", synthetic_root, "--output", tmp_path / "run", "--config", tmp_path / "small.toml")
    process = start(*command, "--steps", "300")
    assert process.stderr is not None
    assert any(line.startswith("training: step") for line in iter(process.stderr.readline, ""))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped" in stderr
    assert "Traceback" not in stderr
    assert "the same command with --resume goes on" in stderr
    assert 30 <= read_checkpoint(tmp_path / "run")[0].step < 300


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (
            ("--model", "crd", "--modalities", "rgb"),
            ("--model crd --modalities rgb: this does not go together", "crd takes 2 modalities, not rgb"),
        ),
        (
            ("--modalities", "rgb,normal"),
            ("--modalities rgb,normal is not valid", "'rgb', 'depth' or 'normals' (got 'normal')"),
        ),
        (("--steps", "-1"), ("--steps -1 is not valid", "greater than or equal to 1")),
        (("--config", "wrong.toml"), ("wrong.toml: there is no setting stepz", "perhaps steps is meant")),
        (("--config", "nested.toml"), ("there is no setting preprocess.size", "correct its name in nested.toml")),
        (("--roi", "0,0,1000,1000"), ("the ROI 0,0,1000,1000 leaves the frames",)),
    ],
    ids=["combination", "name", "range", "key", "nested key", "roi"],
)
def test_a_wrong_setting_is_named_with_what_set_it(
    options: tuple[str, ...],
    texts: tuple[str, ...],
    synthetic_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.toml").write_text("stepz = 3")
    Path("nested.toml").write_text("[preprocess]\nsize = 3")
    done = edge_ad("train", synthetic_root, "--output", "run", *options)
    assert done.exit_code == 2
    for text in texts:
        assert text in done.stderr
    assert "remedy" in done.stderr
    assert "Value error" not in done.stderr


def test_a_folder_too_deep_or_too_high_is_told(synthetic_root: Path, tmp_path: Path) -> None:
    done = edge_ad("train", synthetic_root / "test", "--output", tmp_path / "run")
    assert done.exit_code == 3
    assert f"name the whole: {synthetic_root}" in done.stderr
    (tmp_path / "parts").mkdir()
    for name in ("lid", "nut"):
        (tmp_path / "parts" / name).symlink_to(synthetic_root)
    done = edge_ad("train", tmp_path / "parts", "--output", tmp_path / "run")
    assert done.exit_code == 3
    assert "name one, e.g. --category lid" in done.stderr
