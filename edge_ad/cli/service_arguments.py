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
from edge_ad.cli.line import STDOUT, Plan, planned
from edge_ad.errors import ConfigError
from edge_ad.predictor import is_uri

USAGE_ERROR: Any = typer.BadParameter.__bases__[0]
"""Of every way not to parse; where Click keeps it is a matter of Typer's version."""

PATHS = ("FILE", "DIR", "PATH", "MODEL", "ENGINE")
"""What the help text of ``run`` calls values that are paths, or may be."""

ENDING = ("frames", "duration_s")


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
    values = {parameter.name: _anywhere(parameter, values.get(parameter.name)) for parameter in parser.params}
    overrides = {"model": values["engine"], "camera": values["camera"], "fallback": tuple(values["fallback"] or ())}
    plan = planned([Path(path) for path in values["recipe"] or ()], overrides)
    _check_models(plan)
    _refuse_what_ends(values, plan)
    if not (values["quiet"] or values["json_output"] or STDOUT in (values["jsonl"], plan.shared.outputs.jsonl)):
        values["quiet"] = True
    return [word for parameter in parser.params for word in _words(parameter, values[parameter.name])]


def _parser() -> Any:
    alone = typer.Typer(add_completion=False)
    alone.command("run")(run.command)
    return get_command(alone)


def _check_models(plan: Plan) -> None:
    for recipe in plan.recipes.values():
        for model in (recipe.model, *recipe.fallback):
            if not (is_uri(model) or Path(model).exists()):
                raise ConfigError(f"the engine {model} does not exist", remedy="check the path, or build it first")


def _refuse_what_ends(values: dict[str, Any], plan: Plan) -> None:
    """A service that ended would be started again, and again."""
    for name in ENDING:
        if values[name] is not None:
            raise ConfigError(
                f"a service does not end by itself, so --{name.replace('_', '-')} has no place in it",
                why="systemd would start it anew",
                remedy="leave it out",
            )
    if not camera_from_uri(str(plan.shared.camera)).caps.live:
        raise ConfigError(
            f"{plan.shared.camera} is no live camera",
            why="a service would judge the same files again and again",
            remedy="name a live camera, or judge the files with edge-ad run",
        )
    if (values["trigger"] or plan.shared.triggers or "").partition(":")[0] == "stdin":
        raise ConfigError(
            "a service has no standard input to get triggers from",
            remedy="use another source, such as --trigger tcp://127.0.0.1:7001",
        )


def _anywhere(parameter: Any, value: Any) -> Any:
    """A value that means the same in every directory."""
    if isinstance(value, list | tuple):
        return [_anywhere(parameter, one) for one in value]
    if value is None or str(value) == STDOUT:
        return value
    if parameter.name == "camera":
        uri = CameraUri.parse(value)
        path = Path(uri.path).expanduser()
        return str(replace(uri, path=str(path.absolute()))) if uri.path and path.exists() else value
    if parameter.metavar in PATHS and not is_uri(value):
        return str(Path(value).expanduser().absolute())
    return value


def _words(parameter: Any, value: Any) -> Iterator[str]:
    """A parameter as it is written on the command line; nothing where it has its default."""
    if value is None or value == parameter.default or value == []:
        return
    option = max(parameter.opts, key=len)
    if isinstance(value, bool):
        yield option if value else max(parameter.secondary_opts, key=len)
        return
    for one in value if isinstance(value, list) else [value]:
        text = str(one.value if isinstance(one, Enum) else one)
        yield from (text,) if parameter.param_type_name == "argument" else (option, text)
