"""``edge-ad recipe``: which product is inspected, listed and changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command_line import edge_ad


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    for name, threshold in (("lid", "threshold = 4.5"), ("cap", "")):
        (tmp_path / f"{name}.toml").write_text(f'model = "engines/{name}"\ncamera = "synthetic://"\n{threshold}\n')
    return tmp_path


def test_use_names_the_recipe_in_force_and_list_shows_it(recipes: Path) -> None:
    assert json.loads(edge_ad("recipe", "list", recipes, "--json").stdout)["active"] == ""
    done = edge_ad("recipe", "use", "lid", recipes)
    assert done.exit_code == 0 and "lid" in done.stderr
    report = json.loads(edge_ad("recipe", "list", recipes, "--json").stdout)
    assert report["active"] == "lid"
    assert {name: recipe["threshold"] for name, recipe in report["recipes"].items()} == {"cap": None, "lid": 4.5}
    assert report["recipes"]["cap"]["model"] == str(recipes / "engines/cap")
    table = edge_ad("recipe", "list", recipes).stdout
    assert "lid *" in table and "cap *" not in table and "the model's" in table


def test_an_unknown_recipe_is_refused_and_leaves_the_one_in_force(recipes: Path) -> None:
    edge_ad("recipe", "use", "lid", recipes)
    done = edge_ad("recipe", "use", "bolt", recipes)
    assert done.exit_code == 2
    assert "there is no recipe bolt" in done.stderr and "cap, lid" in done.stderr
    assert json.loads(edge_ad("recipe", "list", recipes, "--json").stdout)["active"] == "lid"


def test_list_checks_the_recipes(recipes: Path) -> None:
    (recipes / "bolt.toml").write_text('model = "m"\ntreshold = 3\n')
    done = edge_ad("recipe", "list", recipes)
    assert done.exit_code == 2
    assert "perhaps threshold is meant" in done.stderr and "remedy" in done.stderr


def test_a_directory_without_recipes_is_said(tmp_path: Path) -> None:
    for command in (("list", tmp_path), ("use", "lid", tmp_path)):
        done = edge_ad("recipe", *command)
        assert done.exit_code == 2 and "remedy" in done.stderr
