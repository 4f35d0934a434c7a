"""The line as a user starts it: a model of the sample graph, cameras that need no device, every output."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import read_bundle
from edge_ad.cameras.synthetic import SyntheticCamera
from edge_ad.engine_build import build_engine
from edge_ad.errors import CameraError
from edge_ad.types import CameraInfo
from tests.cli.command_line import MAIN, edge_ad, start
from tests.cli.scripted_camera import ScriptedCamera

PARTS = "synthetic://?fps=0&size=64&pool=4&frames=6"
LIVE = "synthetic://?fps=100&size=64&pool=2"


def test_one_line_a_frame_on_standard_output_and_the_summary_beside_it(bundle: Path) -> None:
    done = edge_ad("run", "--engine", bundle, "--camera", PARTS)
    assert done.exit_code == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["sequence"] for line in lines] == list(range(6))
    assert {line["decision"] for line in lines} <= {"OK", "NG"}
    assert {line["threshold"] for line in lines} == {4.0}
    for told in ("engine rd rgb+normals, onnx", "inspected 6 frames", "the stream ended", "dropped   none", "p99"):
        assert told in done.stderr


def test_every_output_holds_every_inspection(bundle: Path, tmp_path: Path) -> None:
    jsonl, sqlite, maps, overlays = (tmp_path / name for name in ("a.jsonl", "a.sqlite", "maps", "overlays"))
    outputs = ("--jsonl", jsonl, "--sqlite", sqlite, "--maps", maps, "--overlays", overlays)
    done = edge_ad("run", "--engine", bundle, "--camera", PARTS, "--threshold", "-100", *outputs)
    assert done.exit_code == 0, "NG parts are no failure"
    assert done.stdout == ""
    assert "NG 6" in done.stderr
    lines = [json.loads(line) for line in jsonl.read_text().splitlines()]
    with contextlib.closing(sqlite3.connect(sqlite)) as database:
        rows = database.execute("SELECT sequence, decision, score FROM inspections ORDER BY id").fetchall()
    assert rows == [(line["sequence"], "NG", line["score"]) for line in lines]
    anomaly_maps = [tifffile.imread(path) for path in sorted(maps.iterdir())]
    assert [anomaly_map.shape for anomaly_map in anomaly_maps] == [(64, 64)] * 6
    assert [float(anomaly_map.max()) for anomaly_map in anomaly_maps] == [line["score"] for line in lines]
    pictures = [cv2.imread(str(path)) for path in overlays.glob("*-NG.png")]
    assert len(pictures) == 6
    assert all(picture is not None and picture.shape[0] >= 64 for picture in pictures)


def test_the_report_is_one_json_document(bundle: Path) -> None:
    done = edge_ad("run", "--engine", bundle, "--camera", PARTS, "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 0
    assert report["ended"] == "end of stream"
    assert report["inspected"] == sum(report["decisions"].values()) == 6
    assert report["model"] | {"threshold": 4.0, "id": read_bundle(bundle).digest} == report["model"]
    assert report["camera"]["name"] == "synthetic product"
    assert {"predict.engine", "age"} <= report["latency_ms"].keys()
    assert set(report["latency_ms"]["age"]) == {"p50", "p95", "p99", "max"}
    assert (any(report["dropped"].values()), report["sink_errors"]) == (False, {})
    assert "p99" not in done.stderr


def test_an_engine_and_a_bundles_graph_run_too(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AD_HOME", str(tmp_path / "home"))
    engine = build_engine(read_bundle(bundle), tmp_path / "engine", backend="onnxruntime", precision="fp32")
    scores = []
    for path in (bundle, bundle / "model.onnx", engine.directory):
        done = edge_ad("run", "--engine", path, "--camera", PARTS)
        assert done.exit_code == 0, done.stderr
        scores.append([json.loads(line)["score"] for line in done.stdout.splitlines()])
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize(
    ("limit", "ending"),
    [
        pytest.param(["--frames", "3"], "max frames", id="frames"),
        pytest.param(["--duration-s", "0.2"], "duration", id="duration"),
    ],
)
def test_limits(bundle: Path, limit: list[str], ending: str) -> None:
    report = json.loads(edge_ad("run", "--engine", bundle, "--camera", LIVE, "--json", *limit).stdout)
    assert report["ended"] == ending
    assert report["inspected"] == 3 or ending == "duration"


def test_quiet_says_nothing_on_standard_output(bundle: Path) -> None:
    done = edge_ad("run", "--engine", bundle, "--camera", PARTS, "--quiet")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "inspected 6 frames" in done.stderr


def test_the_model_is_warm_before_the_camera_opens(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    run_graph = OnnxRuntimeBackend.run

    def noting(*arguments: object) -> object:
        happened.append("run")
        return run_graph(*arguments)  # type: ignore[arg-type]

    def absent(self: SyntheticCamera) -> CameraInfo:
        happened.append("open")
        raise CameraError("there is no camera")

    monkeypatch.setattr(OnnxRuntimeBackend, "run", noting)
    monkeypatch.setattr(SyntheticCamera, "open", absent)
    assert edge_ad("run", "--engine", bundle, "--camera", PARTS).exit_code == 5
    # Two golden samples, then one run to warm up.
    assert happened == ["run", "run", "run", "open"]


@pytest.mark.parametrize("other", ["--quiet", "--json"])
def test_contradicting_options(bundle: Path, other: str) -> None:
    done = edge_ad("run", "--engine", bundle, "--camera", PARTS, "--jsonl", "-", other)
    assert done.exit_code == 2
    assert f"--jsonl - and {other} contradict each other" in done.stderr


def three_parts(stderr: str) -> bool:
    return all(re.search(rf"^ *{part} +\S", stderr, re.MULTILINE) for part in ("error", "why", "remedy"))


def test_no_camera_is_said_at_once(bundle: Path) -> None:
    realsense = pytest.importorskip("pyrealsense2")
    if len(realsense.context().query_devices()):
        pytest.skip("a camera is attached")
    started_s = time.monotonic()
    done = edge_ad("run", "--engine", bundle, "--camera", "realsense")
    assert time.monotonic() - started_s < 2
    assert done.exit_code == 5
    assert three_parts(done.stderr)


def test_a_recording_that_is_none(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyrealsense2")
    junk = tmp_path / "junk.db3"
    junk.write_bytes(np.random.default_rng(0).bytes(100_000))
    done = edge_ad("run", "--engine", bundle, "--camera", f"realsense://{junk}")
    assert done.exit_code == 5
    assert three_parts(done.stderr) and str(junk) in done.stderr


@pytest.mark.parametrize("file", ["model.onnx", "thresholds.json", "manifest.json"])
def test_a_damaged_model_is_refused(bundle: Path, tmp_path: Path, file: str) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in bundle.iterdir():
        content = path.read_bytes()
        (damaged / path.name).write_bytes(content[: len(content) // 2] if path.name == file else content)
    done = edge_ad("run", "--engine", damaged, "--camera", PARTS)
    assert done.exit_code == 4
    assert three_parts(done.stderr) and file in done.stderr


def test_what_is_no_model(tmp_path: Path) -> None:
    done = edge_ad("run", "--engine", tmp_path / "nothing", "--camera", PARTS)
    assert done.exit_code == 3
    assert three_parts(done.stderr)


def test_frames_that_do_not_fit_the_model_are_errors_and_said(bundle: Path) -> None:
    done = edge_ad("run", "--engine", bundle, "--camera", PARTS.replace("size=64", "size=96"))
    assert done.exit_code == 3
    assert [json.loads(line)["decision"] for line in done.stdout.splitlines()] == ["ERROR"] * 6
    assert "no frame could be judged" in done.stderr
    assert "is 96×96 px. the model was trained on 64×64 px" in done.stderr
    assert three_parts(done.stderr[done.stderr.index("no frame could be judged") - len("error ") :])


def test_an_output_that_fails_leaves_the_others_whole(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = edge_ad("run", "--engine", bundle, "--camera", PARTS, "--maps", tmp_path / "file" / "maps")
    assert done.exit_code == 6
    assert len(done.stdout.splitlines()) == 6
    assert "MapSink failed 6 times" in done.stderr


def test_an_output_that_cannot_be_opened_is_said_before_the_first_frame(bundle: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "notes.sqlite"
    foreign.write_text("this is no database, and long enough not to be taken for an empty one")
    done = edge_ad("run", "--engine", bundle, "--camera", PARTS, "--sqlite", foreign)
    assert done.exit_code == 6
    assert three_parts(done.stderr)
    assert done.stdout == ""


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("live", ["", "&live=1"], ids=["files", "live"])
def test_a_camera_lost_for_good_ends_the_run_with_its_summary(bundle: Path, live: str) -> None:
    camera = f"scripted://?steps=good,good,lost{live}"
    done = edge_ad("run", "--engine", bundle, "--camera", camera, "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 5
    assert report["ended"] == "camera lost"
    assert report["inspected"] >= 1
    assert report["camera"]["refused"] == {"mispaired": 2, "incomplete": 0}
    assert three_parts(done.stderr)
    assert "the scripted camera is gone" in done.stderr
    told = edge_ad("run", "--engine", bundle, "--camera", camera).stderr
    assert "the camera was lost" in told and "refused   mispaired 2 (" in told and "disconnects 1" in told


@pytest.mark.usefixtures("scripted")
def test_warnings_of_the_camera_and_damaged_frames_are_said(bundle: Path) -> None:
    opened = ScriptedCamera.opened
    done = edge_ad("run", "--engine", bundle, "--camera", "scripted://?steps=good,damaged,good,blind")
    assert done.exit_code == 0
    assert [json.loads(line)["decision"] for line in done.stdout.splitlines()][1::2] == ["ERROR"] * 2
    assert "warning the link is [USB 2]" in done.stderr
    assert "scripted 3 cannot be judged. no pixel has depth" in done.stderr
    assert ScriptedCamera.opened == opened + 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_its_summary(bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    archive = tmp_path / "archive.sqlite"
    process = start("run", "--engine", bundle, "--camera", LIVE, "--sqlite", archive)
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(5)]
    process.send_signal(number)
    rest, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    lines = [json.loads(line) for line in [*first, *rest.splitlines()]]
    assert f"inspected {len(lines)} frames" in stderr and ": stopped" in stderr
    with contextlib.closing(sqlite3.connect(archive)) as database:
        assert database.execute("SELECT count(*) FROM inspections").fetchone() == (len(lines),)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_reader_that_leaves_is_counted_and_judging_goes_on(bundle: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.sqlite"
    process = start("run", "--engine", bundle, "--camera", LIVE, "--frames", "60", "--sqlite", kept)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 6
    assert "inspected 60 frames" in stderr
    assert re.search(r"JsonLinesSink failed \d+ times", stderr)
    assert "Exception ignored" not in stderr and "Traceback" not in stderr
    with contextlib.closing(sqlite3.connect(kept)) as database:
        assert database.execute("SELECT count(*) FROM inspections").fetchone() == (60,)


def on_terminal(*arguments: str | Path, stdout_too: bool) -> tuple[str, str]:
    """What a terminal shows, and what goes to standard output where that is no terminal."""
    ours, theirs = pty.openpty()
    stdout = theirs if stdout_too else subprocess.PIPE
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    command = [*MAIN, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=theirs, stdout=stdout, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's end, once nobody has it open
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    piped = b"" if process.stdout is None else process.stdout.read()
    if process.stdout is not None:
        process.stdout.close()
    assert process.wait(30) == 0, shown.decode()
    return shown.decode(), piped.decode()


def test_a_terminal_gets_a_live_table_and_no_json(bundle: Path) -> None:
    shown, _ = on_terminal("run", "--engine", bundle, "--camera", LIVE, "--duration-s", "1.5", stdout_too=True)
    pictures = shown.count("●")
    assert 2 <= pictures <= 1.5 * 4 + 4, "at most four a second, and one each at start and end"
    assert "frames/s" in shown and "p99" in shown and "capture to verdict" in shown
    assert "recorded_utc" not in shown


def test_a_terminal_beside_a_pipe_gets_the_table_and_the_pipe_the_lines(bundle: Path) -> None:
    shown, piped = on_terminal("run", "--engine", bundle, "--camera", LIVE, "--frames", "40", stdout_too=False)
    assert "●" in shown and "recorded_utc" not in shown
    assert len([json.loads(line) for line in piped.splitlines()]) == 40


def test_lines_on_a_terminal_for_who_asks_for_them(bundle: Path) -> None:
    shown, _ = on_terminal("run", "--engine", bundle, "--camera", PARTS, "--jsonl", "-", stdout_too=True)
    assert shown.count("recorded_utc") == 6
    assert "●" not in shown


def test_a_camera_that_falls_silent_is_said_on_the_terminal(bundle: Path) -> None:
    slow = "synthetic://?fps=0.5&size=64&pool=1"
    shown, _ = on_terminal("run", "--engine", bundle, "--camera", slow, "--frames", "2", stdout_too=True)
    assert "no frame for 1 s" in shown
