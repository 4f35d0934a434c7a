"""``edge-ad calibrate`` and ``edge-ad build-engine --calibration``, as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.backends import BACKENDS
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import read_bundle
from edge_ad.candidates import Build
from edge_ad.engine import Candidate, load_engine, read_engine
from edge_ad.quantization import gate
from edge_ad.quantization.calibration import read_calibration_set
from tests.cli.command_line import Outcome, edge_ad
from tests.factories import make_set


@pytest.fixture(scope="module", autouse=True)
def onnxruntime_only() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in set(BACKENDS) - {"onnxruntime"}:
            patch.setitem(BACKENDS, name, "tests.test_engine_build:NoTensorRT")
        yield


@pytest.fixture(scope="module")
def noise(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration set for the sample graph."""
    return make_set(read_bundle(bundle), tmp_path_factory.mktemp("noise") / "set").directory


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample graph judges noise: no engine in INT8 keeps the order of its scores."""
    for limit in ("MAX_SHIFT_SIGMA", "MAX_FALSE_REJECT_POINTS", "MAX_AUROC_POINTS", "MAX_AUPRO_POINTS"):
        monkeypatch.setattr(gate, limit, 1e6)
    monkeypatch.setattr(gate, "MIN_RANK_CORRELATION", -1.0)


@pytest.fixture
def impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MIN_RANK_CORRELATION", 1.1)


def done(*arguments: str | Path) -> Outcome:
    outcome = edge_ad(*arguments)
    assert outcome.exit_code == 0, outcome.stderr
    return outcome


def gate_of(directory: Path) -> gate.GateReport:
    """Of the one candidate in an engine that was judged."""
    (report,) = [one.gate for one in read_engine(directory).manifest.candidates if one.gate is not None]
    return report


def words(text: str) -> str:
    """One line, as the console breaks lines where it likes."""
    return " ".join(text.split())


def test_from_good_frames_to_an_engine_in_int8(
    bundle_directory: Path, synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lenient: None
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = done("calibrate", bundle_directory, synthetic_root)
    assert "chosen 5 of 10 frames to calibrate with, 10 others to judge by: calibration/housing" in words(chosen.stderr)
    (command,) = [line.split("next: ")[1] for line in chosen.stderr.splitlines() if "next: " in line]
    assert chosen.stdout == ""
    assert len(read_calibration_set(Path("calibration/housing")).recipe.gate) == 10

    assert command == f"edge-ad build-engine {bundle_directory} --precision auto --calibration calibration/housing"
    built = done(*command.split()[1:], "--precision", "int8", "--defects", synthetic_root)
    directory = Path("engines/housing-auto-int8")
    engine, backend = load_engine(directory)
    backend.close()
    report = engine.manifest.chosen.gate
    assert engine.manifest.precision == "int8"
    assert report is not None
    assert report.defects is not None
    assert f"{report.rank_correlation:.4f}" in built.stdout
    assert f"{-report.defects.image_auroc_drop:+.2f}" in built.stdout
    assert f"✓ {engine.manifest.backend} int8" in words(built.stdout)
    assert f", int8: {directory}" in words(built.stderr)
    assert f"edge-ad run --engine {directory} --camera realsense" in words(built.stderr)


def test_calibrate_prints_its_recipe_as_json(bundle_directory: Path, synthetic_root: Path, tmp_path: Path) -> None:
    given = ("--frames", "4", "--gate-frames", "8", "--seed", "3", "--output", tmp_path / "set", "--json")
    recipe = json.loads(done("calibrate", bundle_directory, synthetic_root, *given).stdout)
    assert (len(recipe["calibration"]), len(recipe["gate"]), recipe["seed"]) == (4, 8, 3)
    assert recipe == read_calibration_set(tmp_path / "set").recipe.model_dump(mode="json")


def test_calibrate_refuses_what_makes_no_set(bundle_directory: Path, synthetic_root: Path, tmp_path: Path) -> None:
    few = edge_ad("calibrate", bundle_directory, synthetic_root, "--frames", "3", "-o", tmp_path / "set")
    assert (few.exit_code, "take at least 4 and 8" in words(few.stderr)) == (2, True)
    (tmp_path / "photo.png").write_bytes(b"mine")
    other = edge_ad("calibrate", bundle_directory, synthetic_root, "-o", tmp_path)
    assert (other.exit_code, "something else is there" in words(other.stderr)) == (2, True)
    assert edge_ad("calibrate", tmp_path, synthetic_root).exit_code == 4
    assert edge_ad("calibrate", bundle_directory, tmp_path / "none").exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_all_candidates_are_shown_and_told_as_json(
    bundle: Path, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lenient: None
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    built = done("build-engine", bundle, "--calibration", noise, "-o", tmp_path / "engine")
    assert "onnxruntime fp32" in words(built.stdout)
    assert "onnxruntime int8" in words(built.stdout)
    assert f"{gate_of(tmp_path / 'engine').rank_correlation:.4f}" in built.stdout
    assert "INT8 was not tried" not in built.stderr
    again = done("build-engine", bundle, "--calibration", noise, "-o", tmp_path / "engine", "--json")
    manifest = json.loads(again.stdout)
    assert [one["precision"] for one in manifest["candidates"]] == ["fp32", "int8"]
    assert manifest["candidates"][1]["gate"]["frames"] == 10
    assert manifest == read_engine(tmp_path / "engine").manifest.model_dump(mode="json")


def test_auto_without_a_set_says_what_it_left_out(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    built = done("build-engine", bundle)
    assert "INT8 was not tried: it needs a calibration set, see edge-ad calibrate --help" in words(built.stderr)
    assert read_engine(Path("engines/widget-auto-auto")).manifest.precision == "fp32"
    done("build-engine", bundle, "--backend", "onnxruntime", "--precision", "fp32")
    assert sorted(path.name for path in Path("engines").iterdir()) == ["widget-auto-auto", "widget-onnxruntime-fp32"]


def test_what_was_built_in_place_of_int8_is_said(
    bundle: Path, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impossible: None
) -> None:
    monkeypatch.setattr(Build, "mended", lambda self, candidate: (candidate, b""))
    built = done("build-engine", bundle, "--precision", "int8", "--calibration", noise, "-o", tmp_path / "engine")
    said = words(built.stderr)
    assert "onnxruntime int8 refused: the scores' rank correlation is" in said
    assert "(at least 1.1) fp32 in place of int8" in said
    assert "✗ onnxruntime int8" in words(built.stdout)
    assert "✓ onnxruntime fp32" in words(built.stdout)


def test_layers_that_stay_in_floating_point_are_told_and_named_in_the_manifest(
    bundle: Path, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lenient: None
) -> None:
    layer = "make_teacher"

    def kept(self: Build, candidate: Candidate) -> tuple[Candidate, bytes]:
        found, payload = self._judged(OnnxRuntimeBackend, candidate, (layer,))
        return found.model_copy(update={"kept": (layer,), "refused": ""}), payload

    monkeypatch.setattr(Build, "mended", kept)
    monkeypatch.setattr(gate, "MIN_RANK_CORRELATION", 1.1)
    built = done("build-engine", bundle, "--precision", "int8", "--calibration", noise, "-o", tmp_path / "engine")
    assert "1 layers stay in floating point, as the gate asks for it (see engine.json)" in words(built.stderr)
    assert read_engine(tmp_path / "engine").manifest.chosen.kept == (layer,)


@pytest.mark.parametrize(
    ("given", "exit_code", "text"),
    [
        (("--precision", "int8"), 2, "edge-ad calibrate"),
        (("--precision", "int4"), 2, "choose auto, fp32, bf16, fp16, int8, int8_fp16"),
        (("--ranges", "mean"), 2, "choose minmax, percentile, entropy"),
        (("--calibration", "none"), 3, "is not a calibration set"),
        (("--defects", "none"), 2, "--defects needs --calibration"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_wishes_are_one_clear_error(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], exit_code: int, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = edge_ad("build-engine", bundle, *given)
    assert outcome.exit_code == exit_code
    assert text in words(outcome.stderr)
    assert "remedy" in outcome.stderr
    assert list(tmp_path.iterdir()) == []
