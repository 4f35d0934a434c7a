"""One TOML file for each product, and changing over from one to the next while the line runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from edge_ad.config import RoiConfig
from edge_ad.errors import ConfigError, DataError, EdgeAdError
from edge_ad.files import write_bytes
from edge_ad.predictor import is_uri
from edge_ad.runtime.acquisition import Acquisition
from edge_ad.runtime.judging import Inspector
from edge_ad.settings import Settings, read_toml, validated
from edge_ad.types import Roi

ACTIVE = "active"
"""File beside the recipes that names the one in force; whoever writes it changes over."""

LOOK_S = 0.05

_log = logging.getLogger(__name__)


class Outputs(Settings):
    """Where inspections go; see ``edge-ad run --help``."""

    jsonl: str | None = None
    sqlite: str | None = None
    maps: str | None = None
    overlays: str | None = None


class Recipe(Settings):
    """How one product is inspected. Paths are relative to the recipe's file.

    Attributes:
        model: engine, bundle, checkpoint, or URI of a server.
        mode: operating mode; by default all sensors, or what the engine is for.
        fallback: engines of the same bundle that take over when a sensor fails.
        threshold: a score above it is NG; by default the model's.
        camera: its URI; recipes of one run share it.
        camera_options: set when the recipe comes into force, such as ``exposure_us``; what one recipe sets is for
            all to set, as it stays until another does.
        rig: directory of the rig that it was set up on.
        roi: the part of the frame that is inspected, of the size that the model was trained on.
        triggers: their source's URI; recipes of one run share it.
        acquisition: what is inspected, and by when; recipes of one run share it.
        outputs: where inspections go; recipes of one run share them.
    """

    model: str = Field(min_length=1)
    mode: str | None = None
    fallback: tuple[str, ...] = ()
    threshold: float | None = None
    camera: str | None = None
    camera_options: dict[str, float | str] = {}
    rig: str | None = None
    roi: RoiConfig | None = None
    triggers: str | None = None
    acquisition: Acquisition = Acquisition()
    outputs: Outputs = Outputs()

    @property
    def region(self) -> Roi | None:
        """The ROI as frames are cropped by."""
        return None if self.roi is None else Roi(**self.roi.model_dump())


SHARED = ("camera", "rig", "triggers", "acquisition", "outputs")


def read_recipes(paths: list[Path]) -> dict[str, Recipe]:
    """Reads recipes; of a directory all its ``*.toml``.

    Returns:
        By name, which is that of the file.

    Raises:
        ConfigError: a file is missing or wrong, two have one name, or they differ in what they must share.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.toml")) if path.is_dir() else [path])]
    if not files:
        raise ConfigError(f"there is no recipe in {paths[0]}", remedy="write one NAME.toml for each product")
    recipes: dict[str, Recipe] = {}
    for file in files:
        if file.stem in recipes:
            raise ConfigError(f"two recipes are named {file.stem}", remedy="rename one of the files")
        recipes[file.stem] = _with_paths(validated(Recipe, read_toml(file), str(file)), file.parent)
    first = next(iter(recipes))
    for name, recipe in recipes.items():
        for field in SHARED:
            if getattr(recipe, field) != getattr(recipes[first], field):
                raise ConfigError(
                    f"the recipes {first} and {name} differ in {field}",
                    why="one run has one camera, rig and source of triggers, and one set of rules and outputs",
                    remedy=f"make {field} the same in both, or run them apart",
                )
        missing = recipes[first].camera_options.keys() ^ recipe.camera_options.keys()
        if missing:
            raise ConfigError(
                f"only one of the recipes {first} and {name} sets {', '.join(sorted(missing))} in camera_options",
                why="the other one's parts would be judged with what this one left behind",
                remedy="set it in every recipe",
            )
    return recipes


def use(directory: Path, name: str) -> None:
    """Has a running line change over, by the file `ACTIVE` in the directory of its recipes.

    Raises:
        ConfigError: there is no such recipe.
        OutputError: the file cannot be written.
    """
    if not (directory / f"{name}.toml").is_file():
        known = ", ".join(sorted(file.stem for file in directory.glob("*.toml"))) or "none"
        raise ConfigError(f"there is no recipe {name} in {directory}", remedy=f"use one of: {known}")
    write_bytes(directory / ACTIVE, f"{name}\n".encode())


def active_in(directory: Path) -> str:
    """The recipe that the file `ACTIVE` names; empty where there is none."""
    try:
        return (directory / ACTIVE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _written(directory: Path) -> int:
    """Tells one writing of the file `ACTIVE` from the next, also of the same name; 0 where there is none."""
    try:
        status = (directory / ACTIVE).stat()
    except OSError:
        return 0
    return hash((status.st_mtime_ns, status.st_ino, status.st_size)) or 1


class RecipeBook:
    """The recipes of a run: which one is in force, and what judges each.

    Loading happens in a thread: until a recipe is resident its parts are ERROR, and the one in force before stays
    so.

    Args:
        recipes: by name.
        active: in force at first; loaded at once.
        load: opens what judges a recipe's parts.
        resident: so many stay loaded; the one not used for longest makes room.
        on_switch: told the name and the recipe that has come into force, from the thread that brings it.

    Raises:
        EdgeAdError: the first recipe cannot be loaded.
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        active: str,
        load: Callable[[str, Recipe], Inspector],
        *,
        resident: int = 4,
        on_switch: Callable[[str, Recipe], None] | None = None,
    ) -> None:
        self._recipes, self._load, self._most, self._on_switch = recipes, load, resident, on_switch
        self._lock = threading.Lock()
        self._resident: dict[str, Inspector] = {active: load(active, self._known(active))}
        self._failed: dict[str, str] = {}
        self._loading: set[str] = set()
        self.active = active
        self._wanted = active

    def inspector_for(self, name: str) -> Inspector:
        """What judges a recipe's parts; ``""`` is the one in force.

        Raises:
            ConfigError: there is no such recipe.
            DataError: it is not loaded yet, which begins now, or could not be.
        """
        name = name or self.active
        self._known(name)
        with self._lock:
            inspector = self._resident.pop(name, None)
            if inspector is not None:
                self._resident[name] = inspector  # now the one used last
                return inspector
            failure = self._failed.get(name, "")
        if failure:
            raise DataError(f"recipe {name} could not be loaded", why=failure, remedy="mend it, then change over again")
        self._fetch(name)
        raise DataError(f"recipe {name} is being loaded", remedy="change over before the first of its parts comes")

    def switch(self, name: str) -> None:
        """Brings a recipe into force: at once where it is resident, else as soon as it is loaded.

        Raises:
            ConfigError: there is no such recipe.
        """
        self._known(name)
        with self._lock:
            self._wanted = name
            self._failed.pop(name, None)
            here = name in self._resident
        if here:
            self._bring(name)
        else:
            self._fetch(name)

    def preload(self) -> None:
        """Loads as many as may be resident, one after the other, in the background."""
        others = [name for name in self._recipes if name != self.active][: self._most - 1]

        def work() -> None:
            for name in others:
                if self._begins(name):
                    self._fetch_now(name)

        threading.Thread(target=work, name="loading recipes", daemon=True).start()

    @contextmanager
    def following(self, directory: Path) -> Iterator[None]:
        """Changes over whenever the file `ACTIVE` names another recipe."""
        stop = threading.Event()

        def work() -> None:
            seen = 0  # what was written before this began counts, too
            while not stop.wait(LOOK_S):
                written = _written(directory)
                if written and written != seen:
                    self._follow(active_in(directory))
                seen = written

        thread = threading.Thread(target=work, name="recipes", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _follow(self, name: str) -> None:
        try:
            if name:
                self.switch(name)
        except Exception as error:  # whatever it is, the next change over must be followed
            _log.error("%s", error, exc_info=not isinstance(error, EdgeAdError))

    def _known(self, name: str) -> Recipe:
        if name not in self._recipes:
            raise ConfigError(f"there is no recipe {name!r}", remedy=f"use one of: {', '.join(sorted(self._recipes))}")
        return self._recipes[name]

    def _fetch(self, name: str) -> None:
        if self._begins(name):
            threading.Thread(target=self._fetch_now, args=(name,), name=f"loading {name}", daemon=True).start()

    def _begins(self, name: str) -> bool:
        """Notes that a recipe is being loaded; False where it is already, or is there."""
        with self._lock:
            if name in self._loading or name in self._resident:
                return False
            self._loading.add(name)
            return True

    def _fetch_now(self, name: str) -> None:
        started_s = time.monotonic()
        try:
            inspector = self._load(name, self._recipes[name])
        except Exception as error:
            _log.error("recipe %s could not be loaded: %s", name, error, exc_info=not isinstance(error, EdgeAdError))
            with self._lock:
                self._loading.discard(name)
                self._failed[name] = str(error) or type(error).__name__
            return
        _log.info("recipe %s loaded in %.1f s", name, time.monotonic() - started_s)
        evicted = []
        with self._lock:
            self._loading.discard(name)
            self._resident[name] = inspector
            for old in [key for key in self._resident if key not in (name, self.active, self._wanted)]:
                if len(self._resident) > self._most:
                    evicted.append(self._resident.pop(old))
        evicted.clear()  # freed here, without the lock, or when nobody judges with it any more
        self._bring(name)

    def _bring(self, name: str) -> None:
        """Brings a resident recipe into force, unless another one has been asked for meanwhile."""
        with self._lock:
            if self.active == name or self._wanted != name:
                return
            self.active = name
        _log.warning("recipe %s is in force", name)
        if self._on_switch is not None:
            self._on_switch(name, self._recipes[name])


def _with_paths(recipe: Recipe, directory: Path) -> Recipe:
    def beside(path: str | None) -> str | None:
        return path if path is None or is_uri(path) or path == "-" else str(directory / Path(path).expanduser())

    outputs = {name: beside(path) for name, path in recipe.outputs.model_dump().items()}
    return recipe.model_copy(
        update={
            "model": beside(recipe.model),
            "fallback": tuple(beside(path) for path in recipe.fallback),
            "rig": beside(recipe.rig),
            "outputs": Outputs(**outputs),
        }
    )
