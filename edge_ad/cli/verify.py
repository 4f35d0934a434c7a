"""``edge-ad verify``: do all backends of this box give the golden answers?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from edge_ad.bundle import read_bundle
from edge_ad.cli.console import notes, print_json, progress_bar, results
from edge_ad.engine import ENGINE, read_engine
from edge_ad.errors import ConfigError
from edge_ad.verification import Verification, verify_bundle, verify_engine

STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
TITLES = {"golden": "golden", "batch": "in a batch"}


def command(
    model: Annotated[Path, typer.Argument(metavar="BUNDLE_OR_ENGINE", help="Directory of a bundle or an engine.")],
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this backend; by default all that edge-ad has.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print every check as JSON.")] = False,
) -> None:
    """Runs the golden samples and compares, for every backend and operating mode.

    A bundle's graphs are built in fp32 for each backend that can run on this
    box, in memory; an engine is tried as it was built. Two things are checked:
    the answers are PyTorch's, within the precision's tolerance; and a frame
    inside a batch, whatever its place and neighbours, is judged as the frame
    alone. A backend that cannot run here is skipped and says why.

    Exit codes: 0 all that could be tried agrees, 1 something disagrees or
    nothing could be tried, 4 it is no sound bundle or engine of this box.

    Example: edge-ad verify bundles/lid
    """
    directory = model.parent if model.is_file() else model
    with progress_bar("verifying") as bar:
        if (directory / ENGINE).is_file():
            built_for = read_engine(directory).manifest.backend
            if backend not in (None, built_for):
                raise ConfigError(f"{directory} is an engine for {built_for}, not {backend}", remedy="omit --backend")
            verification = verify_engine(directory)
        else:
            bundle = read_bundle(directory)
            verification = verify_bundle(
                bundle, backend, lambda what: bar.update(bar.task_ids[0], description=f"verifying {what}")
            )
    if json_output:
        print_json(verification.report())
    else:
        results.print(verification_table(verification))
        _print_reasons(verification)
    if not verification.passed:
        raise typer.Exit(1)


def verification_table(verification: Verification) -> Table:
    """One row a check, with the output that came nearest to its tolerance."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("backend", "mode", "check", "output"):
        table.add_column(heading, overflow="fold")
    for heading in ("differs by", "allowed"):
        table.add_column(heading, justify="right")
    table.add_column("verdict", no_wrap=True)
    for check in verification.checks:
        table.add_row(
            f"{check.backend} {check.precision}",
            escape(check.mode),
            TITLES[check.kind],
            escape(check.output),
            "" if check.difference is None else f"{check.difference:.2g}",
            "" if check.allowed is None else f"{check.allowed:.2g}",
            f"[{STYLES[check.verdict]}]{check.verdict}[/]",
        )
    return table


def _print_reasons(verification: Verification) -> None:
    """Why checks were skipped or failed, each reason once, and what the whole amounts to."""
    reasons = {(check.verdict, check.backend, check.reason): None for check in verification.checks if check.reason}
    for verdict, backend, reason in reasons:
        notes.print(f"[{STYLES[verdict]}]{verdict}[/] {backend}: {escape(reason)}", soft_wrap=True)
    count = {verdict: sum(check.verdict == verdict for check in verification.checks) for verdict in STYLES}
    if verification.passed:
        notes.print(f"[green]verified[/] {count['passed']} checks passed, {count['skipped']} skipped")
    elif count["failed"]:
        notes.print(f"[bold red]failed[/] {count['failed']} of {count['failed'] + count['passed']} checks")
    else:
        notes.print("[bold red]failed[/] nothing could be tried on this box")
