"""What ``reproduce`` and ``train-many`` show: a line for each experiment, tables, and what failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from edge_ad.cli.console import notes, results
from edge_ad.evaluation import METRIC_TITLES
from edge_ad.experiments import Failure, Outcome, ResultTable

LINE_METRICS = ("image_auroc", "aupro_30")


def print_outcome(outcome: Outcome, done: int, total: int) -> None:
    """One line: the experiment and its main metrics, or that it failed."""
    place = f"{done} of {total}"
    if isinstance(outcome, Failure):
        notes.print(f"[bold red]failed[/] {place}: {escape(outcome.name)}: {escape(outcome.what)}", soft_wrap=True)
        return
    metrics = outcome.metrics
    figures = ", ".join(f"{METRIC_TITLES[name]} {100 * metrics[name]:.1f}" for name in LINE_METRICS if name in metrics)
    notes.print(f"[green]done[/] {place}: {escape(outcome.name)}: {figures}", soft_wrap=True)


def print_retry(failure: Failure) -> None:
    """One line: an experiment failed and starts again."""
    notes.print(f"[yellow]again[/] {escape(failure.name)}: {escape(failure.what)}", soft_wrap=True)


def print_table(content: ResultTable) -> None:
    """A result table on standard output."""
    table = Table(
        title=escape(content.title), title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold"
    )
    for index, heading in enumerate(content.headings):
        width = max(map(len, (*heading.split(), *(row[index] for row in content.rows))))
        table.add_column(heading, justify="right" if index else "left", width=width, overflow="fold")
    for row in content.rows:
        table.add_row(*map(escape, row))
    results.print(table)


def print_failures(failures: Sequence[Failure]) -> None:
    """What happened, why, and what to do, of each."""
    for failure in failures:
        notes.print(f"[bold red]failed[/] {escape(failure.name)}: {escape(failure.what)}", soft_wrap=True)
        for label, text in (("why", failure.why), ("remedy", failure.remedy)):
            if text:
                notes.print(f"  [dim]{label:6s}[/] {escape(text)}", soft_wrap=True)


@contextmanager
def stoppable(output: Path) -> Iterator[None]:
    """Makes Ctrl-C one line that says what is kept, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        kept = escape(f"finished experiments are kept in {output}; the same command goes on")
        notes.print(f"[yellow]stopped[/] {kept}", soft_wrap=True)
        raise typer.Exit(130) from None
