"""Data sets recorded by the real command, from cameras that need no device."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from edge_ad.cli import capture as capture_command
from edge_ad.data import open_dataset
from tests.cli.command_line import edge_ad, start

PARTS = "synthetic://?fps=0&size=64&pool=4&defect_rate=0"


def test_what_is_recorded_is_a_data_set_to_train_on(tmp_path: Path) -> None:
    root = tmp_path / "lid"
    for split, frames in (("train", "6"), ("validation", "3")):
        assert edge_ad("capture", root, "--camera", PARTS, "--frames", frames, "--split", split).exit_code == 0
    dataset = open_dataset(root)
    assert {split: len(dataset.frames(split)) for split in dataset.splits} == {"train": 6, "validation": 3}
    assert dataset.intrinsics is not None
    frame = dataset.frames("train")[0].frame
    assert frame.rgb is not None and frame.depth is not None
    assert frame.depth.dtype == np.uint16 and frame.depth_unit_m == 0.0001


def test_each_run_adds_and_defects_go_to_the_test_split(tmp_path: Path) -> None:
    for _ in range(2):
        assert edge_ad("capture", tmp_path, "--camera", PARTS, "--frames", "2").exit_code == 0
    done = edge_ad("capture", tmp_path, "--camera", PARTS, "--frames", "2", "--split", "test", "--defect", "dent")
    assert done.exit_code == 0
    dataset = open_dataset(tmp_path)
    assert [entry.defect for entry in dataset.entries] == ["good"] * 4 + ["dent"] * 2


def test_the_next_command_leads_to_training(tmp_path: Path) -> None:
    live = "synthetic://?fps=100&size=64&pool=1"
    steps = [
        (["--split", "train"], f"edge-ad capture lid --camera '{live}' --split validation"),
        (["--split", "validation"], "edge-ad train lid --output runs/lid"),
        (["--split", "test"], "edge-ad evaluate runs/lid lid"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for options, following in steps:
            done = edge_ad("capture", "lid", "--camera", live, "--frames", "1", *options)
            assert f"next: {following}\n" in done.stderr


def test_a_recording_is_not_suggested_for_validation_too(tmp_path: Path) -> None:
    done = edge_ad("capture", tmp_path, "--camera", PARTS, "--frames", "1")
    assert "--camera URI --split validation" in done.stderr


def test_a_folder_is_copied_frame_by_frame(tmp_path: Path) -> None:
    edge_ad("capture", tmp_path / "one", "--camera", PARTS, "--frames", "5")
    source = f"folder://{tmp_path / 'one/train/good'}"
    done = edge_ad("capture", tmp_path / "two", "--camera", source, "--frames", "9", "--interval-ms", "60000")
    assert done.exit_code == 0
    assert "recorded 5 captures of 9 (end of stream)" in done.stderr
    one, two = (open_dataset(tmp_path / name).frames("train") for name in ("one", "two"))
    for left, right in zip(one, two, strict=True):
        assert np.array_equal(left.frame.depth_m(), right.frame.depth_m())


def test_a_live_camera_is_recorded_at_the_interval(tmp_path: Path) -> None:
    camera = "synthetic://?fps=200&frames=60&size=64&pool=1"  # 0.3 s of it
    done = edge_ad("capture", tmp_path, "--camera", camera, "--frames", "60", "--interval-ms", "100", "--json")
    assert 1 <= json.loads(done.stdout)["written"] <= 5


@pytest.mark.usefixtures("scripted")
def test_blind_and_damaged_frames_are_skipped_and_counted(tmp_path: Path) -> None:
    done = edge_ad("capture", tmp_path, "--camera", "scripted://?steps=good,blind,damaged,blind,good", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "directory": str(tmp_path / "train" / "good"),
        "written": 2,
        "skipped": {"no valid depth": 2, "unreadable": 1},
        "depth_coverage": 1.0,
        "ended": "end of stream",
        "next": f"edge-ad capture {tmp_path} --camera URI --split validation",
    }
    assert len(open_dataset(tmp_path).frames("train")) == 2
    assert "warning the link is [USB 2]" in done.stderr
    told = edge_ad("capture", tmp_path, "--camera", "scripted://?steps=good,blind,damaged,blind,good").stderr
    assert "2 skipped (no valid depth), 1 skipped (unreadable)" in told
    assert "last problem: the scripted image is damaged. Remedy: write it again." in told


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    ("steps", "exit_code", "what", "why"),
    [
        pytest.param("good,good,lost", 5, "was lost and did not come back", "the scripted camera is gone", id="lost"),
        pytest.param("good,blind&live=1", 5, "sent nothing worth keeping for 0.1 s", "no valid depth", id="covered"),
        pytest.param("good,silent&live=1", 5, "sent nothing worth keeping for 0.1 s", "no frame arrived", id="silent"),
        pytest.param("blind", 3, "nothing was recorded", "1 skipped (no valid depth)", id="nothing usable"),
        pytest.param("damaged", 3, "nothing was recorded", "the scripted image is damaged", id="nothing readable"),
    ],
)
def test_what_ends_a_recording_early_is_an_error_and_the_captures_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: str, exit_code: int, what: str, why: str
) -> None:
    monkeypatch.setattr(capture_command, "GIVE_UP_S", 0.1)
    done = edge_ad("capture", tmp_path, "--camera", f"scripted://?steps={steps}", "--interval-ms", "0")
    assert done.exit_code == exit_code
    error = done.stderr.partition("error ")[2]
    assert what in error and why in error and "remedy" in error
    written = steps.count("good")
    assert f"recorded {written} capture" in done.stderr
    assert len(list(tmp_path.glob("train/good/depth/*.png"))) == written


@pytest.mark.parametrize(
    ("options", "exit_code", "what"),
    [
        pytest.param(["--camera", PARTS, "--split", "exam"], 2, "split 'exam' is unknown", id="unknown split"),
        pytest.param(["--camera", PARTS, "--defect", "dent"], 2, "cannot go to train", id="defects to train on"),
        pytest.param(["--camera", "webcam"], 2, "camera driver 'webcam' is unknown", id="unknown camera"),
        pytest.param(["--camera", "folder:///nowhere"], 5, "/nowhere is not a directory", id="no folder"),
        pytest.param(["--camera", PARTS, "--frames", "0"], 2, "--frames", id="no frames"),
    ],
)
def test_bad_input(tmp_path: Path, options: list[str], exit_code: int, what: str) -> None:
    done = edge_ad("capture", tmp_path / "lid", *options)
    assert done.exit_code == exit_code
    assert what in done.stderr
    assert not (tmp_path / "lid").exists()


def test_another_camera_cannot_add_to_a_data_set(tmp_path: Path) -> None:
    edge_ad("capture", tmp_path, "--camera", PARTS, "--frames", "1")
    done = edge_ad("capture", tmp_path, "--camera", PARTS.replace("64", "96"), "--frames", "1")
    assert done.exit_code == 3
    assert "comes from another camera" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_no_capture_is_left_half_written(tmp_path: Path, number: signal.Signals) -> None:
    camera = "synthetic://?fps=200&size=64&pool=2"
    process = start("capture", tmp_path, "--camera", camera, "--frames", "100000", "--interval-ms", "0")
    deadline_s = time.monotonic() + 30
    while len(list(tmp_path.glob("train/good/depth/*.png"))) < 3:
        assert time.monotonic() < deadline_s and process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    told = re.search(r"recorded (\d+) captures of 100000 \(stopped\)", stderr)
    assert told is not None
    assert len(open_dataset(tmp_path).entries) == int(told[1])
    assert not list(tmp_path.rglob("*.part"))
