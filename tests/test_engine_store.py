from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from edge_ad.backends import BACKENDS
from edge_ad.backends.base import BoxFacts
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import read_bundle
from edge_ad.engine_build import build_engine
from edge_ad.engine_store import (
    LEFTOVER_AGE_S,
    StoredEngine,
    foreign_entries,
    leftovers,
    remove_engine,
    remove_unusable,
    stored_engines,
    verified_engine,
)
from edge_ad.errors import EngineError, OutputError
from tests.factories import make_bundle


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle")).directory


@pytest.fixture(autouse=True)
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AD_HOME", str(tmp_path / "home"))


@pytest.fixture
def root(bundle_path: Path, tmp_path: Path) -> Path:
    """Two sound engines, one of them a level deeper, beside other things."""
    root = tmp_path / "engines"
    bundle = read_bundle(bundle_path)
    build_engine(bundle, root / "one", backend="onnxruntime", precision="fp32")
    build_engine(bundle, root / "line 2" / "two", backend="onnxruntime", precision="fp32", max_batch=2)
    (root / "README.md").write_text("mine")
    (root / "recipes").mkdir()
    (root / "recipes" / "lid.toml").write_text("mine")
    return root


def damage(directory: Path) -> None:
    path = directory / "model.onnx"
    path.write_bytes(path.read_bytes() + b"x")


def states(root: Path) -> dict[str, str]:
    return {engine.directory.relative_to(root).as_posix(): engine.state for engine in stored_engines(root)}


def test_what_is_told_of_an_engine(root: Path, bundle_path: Path) -> None:
    two, one = stored_engines(root)
    assert [two.directory, one.directory] == [root / "line 2/two", root / "one"]
    assert (one.state, one.reason) == ("usable", "")
    assert (one.bundle_name, one.bundle_digest) == ("widget", read_bundle(bundle_path).digest)
    assert (one.mode, one.backend, one.precision, one.max_batch, two.max_batch) == ("full", "onnxruntime", "fp32", 1, 2)
    assert one.backend_version == OnnxRuntimeBackend.box_facts().backend_version
    assert one.size_bytes == sum(path.stat().st_size for path in (root / "one").iterdir())
    assert abs((datetime.now(timezone.utc) - one.built_at).total_seconds()) < 3600
    assert json.loads(json.dumps(one.report()))["directory"] == str(root / "one")


def test_the_root_may_be_an_engine_itself(root: Path) -> None:
    (engine,) = stored_engines(root / "one")
    assert engine.directory == root / "one"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(damage, "model.onnx is not the file that was built", id="damaged"),
        pytest.param(lambda d: (d / "model.onnx").unlink(), "model.onnx is missing", id="incomplete"),
        pytest.param(lambda d: (d / "engine.json").write_text("{}"), "is not valid", id="no manifest"),
        pytest.param(
            lambda d: (d / "engine.json").write_text((d / "engine.json").read_text().replace('"fp32"', '"fp16"')),
            "not signed by this box",
            id="edited",
        ),
    ],
)
def test_what_cannot_be_used_says_why(root: Path, change: Callable[[Path], object], reason: str) -> None:
    change(root / "one")
    engine = next(engine for engine in stored_engines(root) if engine.directory.name == "one")
    assert engine.state == "stale"
    assert reason in engine.reason
    assert states(root)["line 2/two"] == "usable"


def test_engines_of_another_box_are_stale(root: Path, tmp_path: Path) -> None:
    (tmp_path / "home/box.key").write_bytes(bytes(32))
    assert set(states(root).values()) == {"stale"}


def test_without_a_key_nothing_is_called_stale(root: Path, tmp_path: Path) -> None:
    """As for another user than the one who built them."""
    (tmp_path / "home/box.key").unlink()
    with pytest.raises(EngineError, match="has no box key"):
        stored_engines(root)
    assert not (tmp_path / "home/box.key").exists()


def test_an_engine_that_came_in_the_meantime_stays(root: Path) -> None:
    usable = next(engine for engine in stored_engines(root) if engine.state == "usable")
    assert not remove_unusable(usable.directory)
    assert (usable.directory / "engine.json").is_file()


def test_with_an_unsafe_key_nothing_is_called_stale(root: Path, tmp_path: Path) -> None:
    (tmp_path / "home/box.key").chmod(0o644)
    with pytest.raises(EngineError, match="can be read by others"):
        stored_engines(root)


def test_engines_for_other_versions_are_stale(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeBackend, "box_facts", classmethod(lambda cls: BoxFacts("onnxruntime 0.1")))
    assert all("is 'onnxruntime 0.1'" in engine.reason for engine in stored_engines(root))
    assert set(states(root).values()) == {"stale"}


def test_what_cannot_run_at_present_is_not_stale(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(kind: type) -> BoxFacts:
        raise EngineError("there is no driver", why="no libcuda")

    monkeypatch.setattr(OnnxRuntimeBackend, "box_facts", classmethod(absent))
    assert {(engine.state, engine.reason) for engine in stored_engines(root)} == {
        ("unavailable", "there is no driver: no libcuda")
    }
    assert not any(verified_engine(engine).failed for engine in stored_engines(root))


def test_a_backend_that_this_version_does_not_know_is_not_stale(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(BACKENDS, "onnxruntime")
    assert set(states(root).values()) == {"unavailable"}


def test_no_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="nowhere is not a directory"):
        stored_engines(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert stored_engines(tmp_path / "empty") == []


def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.move(root / "one", tmp_path / "elsewhere/one")
    (root / "one").symlink_to(tmp_path / "elsewhere/one")
    assert list(states(root)) == ["line 2/two"]


def test_removing_takes_the_engine_and_nothing_else(root: Path) -> None:
    remove_engine(root / "one")
    assert sorted(path.name for path in root.iterdir()) == ["README.md", "line 2", "recipes"]


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_holds_anything_else_is_not_removed(root: Path, tmp_path: Path, kind: str) -> None:
    other = root / "one" / ("model.plan" if kind == "link" else "notes")
    if kind == "file":
        other.write_text("mine")
    elif kind == "directory":
        other.mkdir()
    else:
        (tmp_path / "precious").write_text("mine")
        other.symlink_to(tmp_path / "precious")
    before = sorted(path.name for path in (root / "one").iterdir())
    assert foreign_entries(root / "one") == [other.name]
    with pytest.raises(OutputError, match=f"also holds {other.name}"):
        remove_engine(root / "one")
    assert sorted(path.name for path in (root / "one").iterdir()) == before


def aged(path: Path, age_s: float) -> Path:
    then_s = time.time() - age_s
    for entry in (*path.iterdir(), path):
        os.utime(entry, (then_s, then_s))
    return path


def test_only_old_build_directories_are_leftovers(root: Path) -> None:
    def left(name: str, *files: str) -> Path:
        (root / name).mkdir()
        for file in files:
            (root / name / file).write_text("x")
        return root / name

    killed = aged(left(".lid.new-ab12_x9z", "engine.json", "model.plan"), LEFTOVER_AGE_S + 60)
    empty = aged(left(".lid.old-00000000"), LEFTOVER_AGE_S + 60)
    aged(left(".lid.new-running0", "model.plan"), LEFTOVER_AGE_S - 60)
    aged(left(".lid.new-notours0", "model.plan", "notes"), LEFTOVER_AGE_S + 60)
    aged(left(".config", "engine.json"), LEFTOVER_AGE_S + 60)
    aged(left("lid.new-ab12_x9z", "thresholds.json"), LEFTOVER_AGE_S + 60)
    writing = aged(left(".lid.new-writing0", "model.plan"), LEFTOVER_AGE_S + 60)
    (writing / "model.plan").write_text("more")
    assert leftovers(root) == [killed, empty]
    assert list(states(root)) == ["line 2/two", "one"], "what is aside is no engine"
    assert leftovers(root, now_s=0) == []
    for path in leftovers(root):
        remove_engine(path)
    assert not killed.exists() and not empty.exists()


def test_verifying_loads_each_usable_engine(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(root / "one")
    two, one = (verified_engine(engine) for engine in stored_engines(root))
    assert two.verification is not None and two.verification.passed and not two.failed
    assert one.verification is None and one.failed

    def refused(kind: type, /, payload: bytes, **settings: object) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(OnnxRuntimeBackend, "open", classmethod(refused))
    two, _ = (verified_engine(engine) for engine in stored_engines(root))
    assert (two.failed, two.error, two.engine.state) == (True, "out of memory.", "usable")


def test_an_engine_that_answers_otherwise_fails(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(self: OnnxRuntimeBackend, feeds: object) -> dict[str, object]:
        return {name: 2 * array for name, array in run(self, feeds).items()}  # type: ignore[arg-type]

    run = OnnxRuntimeBackend.run
    engines: list[StoredEngine] = stored_engines(root)
    monkeypatch.setattr(OnnxRuntimeBackend, "run", doubled)
    assert all(verified_engine(engine).failed for engine in engines)
