"""Recipes: read from files, brought into force while the line runs, and never half."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_ad.bundle import FULL
from edge_ad.errors import ConfigError, DataError, EngineError, OutputError
from edge_ad.runtime import recipes as module
from edge_ad.runtime.judging import Inspector, Judge
from edge_ad.runtime.models import open_inspector
from edge_ad.runtime.recipes import ACTIVE, Recipe, RecipeBook, active_in, read_recipes, use
from edge_ad.types import Roi
from tests.factories import make_bundle
from tests.runtime.live_line import LONG_S, predict, until

LID = """
model = "engines/lid"
fallback = ["engines/lid-depth"]
threshold = 4.5
camera = "synthetic://"
camera_options = {exposure_us = 800}
rig = "rigs/cell-2"
triggers = "tcp://127.0.0.1:7001"
roi = {x_px = 8, y_px = 4, width_px = 32, height_px = 32}

[acquisition]
deadline_ms = 250

[outputs]
sqlite = "lid.sqlite"
"""
SHARED = 'model = "{model}"\ncamera = "synthetic://"\n'


def write(directory: Path, **recipes: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in recipes.items():
        (directory / f"{name}.toml").write_text(text)
    return directory


def test_a_recipe_is_read_with_paths_relative_to_its_file(tmp_path: Path) -> None:
    recipe = read_recipes([write(tmp_path, lid=LID)])["lid"]
    assert recipe.model == str(tmp_path / "engines/lid")
    assert recipe.fallback == (str(tmp_path / "engines/lid-depth"),)
    assert recipe.outputs.sqlite == str(tmp_path / "lid.sqlite") and recipe.outputs.jsonl is None
    assert recipe.rig == str(tmp_path / "rigs/cell-2")
    assert recipe.region == Roi(8, 4, 32, 32)
    assert (recipe.threshold, recipe.acquisition.deadline_ms) == (4.5, 250)
    assert recipe.camera_options == {"exposure_us": 800}


@pytest.mark.parametrize("model", ["/models/lid", "grpc://127.0.0.1:8001/lid?bundle=/b"])
def test_what_is_no_relative_path_stays(tmp_path: Path, model: str) -> None:
    text = SHARED.format(model=model) + '[outputs]\njsonl = "-"\n'
    recipe = read_recipes([write(tmp_path, lid=text)])["lid"]
    assert (recipe.model, recipe.outputs.jsonl) == (model, "-")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        pytest.param({}, "there is no recipe in", id="none"),
        pytest.param({"lid": "model ="}, "is not TOML", id="no TOML"),
        pytest.param({"lid": 'camera = "synthetic://"'}, "model is not valid", id="no model"),
        pytest.param({"lid": 'model = "m"\ntreshold = 3'}, "perhaps threshold is meant", id="misspelt"),
        pytest.param({"lid": 'model = "m"\nthreshold = nan'}, "threshold is not valid", id="no number"),
        pytest.param(
            {"lid": 'model = "m"\n[acquisition]\noffset_ms = 600'}, "is over before a part is in view", id="too late"
        ),
        pytest.param(
            {"cap": 'model = "m"\ncamera = "synthetic://"', "lid": 'model = "m"\ncamera = "folder://x"'},
            "the recipes cap and lid differ in camera",
            id="two cameras",
        ),
        pytest.param(
            {"cap": 'model = "m"\ncamera_options = {gain = 1}', "lid": 'model = "m"'},
            "only one of the recipes cap and lid sets gain",
            id="an option left behind",
        ),
    ],
)
def test_recipes_that_cannot_be(tmp_path: Path, texts: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        read_recipes([write(tmp_path, **texts)])
    assert refused.value.remedy


def test_the_recipe_in_the_readme_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "README.md").read_text()
    text = page.partition("```toml\n")[2].partition("```")[0]
    assert read_recipes([write(tmp_path, lid=text)])["lid"].triggers == "tcp://127.0.0.1:7001"


def test_two_recipes_of_one_name_are_refused(tmp_path: Path) -> None:
    here, there = (write(tmp_path / name, lid=SHARED.format(model="m")) for name in ("a", "b"))
    with pytest.raises(ConfigError, match="two recipes are named lid"):
        read_recipes([here, there])


def test_the_active_file_names_the_recipe_in_force(tmp_path: Path) -> None:
    write(tmp_path, lid=SHARED.format(model="m"), cap=SHARED.format(model="m"))
    assert active_in(tmp_path) == ""
    use(tmp_path, "cap")
    assert active_in(tmp_path) == "cap"
    (tmp_path / ACTIVE).write_bytes(b"\xff\xfe")
    assert active_in(tmp_path) == ""
    with pytest.raises(ConfigError, match="there is no recipe bolt") as refused:
        use(tmp_path, "bolt")
    assert "cap, lid" in refused.value.remedy


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    write(tmp_path, lid=SHARED.format(model="m"))
    (tmp_path / ACTIVE).mkdir()
    with pytest.raises(OutputError):
        use(tmp_path, "lid")


class Models:
    """Loads recipes as the test wants: at once, when the gate opens, or not at all."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.broken: dict[str, Exception] = {}
        self.loaded: list[str] = []
        self.threads: list[threading.Thread] = []

    def load(self, name: str, recipe: Recipe) -> Inspector:
        self.threads.append(threading.current_thread())
        assert self.gate.wait(LONG_S)
        if name in self.broken:
            raise self.broken[name]
        self.loaded.append(name)
        return Inspector({FULL: Judge(predict, 1.0)}, recipe=name)

    def book(self, *names: str, resident: int = 4, on_switch: Callable[..., None] | None = None) -> RecipeBook:
        recipes = {name: Recipe(model=name) for name in names}
        return RecipeBook(recipes, names[0], self.load, resident=resident, on_switch=on_switch)


def loads(book: RecipeBook, name: str) -> None:
    """Waits until a recipe is resident."""

    def here() -> bool:
        try:
            return book.inspector_for(name).recipe == name
        except DataError:
            return False

    until(here)


def test_the_first_recipe_is_loaded_at_once_or_the_run_does_not_begin() -> None:
    models = Models()
    assert models.book("lid", "cap").inspector_for("").recipe == "lid"
    assert models.loaded == ["lid"]
    models.broken["lid"] = EngineError("the engine is foreign")
    with pytest.raises(EngineError):
        models.book("lid")


def test_a_resident_recipe_comes_into_force_at_once() -> None:
    models, told = Models(), []
    book = models.book("lid", "cap", on_switch=lambda name, recipe: told.append((name, recipe.model)))
    book.preload()
    loads(book, "cap")
    assert book.active == "lid"
    book.switch("cap")
    assert book.active == "cap" and book.inspector_for("").recipe == "cap"
    assert told == [("cap", "cap")]


def test_until_a_recipe_is_loaded_its_parts_are_errors_and_the_old_one_stays_in_force() -> None:
    models = Models()
    book = models.book("lid", "cap")
    models.gate.clear()
    book.switch("cap")
    assert book.active == "lid" and book.inspector_for("").recipe == "lid"
    for _ in range(3):
        with pytest.raises(DataError, match="recipe cap is being loaded"):
            book.inspector_for("cap")
    models.gate.set()
    until(lambda: book.active == "cap")
    assert models.loaded == ["lid", "cap"], "it is loaded once"


def test_an_unknown_recipe_is_refused_and_changes_nothing() -> None:
    book = Models().book("lid", "cap")
    for ask in (book.inspector_for, book.switch):
        with pytest.raises(ConfigError, match="there is no recipe 'bolt'") as refused:
            ask("bolt")
        assert refused.value.remedy == "use one of: cap, lid"
    assert book.active == "lid"


@pytest.mark.parametrize("error", [EngineError("the engine is foreign"), ZeroDivisionError()], ids=["known", "bug"])
def test_a_broken_recipe_keeps_the_old_one_and_may_be_mended(error: Exception) -> None:
    models = Models()
    book = models.book("lid", "cap")
    models.broken["cap"] = error
    book.switch("cap")
    until(lambda: "cap" in book._failed)
    assert book.active == "lid" and book.inspector_for("").recipe == "lid"
    with pytest.raises(DataError, match="could not be loaded") as refused:
        book.inspector_for("cap")
    assert refused.value.why and refused.value.remedy
    del models.broken["cap"]
    book.switch("cap")
    until(lambda: book.active == "cap")


def test_the_last_wish_counts_whatever_is_loaded_first() -> None:
    models = Models()
    book = models.book("lid", "cap", "bolt")
    models.gate.clear()
    book.switch("cap")
    book.switch("bolt")
    book.switch("lid")
    models.gate.set()
    loads(book, "cap")
    loads(book, "bolt")
    for thread in models.threads[1:]:
        thread.join(LONG_S)
    assert book.active == "lid"


def test_the_recipe_not_used_for_longest_makes_room_and_is_freed() -> None:
    models = Models()
    book = models.book("a", "b", "c", "d", resident=2)
    loads(book, "b")
    freed = weakref.ref(book.inspector_for("b"))
    loads(book, "c")
    until(lambda: gc.collect() >= 0 and freed() is None)
    assert book.inspector_for("").recipe == "a", "the one in force stays"
    loads(book, "b")
    assert models.loaded == ["a", "b", "c", "b"]


def test_preloading_takes_one_after_the_other_and_no_more_than_may_stay() -> None:
    models = Models()
    book = models.book("a", "b", "c", "d", resident=3)
    book.preload()
    until(lambda: len(models.loaded) == 3)
    for thread in models.threads[1:]:
        thread.join(LONG_S)
    assert models.loaded == ["a", "b", "c"]
    assert len(set(models.threads)) == 2, "one thread beside ours"


def test_the_line_follows_the_active_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.005)
    write(tmp_path, lid=SHARED.format(model="m"), cap=SHARED.format(model="m"), bolt=SHARED.format(model="m"))
    models = Models()
    book = models.book("lid", "cap")
    use(tmp_path, "cap")  # while the engine was being loaded
    with book.following(tmp_path):
        until(lambda: book.active == "cap")
        use(tmp_path, "bolt")  # which this run does not have
        time.sleep(0.05)
        assert book.active == "cap"
        use(tmp_path, "lid")
        until(lambda: book.active == "lid")
        (tmp_path / ACTIVE).unlink()
        time.sleep(0.05)
        assert book.active == "lid"
    use(tmp_path, "cap")
    time.sleep(0.05)
    assert book.active == "lid", "nobody follows any more"


def test_asking_for_a_mended_recipe_again_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.005)
    write(tmp_path, lid=SHARED.format(model="m"), cap=SHARED.format(model="m"))
    models = Models()
    book = models.book("lid", "cap")
    models.broken["cap"] = EngineError("the engine is foreign")
    with book.following(tmp_path):
        use(tmp_path, "cap")
        until(lambda: "cap" in book._failed)
        del models.broken["cap"]
        use(tmp_path, "cap")
        until(lambda: book.active == "cap")


def test_a_switch_whose_listener_fails_is_followed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.005)
    write(tmp_path, lid=SHARED.format(model="m"), cap=SHARED.format(model="m"))

    def fails(name: str, recipe: Recipe) -> None:
        raise ZeroDivisionError

    book = Models().book("lid", "cap", on_switch=fails)
    book._resident["cap"] = Inspector({FULL: Judge(predict, 1.0)}, recipe="cap")
    with book.following(tmp_path):
        use(tmp_path, "cap")
        until(lambda: book.active == "cap")
        use(tmp_path, "lid")
        until(lambda: book.active == "lid")


def test_an_evicted_model_gives_its_engine_back(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle").directory
    inspector, model = open_inspector(str(bundle), recipe="lid")
    backend = weakref.ref(model.backend)
    del model
    assert backend() is not None, "the inspector has it"
    del inspector
    gc.collect()
    assert backend() is None


def test_a_recipes_roi_must_be_of_the_trained_size_and_inside_the_frame(tmp_path: Path) -> None:
    bundle = str(make_bundle(tmp_path / "bundle").directory)
    inspector, _ = open_inspector(bundle, roi=Roi(0, 0, 64, 64), threshold=2.5, recipe="lid")
    assert (inspector.threshold, inspector.recipe) == (2.5, "lid")
    for roi in (Roi(0, 0, 32, 64), Roi(8, 0, 64, 64)):
        with pytest.raises(ConfigError, match="does not fit") as refused:
            open_inspector(bundle, roi=roi)
        assert refused.value.remedy
