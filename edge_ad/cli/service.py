"""``edge-ad service``: a line that starts with the box and is started again whatever happens."""

from __future__ import annotations

import grp
import os
import pwd
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from edge_ad.cli.console import notes, print_json, results
from edge_ad.cli.service_arguments import run_arguments
from edge_ad.errors import ConfigError, OutputError
from edge_ad.service import DEVICE_GROUPS, Service, unit_name
from edge_ad.systemd import Manager, missing

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the line; the unit is edge-ad-NAME.service.")]
Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="-- ARGUMENTS", help="What edge-ad run gets.", show_default=False)
]
Own = Annotated[bool, typer.Option("--user", help="A service of your own: needs no root, has your rights.")]
RunAs = Annotated[
    str | None, typer.Option(metavar="USER", help="Whose rights it has; by default who asks, also through sudo.")
]
Directory = Annotated[
    Path | None, typer.Option("--directory", metavar="DIR", help="Where it runs; by default here.", show_default=False)
]
Variables = Annotated[
    list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="A variable for it; may be repeated.")
]
MemoryMax = Annotated[str, typer.Option(metavar="SIZE", help="Killed above it and started again, e.g. 4G or 60%.")]

app = typer.Typer(
    help="""Makes a line a systemd service: it starts with the box and is started again whatever happens.

    What edge-ad run should get stands behind --.

    Example: edge-ad service install lid -- --engine engines/lid --camera realsense
    """,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def install(
    name: Name,
    arguments: Arguments = None,
    own: Own = False,
    run_as: RunAs = None,
    directory: Directory = None,
    variables: Variables = None,
    memory_max: MemoryMax = "",
    no_start: Annotated[bool, typer.Option("--no-start", help="Only write the unit.")] = False,
) -> None:
    """Writes the unit, and starts it now and at every boot.

    Paths become absolute, and the arguments are checked as edge-ad run would.
    One of the same name is replaced and started anew.

    Example: edge-ad service install lid --user -- --engine engines/lid --camera realsense
    """
    manager, unit = Manager(own), unit_name(name)
    text = _service(name, arguments, own, run_as, directory, variables, memory_max).unit()
    if not no_start:
        manager.require_running()
    path = manager.write(unit, text)
    notes.print(f"[green]written[/] {escape(str(path))}", soft_wrap=True)
    scope = " --user" if own else ""
    if no_start:
        notes.print(f"  start it with: systemctl{scope} daemon-reload; systemctl{scope} enable --now {unit}")
        return
    manager.control("daemon-reload")
    manager.control("enable", unit)
    # Not enable --now, which would leave one that runs already as it was; and loading an engine takes its time.
    manager.control("restart", "--no-block", unit)
    notes.print(f"[green]starting[/] {unit}", soft_wrap=True)
    notes.print(f"  look at it with: systemctl{scope} status {unit}; journalctl{scope} -fu {unit}", soft_wrap=True)
    if own:
        notes.print("  it ends when you log out, unless you say once: loginctl enable-linger", soft_wrap=True)


@app.command()
def uninstall(name: Name, own: Own = False) -> None:
    """Stops the service and removes its unit; what it wrote stays.

    Example: edge-ad service uninstall lid
    """
    manager, unit = Manager(own), unit_name(name)
    path = manager.directory / unit
    if not path.exists():
        raise missing(path)
    running = Manager.running()
    if running:
        manager.control("disable", "--now", unit)
    manager.remove(unit)
    if running:
        manager.control("daemon-reload")
    notes.print(f"[green]removed[/] {escape(str(path))}", soft_wrap=True)


@app.command()
def show(
    name: Name,
    arguments: Arguments = None,
    own: Own = False,
    run_as: RunAs = None,
    directory: Directory = None,
    variables: Variables = None,
    memory_max: MemoryMax = "",
    json_output: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Prints the unit: with arguments the one that install would write, without the one that is installed.

    Example: edge-ad service show lid
    """
    path = Manager(own).directory / unit_name(name)
    if arguments:
        text = _service(name, arguments, own, run_as, directory, variables, memory_max).unit()
    else:
        text = _installed(path)
    if json_output:
        print_json({"path": str(path), "installed": path.exists(), "unit": text})
    else:
        results.out(text, end="", highlight=False)


def _service(
    name: str,
    arguments: list[str] | None,
    own: bool,
    run_as: str | None,
    directory: Path | None,
    variables: list[str] | None,
    memory_max: str,
) -> Service:
    if own and run_as:
        raise ConfigError("--user and --run-as contradict each other", remedy="leave one of them out")
    account = "" if own else run_as or os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    place = (directory or Path()).expanduser().absolute()
    if not place.is_dir():
        raise ConfigError(f"{place} is no directory", remedy="make it, or give another with --directory")
    return Service(
        name,
        (sys.executable, "-m", "edge_ad", "run", *run_arguments(arguments or ())),
        place,
        _environment(variables or ()),
        account,
        _groups(account) if account else (),
        memory_max,
    )


def _environment(variables: list[str] | tuple[()]) -> dict[str, str]:
    # Engines are signed with a key that is kept in this directory.
    home = os.environ.get("EDGE_AD_HOME")
    environment = {"PYTHONUNBUFFERED": "1", **({"EDGE_AD_HOME": home} if home else {})}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not equals:
            raise ConfigError(f"--env {variable} has no value", remedy="write --env NAME=VALUE")
        environment[name] = value
    return environment


def _groups(account: str) -> tuple[str, ...]:
    """The groups that a line needs and this box has; root needs none.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        entry = pwd.getpwnam(account)
    except KeyError as error:
        raise ConfigError(f"there is no user {account!r}", remedy="check --run-as, or add the user first") from error
    there = {group.gr_name for group in grp.getgrall()}
    return tuple(group for group in DEVICE_GROUPS if group in there) if entry.pw_uid else ()


def _installed(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        raise OutputError(f"{path} cannot be read", why=str(error), remedy="check its permissions") from error
