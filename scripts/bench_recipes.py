"""How long a change-over takes: from ``edge-ad recipe use`` to the first verdict on the other product.

    scripts/bench recipes [--rounds 5] [--bundle DIR] [--json]

``resident`` recipes were loaded ahead; ``cold`` ones are opened, verified and warmed up when they are asked for. The
model has an operating mode for both sensors and one for each alone, and all three are opened. By default it is small
and trained here; the line runs at 30 frames a second all the while.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.console import Console
from rich.table import Table
from soak import train

from edge_ad.runtime.recipes import use

CAMERA = "synthetic://?width=640&height=480&fps=30&pool=4"
RESIDENT = 4
"""So many a line keeps."""
AHEAD_S = 15
"""Time to load the first ones."""


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    bundle: Annotated[Path | None, typer.Option(help="Of 640×480 frames; by default one is trained.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every change-over, as JSON.")] = False,
) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        recipes = directory / "recipes"
        recipes.mkdir()
        model = (bundle or train(directory)).resolve()
        names = [f"product-{number}" for number in range(RESIDENT + rounds)]
        for name in names:
            (recipes / f"{name}.toml").write_text(f'model = "{model}"\ncamera = "{CAMERA}"\n')
        command = [sys.executable, "-m", "edge_ad", "run", "--recipe", str(recipes), "--jsonl", "-"]
        with (directory / "said").open("w") as said:
            line = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            taken_ms = _changes(line, recipes, names)
        except EOFError:
            sys.exit((directory / "said").read_text())
        finally:
            line.terminate()
            line.communicate(timeout=60)
    if as_json:
        print(json.dumps(taken_ms))
        return
    table = Table("change-over to a recipe that is", "median ms", "longest ms", "times", box=None)
    for kind, values in taken_ms.items():
        table.add_row(kind, f"{statistics.median(values):.0f}", f"{max(values):.0f}", str(len(values)))
    Console().print(table)


def _changes(line: subprocess.Popen[str], recipes: Path, names: list[str]) -> dict[str, list[float]]:
    assert line.stdout is not None
    _until(line.stdout, names[0])
    loaded_s = time.monotonic() + AHEAD_S
    while time.monotonic() < loaded_s:
        line.stdout.readline()
    resident, cold = names[1:RESIDENT], names[RESIDENT:]
    taken_ms: dict[str, list[float]] = {"resident": [], "cold": []}
    for kind, order in (("resident", (resident * len(cold))[: len(cold)]), ("cold", cold)):
        for name in order:
            started_s = time.monotonic()
            use(recipes, name)
            _until(line.stdout, name)
            taken_ms[kind].append(1000 * (time.monotonic() - started_s))
    return taken_ms


def _until(lines: IO[str], recipe: str) -> None:
    """Reads verdicts up to the first one by this recipe.

    Raises:
        EOFError: the line ended before.
    """
    for text in lines:
        if json.loads(text)["recipe"] == recipe:
            return
    raise EOFError("the line ended")


if __name__ == "__main__":
    typer.run(main)
