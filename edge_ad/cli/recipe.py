"""``edge-ad recipe``: which product a running line inspects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from edge_ad.cli.console import notes, print_json, results
from edge_ad.runtime.recipes import active_in, read_recipes, use

HELP = """Recipes: one TOML file for each product, and which of them is in force.

Example: edge-ad recipe use lid recipes
"""

app = typer.Typer(help=HELP, no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(help="Directory of the recipes.", metavar="DIR")]


@app.command("use")
def use_command(name: Annotated[str, typer.Argument(help="The recipe's name.")], directory: Directory) -> None:
    """Has a running line change over to another product.

    A line that was started with --recipe DIR follows within a fraction of a
    second where the recipe's model is loaded, and as soon as it is otherwise.

    Example: edge-ad recipe use lid recipes
    """
    use(directory, name)
    notes.print(f"[green]recipe[/] {name}  [dim]a line on {directory} follows[/]")


@app.command("list")
def list_command(
    directory: Directory, json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False
) -> None:
    """Lists the recipes of a directory and checks them.

    Example: edge-ad recipe list recipes
    """
    recipes, active = read_recipes([directory]), active_in(directory)
    if json_output:
        print_json(
            {
                "active": active,
                "recipes": {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()},
            }
        )
        return
    table = Table()
    for heading in ("recipe", "model", "threshold", "camera"):
        table.add_column(heading)
    for name, recipe in recipes.items():
        limit = "the model's" if recipe.threshold is None else f"{recipe.threshold:g}"
        table.add_row(f"{name} *" if name == active else name, recipe.model, limit, recipe.camera or "")
    results.print(table)
