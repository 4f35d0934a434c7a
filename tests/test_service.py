from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad import systemd
from edge_ad.errors import ConfigError, OutputError
from edge_ad.service import HARDENING, Service, exec_line, quoted, unit_name
from edge_ad.systemd import Manager, verify
from tests.systemd_units import command_of, settings_of, words_of

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")

ODD = ("a b", "100%", "$HOME ${X} $$", 'say "hi"', "back\\slash\\", ";", "tab\tnew\nline", "ünï", "'one'", "", "-x=1")

LID = Service("lid", (sys.executable, "-m", "edge_ad", "run", *ODD), Path("/tmp"), account="root")

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def service_settings(service: Service) -> dict[str, list[str]]:
    return settings_of(service.unit())["Service"]


@given(st.lists(texts | st.sampled_from(ODD)))
def test_every_argument_arrives_as_it_was(arguments: list[str]) -> None:
    command = ["/opt/my line/100% $python", *arguments]
    assert command_of(exec_line(command)) == command
    assert "\n" not in exec_line(command)


@given(texts)
def test_a_variable_arrives_as_it_was(value: str) -> None:
    service = replace(LID, environment={"PARTS": value})
    assert words_of(service_settings(service)["Environment"][0]) == [f"PARTS={value}"]


def test_the_unit_reads_back() -> None:
    service = replace(LID, environment={"A": "1 2", "B": "$x"}, groups=("video", "render"), memory_max="4G")
    sections = settings_of(service.unit())
    assert list(sections) == ["Unit", "Service", "Install"]
    assert sections["Unit"]["StartLimitIntervalSec"] == ["0"]
    assert sections["Install"] == {"WantedBy": ["multi-user.target"]}
    settings = sections["Service"]
    assert command_of(settings["ExecStart"][0]) == list(LID.command)
    assert [words_of(line) for line in settings["Environment"]] == [["A=1 2"], ["B=$x"]]
    expected = {
        "Type": "notify",
        "WorkingDirectory": "/tmp",
        "WatchdogSec": "10",
        "Restart": "always",
        "RestartSec": "2",
        "KillMode": "mixed",
        "MemoryMax": "4G",
        "User": "root",
        "SupplementaryGroups": "video render",
        "NoNewPrivileges": "yes",
    }
    assert {key: settings[key] for key in expected} == {key: [value] for key, value in expected.items()}


def test_nothing_is_hidden_from_a_line_that_it_needs() -> None:
    settings = service_settings(LID)
    for key in ("PrivateDevices", "DevicePolicy", "ProtectClock", "PrivateTmp", "MemoryDenyWriteExecute"):
        assert key not in settings
    assert settings.keys() >= dict(HARDENING).keys()


def test_a_service_of_a_users_own_asks_for_no_rights() -> None:
    service = replace(LID, account="", groups=("video",))
    settings = service_settings(service)
    assert not {"User", "SupplementaryGroups", "ProtectSystem"} & settings.keys()
    assert settings["NoNewPrivileges"] == ["yes"]
    assert "MemoryMax" not in settings
    assert settings_of(service.unit())["Install"] == {"WantedBy": ["default.target"]}


def test_percent_signs_of_the_directory_are_kept() -> None:
    settings = service_settings(replace(LID, directory=Path("/data/100% good")))
    assert settings["WorkingDirectory"] == ["/data/100%% good"]


@pytest.mark.parametrize("name", ["", "a b", "../lid", "-lid", ".lid", "lid/2", "lid@2", "lid\n", "x" * 101])
def test_names_that_a_unit_cannot_have(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be called"):
        unit_name(name)


def test_the_units_name() -> None:
    assert unit_name("line-2.b_C") == "edge-ad-line-2.b_C.service"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"memory_max": "lots"}, id="memory"),
        pytest.param({"memory_max": "4G\nUser=root"}, id="memory with a line"),
        pytest.param({"environment": {"A B": "1"}}, id="variable"),
        pytest.param({"directory": Path("relative")}, id="relative directory"),
        pytest.param({"directory": Path("/tmp/a\nb")}, id="directory with a line"),
        pytest.param({"directory": Path("/tmp/a\\")}, id="directory that joins lines"),
        pytest.param({"command": ("python", "x")}, id="program without a path"),
        pytest.param({"name": "a b"}, id="name"),
    ],
)
def test_what_cannot_stand_in_a_unit(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(LID, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["a\0b", "not \udcff utf-8"], ids=["zero", "surrogate"])
def test_words_that_cannot_be_written(word: str) -> None:
    with pytest.raises(ConfigError, match="cannot stand in a unit"):
        quoted(word)


@needs_systemd
@pytest.mark.parametrize("own", [False, True])
def test_systemd_understands_the_unit(own: bool) -> None:
    service = replace(LID, account="" if own else "root", environment={"ODD": " ".join(ODD)}, memory_max="60%")
    verify("edge-ad-lid.service", service.unit())


@needs_systemd
def test_a_unit_that_systemd_refuses_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "SYSTEM_UNITS", tmp_path)
    gone = replace(LID, command=("/nonexistent/python", "-m", "edge_ad"))
    with pytest.raises(ConfigError, match=r"systemd refuses edge-ad-lid\.service.*/nonexistent/python"):
        Manager().write("edge-ad-lid.service", gone.unit())
    assert list(tmp_path.iterdir()) == []


def test_units_are_written_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    manager = Manager(own=True)
    path = manager.write("edge-ad-lid.service", LID.unit())
    assert path == tmp_path / "systemd/user/edge-ad-lid.service"
    assert path.read_text() == LID.unit()
    assert manager.remove("edge-ad-lid.service") == path
    with pytest.raises(ConfigError, match="there is no service lid"):
        manager.remove("edge-ad-lid.service")


def test_a_directory_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(systemd, "SYSTEM_UNITS", tmp_path / "file/system")
    with pytest.raises(OutputError):
        Manager().write("edge-ad-lid.service", LID.unit())
