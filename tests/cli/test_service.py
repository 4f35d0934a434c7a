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
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["-q"], ["--quiet"], id="quiet once"),
        pytest.param(["--jsonl", "-"], ["--jsonl", "-"], id="lines in the journal for who asks for them"),
        pytest.param(["--json"], ["--json"], id="report"),
        pytest.param(["--threshold", "-3"], ["--threshold", "-3.0", "--quiet"], id="number"),
        pytest.param(["--mode=rgb_only"], ["--mode", "rgb_only", "--quiet"], id="with ="),
    ],
)
def test_arguments_are_written_out(bundle: Path, arguments: list[str], expected: list[str]) -> None:
    settings = shown("--", "--engine", bundle, "--camera", CAMERA, *arguments)
    assert run_arguments(settings)[4:] == expected


@pytest.mark.usefixtures("units")
def test_what_was_written_out_stays_as_it_is(bundle: Path) -> None:
    written = run_arguments(shown("--", "-q", "--camera", CAMERA, "--engine", bundle, "--threshold", "5e-1"))
    assert run_arguments(shown("--", *written)) == written


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
def test_a_served_model_is_left_as_it_is() -> None:
    uri = "grpc://127.0.0.1:8001/lid?bundle=/b"
    assert run_arguments(shown("--", "--engine", uri, "--camera", CAMERA))[:2] == ["--engine", uri]


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["--engine", "BUNDLE"], "--camera", id="missing option"),
        pytest.param(["--engine", "BUNDLE", "--camera", CAMERA, "--fast"], "No such option", id="unknown option"),
        pytest.param(["--engine", "BUNDLE", "--camera", CAMERA, "--threshold", "x"], "--threshold", id="no number"),
        pytest.param([], "--engine", id="nothing"),
        pytest.param(["--engine", "nowhere/lid", "--camera", CAMERA], "nowhere/lid does not exist", id="no engine"),
        pytest.param(["--engine", "BUNDLE", "--camera", "mind://"], "'mind' is unknown", id="no such camera"),
        pytest.param(["--engine", "BUNDLE", "--camera", "folder://."], "is no live camera", id="files"),
        pytest.param(
            ["--engine", "BUNDLE", "--camera", CAMERA, "--trigger", "stdin"], "no standard input", id="triggers"
        ),
        pytest.param(["--engine", "BUNDLE", "--camera", CAMERA, "--frames", "3"], "--frames has no place", id="ends"),
    ],
)
def test_arguments_that_no_service_can_be_of(units: Path, bundle: Path, arguments: list[str], told: str) -> None:
    words = [str(bundle) if word == "BUNDLE" else word for word in arguments]
    refused(edge_ad("service", "install", "lid", "--no-start", "--", *words), 2, told)
    assert list(units.iterdir()) == []


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


def make_recipe(path: Path, **settings: str | Path) -> Path:
    path.write_text("".join(f'{name} = "{value}"\n' for name, value in settings.items()))
    return path


@pytest.mark.usefixtures("units")
def test_recipes(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_recipe(tmp_path / "lid.toml", model=bundle, camera=CAMERA)
    assert run_arguments(shown("--", "--recipe", "lid.toml")) == ["--recipe", str(tmp_path / "lid.toml"), "--quiet"]
    assert run_arguments(shown("--", "--recipe", "."))[:2] == ["--recipe", str(tmp_path)]


@pytest.mark.usefixtures("units")
def test_lines_that_a_recipe_wants_on_standard_output_stay_there(bundle: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "lid.toml", model=bundle, camera=CAMERA)
    recipe.write_text(recipe.read_text() + '[outputs]\njsonl = "-"\n')
    assert run_arguments(shown("--", "--recipe", recipe)) == ["--recipe", str(recipe)]


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        pytest.param({}, "names no camera", id="no camera"),
        pytest.param({"camera": "folder://."}, "is no live camera", id="files"),
        pytest.param({"camera": CAMERA, "model": "nowhere"}, "nowhere does not exist", id="no engine"),
        pytest.param({"camera": CAMERA, "triggers": "stdin"}, "no standard input", id="triggers"),
        pytest.param({"camera": CAMERA, "shape": "round"}, "no setting shape", id="wrong"),
    ],
)
def test_recipes_that_no_service_can_be_of(bundle: Path, tmp_path: Path, settings: dict[str, str], told: str) -> None:
    recipe = make_recipe(tmp_path / "lid.toml", **{"model": bundle, **settings})
    refused(edge_ad("service", "show", "lid", "--", "--recipe", recipe), 2, told)


@pytest.mark.usefixtures("units")
def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    refused(edge_ad("service", "show", "lid", "--", "--recipe", tmp_path / "lid.toml"), 2, "lid.toml cannot be read")


@pytest.mark.usefixtures("units")
def test_every_fallback_is_kept(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    run = ("--engine", bundle.name, "--camera", CAMERA, "--fallback", bundle.name, "--fallback", bundle)
    assert run_arguments(shown("--", *run, "--trigger", "timer://?rate=2")) == [
        *("--engine", str(bundle), "--camera", CAMERA, "--trigger", "timer://?rate=2"),
        *("--fallback", str(bundle)) * 2,
        "--quiet",
    ]


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
