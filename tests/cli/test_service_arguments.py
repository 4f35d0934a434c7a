"""What of ``edge-ad run`` a service can start, and how it is written out."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.cli.service_arguments import run_arguments
from edge_ad.errors import ConfigError

CAMERA = "synthetic://?size=64"


def make_recipe(path: Path, **settings: object) -> Path:
    path.write_text("".join(f'{name} = "{value}"\n' for name, value in settings.items()))
    return path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["-q"], ["--quiet"], id="quiet once"),
        pytest.param(["--jsonl", "-"], ["--jsonl", "-"], id="lines in the journal for who asks for them"),
        pytest.param(["--json"], ["--json"], id="report"),
        pytest.param(["--threshold", "-3"], ["--threshold", "-3.0", "--quiet"], id="number"),
        pytest.param(["--mode=rgb_only"], ["--mode", "rgb_only", "--quiet"], id="with ="),
        pytest.param(
            ["-q", "--policy", "latest", "--in-process"], ["--policy", "latest", "--in-process", "--quiet"], id="flags"
        ),
    ],
)
def test_arguments_are_written_out(bundle: Path, arguments: list[str], expected: list[str]) -> None:
    start = ["--engine", str(bundle), "--camera", CAMERA]
    written = run_arguments([*start, *arguments])
    assert written == [*start, *expected]
    assert run_arguments(written) == written


def test_a_served_model_is_left_as_it_is() -> None:
    uri = "grpc://127.0.0.1:8001/lid?bundle=/b"
    assert run_arguments(["--camera", CAMERA, "--engine", uri])[:2] == ["--engine", uri]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["--engine", "BUNDLE"], "--camera", id="missing option"),
        pytest.param(["--engine", "BUNDLE", "--camera", CAMERA, "--fast"], "No such option", id="unknown option"),
        pytest.param(["--engine", "BUNDLE", "--camera", CAMERA, "--threshold", "x"], "--threshold", id="no number"),
        pytest.param([], "--engine", id="nothing"),
        pytest.param(["--engine", "nowhere/lid", "--camera", CAMERA], "nowhere/lid does not exist", id="no engine"),
        pytest.param(["--engine", "BUNDLE", "--camera", CAMERA, "--fallback", "gone"], "gone does", id="no fallback"),
        pytest.param(["--engine", "BUNDLE", "--camera", "mind://"], "'mind' is unknown", id="no such camera"),
        pytest.param(["--engine", "BUNDLE", "--camera", "folder://."], "is no live camera", id="files"),
        pytest.param(["--engine", "BUNDLE", "--camera", CAMERA, "--trigger", "stdin"], "no standard", id="triggers"),
        pytest.param(["--engine", "BUNDLE", "--camera", CAMERA, "--frames", "3"], "--frames has no place", id="ends"),
    ],
)
def test_arguments_that_no_service_can_be_of(bundle: Path, arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        run_arguments([str(bundle) if word == "BUNDLE" else word for word in arguments])
    assert caught.value.remedy


def test_every_fallback_is_kept(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    fallbacks = ("--fallback", bundle.name, "--fallback", str(bundle))
    written = run_arguments(["--engine", bundle.name, "--camera", CAMERA, *fallbacks, "--trigger", "timer://?rate=2"])
    assert written == [
        *("--engine", str(bundle), "--camera", CAMERA, "--trigger", "timer://?rate=2"),
        *("--fallback", str(bundle)) * 2,
        "--quiet",
    ]


def test_recipes(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(tmp_path / "lid.toml", model=bundle, camera=CAMERA)
    assert run_arguments(["--recipe", "lid.toml"]) == ["--recipe", str(recipe), "--quiet"]
    assert run_arguments(["--recipe", "."])[:2] == ["--recipe", str(tmp_path)]


def test_lines_that_a_recipe_wants_on_standard_output_stay_there(bundle: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "lid.toml", model=bundle, camera=CAMERA)
    recipe.write_text(recipe.read_text() + '[outputs]\njsonl = "-"\n')
    assert run_arguments(["--recipe", str(recipe)]) == ["--recipe", str(recipe)]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        pytest.param({}, "names no camera", id="no camera"),
        pytest.param({"camera": "folder://."}, "is no live camera", id="files"),
        pytest.param({"camera": CAMERA, "model": "nowhere"}, "nowhere does not exist", id="no engine"),
        pytest.param({"camera": CAMERA, "triggers": "stdin"}, "no standard input", id="triggers"),
        pytest.param({"camera": CAMERA, "shape": "round"}, "no setting shape", id="wrong"),
    ],
)
def test_recipes_that_no_service_can_be_of(bundle: Path, tmp_path: Path, settings: dict[str, str], told: str) -> None:
    recipe = make_recipe(tmp_path / "lid.toml", **{"model": bundle, **settings})
    with pytest.raises(ConfigError, match=told):
        run_arguments(["--recipe", str(recipe)])


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lid\.toml cannot be read"):
        run_arguments(["--recipe", str(tmp_path / "lid.toml")])
