"""The documentation names every command, and every command that it shows is one that exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from edge_ad.cli import COMMANDS, app
from edge_ad.config import TrainConfig
from edge_ad.settings import read_toml

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "calibration" / "README.md",
    ROOT / "engines" / "README.md",
]


def shown_commands() -> list[tuple[str, str]]:
    """Each ``edge-ad …`` in a code block or in backquotes, with its page."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [
            line.strip() for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
        ]
        lines += re.findall(r"`(edge-ad [^`]+)`", text)
        found += [(page.name, line.split("#")[0].strip()) for line in lines if line.startswith("edge-ad ")]
    return found


def parser_of(*names: str) -> Any:
    """The parser behind a command, or behind one of several under a name; its class is a matter of Typer's version."""
    parser: Any = typer.main.get_command(app)
    for name in names:
        parser = parser.commands.get(name, parser) if hasattr(parser, "commands") else parser
    return parser


def test_commands_of_several_are_found() -> None:
    assert parser_of("engines").name == "engines"
    assert parser_of("engines", "prune").name == "prune"
    assert parser_of("run", "engines/lid").name == "run"


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_names_every_command(name: str) -> None:
    assert f"`edge-ad {name}`" in PAGES[0].read_text()


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_shown_commands_exist_with_their_options(page: str, line: str) -> None:
    words = shlex.split(line)
    assert words[1] in COMMANDS, f"{page} shows {line!r}"
    if "--" in words:
        # What stands behind it is for the run that a service starts.
        end = words.index("--")
        assert unknown_options("run", words=words[end + 1 :]) == set(), f"{page} shows {line!r}"
        words = words[:end]
    assert unknown_options(*words[1:3], words=words[2:]) == set(), f"{page} shows {line!r}"


def unknown_options(*names: str, words: list[str]) -> set[str]:
    """Those among ``words`` that the command has not."""
    options = {option for parameter in parser_of(*names).params for option in parameter.opts} | {"--help"}
    return {word.split("=")[0] for word in words if word.startswith("--")} - options


def test_the_page_of_settings_has_all_of_them_with_their_defaults() -> None:
    page = read_toml(ROOT / "docs/settings.toml")
    assert TrainConfig.model_validate(page) == TrainConfig()
    defaults = TrainConfig().model_dump(mode="json", exclude={"roi"})
    assert page.keys() == defaults.keys()
    for name, value in defaults.items():
        if isinstance(value, dict):
            assert page[name].keys() == value.keys()


def test_every_help_text_has_an_example() -> None:
    for name in COMMANDS:
        assert f"edge-ad {name}" in (parser_of(name).help or ""), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
