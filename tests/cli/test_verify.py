from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_ad.backends import BACKENDS
from edge_ad.bundle import read_bundle
from edge_ad.engine_build import build_engine
from tests.cli.command_line import edge_ad
from tests.factories import make_bundle

NOT_HERE = "tests.test_verification:Absent"


@pytest.fixture(autouse=True)
def backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime, and TensorRT as on a box without a driver."""
    from edge_ad.errors import EngineError
    from tests.test_verification import Absent

    Absent.error = EngineError("there is no driver", why="no libcuda")
    for name in set(BACKENDS) - {"onnxruntime"}:
        monkeypatch.delitem(BACKENDS, name)
    monkeypatch.setitem(BACKENDS, "tensorrt", NOT_HERE)


@pytest.fixture(scope="module")
def mixing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("mixing") / "bundle", mixes_batch=True).directory


def test_a_bundle_is_verified_and_what_is_not_here_is_skipped(bundle: Path) -> None:
    done = edge_ad("verify", bundle)
    assert done.exit_code == 0
    assert "passed" in done.stdout and "onnxruntime fp32" in " ".join(done.stdout.split())
    assert "skipped tensorrt: there is no driver: no libcuda" in done.stderr
    assert "2 checks passed, 2 skipped" in done.stderr
    report = json.loads(edge_ad("verify", bundle / "model.onnx", "--json").stdout)
    assert report["passed"] is True
    assert [(check["backend"], check["kind"], check["verdict"]) for check in report["checks"]] == [
        ("onnxruntime", "golden", "passed"),
        ("onnxruntime", "batch", "passed"),
        ("tensorrt", "golden", "skipped"),
        ("tensorrt", "batch", "skipped"),
    ]


def test_disagreement_is_exit_code_1(mixing: Path) -> None:
    done = edge_ad("verify", mixing, "--backend", "onnxruntime")
    assert done.exit_code == 1
    assert "failed 1 of 2 checks" in done.stderr
    again = edge_ad("verify", mixing, "--backend", "onnxruntime", "--json")
    assert (again.exit_code, json.loads(again.stdout)["passed"], again.stderr) == (1, False, "")


def test_nothing_tried_is_no_success(bundle: Path) -> None:
    done = edge_ad("verify", bundle, "--backend", "tensorrt")
    assert done.exit_code == 1
    assert "nothing could be tried on this box" in done.stderr


def test_an_engine_is_verified_as_it_was_built(bundle: Path, mixing: Path, tmp_path: Path) -> None:
    build_engine(read_bundle(bundle), tmp_path / "good", backend="onnxruntime", precision="fp32", max_batch=2)
    done = edge_ad("verify", tmp_path / "good", "--backend", "onnxruntime")
    assert (done.exit_code, "2 checks passed, 0 skipped" in done.stderr) == (0, True)
    wrong = edge_ad("verify", tmp_path / "good", "--backend", "tensorrt")
    assert wrong.exit_code == 2
    assert "is an engine for onnxruntime, not tensorrt" in wrong.stderr


def test_what_is_neither_or_unknown_is_an_error(bundle: Path, tmp_path: Path) -> None:
    assert edge_ad("verify", tmp_path).exit_code == 4
    assert edge_ad("verify", bundle, "--backend", "tpu").exit_code == 2
