"""``edge-ad engines``: what is built here, what of it can go, and whether it still works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from edge_ad.cli.console import notes, print_json, progress_bar, results
from edge_ad.engine_store import (
    StoredEngine,
    VerifiedEngine,
    foreign_entries,
    leftovers,
    remove_unusable,
    stored_engines,
    verified_engine,
)
from edge_ad.errors import ConfigError

Directory = Annotated[Path, typer.Option("--directory", "-d", help="Where the engines are, also deeper.")]
Json = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]

STYLES = {"usable": "green", "stale": "bold red", "unavailable": "yellow"}

app = typer.Typer(
    help="""Lists, verifies and prunes the engines that were built here.

    An engine fits one box: its hardware, driver and versions. These commands
    say which still do.

    Example: edge-ad engines list
    """,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("list")
def list_engines(directory: Directory = Path("engines"), json_output: Json = False) -> None:
    """Shows every engine: what it is of, what it is for, and whether this box can use it.

    Signature, digests, hardware and versions are checked; nothing is loaded.

    Example: edge-ad engines list --directory engines
    """
    engines = stored_engines(directory)
    if json_output:
        print_json([engine.report() for engine in engines])
        return
    if engines:
        results.print(_table([VerifiedEngine(engine) for engine in engines], directory))
    _print_reasons(engines, directory)
    notes.print(f"{len(engines)} engines in {escape(str(directory))}")


@app.command("verify")
def verify_engines(directory: Directory = Path("engines"), json_output: Json = False) -> None:
    """Loads every engine and runs its golden samples.

    Exit code 1 if one is stale, cannot be loaded or gives other answers. One
    whose backend cannot run here at present is named and not counted.

    Example: edge-ad engines verify
    """
    tried: list[VerifiedEngine] = []
    engines = stored_engines(directory)
    with progress_bar("verifying") as bar:
        for done, engine in enumerate(engines):
            bar.update(bar.task_ids[0], completed=done, total=len(engines), remark=engine.directory.name)
            tried.append(verified_engine(engine))
    if json_output:
        print_json(
            [
                item.engine.report()
                | {
                    "failed": item.failed,
                    "error": item.error,
                    "verification": item.verification and item.verification.report(),
                }
                for item in tried
            ]
        )
    else:
        if tried:
            results.print(_table(tried, directory, verified=True))
        _print_reasons([item.engine for item in tried], directory)
        _print_failures(tried, directory)
    if any(item.failed for item in tried):
        raise typer.Exit(1)


@app.command("prune")
def prune_engines(
    directory: Directory = Path("engines"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_output: Json = False,
) -> None:
    """Removes the engines that this box cannot use any more, and what killed builds left behind.

    That is: edited, damaged and foreign engines, and those for other hardware
    or versions. Engines whose backend only cannot run at present stay, and so
    does every directory that holds anything but an engine's own files.

    Example: edge-ad engines prune --dry-run
    """
    if json_output and not (yes or dry_run):
        raise ConfigError("--json cannot ask", remedy="add --yes or --dry-run")
    stale = [engine for engine in stored_engines(directory) if engine.state == "stale"]
    kept = {engine.directory: foreign_entries(engine.directory) for engine in stale}
    going = {engine.directory: engine.reason for engine in stale if not kept[engine.directory]}
    going |= dict.fromkeys(leftovers(directory), "a build was killed and left it")
    if not json_output:
        for path, reason in going.items():
            notes.print(f"[yellow]remove[/] {escape(str(path))}: {escape(reason)}", soft_wrap=True)
        for path, others in kept.items():
            if others:
                why = f"it also holds {escape(', '.join(others))}"
                notes.print(f"[yellow]keep[/] {escape(str(path))}, although it is of no use: {why}", soft_wrap=True)
    asked = going and not (dry_run or yes)
    if asked and not typer.confirm(f"Remove {len(going)}?", err=True):
        notes.print("nothing removed")
        return
    removed = [] if dry_run else [path for path in going if remove_unusable(path)]
    if json_output:
        print_json(
            {
                "to_remove": [{"directory": str(path), "reason": reason} for path, reason in going.items()],
                "kept": [{"directory": str(path), "also_holds": others} for path, others in kept.items() if others],
                "removed": [str(path) for path in removed],
            }
        )
    else:
        notes.print(f"{len(removed)} removed" if not dry_run else f"{len(going)} would be removed")


def _table(items: list[VerifiedEngine], root: Path, *, verified: bool = False) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("engine", "bundle", "backend", "runs", "MB", "built", "here", *(("golden",) if verified else ())):
        table.add_column(heading, overflow="fold", justify="right" if heading == "MB" else "left")
    for item in items:
        engine = item.engine
        golden = "[bold red]failed[/]" if item.failed else "[green]passed[/]" if item.verification else ""
        batch = f", batch ≤ {engine.max_batch}" if engine.max_batch > 1 else ""
        table.add_row(
            escape(_name(engine, root)),
            escape(f"{engine.bundle_name} {engine.bundle_digest[:8]}".strip()),
            escape(engine.backend_version or engine.backend),
            escape(f"{engine.mode} {engine.precision}{batch}".strip()),
            f"{engine.size_bytes / 1e6:.1f}",
            f"{engine.built_at.astimezone():%Y-%m-%d %H:%M}",
            f"[{STYLES[engine.state]}]{engine.state}[/]",
            *((golden,) if verified else ()),
        )
    return table


def _print_reasons(engines: list[StoredEngine], root: Path) -> None:
    for engine in engines:
        if engine.reason:
            name = escape(_name(engine, root))
            notes.print(f"[{STYLES[engine.state]}]{engine.state}[/] {name}: {escape(engine.reason)}", soft_wrap=True)
    if any(engine.state == "stale" for engine in engines):
        notes.print("  next: [bold]edge-ad engines prune[/]")


def _print_failures(tried: list[VerifiedEngine], root: Path) -> None:
    for item in tried:
        for check in item.verification.checks if item.verification else ():
            if check.verdict == "failed":
                why = (
                    check.reason or f"{check.output} differs by {check.difference:.3g}, {check.allowed:.3g} is allowed"
                )
                name = escape(_name(item.engine, root))
                notes.print(f"[bold red]failed[/] {name}, {check.kind}: {escape(why)}", soft_wrap=True)
    failed = sum(item.failed for item in tried)
    notes.print(f"{sum(item.verification is not None for item in tried)} of {len(tried)} tried, {failed} failed")


def _name(engine: StoredEngine, root: Path) -> str:
    return str(engine.directory.relative_to(root)) if engine.directory != root else engine.directory.name
