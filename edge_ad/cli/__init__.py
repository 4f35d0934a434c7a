"""The command line: one file per command, each of which parses, wires and prints."""

from __future__ import annotations

import importlib
import sys

import typer
from rich.console import Console

from edge_ad import __version__
from edge_ad.errors import EdgeAdError

COMMANDS = (
    "doctor",
    "demo",
    "rig",
    "capture",
    "train",
    "evaluate",
    "threshold",
    "reproduce",
    "train-many",
    "export",
    "calibrate",
    "build-engine",
    "verify",
    "benchmark",
    "engines",
    "export-triton",
    "run",
    "recipe",
    "service",
)
"""Command → module of this package (with _ for -) and its function ``command``, or its ``app`` of several."""

app = typer.Typer(
    name="edge-ad",
    help="From a folder of good RGB-D captures to a running real-time inspection.",
    epilog="Start with: edge-ad demo. Exit codes: 0 done, 1 check failed, 2 usage, 3 data, 4 model, 5 camera, 6 output",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        typer.echo(f"edge-ad {__version__}")
        raise typer.Exit


for _name in COMMANDS:
    _module = importlib.import_module(f"edge_ad.cli.{_name.replace('-', '_')}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name)
    else:
        app.command(_name)(_module.command)


def main() -> None:
    """Entry point: an error that a user can mend is three lines and an exit code, not a traceback."""
    try:
        app()
    except EdgeAdError as error:
        print_error(error)
        sys.exit(error.exit_code)


def print_error(error: EdgeAdError) -> None:
    """What happened, why, and what to do, on standard error."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[bold red]error[/] ", end="")
    console.print(error.what, markup=False)
    for label, text in (("why", error.why), ("remedy", error.remedy)):
        if text:
            console.print(f"  [dim]{label:6s}[/] ", end="")
            console.print(text, markup=False)
