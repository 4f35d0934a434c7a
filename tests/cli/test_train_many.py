from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from edge_ad.cli.train_many import configs_from_models, experiments_from_file
from edge_ad.errors import ConfigError
from tests.cli.command_line import edge_ad, start
from tests.paper_layouts import write_mvtec3d

FILE = """
[[experiment]]
data = "parts"
categories = ["nut"]
name = "small"
seeds = 2
[experiment.settings]
model = "rd"
seed = 5
preprocess.modalities = ["depth"]

[[experiment]]
data = "parts"
weights = "teacher.safetensors"

[[experiment]]
data = "parts/nut"
settings = {model = "rd"}
"""

TWO = """
[[experiment]]
name = "short"
data = "parts/nut"
settings = {model = "rd", steps = 3, preprocess = {modalities = ["rgb"], image_size_px = 64}}

[[experiment]]
name = "long"
data = "parts/bolt"
[experiment.settings]
model = "rd"
steps = 100000
checkpoint_every_s = 0
preprocess = {modalities = ["rgb"], image_size_px = 64}
"""


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "nut"
    write_mvtec3d(root)
    return root


@pytest.fixture
def parts(category: Path, tmp_path: Path) -> Path:
    """A directory of two categories."""
    for name in ("nut", "bolt"):
        shutil.copytree(category, tmp_path / "parts" / name)
    (tmp_path / "small.toml").write_text("steps = 3")
    shutil.copytree(category, tmp_path / "spaced/lid v2")
    return tmp_path / "parts"


@pytest.mark.slow
def test_stopped_and_started_again_it_goes_on(parts: Path, tmp_path: Path) -> None:
    """One experiment is finished and one is not when Ctrl-C comes; then the second one fails, and the first is kept."""
    output, path = tmp_path / "runs", tmp_path / "many.toml"
    path.write_text(TWO)
    command = ("train-many", path, "--output", output, "--cpus", "1", "--gpus", "0", "--retries", "0")
    process = start(*command)
    report, checkpoint = output / "nut-short-seed0/report.json", output / "bolt-long-seed0/checkpoint.safetensors"
    deadline = time.monotonic() + 240
    while not ((output / "results.json").exists() and checkpoint.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == 130, stderr
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert checkpoint.exists()
    written = report.stat().st_mtime_ns

    shutil.rmtree(parts / "bolt/test")
    done = edge_ad(*command, "--json")
    assert done.exit_code == 1, done.stderr
    result = json.loads(done.stdout)
    assert [entry["name"] for entry in result["experiments"]] == ["nut-short-seed0"]
    assert [failure["name"] for failure in result["failures"]] == ["bolt-long-seed0"]
    assert "no test frames" in result["failures"][0]["what"]
    assert "remedy" in done.stderr
    assert result == json.loads((output / "results.json").read_text())
    assert report.stat().st_mtime_ns == written
    assert (output / "results.md").read_text().splitlines()[-1].startswith("| nut | short | 1 | ")


def test_a_file_names_experiments_relative_to_itself(parts: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.toml"
    path.write_text(FILE)
    experiments = experiments_from_file(path)
    assert [experiment.name for experiment in experiments] == [
        "nut-small-seed5",
        "nut-small-seed6",
        "bolt-crd-rgb+depth-seed0",
        "nut-crd-rgb+depth-seed0",
        "nut-rd-rgb-seed0",
    ]
    assert experiments[1].data == parts / "nut"
    assert experiments[1].config.preprocess.modalities == ("depth",)
    assert experiments[2].weights == tmp_path / "teacher.safetensors"


def test_models_with_their_modalities(tmp_path: Path) -> None:
    configs = configs_from_models("crd:rgb+normals, rd", None, {"steps": 9})
    assert [label for label, _ in configs][0] == "crd-rgb+normals"
    assert [config.model for _, config in configs] == ["crd", "rd"]
    assert {config.steps for _, config in configs} == {9}
    with pytest.raises(ConfigError, match="crd takes 2 modalities"):
        configs_from_models("crd:rgb", None, {})


@pytest.mark.parametrize(
    ("arguments", "exit_code", "text"),
    [
        (("parts", "--categories", "screw"), 3, "no category screw"),
        ((".",), 3, "holds no category"),
        (("parts", "--models", "gan"), 2, "model"),
        (("parts", "parts/nut"), 2, "two experiments are called nut-"),
        (("many.toml", "--seeds", "3"), 2, "--seeds does not go with"),
        (("none.toml",), 2, "none.toml"),
        (("small.toml",), 2, "experiment"),
        (("parts/nut", "spaced/lid v2"), 2, "use letters, digits, +, - and _"),
    ],
    ids=["category", "no-category", "model", "twice", "option-and-file", "no-file", "other-file", "folder-name"],
)
def test_bad_input_is_one_clear_error(
    arguments: tuple[str, ...],
    exit_code: int,
    text: str,
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "many.toml").write_text(FILE)
    done = edge_ad("train-many", *arguments, "--output", tmp_path / "runs")
    assert done.exit_code == exit_code, done.stderr
    assert text in done.stderr
    assert "remedy" in done.stderr
    assert not (tmp_path / "runs").exists()
