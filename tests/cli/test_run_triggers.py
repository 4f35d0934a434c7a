"""``edge-ad run`` with triggers, recipes and a camera process, as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_ad import cameras
from edge_ad.runtime.recipes import use
from tests.cli.command_line import edge_ad, start
from tests.runtime.live_line import until

LIVE = "synthetic://?fps=50&size=64&pool=2"
WAIT_S = 60


@contextmanager
def started(*arguments: str | Path, stderr: Path, **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    """A run that is killed if the test does not end it; what it says goes to a file."""
    with stderr.open("w") as said:
        process = start("run", *arguments, stderr=said, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=WAIT_S)


def lines_of(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def test_parts_on_standard_input_get_a_line_each_in_order(bundle: Path, tmp_path: Path) -> None:
    said = tmp_path / "stderr"
    arguments = ("--engine", bundle, "--camera", LIVE, "--trigger", "stdin", "--deadline-ms", "20000")
    with started(*arguments, stderr=said, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        told = []
        for number in range(6):
            process.stdin.write(f"part {number}\n")
            process.stdin.flush()
            told.append(json.loads(process.stdout.readline()))
        rest, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, said.read_text()
    assert rest == ""
    assert [line["part_id"] for line in told] == [f"part {number}" for number in range(6)]
    assert all(line["decision"] in ("OK", "NG") or "no frame shows" in line["reason"] for line in told)
    assert any(line["decision"] in ("OK", "NG") for line in told)
    assert {line["threshold"] for line in told} == {4.0} and all(line["model_id"] for line in told)


def test_more_parts_at_once_than_may_wait_are_all_answered(bundle: Path, tmp_path: Path) -> None:
    said = tmp_path / "stderr"
    arguments = ("--engine", bundle, "--camera", LIVE, "--trigger", "stdin", "--deadline-ms", "5000")
    with started(*arguments, stderr=said, stdin=subprocess.PIPE) as process:
        parts = "".join(f"p{number}\n" for number in range(30))
        stdout, _ = process.communicate(f'{{"no": "part"}}\n{parts}', timeout=WAIT_S)
    told = lines_of(stdout)
    assert "triggers  refused 1" in said.read_text()
    assert [line["part_id"] for line in told] == [f"p{number}" for number in range(30)]
    assert "trigger overrun" in {line["reason"].split(":")[0] for line in told}


def test_a_port_of_the_systems_choice_is_said_and_a_killed_camera_process_is_replaced(
    bundle: Path, tmp_path: Path
) -> None:
    said = tmp_path / "stderr"
    arguments = ("--engine", bundle, "--camera", LIVE, "--trigger", "tcp://127.0.0.1:0", "--deadline-ms", "5000")
    with started(*arguments, "--quiet", stderr=said) as process:
        until(lambda: "camera" in said.read_text() and "triggers tcp://" in said.read_text(), WAIT_S)
        port = int(said.read_text().partition("triggers tcp://127.0.0.1:")[2].split()[0])
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
            plc = client.makefile("rw", encoding="utf-8")
            until(lambda: _answer(plc, "before")["decision"] in ("OK", "NG"), WAIT_S)
            (capture,) = [child for child in psutil.Process(process.pid).children() if _captures(child)]
            os.kill(capture.pid, signal.SIGKILL)
            until(lambda: not capture.is_running() or capture.status() == psutil.STATUS_ZOMBIE, WAIT_S)
            until(lambda: _answer(plc, "after")["decision"] in ("OK", "NG"), WAIT_S)
            plc.close()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, said.read_text()
    assert "it was ended by SIGKILL" in said.read_text() or "back after" in said.read_text()
    assert not psutil.pid_exists(capture.pid)


def _captures(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "capture_process" in " ".join(process.cmdline())
    return False


_asked = iter(range(1_000_000))


def _answer(plc: Any, name: str) -> dict[str, Any]:
    """Triggers one more part and gives the answer to it."""
    part = f"{name} {next(_asked)}"
    plc.write(f"{part}\n")
    plc.flush()
    while True:
        message: dict[str, Any] = json.loads(plc.readline())
        if message.get("part") == part:
            return message


def test_a_switch_of_recipes_while_it_runs(bundle: Path, tmp_path: Path) -> None:
    said, recipes = tmp_path / "stderr", tmp_path / "recipes"
    recipes.mkdir()
    for name, threshold in (("cap", 3.0), ("lid", 7.0)):
        text = f'model = "{bundle}"\ncamera = "{LIVE}"\nthreshold = {threshold}\n'
        (recipes / f"{name}.toml").write_text(text)
    with started("--recipe", recipes, stderr=said) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        use(recipes, "lid")
        while (line := json.loads(process.stdout.readline()))["recipe"] == "cap":
            assert line["threshold"] == 3.0
        assert (first["recipe"], line["recipe"], line["threshold"]) == ("cap", "lid", 7.0)
        assert line["model_id"] == first["model_id"] != ""
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, said.read_text()
    assert "recipe lid is in force" in said.read_text()


def test_a_camera_that_takes_pictures_when_told_to(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cameras.CAMERAS, "software", "tests.cli.software_camera:SoftwareCamera")
    arguments = ("--engine", bundle, "--camera", "software://", "--trigger", "timer://?rate=20&parts=5")
    done = edge_ad("run", *arguments, "--policy", "software", "--deadline-ms", "10000")
    assert done.exit_code == 0, done.stderr
    told = lines_of(done.stdout)
    assert [(line["part_id"], line["decision"] in ("OK", "NG")) for line in told] == [
        (str(number), True) for number in range(1, 6)
    ]


@pytest.mark.usefixtures("scripted")
def test_a_camera_that_stays_away_ends_the_run_only_when_that_was_asked_for(bundle: Path) -> None:
    camera = "scripted://?steps=good,lost&live=1"
    done = edge_ad("run", "--engine", bundle, "--camera", camera, "--give-up-s", "0.5", "--in-process")
    assert done.exit_code == 5
    assert "was lost and did not come back" in done.stderr and "the scripted camera is gone" in done.stderr
    kept = edge_ad("run", "--engine", bundle, "--camera", LIVE, "--duration-s", "0.3", "--in-process")
    assert kept.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("--policy", "trigger"), "has no source of triggers", id="no triggers"),
        pytest.param(("--policy", "software", "--trigger", "timer://"), "no pictures when told to", id="camera cannot"),
        pytest.param(("--policy", "latest", "--trigger", "timer://"), "does not go together", id="contradiction"),
        pytest.param(("--threshold", "nan"), "--threshold is not valid", id="no number"),
        pytest.param(("--trigger", "tcp://0.0.0.0:0"), "would listen beyond this machine", id="exposed"),
        pytest.param(("--deadline-ms", "100", "--offset-ms", "90"), "before a part is in view", id="too late"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(bundle: Path, arguments: tuple[str, ...], words: str) -> None:
    done = edge_ad("run", "--engine", bundle, "--camera", LIVE, "--in-process", *arguments)
    assert done.exit_code == 2, done.stderr
    assert words in done.stderr and "remedy" in done.stderr


def test_an_engine_without_a_name_is_refused() -> None:
    done = edge_ad("run", "--engine", "", "--camera", LIVE)
    assert done.exit_code == 2 and "--engine is not valid" in done.stderr
