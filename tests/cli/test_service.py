"""``edge-ad service``, with a stand-in for ``systemctl`` where one is asked to start something."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_ad import systemd
from tests.cli.command_line import Outcome, edge_ad
from tests.systemd_units import command_of, settings_of, words_of

CAMERA = "synthetic://?size=64"


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where units of the system are."""
    directory = tmp_path / "units"
    directory.mkdir()
    monkeypatch.setattr(systemd, "SYSTEM_UNITS", directory)
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.delenv("EDGE_AD_HOME", raising=False)
    return directory


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that systemd runs; the file gets a line for each call of ``systemctl``."""
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    program = programs / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >> "{calls}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(systemd, "BOOTED", tmp_path)
    return calls


def shown(*arguments: str | Path) -> dict[str, list[str]]:
    done = edge_ad("service", "show", "lid", *arguments)
    assert done.exit_code == 0, done.stderr
    return settings_of(done.stdout)["Service"]


def run_arguments(settings: dict[str, list[str]]) -> list[str]:
    command = command_of(settings["ExecStart"][0])
    assert command[:4] == [sys.executable, "-m", "edge_ad", "run"]
    return command[4:]


def refused(done: Outcome, exit_code: int, *told: str) -> None:
    assert done.exit_code == exit_code, done.stderr
    for text in (*told, "remedy"):
        assert text in done.stderr


@pytest.mark.usefixtures("units")
def test_relative_paths_become_absolute(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    (bundle.parent / "recording").mkdir(exist_ok=True)
    settings = shown("--", "--engine", bundle.name, "--camera", "replay://recording?loop=1", "--sqlite", "o k/$a.db")
    assert run_arguments(settings) == [
        *("--engine", str(bundle)),
        *("--camera", f"replay://{bundle.parent}/recording?loop=1"),
        *("--sqlite", str(bundle.parent / "o k/$a.db")),
        "--quiet",
    ]
    assert settings["WorkingDirectory"] == [str(bundle.parent)]
    settings = shown("--directory", tmp_path, "--", "--engine", bundle.name, "--camera", CAMERA)
    assert settings["WorkingDirectory"] == [str(tmp_path)]


@pytest.mark.usefixtures("units")
def test_what_the_unit_says_runs_from_elsewhere(bundle: Path, tmp_path: Path) -> None:
    """As the manager would start and stop it."""
    (tmp_path / "out put").mkdir()
    settings = shown(
        *("--directory", tmp_path, "--", "--engine", bundle, "--camera", CAMERA),
        *("--jsonl", tmp_path / "out put/$a%b.jsonl"),
    )
    lines = tmp_path / "out put/$a%b.jsonl"
    environment = os.environ | dict(words_of(line)[0].split("=", 1) for line in settings["Environment"])
    process = subprocess.Popen(
        command_of(settings["ExecStart"][0]),
        cwd=settings["WorkingDirectory"][0],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 60
    while not (lines.exists() and lines.stat().st_size) and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.terminate()
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert ": stopped" in stderr
    assert stdout == "", "no line a frame for the journal"
    assert json.loads(lines.read_text().splitlines()[0])["decision"] in ("OK", "NG")


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(["--user", "--run-as", "root"], "contradict", id="user and account"),
        pytest.param(["--run-as", "nobody-by-this-name"], "there is no user", id="no account"),
        pytest.param(["--env", "LANG"], "has no value", id="variable"),
        pytest.param(["--directory", "nowhere"], "is no directory", id="directory"),
        pytest.param(["--memory-max", "lots"], "no amount of memory", id="memory"),
    ],
)
def test_options_that_cannot_be(bundle: Path, options: list[str], told: str) -> None:
    refused(edge_ad("service", "show", "lid", *options, "--", "--engine", bundle, "--camera", CAMERA), 2, told)


@pytest.mark.usefixtures("units")
def test_whose_rights_it_has(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ("--", "--engine", bundle, "--camera", CAMERA)
    asker = pwd.getpwuid(os.getuid()).pw_name
    assert shown(*run)["User"] == [asker]
    assert shown("--run-as", "daemon", *run)["User"] == ["daemon"]
    monkeypatch.setenv("SUDO_USER", "daemon")
    assert shown(*run)["User"] == ["daemon"], "engines are signed with a key of the user who built them"
    assert "User" not in shown("--user", *run)


@pytest.mark.usefixtures("units")
def test_variables(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AD_HOME", "/var/lib/edge-ad")
    settings = shown("--env", "LD_LIBRARY_PATH=/a b", "--env", "X=", "--", "--engine", bundle, "--camera", CAMERA)
    assert settings["Environment"] == [
        "PYTHONUNBUFFERED=1",
        "EDGE_AD_HOME=/var/lib/edge-ad",
        '"LD_LIBRARY_PATH=/a b"',
        "X=",
    ]


def test_nothing_is_written_of_what_cannot_run(units: Path, bundle: Path) -> None:
    run = ("--", "--engine", bundle, "--camera", CAMERA, "--fast")
    refused(edge_ad("service", "install", "lid", "--no-start", *run), 2, "No such option")
    assert list(units.iterdir()) == []


def test_installed_started_shown_and_uninstalled(units: Path, systemctl: Path, bundle: Path) -> None:
    done = edge_ad("service", "install", "lid", "--memory-max", "4G", "--", "--engine", bundle, "--camera", CAMERA)
    assert done.exit_code == 0, done.stderr
    unit = units / "edge-ad-lid.service"
    assert systemctl.read_text().splitlines() == [
        "daemon-reload",
        "enable edge-ad-lid.service",
        "restart --no-block edge-ad-lid.service",
    ]
    assert edge_ad("service", "show", "lid").stdout == unit.read_text()
    report = json.loads(edge_ad("service", "show", "lid", "--json").stdout)
    assert report == {"path": str(unit), "installed": True, "unit": unit.read_text()}
    systemctl.unlink()
    assert edge_ad("service", "uninstall", "lid").exit_code == 0
    assert systemctl.read_text().splitlines() == ["disable --now edge-ad-lid.service", "daemon-reload"]
    assert not unit.exists()
    refused(edge_ad("service", "uninstall", "lid"), 2, "there is no service lid")
    refused(edge_ad("service", "show", "lid"), 2, "there is no service lid")


def test_a_service_of_ones_own(
    units: Path, systemctl: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    done = edge_ad("service", "install", "lid", "--user", "--", "--engine", bundle, "--camera", CAMERA)
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "config/systemd/user/edge-ad-lid.service").exists()
    assert all(line.startswith("--user ") for line in systemctl.read_text().splitlines())
    assert list(units.iterdir()) == []
    assert "enable-linger" in done.stderr


def test_a_switch_that_fails_is_said(units: Path, systemctl: Path, bundle: Path) -> None:
    program = systemctl.parent / "bin/systemctl"
    program.write_text("#!/bin/sh\necho 'Access denied' >&2\nexit 4\n")
    done = edge_ad("service", "install", "lid", "--", "--engine", bundle, "--camera", CAMERA)
    refused(done, 2, "systemctl daemon-reload failed", "Access denied")


def test_without_systemd_only_the_unit_is_written(
    units: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "BOOTED", tmp_path / "nothing")
    run = ("--", "--engine", bundle, "--camera", CAMERA)
    refused(edge_ad("service", "install", "lid", *run), 2, "services cannot be started here", "--no-start")
    assert list(units.iterdir()) == []
    done = edge_ad("service", "install", "lid", "--no-start", *run)
    assert done.exit_code == 0, done.stderr
    assert [path.name for path in units.iterdir()] == ["edge-ad-lid.service"]
    assert edge_ad("service", "uninstall", "lid").exit_code == 0
    assert list(units.iterdir()) == []


def test_without_rights_the_way_to_them_is_said(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(systemd, "SYSTEM_UNITS", tmp_path)
    done = edge_ad("service", "install", "lid", "--no-start", "--", "--engine", bundle, "--camera", CAMERA)
    refused(done, 6, "rights of root", "sudo", "--user")
