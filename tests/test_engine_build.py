"""Which engine a build ends with: tried, judged, mended and used again. One build is of a trained model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.backends import BACKENDS, backend_class
from edge_ad.backends.base import BoxFacts, Precision
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.backends.openvino import OpenVinoBackend
from edge_ad.bundle import FULL, Bundle, Threshold, Thresholds, read_bundle, write_thresholds
from edge_ad.candidates import Build, Evidence, defects_from_dataset, interleaved_ms
from edge_ad.data import Dataset
from edge_ad.engine import Candidate, Engine, load_engine, read_engine
from edge_ad.engine_build import build_engine
from edge_ad.errors import ConfigError, DataError, EngineError
from edge_ad.quantization import gate, sensitivity
from edge_ad.quantization.calibration import CalibrationSet
from edge_ad.quantization.gate import GateReport
from tests.factories import make_bundle, make_set

pytest.importorskip("openvino")

CPU = ("onnxruntime", "openvino")


class NoTensorRT(OnnxRuntimeBackend):
    """TensorRT on a box without a GPU."""

    @classmethod
    def box_facts(cls) -> BoxFacts:
        raise EngineError("there is no NVIDIA driver")


@pytest.fixture(scope="module", autouse=True)
def cpu_only() -> Iterator[None]:
    """A box without TensorRT, whatever this one has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKENDS, "tensorrt", f"{__name__}:NoTensorRT")
        yield


@pytest.fixture(scope="module")
def trained(bundle_directory: Path) -> Bundle:
    return read_bundle(bundle_directory)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The sample graph, which no test may change."""
    return make_bundle(tmp_path_factory.mktemp("sample") / "bundle")


@pytest.fixture(scope="module")
def evidence(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return Evidence(make_set(bundle, tmp_path_factory.mktemp("sample") / "set"))


def let_all_pass(patch: pytest.MonkeyPatch) -> None:
    for limit in ("MAX_SHIFT_SIGMA", "MAX_FALSE_REJECT_POINTS", "MAX_AUROC_POINTS", "MAX_AUPRO_POINTS"):
        patch.setattr(gate, limit, 1e6)
    patch.setattr(gate, "MIN_RANK_CORRELATION", -1.0)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that every sane engine passes, as such small models lose much in few bits."""
    let_all_pass(monkeypatch)


@pytest.fixture
def impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MIN_RANK_CORRELATION", 1.1)


@pytest.fixture
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing helps, and finding that out takes no time."""
    monkeypatch.setattr(Build, "mended", lambda self, candidate: (candidate, b""))


def tried(engine: Engine) -> list[tuple[str, str]]:
    return [(one.backend, one.precision) for one in engine.manifest.candidates]


def test_auto_tries_all_and_takes_the_fastest_that_passes(
    trained: Bundle, calibration_set: CalibrationSet, tmp_path: Path, lenient: None
) -> None:
    evidence = Evidence(calibration_set)
    told: list[str] = []
    engine = build_engine(
        trained, tmp_path / "engine", backend="auto", precision="auto", evidence=evidence, progress=told.append
    )
    manifest = engine.manifest
    assert tried(engine) == [
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("openvino", "int8"),
    ]
    for one in manifest.candidates:
        unusable = one.precision == "bf16" and "this CPU does not compute in it" in one.refused
        # BF16 rounds depth as well, and may miss the golden answers even where the gate is lenient.
        assert one.precision == "bf16" or not one.refused
        assert (one.gate is None) == (one.precision == "fp32" or unusable)
        assert (one.median_ms is None) == unusable
    usable = [one for one in manifest.candidates if not one.refused]
    assert manifest.chosen == min(usable, key=lambda one: one.median_ms or 0)
    assert manifest.request.model_dump() == {
        "backend": "auto",
        "precision": "auto",
        "calibration": calibration_set.digest,
        "ranges": "minmax",
        "defects": "",
        "considered": tuple(backend_class(name).box_facts().backend_version for name in CPU),
    }
    assert "judging the gate's frames in fp32" in told
    again, backend = load_engine(tmp_path / "engine")
    assert again == engine
    assert backend.name == manifest.backend
    backend.close()


def test_auto_without_a_set_tries_what_needs_no_proof(bundle: Bundle, tmp_path: Path) -> None:
    engine = build_engine(bundle, tmp_path / "engine", backend="auto", precision="auto")
    assert tried(engine) == [("onnxruntime", "fp32"), ("openvino", "fp32")]
    assert engine.manifest.request.calibration == engine.manifest.request.ranges == ""
    assert all(one.gate is None for one in engine.manifest.candidates)


@pytest.mark.parametrize("precision", ["int8", "bf16", "int8_fp16"])
def test_fewer_bits_without_a_set_are_refused(bundle: Bundle, tmp_path: Path, precision: Precision) -> None:
    with pytest.raises(ConfigError, match=f"{precision} needs a calibration set.*edge-ad calibrate BUNDLE DATASET"):
        build_engine(bundle, tmp_path / "engine", backend="openvino", precision=precision)
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_nothing_here_has_is_a_wrong_setting(
    bundle: Bundle, evidence: Evidence, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="nothing here computes in fp16. there is onnxruntime: fp32, int8; openvino"):
        build_engine(bundle, tmp_path / "engine", backend="auto", precision="fp16", evidence=evidence)


def test_a_set_for_another_model_is_refused(bundle: Bundle, evidence: Evidence, tmp_path: Path) -> None:
    other = bundle.manifest.model_copy(update={"name": "lid"})
    with pytest.raises(DataError, match="it holds frames of widget"):
        build_engine(
            replace(bundle, manifest=other),
            tmp_path / "engine",
            backend="onnxruntime",
            precision="int8",
            evidence=evidence,
        )
    assert not (tmp_path / "engine").exists()


def test_int8_that_cannot_pass_becomes_fp32_and_says_so(
    bundle: Bundle, evidence: Evidence, tmp_path: Path, impossible: None, no_search: None
) -> None:
    engine = build_engine(bundle, tmp_path / "engine", backend="onnxruntime", precision="int8", evidence=evidence)
    refused, chosen = engine.manifest.candidates
    assert (refused.precision, chosen.precision) == ("int8", "fp32")
    assert "rank correlation" in refused.refused
    assert refused.gate is not None
    assert not refused.gate.passed
    assert chosen == engine.manifest.chosen
    assert engine.manifest.precision == "fp32"
    assert engine.manifest.request.precision == "int8"
    assert (tmp_path / "engine/model.onnx").read_bytes() == bundle.model(FULL)
    load_engine(tmp_path / "engine")[1].close()


def only_when_kept(monkeypatch: pytest.MonkeyPatch, worst: str) -> None:
    """A gate that is passed only by engines in which one layer stays in floating point."""
    built: list[frozenset[str]] = []
    model, report, judged = Build._model, gate.Gate.report, gate.Gate.map_error

    def remember(self: Build, kind: Any, one: Candidate, kept: Any) -> bytes:
        built.append(frozenset(kept))
        return model(self, kind, one, kept)

    def strict(self: gate.Gate, run: Any) -> GateReport:
        found = report(self, run)
        passed = worst in built[-1]
        return found.model_copy(update={"passed": passed, "failed": () if passed else ("it is not good enough",)})

    def error(self: gate.Gate, run: Any, frames: int) -> float:
        return judged(self, run, frames) + (worst not in built[-1])

    monkeypatch.setattr(Build, "_model", remember)
    monkeypatch.setattr(gate.Gate, "report", strict)
    monkeypatch.setattr(gate.Gate, "map_error", error)


def test_int8_passes_with_its_worst_layers_in_floating_point(
    bundle: Bundle, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = sensitivity.convolutions(bundle.model(FULL))[2]
    only_when_kept(monkeypatch, worst)
    engine = build_engine(bundle, tmp_path / "engine", backend="onnxruntime", precision="int8", evidence=evidence)
    chosen = engine.manifest.chosen
    assert tried(engine) == [("onnxruntime", "int8")]
    assert chosen.kept == (worst,)
    assert chosen.refused == ""
    assert chosen.gate is not None
    assert chosen.gate.passed
    assert set(chosen.sensitivity) == set(sensitivity.convolutions(bundle.model(FULL)))
    assert chosen.median_ms is not None
    load_engine(tmp_path / "engine")[1].close()


def test_a_mended_engine_that_cannot_be_opened_is_refused_and_not_the_whole_build(
    bundle: Bundle, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impossible: None
) -> None:
    judged = Build._judged

    def broken(self: Build, kind: Any, one: Candidate, kept: Any = ()) -> tuple[Candidate, bytes]:
        if kept:
            raise EngineError("the mended engine cannot be opened")
        return judged(self, kind, one, kept)

    monkeypatch.setattr(Build, "_judged", broken)
    monkeypatch.setattr(
        "edge_ad.quantization.sensitivity.sweep", lambda *_, **__: sensitivity.Sweep((("a",),), {"a": 1.0})
    )
    monkeypatch.setattr("edge_ad.quantization.sensitivity.layers_to_keep", lambda *_: ("a",))
    engine = build_engine(bundle, tmp_path / "engine", backend="onnxruntime", precision="int8", evidence=evidence)
    assert engine.manifest.precision == "fp32"
    assert engine.manifest.candidates[0].refused.startswith("the mended engine cannot be opened")


def forbid_building(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes building an error; what would have been built is listed."""
    asked: list[str] = []

    def refuse(self: Build, backend: str, precision: str) -> tuple[Candidate, bytes]:
        asked.append(f"{backend} {precision}")
        raise AssertionError("nothing was to be built")

    monkeypatch.setattr(Build, "candidate", refuse)
    return asked


@pytest.fixture(scope="module")
def pristine(bundle: Bundle, evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 engine, which no test may change."""
    directory = tmp_path_factory.mktemp("pristine") / "engine"
    with pytest.MonkeyPatch.context() as patch:
        let_all_pass(patch)
        build_engine(bundle, directory, backend="openvino", precision="int8", evidence=evidence)
    return directory


@pytest.fixture
def built(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "engine"))


def test_the_same_request_again_builds_nothing(
    built: Path, bundle: Bundle, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, payload = read_engine(built), (built / "model.onnx").read_bytes()
    forbid_building(monkeypatch)
    again = build_engine(bundle, built, backend="openvino", precision="int8", evidence=evidence)
    assert again == before == read_engine(built)
    assert (built / "model.onnx").read_bytes() == payload != bundle.model(FULL)


@pytest.mark.parametrize("change", ["set", "ranges", "precision", "backend", "version", "defects"])
def test_another_request_builds_anew(
    built: Path,
    bundle: Bundle,
    evidence: Evidence,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    settings: dict[str, Any] = {"backend": "openvino", "precision": "int8", "evidence": evidence}
    if change == "set":
        settings["evidence"] = Evidence(make_set(bundle, tmp_path / "set", seed=7))
    elif change == "ranges":
        settings["evidence"] = replace(evidence, ranges="percentile")
    elif change == "defects":
        settings["evidence"] = replace(evidence, defects_digest="1" * 64)
    elif change == "version":
        monkeypatch.setattr(OpenVinoBackend, "box_facts", lambda: BoxFacts("openvino 3000.1"))
    else:
        settings[change] = "auto"
    asked = forbid_building(monkeypatch)
    with pytest.raises(AssertionError, match="nothing was to be built"):
        build_engine(bundle, built, **settings)
    assert len(asked) == 1


def test_a_backend_that_came_is_considered(built: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = built.parent / "auto"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "openvino", None)
        engine = build_engine(bundle, directory, backend="auto", precision="auto")
        assert tried(engine) == [("onnxruntime", "fp32")]
    asked = forbid_building(monkeypatch)
    with pytest.raises(AssertionError):
        build_engine(bundle, directory, backend="auto", precision="auto")
    assert asked == ["onnxruntime fp32"]


def test_what_was_judged_by_another_threshold_is_judged_again(
    bundle: Bundle, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lenient: None
) -> None:
    copy = read_bundle(Path(shutil.copytree(bundle.directory, tmp_path / "bundle")))
    for precision in ("int8", "fp32"):
        name: Any = precision
        build_engine(copy, tmp_path / precision, backend="onnxruntime", precision=name, evidence=evidence)
    full = Threshold(value=1.0, method="largest good score", frames=20, false_reject_rate=0.01)
    changed = write_thresholds(copy, Thresholds(modes={FULL: full}))
    asked = forbid_building(monkeypatch)
    engine = build_engine(changed, tmp_path / "fp32", backend="onnxruntime", precision="fp32", evidence=evidence)
    assert engine.thresholds.modes[FULL].value == 1.0
    assert asked == []
    engine = build_engine(changed, tmp_path / "int8", backend="onnxruntime", precision="int8", evidence=evidence)
    assert engine.thresholds.modes[FULL].value == 1.0
    assert asked == []
    assert engine.manifest.chosen.gate is not None and engine.manifest.chosen.gate.passed
    other = write_thresholds(copy, Thresholds(modes={FULL: full.model_copy(update={"value": 2.0})}))
    monkeypatch.setattr(gate, "MAX_FALSE_REJECT_POINTS", -1.0)
    with pytest.raises(AssertionError):
        build_engine(other, tmp_path / "int8", backend="onnxruntime", precision="int8", evidence=evidence)
    assert asked == ["onnxruntime int8"], "one that does not pass with it is built anew"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda one: one["gate"].update(shift_sigma=0.0), id="a number of the gate"),
        pytest.param(lambda one: one["gate"].update(passed=False), id="the verdict"),
        pytest.param(lambda one: one.update(kept=["nothing"]), id="the kept layers"),
        pytest.param(lambda one: one.update(gate=None), id="no report"),
    ],
)
def test_the_gates_report_is_signed(built: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((built / "engine.json").read_text())
    (one,) = values["candidates"]
    assert one["gate"]["passed"] is True
    assert one["gate"]["frames"] == 10
    assert one["gate"]["shift_sigma"] > 0
    change(one)
    (built / "engine.json").write_text(json.dumps(values))
    with pytest.raises(EngineError, match="not signed by this box"):
        read_engine(built)


TWO_BUILDS = """
import sys
from pathlib import Path
from edge_ad.bundle import read_bundle
from edge_ad.engine_build import build_engine
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    build_engine(read_bundle(Path(sys.argv[1])), Path(sys.argv[2]), backend="onnxruntime", precision="fp32",
                 max_batch=int(sys.argv[3]))
"""


def test_two_builds_at_the_same_time_leave_one_sound_engine(tmp_path: Path) -> None:
    """Both ask for other batches, so that neither finds its engine there and each replaces the other's."""
    sample = make_bundle(tmp_path / "bundle")
    directory = tmp_path / "engines/engine"
    builds = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_BUILDS, str(sample.directory), str(directory), batch],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        for batch in ("1", "2")
    ]
    for one in builds:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in builds:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    for one in builds:
        _, errors = one.communicate(timeout=120)
        assert one.returncode == 0, errors
    engine, backend = load_engine(directory)
    backend.close()
    assert engine.manifest.max_batch in (1, 2)
    assert [path.name for path in directory.parent.iterdir()] == ["engine"]


def test_candidates_take_turns() -> None:
    order: list[str] = []
    times = interleaved_ms([lambda: order.append("a"), lambda: order.append("b")])
    assert order[:4] == ["a", "b", "a", "b"]
    assert [len(one) for one in times] == [15, 15]
    assert all(value >= 0 for one in times for value in one)


def test_defects_are_those_of_the_test_split(trained: Bundle, dataset: Dataset) -> None:
    labelled, digest = defects_from_dataset(trained, FULL, dataset)
    items = list(dataset.frames("test"))
    assert [mask is not None for mask in labelled.masks] == [item.is_anomalous for item in items]
    assert len(digest) == 64
    for item, feeds, mask in zip(items, labelled.feeds, labelled.masks, strict=True):
        assert feeds["rgb"].shape == (1, 96, 96, 3)
        if mask is None:
            continue
        assert mask.shape == (64, 64)
        assert item.gt_mask is not None
        rows, columns = np.nonzero(item.gt_mask)
        centre = np.argwhere(mask).mean(0) * 96 / 64
        np.testing.assert_allclose(centre, [rows.mean(), columns.mean()], atol=2)


def chosen_entries(dataset: Dataset, *, good: bool) -> Dataset:
    entries = tuple(one for one in dataset.entries if one.split == "test" and (one.defect == "good") == good)
    return replace(dataset, entries=entries)


@pytest.mark.parametrize("good", [True, False])
def test_defects_need_good_parts_to_compare_with(trained: Bundle, dataset: Dataset, good: bool) -> None:
    with pytest.raises(DataError, match="cannot judge. its test split needs good and defective parts"):
        defects_from_dataset(trained, FULL, chosen_entries(dataset, good=good))


def test_a_defect_without_a_mask_is_named(trained: Bundle, dataset: Dataset) -> None:
    bare = replace(dataset, read=lambda entry: replace(dataset.read(entry), gt_mask=None))
    with pytest.raises(DataError, match="has no mask. the gate compares AUPRO.*add its mask"):
        defects_from_dataset(trained, FULL, bare)


def test_a_data_set_without_a_test_split_cannot_judge(trained: Bundle, dataset: Dataset) -> None:
    rest = tuple(entry for entry in dataset.entries if entry.split != "test")
    with pytest.raises(DataError, match="has no test frames"):
        defects_from_dataset(trained, FULL, replace(dataset, entries=rest))


def test_real_defects_are_in_the_report(
    trained: Bundle, calibration_set: CalibrationSet, dataset: Dataset, tmp_path: Path, lenient: None
) -> None:
    labelled, digest = defects_from_dataset(trained, FULL, dataset)
    judged = Evidence(calibration_set, defects=labelled, defects_digest=digest)
    engine = build_engine(trained, tmp_path / "engine", backend="onnxruntime", precision="int8", evidence=judged)
    report = engine.manifest.chosen.gate
    assert report is not None
    assert report.defects is not None
    assert report.defects.frames == len(labelled.masks)
    assert engine.manifest.request.defects == digest
