"""What ``edge-ad run`` puts together: recipes, camera, outputs, and all that looks after them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from edge_ad.alarms import Alarms
from edge_ad.cameras import camera_from_uri
from edge_ad.cameras.isolated import IsolatedCamera, can_isolate
from edge_ad.cli.console import notes
from edge_ad.drift.monitor import DriftMonitor
from edge_ad.drift.reference import Reference
from edge_ad.errors import ConfigError
from edge_ad.rig.identity import fits
from edge_ad.rig.record import Rig
from edge_ad.runtime.judging import Inspector
from edge_ad.runtime.models import open_inspector
from edge_ad.runtime.recipes import Outputs, Recipe, RecipeBook, active_in, read_recipes
from edge_ad.settings import validated
from edge_ad.sinks.images import MapSink, OverlaySink
from edge_ad.sinks.jsonl import JsonLinesSink
from edge_ad.sinks.sqlite import SqliteSink
from edge_ad.types import Camera, Inspection, Sink

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
        overrides: options that were given, by the recipe's field, tables as mappings; they take the place of what
            the recipes say.

    Raises:
        ConfigError: a recipe is wrong, or neither recipes nor an engine and a camera were given.
    """
    given = {name: value for name, value in overrides.items() if value not in (None, (), {})}
    if not paths:
        for option, name in (("--engine", "model"), ("--camera", "camera")):
            if name not in given:
                raise ConfigError(f"{option} is missing", remedy=f"give {option}, or a --recipe that names it")
        return Plan({"": validated(Recipe, given, "the command line", options=_options(given))}, "")
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
    values = recipe.model_dump(exclude_unset=True)
    for name, value in given.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, Mapping) else value
    return validated(Recipe, values, "the recipe with the command line's options", options=_options(given))


def _options(given: Mapping[str, Any], table: str = "") -> dict[str, str]:
    """By field, the option that set it."""
    called = {"model": "engine", "triggers": "trigger"}
    options: dict[str, str] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            options |= _options(value, f"{name}.")
        else:
            options[f"{table}{name}"] = f"--{called.get(name, name).replace('_', '-')}"
    return options


def make_camera(uri: str, policy: str | None, *, in_process: bool) -> Camera:
    """The camera, in a process of its own unless it is files, whose reader can do no harm, or it is told not to.

    Raises:
        ConfigError: the URI is not right.
    """
    camera = camera_from_uri(uri)
    if in_process or not can_isolate() or not camera.caps.live:
        return camera
    return IsolatedCamera(uri, lossless=policy == "every")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is known of a recipe's model.

    Attributes:
        description: one line for people.
        model_id: its digest.
        reference: what good frames were like in training; None where it is not known.
    """

    description: str
    model_id: str
    reference: Reference | None


class Products:
    """The recipes of a run and their models: the one in force now, the others in the background.

    Args:
        plan: what is to be run.
        rig: that every model must fit; None for any.

    Attributes:
        book: of the recipes.
        loaded: by recipe, of those that have been loaded.
        on_switch: called when another recipe has come into force.

    Raises:
        ConfigError, DataError, ModelError: the first one cannot be loaded.
    """

    def __init__(self, plan: Plan, rig: Rig | None) -> None:
        self.loaded: dict[str, Loaded] = {}
        self.on_switch: Callable[[], None] = lambda: None
        self._plan, self._rig = plan, rig
        with notes.status("loading the engine"):
            self.book = RecipeBook(
                plan.recipes, plan.active, self._load, on_switch=lambda name, recipe: self.on_switch()
            )

    @contextmanager
    def following(self) -> Iterator[None]:
        """Loads the other recipes and changes over when told, for the length of a ``with`` block."""
        plan = self._plan
        if plan.directory is None:
            yield
            return
        self.book.preload()
        names = ", ".join(f"[bold]{name}[/]" if name == self.book.active else name for name in plan.recipes)
        notes.print(f"[green]recipes[/] {names}  [dim]change over: edge-ad recipe use NAME {plan.directory}[/]")
        with self.book.following(plan.directory):
            yield

    def set_options(self, camera: Camera) -> None:
        """Sets the camera options of the recipe in force.

        Raises:
            ConfigError, CameraError: the camera refuses.
        """
        options = self._plan.recipes[self.book.active].camera_options
        if options:
            camera.set(**options)

    def _load(self, name: str, recipe: Recipe) -> Inspector:
        inspector, model = open_inspector(
            recipe.model,
            mode=recipe.mode,
            threshold=recipe.threshold,
            fallback=recipe.fallback,
            recipe=name,
            roi=recipe.region,
            max_skew_ms=recipe.acquisition.max_skew_ms,
        )
        misfit = "" if self._rig is None else fits(self._rig, model.spec, model.rig)
        if misfit:
            raise ConfigError(
                f"{recipe.model} does not belong to the rig {recipe.rig}",
                why=misfit,
                remedy="name the rig that it was trained for, or train with --rig and export again",
            )
        reference = model.reference
        if reference is None:
            notes.print(
                f"[dim]{escape(model.description)} does not tell what good parts were like: drift is not watched[/]"
            )
        else:
            reference = reference.model_copy(update={"roi": model.spec.roi})
        self.loaded[name] = Loaded(model.description, model.model_id, reference)
        return inspector


class DriftSink:
    """Watches each recipe's parts for drift, where its model knows what good parts were like.

    Args:
        loaded: what is known of the models, by recipe; may grow.
        alarms: where alarms are raised.
    """

    def __init__(self, loaded: Mapping[str, Loaded], alarms: Alarms) -> None:
        self._loaded, self._alarms = loaded, alarms
        self._monitors: dict[str, DriftMonitor] = {}
        self._changed_to: str | None = None

    def write(self, inspection: Inspection) -> None:
        """Looks at one inspection."""
        name = inspection.recipe
        if name == self._changed_to:  # its first part: those of the recipe before, which were under way, are through
            self._changed_to = None
            self._silence_all_but(name)
        if name not in self._monitors:
            model = self._loaded.get(name)
            if model is None or model.reference is None:
                return
            self._monitors[name] = DriftMonitor(model.reference, self._alarms, recipe=name)
        self._monitors[name].write(inspection)

    def silence_others(self, recipe: str) -> None:
        """Ends the alarms of all recipes but the one that has come into force: nobody looks at their parts now."""
        self._changed_to = recipe
        self._silence_all_but(recipe)

    def _silence_all_but(self, recipe: str) -> None:
        for name, monitor in list(self._monitors.items()):
            if name != recipe:
                monitor.silence()

    def close(self) -> None:
        """Nothing is held open."""

    def summary(self) -> dict[str, Any]:
        """By recipe, what was seen."""
        return {name: monitor.summary() for name, monitor in self._monitors.items()}


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
