from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from edge_ad.bundle import read_bundle
from edge_ad.engine_build import build_engine
from tests.cli.command_line import MAIN, edge_ad


@pytest.fixture
def root(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound engine, a damaged one, a damaged one with a file of the user's in it, and a folder of the user's."""
    monkeypatch.setenv("EDGE_AD_HOME", str(tmp_path / "home"))
    root = tmp_path / "engines"
    for name in ("sound", "damaged", "noted"):
        build_engine(read_bundle(bundle), root / name, backend="onnxruntime", precision="fp32")
    for name in ("damaged", "noted"):
        (root / name / "model.onnx").write_bytes(b"x")
    (root / "noted/notes.txt").write_text("mine")
    (root / "photos").mkdir()
    (root / "photos/model.onnx").write_text("mine")
    return root


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_listing_says_what_is_what(root: Path) -> None:
    done = edge_ad("engines", "list", "--directory", root)
    assert done.exit_code == 0
    assert "widget" in done.stdout and "sound" in done.stdout
    assert "stale damaged: " in done.stderr and "model.onnx is not the file that was built" in done.stderr
    listed = json.loads(edge_ad("engines", "list", "--directory", root, "--json").stdout)
    assert {(Path(item["directory"]).name, item["state"]) for item in listed} == {
        ("sound", "usable"),
        ("damaged", "stale"),
        ("noted", "stale"),
    }


def test_an_empty_directory_lists_nothing(tmp_path: Path) -> None:
    done = edge_ad("engines", "list", "--directory", tmp_path)
    assert (done.exit_code, done.stdout) == (0, "")
    assert edge_ad("engines", "list", "--directory", tmp_path / "nowhere").exit_code == 4


def test_verify_fails_for_one_bad_engine(root: Path) -> None:
    done = edge_ad("engines", "verify", "--directory", root)
    assert done.exit_code == 1
    assert "1 of 3 tried, 2 failed" in done.stderr
    verified = json.loads(edge_ad("engines", "verify", "--directory", root, "--json").stdout)
    found = {Path(item["directory"]).name: item for item in verified}
    assert found["sound"]["verification"]["passed"] is True
    assert found["damaged"]["verification"] is None
    assert [found[name]["failed"] for name in ("sound", "damaged", "noted")] == [False, True, True]
    good = edge_ad("engines", "verify", "--directory", root / "sound")
    assert (good.exit_code, "1 of 1 tried, 0 failed" in good.stderr) == (0, True)


def test_a_dry_run_removes_nothing(root: Path) -> None:
    before = names(root)
    done = edge_ad("engines", "prune", "--directory", root, "--dry-run")
    assert (done.exit_code, names(root)) == (0, before)
    assert "1 would be removed" in done.stderr
    assert f"remove {root / 'damaged'}: " in done.stderr
    assert f"keep {root / 'noted'}, although it is of no use: it also holds notes.txt" in done.stderr


def test_prune_removes_what_is_of_no_use_and_holds_nothing_else(root: Path) -> None:
    done = edge_ad("engines", "prune", "--directory", root, "--yes", "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 0
    assert report["removed"] == [str(root / "damaged")] == [item["directory"] for item in report["to_remove"]]
    assert report["kept"] == [{"directory": str(root / "noted"), "also_holds": ["notes.txt"]}]
    assert names(root) == {"sound", "noted", "photos"}
    assert (root / "photos/model.onnx").read_text() == "mine"
    again = edge_ad("engines", "prune", "--directory", root)
    assert (again.exit_code, "0 removed" in again.stderr) == (0, True), "nothing to ask about"


@pytest.mark.parametrize(("answer", "removed"), [("n\n", False), ("y\n", True), ("", False)])
def test_prune_asks(root: Path, answer: str, removed: bool) -> None:
    command = [*MAIN, "engines", "prune", "--directory", str(root)]
    done = subprocess.run(command, input=answer, capture_output=True, text=True)
    assert "Remove 1?" in done.stderr
    assert done.returncode == (0 if answer else 1)
    assert ("damaged" not in names(root)) is removed


def test_json_cannot_ask(root: Path) -> None:
    before = names(root)
    done = edge_ad("engines", "prune", "--directory", root, "--json")
    assert (done.exit_code, names(root)) == (2, before)
    assert "--dry-run" in done.stderr
