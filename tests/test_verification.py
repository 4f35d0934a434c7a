from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from edge_ad.backends import BACKENDS
from edge_ad.backends.base import BoxFacts
from edge_ad.backends.golden import batch_differences, check_golden
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import MANIFEST, Bundle, FileDigest, file_digest, read_bundle
from edge_ad.engine_build import build_engine
from edge_ad.errors import ConfigError, EngineError, MissingExtraError
from edge_ad.types import AnyArray
from edge_ad.verification import Check, Verification, verify_bundle, verify_engine
from tests.factories import make_bundle


@pytest.fixture(autouse=True)
def only_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what other backends are installed here does not matter."""
    for name in set(BACKENDS) - {"onnxruntime"}:
        monkeypatch.delitem(BACKENDS, name)


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("sound"))


def spoiled(bundle: Bundle, directory: Path, change: Mapping[str, AnyArray | None]) -> Bundle:
    """A copy with other golden tensors (None: without it), whole otherwise."""
    shutil.copytree(bundle.directory, directory)
    golden = directory / "golden.safetensors"
    tensors: dict[str, AnyArray | None] = {**safetensors.numpy.load_file(golden), **change}
    safetensors.numpy.save_file({name: array for name, array in tensors.items() if array is not None}, golden)
    files: dict[str, FileDigest] = {**bundle.manifest.files, golden.name: file_digest(golden)}
    manifest = bundle.manifest.model_copy(update={"files": files}).sealed()
    (directory / MANIFEST).write_text(manifest.model_dump_json())
    return read_bundle(directory)


def of_kind(verification: Verification, kind: str) -> Check:
    (found,) = (check for check in verification.checks if check.kind == kind)
    return found


def test_a_sound_bundle_passes(sound: Bundle) -> None:
    told: list[str] = []
    verification = verify_bundle(sound, progress=told.append)
    assert verification.passed
    assert told == ["onnxruntime, full"]
    assert [(check.kind, check.verdict) for check in verification.checks] == [("golden", "passed"), ("batch", "passed")]
    for check in verification.checks:
        assert check.output in ("anomaly_map", "score")
        assert check.difference is not None and check.allowed is not None
        assert 0 <= check.difference <= check.allowed
    assert json.loads(json.dumps(verification.report(), allow_nan=False)) == verification.report()


def test_a_spoiled_golden_map_fails_and_says_by_how_much(sound: Bundle, tmp_path: Path) -> None:
    golden = safetensors.numpy.load_file(sound.directory / "golden.safetensors")["output.anomaly_map"]
    by = np.float32(0.1) * np.abs(golden).max()
    verification = verify_bundle(spoiled(sound, tmp_path / "spoiled", {"output.anomaly_map": golden + by}))
    assert not verification.passed
    check = of_kind(verification, "golden")
    assert (check.verdict, check.output) == ("failed", "anomaly_map")
    assert check.difference == pytest.approx(float(by), rel=0.05)
    assert check.allowed == pytest.approx(1e-3 * float(np.abs(golden + by).max()))
    assert of_kind(verification, "batch").verdict == "passed", "the graph itself is sound"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"output.score": np.full(2, np.nan, np.float32)}, "score is missing, of another shape or not a number"),
        ({"output.more": np.ones(2, np.float32)}, "more is missing"),
        ({"input.rgb": None}, "input 'rgb' is missing"),
        ({"input.rgb": None, "input.depth": None}, "not a set of golden samples"),
    ],
)
def test_odd_golden_samples_fail_with_a_reason(
    sound: Bundle, tmp_path: Path, change: dict[str, AnyArray | None], reason: str
) -> None:
    verification = verify_bundle(spoiled(sound, tmp_path / "spoiled", change))
    assert not verification.passed
    assert reason in of_kind(verification, "golden").reason
    json.dumps(verification.report(), allow_nan=False)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_a_graph_that_mixes_the_frames_of_a_batch_fails(tmp_path: Path, samples: int) -> None:
    mixing = make_bundle(tmp_path / "mixing", mixes_batch=True, samples=samples)
    verification = verify_bundle(mixing)
    assert not verification.passed
    assert of_kind(verification, "golden").verdict == "passed", "one frame at a time it is right"
    batch = of_kind(verification, "batch")
    assert batch.verdict == "failed"
    assert batch.difference is not None and batch.allowed is not None
    assert batch.difference > 10 * batch.allowed


def test_no_engine_is_built_that_mixes_the_frames_of_a_batch(tmp_path: Path) -> None:
    mixing = make_bundle(tmp_path / "mixing", mixes_batch=True, samples=1)
    backend = OnnxRuntimeBackend(mixing.model_path)
    check_golden(backend, mixing.directory / "golden.safetensors", "fp32")
    with pytest.raises(EngineError, match="otherwise for a frame in a batch than for the frame alone"):
        check_golden(backend, mixing.directory / "golden.safetensors", "fp32", max_batch=3)
    build_engine(mixing, tmp_path / "engine", backend="onnxruntime", precision="fp32")
    with pytest.raises(EngineError, match="anomaly_map differs by"):
        build_engine(mixing, tmp_path / "batched", backend="onnxruntime", precision="fp32", max_batch=3)


class Swapping(OnnxRuntimeBackend):
    """Gives every frame of a batch its neighbour's answer, as a mistaken stride would."""

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        return {name: np.roll(array, 1, axis=0) for name, array in super().run(feeds).items()}


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_answers_in_the_wrong_place_are_found(tmp_path: Path, samples: int) -> None:
    bundle = make_bundle(tmp_path / "bundle", samples=samples)
    golden = bundle.directory / "golden.safetensors"
    right, wrong = (kind(bundle.model_path) for kind in (OnnxRuntimeBackend, Swapping))
    for max_batch in (2, 3, 4, 5, 8):
        assert all(item.passes for item in batch_differences(right, golden, "fp32", max_batch))
        assert not all(item.passes for item in batch_differences(wrong, golden, "fp32", max_batch))


def test_an_engine_is_tried_as_it_was_built(sound: Bundle, tmp_path: Path) -> None:
    build_engine(sound, tmp_path / "one", backend="onnxruntime", precision="fp32")
    build_engine(sound, tmp_path / "three", backend="onnxruntime", precision="fp32", max_batch=3)
    alone, batched = verify_engine(tmp_path / "one"), verify_engine(tmp_path / "three")
    assert alone.passed and batched.passed
    assert of_kind(alone, "batch").verdict == "skipped"
    assert of_kind(batched, "batch").verdict == "passed"


def test_an_engine_of_another_box_is_an_error(sound: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_engine(sound, tmp_path / "engine", backend="onnxruntime", precision="fp32")
    monkeypatch.setattr(OnnxRuntimeBackend, "box_facts", classmethod(lambda cls: BoxFacts("onnxruntime 0.1")))
    with pytest.raises(EngineError, match=r"not built for this box.*is 'onnxruntime 0.1'"):
        verify_engine(tmp_path / "engine")
    (tmp_path / "engine/model.onnx").write_bytes(b"other")
    with pytest.raises(EngineError, match="not the file that was built"):
        verify_engine(tmp_path / "engine")


class Absent(OnnxRuntimeBackend):
    """A backend whose hardware or package is not there."""

    error: EngineError | MissingExtraError

    @classmethod
    def box_facts(cls) -> BoxFacts:
        raise cls.error


class Broken(OnnxRuntimeBackend):
    """A backend that is there and refuses the model."""

    @classmethod
    def build(cls, model: bytes, **settings: Any) -> bytes:
        raise EngineError("no kernel for Conv")


@pytest.mark.parametrize("error", [EngineError("no driver", why="no libcuda"), MissingExtraError("no package")])
def test_a_backend_that_is_not_here_is_skipped_with_its_reason(
    sound: Bundle, monkeypatch: pytest.MonkeyPatch, error: EngineError
) -> None:
    Absent.error = error
    monkeypatch.setitem(BACKENDS, "absent", f"{__name__}:Absent")
    verification = verify_bundle(sound)
    skipped = [check for check in verification.checks if check.backend == "absent"]
    assert [check.verdict for check in skipped] == ["skipped", "skipped"]
    assert {check.reason for check in skipped} == {"no driver: no libcuda" if error.why else "no package"}
    assert verification.passed
    only = verify_bundle(sound, "absent")
    assert not only.passed, "nothing was tried"
    assert not any(check.verdict == "failed" for check in only.checks)


def test_a_backend_that_is_here_and_cannot_run_the_model_fails(sound: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "broken", f"{__name__}:Broken")
    verification = verify_bundle(sound)
    assert not verification.passed
    failed = [check for check in verification.checks if check.verdict == "failed"]
    assert {dataclasses.astuple(check)[:3] + (check.reason,) for check in failed} == {
        ("broken", "full", "fp32", "no kernel for Conv.")
    }


def test_an_unknown_backend_is_named(sound: Bundle) -> None:
    with pytest.raises(ConfigError, match="no backend 'tpu'"):
        verify_bundle(sound, "tpu")
