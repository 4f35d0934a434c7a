"""The arguments of a ``run`` that a service starts: checked as ``run`` would, and true from any directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from edge_ad.cameras import CameraUri, camera_from_uri
from edge_ad.cli import run
from edge_ad.errors import ConfigError

USAGE_ERROR: Any = typer.BadParameter.__bases__[0]
"""Of every way not to parse; where Click keeps it is a matter of Typer's version."""

MUST_EXIST = ("engine", "recipe")
ENDING = ("frames", "duration_s")
STDOUT = Path("-")


def run_arguments(arguments: Sequence[str]) -> list[str]:
    """The same arguments, written out: long options, absolute paths, and no line of JSON a frame for the journal.

    Raises:
        ConfigError: ``edge-ad run`` would not take them, or a service cannot be of them.
    """
    parser: Any = _parser()
    try:
        values = parser.make_context("edge-ad run", list(arguments)).params
    except USAGE_ERROR as error:
        raise ConfigError(
            "edge-ad run would not understand its arguments",
            why=error.format_message(),
            remedy="see edge-ad run --help; what it should get stands behind --",
        ) from error
    _refuse_what_ends(values)
    values = {name: _anywhere(name, value) for name, value in values.items()}
    if not (values["quiet"] or values["json_output"] or values["jsonl"] == STDOUT):
        values["quiet"] = True
    return [word for parameter in parser.params for word in _words(parameter, values[parameter.name])]


def _parser() -> Any:
    alone = typer.Typer(add_completion=False)
    alone.command("run")(run.command)
    return get_command(alone)


def _refuse_what_ends(values: dict[str, Any]) -> None:
    for name in ENDING:
        if values.get(name) is not None:
            raise ConfigError(
                f"a service does not end by itself, so --{name.replace('_', '-')} has no place in it",
                why="systemd would start it anew",
                remedy="leave it out",
            )
    for uri in _listed(values["camera"]):
        if not camera_from_uri(uri).caps.live:
            raise ConfigError(
                f"{uri} is no live camera",
                why="a service would judge the same files again and again",
                remedy="name a live camera, or judge the files with edge-ad run",
            )


def _anywhere(name: str, value: Any) -> Any:
    """A value that means the same in every directory."""
    if isinstance(value, list | tuple):
        return [_anywhere(name, one) for one in value]
    if name == "camera" and value is not None:
        uri = CameraUri.parse(value)
        path = Path(uri.path).expanduser()
        return str(replace(uri, path=str(path.absolute()))) if uri.path and path.exists() else value
    if name in MUST_EXIST and value is not None and "://" not in str(value):
        path = Path(value).expanduser().absolute()
        if not path.exists():
            raise ConfigError(f"--{name} {value} does not exist", why=f"there is no {path}", remedy="check the path")
        return path
    return value.expanduser().absolute() if isinstance(value, Path) and value != STDOUT else value


def _words(parameter: Any, value: Any) -> Iterator[str]:
    """A parameter as it is written on the command line; nothing where it has its default."""
    if value is None or value == parameter.default or value == []:
        return
    option = max(parameter.opts, key=len)
    if isinstance(value, bool):
        yield option if value else max(parameter.secondary_opts, key=len)
        return
    for one in _listed(value):
        text = str(one.value if isinstance(one, Enum) else one)
        yield from (text,) if parameter.param_type_name == "argument" else (option, text)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
