from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_ad.bundle import read_bundle
from edge_ad.data.synthetic import write_synthetic
from edge_ad.engine_build import build_engine
from tests.cli.command_line import edge_ad
from tests.factories import make_bundle

QUICK = ("--rounds", "3", "--warm-up", "1", "--batches", "1,2")


@pytest.fixture(scope="module")
def engine(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("engines") / "widget"
    return build_engine(read_bundle(bundle), directory, backend="onnxruntime", precision="fp32").directory


def test_figures_of_one_engine(engine: Path) -> None:
    done = edge_ad("benchmark", engine, *QUICK)
    assert done.exit_code == 0
    for told in ("feed", "engine", "map", "verdict", "total", "outside the engine", "GMAC a frame", "GEMM", "copy"):
        assert told in done.stdout
    assert "skipped batch 2: the engine was built for at most 1" in done.stderr
    assert "faster" not in done.stdout and "slower" not in done.stdout


def test_two_models_as_json(engine: Path, bundle: Path) -> None:
    done = edge_ad("benchmark", engine, "--against", bundle / "model.onnx", *QUICK, "--json")
    report = json.loads(done.stdout)
    assert (done.exit_code, done.stderr) == (0, "")
    assert (report["rounds"], report["warm_up"]) == (3, 1)
    assert report["frames"] == ["golden.safetensors 0", "golden.safetensors 1"]
    first, second = report["contestants"]
    assert (first["path"], second["path"]) == (str(engine), str(bundle / "model.onnx"))
    assert first["latency_ms"].keys() == {"feed", "engine", "map", "verdict", "total"}
    assert [batch["batch"] for batch in second["batches"]] == [1, 2]
    assert first["skipped"] == {"2": "the engine was built for at most 1"}
    assert first["macs"] == second["macs"] == 4976640
    assert report["comparison"]["agree"] is True and report["comparison"]["same_model"] is True
    assert report["peaks"]["gemm_gflops"]["onnxruntime"] > 0


def test_models_that_differ_are_said_to(engine: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", seed=8).directory
    done = edge_ad("benchmark", engine, "--against", other, *QUICK)
    assert done.exit_code == 0
    assert "their maps differ by at most" in done.stdout
    assert "they are different models" in done.stderr


@pytest.mark.parametrize("kind", ["data set", "synthetic"])
def test_other_frames(bundle: Path, tmp_path: Path, kind: str) -> None:
    write_synthetic(tmp_path / "lid", train=2, validation=1, test_good=2, test_per_defect=0, size_px=64)
    where = tmp_path / "lid" if kind == "data set" else kind
    done = edge_ad("benchmark", bundle, "--frames", where, *QUICK, "--json")
    sources = json.loads(done.stdout)["frames"]
    assert (done.exit_code, len(sources)) == (0, 2 if kind == "data set" else 16)
    assert all(str(tmp_path) in source or source.startswith("synthetic ") for source in sources)


@pytest.mark.parametrize("batches", ["0", "1,x", "", "-1", "1025"])
def test_odd_batch_sizes_are_refused(bundle: Path, batches: str) -> None:
    done = edge_ad("benchmark", bundle, f"--batches={batches}")
    assert done.exit_code == 2
    assert "give sizes from 1 to 1024" in done.stderr


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    assert edge_ad("benchmark", tmp_path).exit_code == 3
