"""``edge-ad doctor``: what this box can do, and what to do about what it cannot."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from edge_ad.cli.console import notes, print_json, results
from edge_ad.cli.findings import Finding, Status, abilities, examine

STYLES = {Status.OK: "green", Status.NOTE: "yellow", Status.PROBLEM: "bold red"}


def command(json_output: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Looks at this box: what can it do, what is missing, and what brings it?

    Needs nothing and changes nothing. A missing GPU, camera or torch is a
    note, as a box may do without. Only a problem, which keeps the box from
    its work, makes the exit code 1.

    Example: edge-ad doctor
    """
    with notes.status("looking at this box"):
        findings = examine()
    healthy = all(finding.status is not Status.PROBLEM for finding in findings)
    if json_output:
        report = {"healthy": healthy, "can": abilities(findings), "findings": [asdict(item) for item in findings]}
        print_json(report)
    else:
        _print(findings)
    if not healthy:
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        style = STYLES[finding.status]
        table.add_row(f"[{style}]{finding.status.value}[/]", f"[bold]{finding.name}[/]", escape(finding.value))
        if finding.remedy:
            table.add_row("", "", f"[dim]→ {escape(finding.remedy)}[/]")
    results.print(table, "")
    for possible, words in ((True, "[green]can[/]"), (False, "[yellow]cannot[/]")):
        deeds = ", ".join(deed for deed, able in abilities(findings).items() if able is possible)
        if deeds:
            results.print(f"This box {words} {deeds}.")
