"""The rig measured and checked by the real commands, with the synthetic camera over its bare table."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from edge_ad.cameras import CAMERAS
from edge_ad.cli.train import with_roi_of
from edge_ad.config import RoiConfig, TrainConfig
from edge_ad.models.checkpoint import load_detector
from edge_ad.rig.record import REPORT, read_rig
from tests.cli.command_line import edge_ad

EMPTY = "synthetic://?empty=1&fps=0&size=96&pool=12"
LIVE = EMPTY.replace("fps=0", "fps=200")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rigs") / "housing"
    assert edge_ad("rig", "calibrate", path, "--camera", EMPTY, "--frames", "20").exit_code == 0
    return path


def statuses(stdout: str) -> dict[str, str]:
    return {item["name"]: item["status"] for item in json.loads(stdout)["findings"]}


def test_a_rig_is_measured_and_says_what_comes_next(tmp_path: Path) -> None:
    done = edge_ad("rig", "calibrate", tmp_path / "lid", "--camera", LIVE)
    assert done.exit_code == 0
    assert "table at 500.0 mm" in done.stderr
    assert "the largest rectangle that returns depth" in done.stderr
    assert f"edge-ad train captures/lid --rig {tmp_path}/lid --output runs/lid" in done.stderr
    assert "smallest step of height" in " ".join(done.stdout.split()) and "not fixed" in done.stdout
    record = read_rig(tmp_path / "lid").record
    assert (record.frames, record.camera.serial, record.camera.uri) == (45, "seed 0", LIVE)
    assert record.camera.fps == pytest.approx(200, rel=0.02)
    page = (tmp_path / "lid" / REPORT).read_text()
    assert page.count("<img") == 5 and "http://" not in page and "https://" not in page


def test_calibrate_reports_as_json_and_takes_an_roi(tmp_path: Path) -> None:
    done = edge_ad("rig", "calibrate", tmp_path / "lid", "--camera", EMPTY, "--roi", "8,16,64,48", "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and report["healthy"]
    assert report["record"]["roi"] == {"x_px": 8, "y_px": 16, "width_px": 64, "height_px": 48}
    assert report["record"]["distance_m"] == pytest.approx(0.5, abs=1e-3)
    assert report["record"]["tilt_deg"] < 2
    assert report["record"]["noise_m"] == pytest.approx(0.00015, rel=0.1)
    assert statuses(done.stdout)["depth_fill"] == "ok"


def test_a_shift_that_starts_well(rig: Path) -> None:
    done = edge_ad("rig", "check", rig, "--camera", EMPTY, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["healthy"]
    assert set(statuses(done.stdout).values()) == {"ok"}
    assert "as measured" in edge_ad("rig", "check", rig, "--camera", EMPTY).stderr


@pytest.mark.parametrize(
    ("camera", "failed"),
    [
        pytest.param(EMPTY.replace("?", "other?"), {"serial"}, id="another camera"),
        pytest.param(EMPTY.replace("size=96", "size=128"), {"size"}, id="another mode"),
        pytest.param(EMPTY.replace("empty=1", "defect_rate=0"), {"empty"}, id="not empty"),
    ],
)
def test_a_shift_that_starts_badly(rig: Path, camera: str, failed: set[str]) -> None:
    done = edge_ad("rig", "check", rig, "--camera", camera, "--json")
    assert done.exit_code == 1
    assert not json.loads(done.stdout)["healthy"]
    assert {name for name, status in statuses(done.stdout).items() if status == "fail"} == failed
    told = edge_ad("rig", "check", rig, "--camera", camera)
    assert told.exit_code == 1 and "→" in told.stdout


def test_a_part_in_view_fails_no_calibration_but_is_said(tmp_path: Path) -> None:
    parts = EMPTY.replace("empty=1", "defect_rate=0")
    done = edge_ad("rig", "calibrate", tmp_path / "lid", "--camera", parts, "--json")
    assert statuses(done.stdout)["flatness"] == "warn"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "what"),
    [
        pytest.param(["check", "nowhere", "--camera", EMPTY], 3, "nowhere is not a rig", id="no rig"),
        pytest.param(["calibrate", "lid", "--camera", EMPTY, "--roi", "1,2,3"], 2, "is not X,Y,WIDTH,HEIGHT", id="roi"),
        pytest.param(
            ["calibrate", "lid", "--camera", EMPTY, "--roi", "0,0,99,99"], 2, "leaves the frames", id="outside"
        ),
        pytest.param(["calibrate", "lid", "--camera", "webcam"], 2, "'webcam' is unknown", id="driver"),
        pytest.param(["calibrate", "lid", "--camera", EMPTY + "&frames=4"], 3, "only 4 frames", id="too few"),
    ],
)
def test_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], exit_code: int, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = edge_ad("rig", *arguments)
    assert done.exit_code == exit_code
    assert what in done.stderr and "remedy" in done.stderr
    assert not Path("lid").exists()


def test_a_camera_that_is_lost_or_blind_leaves_no_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CAMERAS, "scripted", "tests.cli.scripted_camera:ScriptedCamera")
    for steps, exit_code, what in (("good,good,lost", 5, "the camera was lost"), ("blind&live=1", 3, "sees no table")):
        done = edge_ad("rig", "calibrate", tmp_path / "lid", "--camera", f"scripted://?steps={steps}")
        assert (done.exit_code, what in done.stderr) == (exit_code, True)
    assert not (tmp_path / "lid").exists()


SETTINGS = """
model = "rd"
steps = 2
[preprocess]
image_size_px = 64
modalities = ["depth"]
"""


def test_a_model_that_is_trained_on_a_rig_has_its_plane_and_roi(
    rig: Path, synthetic_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "quick.toml").write_text(SETTINGS)
    command = ("train", synthetic_root, "--output", tmp_path / "run", "--config", tmp_path / "quick.toml")
    assert edge_ad(*command, "--rig", rig).exit_code == 0
    measured = read_rig(rig)
    detector, record = load_detector(tmp_path / "run")
    assert detector.config.geometry.plane == measured.record.plane
    assert record.training.roi is not None
    assert record.training.roi.model_dump() == {"x_px": 0, "y_px": 0, "width_px": 96, "height_px": 96}
    assert record.data.rig == measured.reference
    again = edge_ad(*command, "--resume")
    assert again.exit_code == 4 and "made with other" in again.stderr


def test_a_given_roi_goes_before_the_rigs(rig: Path) -> None:
    measured, given = read_rig(rig), RoiConfig(x_px=4, y_px=10, width_px=88, height_px=76)
    assert with_roi_of(measured, TrainConfig(roi=given)).roi == given
    assert with_roi_of(measured, TrainConfig()).roi == RoiConfig(**asdict(measured.record.roi))
    assert with_roi_of(None, TrainConfig()).roi is None


def test_frames_of_another_rig_are_refused(rig: Path, synthetic_root: Path, tmp_path: Path) -> None:
    larger = tmp_path / "larger"
    camera = EMPTY.replace("size=96", "size=128")
    assert edge_ad("rig", "calibrate", larger, "--camera", camera, "--frames", "10").exit_code == 0
    done = edge_ad("train", synthetic_root, "--output", tmp_path / "run", "--rig", larger, "--roi", "0,0,64,64")
    assert done.exit_code == 3
    assert "they are 96×96 px, the rig's are 128×128 px" in done.stderr
    other = tmp_path / "other"
    shutil.copytree(synthetic_root, other)
    for path in other.rglob("*.json"):
        path.write_text(path.read_text().replace('"fx": ', '"fx": 9'))
    done = edge_ad("train", other, "--output", tmp_path / "run", "--rig", rig)
    assert done.exit_code == 3
    assert "the training frames are not of this rig" in done.stderr and "focal length" in done.stderr
