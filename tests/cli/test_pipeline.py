"""The main job through the real commands: train, evaluate, export, build-engine, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from tests.cli.command_line import edge_ad

SMALL = """
steps = 12
batch_size = 4
[preprocess]
modalities = ["rgb", "depth"]
image_size_px = 64
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def run_dir(synthetic_root: Path, settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli") / "run"
    done = edge_ad("train", synthetic_root, "--output", directory, "--config", settings, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["steps"] == 12
    assert {mode: len(scores) for mode, scores in report["validation_scores"].items()} == {
        "full": 5,
        "rgb_only": 5,
        "3d_only": 5,
    }
    return directory


@pytest.mark.slow
def test_from_checkpoint_to_engine(run_dir: Path, synthetic_root: Path, tmp_path: Path) -> None:
    evaluated = edge_ad("evaluate", run_dir, synthetic_root, "--json")
    assert evaluated.exit_code == 0, evaluated.stderr
    report = json.loads(evaluated.stdout)
    assert report == json.loads((run_dir / "evaluation.json").read_text())
    assert set(report["modalities"]) == {"rgb", "depth"}
    sheet = cv2.imread(str(run_dir / "contact_sheet.png"))
    assert sheet is not None
    assert sheet.shape[0] > 1000

    exported = edge_ad("export", run_dir, "--output", tmp_path / "bundle", "--json")
    assert exported.exit_code == 0, exported.stderr
    manifest = json.loads(exported.stdout)
    assert manifest["metrics"]["image_auroc"] == report["metrics"]["image_auroc"]
    modes = {"model", "model_rgb_only", "model_3d_only"}
    expected = modes | {"embedding", "teacher", "tuner_rgb", "tuner_depth", "student_rgb", "student_depth"}
    assert set(manifest["parity"]) == expected
    assert {f"{name}.onnx" for name in expected} <= set(manifest["files"])

    built = edge_ad("build-engine", tmp_path / "bundle", "--output", tmp_path / "engine", "--backend", "onnxruntime")
    assert built.exit_code == 0, built.stderr
    assert "onnxruntime" in built.stderr

    by_engine = edge_ad("evaluate", tmp_path / "engine", synthetic_root, "--json")
    assert by_engine.exit_code == 0, by_engine.stderr
    judged = json.loads(by_engine.stdout)
    for ours, theirs in zip(judged["scores"], report["scores"], strict=True):
        assert ours["path"] == theirs["path"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-3)
    assert (tmp_path / "engine-evaluation" / "contact_sheet.png").is_file()


def test_training_twice_into_one_directory_is_refused(run_dir: Path, synthetic_root: Path) -> None:
    before = (run_dir / "checkpoint.safetensors").read_bytes()
    done = edge_ad("train", synthetic_root, "--output", run_dir)
    assert done.exit_code == 4
    assert "--resume" in done.stderr
    assert (run_dir / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "exit_code", "text"),
    [
        (("train", "no/such/folder", "-o", "run"), 3, "no/such/folder"),
        (("train", ".", "-o", "run", "--modalities", "rgb"), 2, "crd takes 2 modalities"),
        (("train", ".", "-o", "run", "--modalities", "rgb,sound"), 2, "sound"),
        (("train", ".", "-o", "run", "--roi", "1,2,3"), 2, "X,Y,WIDTH,HEIGHT"),
        (("train", ".", "-o", "run", "--config", "none.toml"), 2, "none.toml"),
        (("evaluate", "nothing", "."), 3, "."),
        (("export", "nothing"), 4, "no checkpoint"),
        (("build-engine", "nothing"), 4, "nothing is not a bundle"),
        (("build-engine", "nothing", "--precision", "int4"), 2, "int4"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_clear_error(
    arguments: tuple[str, ...], exit_code: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = edge_ad(*arguments)
    assert done.exit_code == exit_code, done.stderr
    assert text in done.stderr
    assert "remedy" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_typo_in_the_settings_file_is_named(synthetic_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "typo.toml"
    path.write_text("stepz = 5")
    done = edge_ad("train", synthetic_root, "--output", tmp_path / "run", "--config", path)
    assert done.exit_code == 2
    assert "stepz" in done.stderr
