"""What ``edge-ad run`` puts together: recipes, camera, outputs, and all that looks after them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape

from edge_ad.cameras import camera_from_uri
from edge_ad.cameras.isolated import IsolatedCamera, can_isolate
from edge_ad.cli.console import notes
from edge_ad.errors import ConfigError, EdgeAdError
from edge_ad.predictor import Predictor
from edge_ad.runtime.judging import Inspector
from edge_ad.runtime.models import open_inspector
from edge_ad.runtime.recipes import Outputs, Recipe, RecipeBook, active_in, read_recipes
from edge_ad.sinks.images import MapSink, OverlaySink
from edge_ad.sinks.jsonl import JsonLinesSink
from edge_ad.sinks.sqlite import SqliteSink
from edge_ad.types import Camera, Sink

STDOUT = "-"


@dataclass
class Plan:
    """What is to be run.

    Attributes:
        recipes: by name; one without a name where the command line is the recipe.
        active: in force at first.
        directory: of the recipes; None where there are no files.
    """

    recipes: dict[str, Recipe]
    active: str
    directory: Path | None = None

    @property
    def shared(self) -> Recipe:
        """For what all recipes share."""
        return self.recipes[self.active]


def planned(paths: Sequence[Path], overrides: dict[str, Any]) -> Plan:
    """Reads the recipes, or makes one of the command line's options.

    Args:
        paths: recipes, and directories of recipes.
        overrides: options that were given; they take the place of what the recipes say.

    Raises:
        ConfigError: a recipe is wrong, or neither recipes nor an engine and a camera were given.
    """
    given = {name: value for name, value in overrides.items() if value not in (None, (), {})}
    if not paths:
        for option, name in (("--engine", "model"), ("--camera", "camera")):
            if name not in given:
                raise ConfigError(f"{option} is missing", remedy=f"give {option}, or a --recipe that names it")
        return Plan({"": Recipe(**given)}, "")
    own = {"threshold", "mode", "model", "fallback"} & given.keys()
    recipes = read_recipes(list(paths))
    if own and len(recipes) > 1:
        raise ConfigError(
            f"--{'engine' if 'model' in own else min(own)} cannot hold for {len(recipes)} recipes",
            remedy="write it into each of them",
        )
    merged = {name: _overridden(recipe, given) for name, recipe in recipes.items()}
    directory = paths[0] if paths[0].is_dir() else paths[0].parent
    active = active_in(directory)
    first = next(iter(merged))
    if merged[first].camera is None:
        raise ConfigError(f"recipe {first} names no camera", remedy="add one to it, or give --camera")
    return Plan(merged, active if active in merged else first, directory)


def _overridden(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    tables: dict[str, Any] = {
        name: getattr(recipe, name).model_copy(update=given[name].model_dump(exclude_unset=True))
        for name in ("acquisition", "outputs")
        if name in given
    }
    return recipe.model_copy(update={**given, **tables})


def make_camera(uri: str, policy: str | None, *, in_process: bool) -> Camera:
    """The camera, in a process of its own unless it is files, whose reader can do no harm, or it is told not to.

    Raises:
        ConfigError: the URI is not right.
    """
    camera = camera_from_uri(uri)
    if in_process or not can_isolate() or not camera.caps.live:
        return camera
    return IsolatedCamera(uri, lossless=policy == "every")


@dataclass
class Models:
    """The models of a run, opened as their recipes come into force.

    Attributes:
        book: of the recipes.
        predictors: by recipe, the model of the mode that was asked for.
    """

    book: RecipeBook
    predictors: dict[str, Predictor] = field(default_factory=dict)


def open_models(plan: Plan, camera: Camera, stack: ExitStack) -> Models:
    """Loads the recipe in force, and the others in the background.

    Raises:
        ConfigError, DataError, ModelError: the first one cannot be loaded.
    """
    predictors: dict[str, Predictor] = {}

    def load(name: str, recipe: Recipe) -> Inspector:
        inspector, predictors[name] = open_inspector(
            recipe.model,
            mode=recipe.mode,
            threshold=recipe.threshold,
            fallback=recipe.fallback,
            recipe=name,
            roi=recipe.region,
            max_skew_ms=recipe.acquisition.max_skew_ms,
        )
        return inspector

    def switched(name: str, recipe: Recipe) -> None:
        set_options(camera, recipe)

    with notes.status("loading the engine"):
        book = RecipeBook(plan.recipes, plan.active, load, on_switch=switched)
    if plan.directory is not None:
        book.preload()
        stack.enter_context(book.following(plan.directory))
        names = ", ".join(f"[bold]{name}[/]" if name == book.active else name for name in plan.recipes)
        notes.print(f"[green]recipes[/] {names}  [dim]change over: edge-ad recipe use NAME {plan.directory}[/]")
    return Models(book, predictors)


def set_options(camera: Camera, recipe: Recipe) -> None:
    """Sets the recipe's camera options; a refusal is said and costs nothing else."""
    if recipe.camera_options:
        try:
            camera.set(**recipe.camera_options)
        except EdgeAdError as error:
            notes.print(f"[yellow]warning[/] {escape(str(error))}", soft_wrap=True)


def make_sinks(outputs: Outputs, *, to_stdout: bool) -> list[Sink]:
    """The outputs, opened; the quickest first.

    Raises:
        OutputError: one cannot be opened.
    """
    sinks: list[Sink] = [JsonLinesSink(sys.stdout)] if to_stdout else []
    if outputs.jsonl not in (None, STDOUT):
        sinks.append(JsonLinesSink(Path(str(outputs.jsonl))))
    if outputs.sqlite is not None:
        sinks.append(SqliteSink(Path(outputs.sqlite)))
    if outputs.maps is not None:
        sinks.append(MapSink(Path(outputs.maps)))
    if outputs.overlays is not None:
        sinks.append(OverlaySink(Path(outputs.overlays)))
    return sinks
