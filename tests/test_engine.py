from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import safetensors.numpy

from edge_ad.backends import BACKENDS, backend_class, usable_backends
from edge_ad.backends.base import BoxFacts, Precision, Progress
from edge_ad.backends.box_key import home_directory, sign
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.backends.tensorrt.loader import require_driver
from edge_ad.bundle import Bundle, Threshold, Thresholds, file_digest, read_bundle
from edge_ad.engine import EngineManifest, check_golden, load_engine, read_engine
from edge_ad.engine_build import build_engine
from edge_ad.errors import BundleError, ConfigError, EngineError
from edge_ad.types import AnyArray
from tests.factories import make_bundle, make_feeds

Tensors = dict[str, AnyArray]


def has_driver() -> bool:
    try:
        require_driver()
    except EngineError:
        return False
    return True


class PlanBackend(OnnxRuntimeBackend):
    """Stands in for TensorRT: a "plan" that belongs to a GPU, and a record of what is built and opened."""

    payload_name: ClassVar[str] = "model.plan"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16")
    options: ClassVar[Mapping[str, str]] = {"tf32": "off"}
    facts: ClassVar[BoxFacts]
    built: ClassVar[int]
    opened: ClassVar[int]

    @classmethod
    def box_facts(cls) -> BoxFacts:
        return cls.facts

    @classmethod
    def build(
        cls, model: bytes, *, source: str, precision: Precision, max_batch: int, progress: Progress | None
    ) -> bytes:
        cls.built += 1
        return b"PLAN" + model

    @classmethod
    def open(cls, payload: bytes, *, source: str, precision: Precision = "fp32") -> PlanBackend:
        cls.opened += 1
        return cls(payload.removeprefix(b"PLAN"), source=source)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("pristine")).directory


@pytest.fixture(autouse=True)
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box of its own for each test, with a stand-in for TensorRT on a Jetson."""
    monkeypatch.setenv("EDGE_AD_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(BACKENDS, "tensorrt", f"{__name__}:PlanBackend")
    PlanBackend.facts = BoxFacts("tensorrt 10.3.0", "Orin", "8.7", "540.4.0 (CUDA 12.6)")
    PlanBackend.built = PlanBackend.opened = 0
    return tmp_path / "home"


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Bundle:
    """A copy that the test may damage."""
    return read_bundle(Path(shutil.copytree(pristine, tmp_path / "bundle")))


@pytest.fixture
def plan_engine(bundle: Bundle, tmp_path: Path) -> Path:
    directory = tmp_path / "engine"
    build_engine(bundle, directory, backend="tensorrt", precision="fp32")
    PlanBackend.built = PlanBackend.opened = 0
    return directory


def test_builds_and_loads_for_onnxruntime(bundle: Bundle, tmp_path: Path) -> None:
    built = build_engine(bundle, tmp_path / "engine", backend="onnxruntime", precision="fp32")
    engine, backend = load_engine(tmp_path / "engine")
    assert engine == built
    assert engine.bundle_manifest == bundle.manifest
    assert engine.thresholds == bundle.thresholds
    assert engine.manifest.bundle_digest == bundle.digest
    assert engine.manifest.backend_version.startswith("onnxruntime ")
    assert engine.manifest.input_shapes == {"rgb": (None, 64, 64, 3), "depth": (None, 64, 64, 2)}
    assert backend.run(make_feeds(1))["anomaly_map"].shape == (1, 64, 64)
    backend.close()
    backend.close()
    assert sorted(path.name for path in (tmp_path / "engine").iterdir()) == [
        "engine.json",
        "golden.safetensors",
        "manifest.json",
        "model.onnx",
        "thresholds.json",
    ]
    assert (tmp_path / "engine/model.onnx").read_bytes() == bundle.model_path.read_bytes()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _edit(**changes: object) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "engine.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _other_bundle(directory: Path) -> None:
    """Another bundle's manifest, signed on this box: what a careless copy and a rebuilt signature give."""
    path = directory / "manifest.json"
    values = json.loads(path.read_text())
    values["files"]["model.onnx"]["sha256"] = "0" * 64
    path.write_text(json.dumps(values))
    resign(directory)


def resign(directory: Path) -> None:
    """Signs an engine again with this box's key, digests included."""
    manifest = EngineManifest.model_validate_json((directory / "engine.json").read_bytes())
    files = {name: file_digest(directory / name) for name in manifest.files}
    manifest = manifest.model_copy(update={"files": files})
    signed = manifest.model_copy(update={"mac": sign(manifest.signed_content())})
    (directory / "engine.json").write_text(signed.model_dump_json())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda d: _flip(d / "model.plan"), "model.plan is not the file that was built", id="plan"),
        pytest.param(lambda d: _flip(d / "golden.safetensors"), "golden.safetensors is not", id="golden"),
        pytest.param(lambda d: _flip(d / "thresholds.json"), "thresholds.json is not", id="thresholds"),
        pytest.param(lambda d: _flip(d / "manifest.json"), "manifest.json is not", id="manifest"),
        pytest.param(lambda d: (d / "model.plan").unlink(), "incomplete. model.plan is missing", id="no plan"),
        pytest.param(
            lambda d: (d / "engine.json").unlink(), "not an engine. it has no engine.json", id="no engine.json"
        ),
        pytest.param(_edit(driver="999"), "not signed by this box", id="edited driver"),
        pytest.param(_edit(mac="0" * 64), "not signed by this box", id="edited signature"),
        pytest.param(_edit(mac="\u00e9"), "not signed by this box", id="signature of other letters"),
        pytest.param(_edit(schema_version=3), "schema_version is not valid", id="other schema"),
        pytest.param(_edit(surprise=1), "there is no setting surprise", id="unknown field"),
        pytest.param(lambda d: (d / "engine.json").write_text("{"), "the content is not valid", id="not JSON"),
        pytest.param(_other_bundle, "built from another bundle", id="other bundle"),
    ],
)
def test_a_damaged_engine_is_refused_before_it_is_opened(
    plan_engine: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(plan_engine)
    for read in (read_engine, load_engine):
        with pytest.raises(EngineError, match=message) as caught:
            read(plan_engine)
        assert "edge-ad build-engine BUNDLE" in caught.value.remedy
    assert PlanBackend.opened == 0


def test_a_flipped_byte_in_an_onnx_file_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    build_engine(bundle, tmp_path / "engine", backend="onnxruntime", precision="fp32")
    _flip(tmp_path / "engine/model.onnx")
    with pytest.raises(EngineError, match="model.onnx is not the file that was built"):
        load_engine(tmp_path / "engine")


def test_an_engine_of_another_box_is_refused(plan_engine: Path, box: Path, tmp_path: Path) -> None:
    (box / "box.key").unlink()
    with pytest.raises(EngineError, match="not signed by this box"):
        load_engine(plan_engine)
    assert not (box / "box.key").exists(), "looking at a foreign engine makes no key"
    (box / "box.key").write_bytes(bytes(32))
    (box / "box.key").chmod(0o600)
    with pytest.raises(EngineError, match="not signed by this box"):
        load_engine(plan_engine)
    assert PlanBackend.opened == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backend_version", "tensorrt 10.7.0"),
        ("gpu", "Thor"),
        ("compute_capability", "11.0"),
        ("driver", "580.0 (CUDA 13.0)"),
    ],
)
def test_a_changed_box_is_refused_with_what_differs_and_how_to_rebuild(
    plan_engine: Path, field: str, value: str
) -> None:
    before = getattr(PlanBackend.facts, field)
    PlanBackend.facts = BoxFacts(**{**_facts(), field: value})
    with pytest.raises(EngineError) as caught:
        load_engine(plan_engine)
    assert caught.value.why == f"{field} was {before!r} and is {value!r}"
    assert caught.value.remedy.endswith("edge-ad build-engine BUNDLE --backend tensorrt --precision fp32")
    assert PlanBackend.opened == 0


def _facts() -> dict[str, str]:
    facts = PlanBackend.facts
    return {name: getattr(facts, name) for name in ("backend_version", "gpu", "compute_capability", "driver")}


def test_the_key_is_made_once_and_for_its_owner_alone(plan_engine: Path, box: Path, bundle: Bundle) -> None:
    key = box / "box.key"
    assert home_directory() == box
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    build_engine(bundle, plan_engine, backend="tensorrt", precision="fp16")
    assert key.read_bytes() == before
    assert len(before) == 32
    assert list(box.iterdir()) == [key]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda key: key.chmod(0o644), "can be read by others", id="readable"),
        pytest.param(lambda key: key.write_bytes(b""), "is damaged", id="empty"),
    ],
)
def test_an_unsafe_key_is_refused(plan_engine: Path, box: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(box / "box.key")
    with pytest.raises(EngineError, match=message):
        load_engine(plan_engine)


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _golden(bundle: Bundle) -> Tensors:
    tensors: Tensors = safetensors.numpy.load_file(bundle.directory / "golden.safetensors")
    return tensors


def _spoil_golden(bundle: Bundle, by: float) -> Bundle:
    """The bundle with golden maps that no graph of it gives, in order otherwise."""
    tensors = _golden(bundle)
    tensors["output.anomaly_map"] = tensors["output.anomaly_map"] + np.float32(by)
    safetensors.numpy.save_file(tensors, bundle.directory / "golden.safetensors")
    return _with_new_digests(bundle)


def _with_new_digests(bundle: Bundle) -> Bundle:
    files = {name: file_digest(bundle.directory / name) for name in bundle.manifest.files}
    manifest = bundle.manifest.model_copy(update={"files": files}).sealed()
    (bundle.directory / "manifest.json").write_text(manifest.model_dump_json())
    return read_bundle(bundle.directory)


def test_a_failed_build_leaves_the_old_engine(plan_engine: Path, bundle: Bundle, tmp_path: Path) -> None:
    before = _contents(plan_engine)
    with pytest.raises(EngineError, match="does not give the answers"):
        build_engine(_spoil_golden(bundle, 1.0), plan_engine, backend="tensorrt", precision="fp32")
    assert _contents(plan_engine) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "engine", "home"]
    load_engine(plan_engine)


def test_a_failed_rename_leaves_the_old_engine(
    plan_engine: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = _contents(plan_engine), Path.replace

    def refuse_the_new(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse_the_new)
    with pytest.raises(EngineError, match="cannot be written. the disk is gone"):
        build_engine(bundle, plan_engine, backend="tensorrt", precision="fp16")
    assert _contents(plan_engine) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "engine", "home"]


def test_a_new_build_replaces_the_old_engine(plan_engine: Path, bundle: Bundle, tmp_path: Path) -> None:
    build_engine(bundle, plan_engine, backend="onnxruntime", precision="fp32")
    assert "model.plan" not in _contents(plan_engine)
    assert load_engine(plan_engine)[0].manifest.backend == "onnxruntime"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "engine", "home"]


def test_the_same_build_again_uses_the_plan_and_takes_new_thresholds(plan_engine: Path, bundle: Bundle) -> None:
    full = Threshold(value=9.0, method="largest good score", frames=20, false_reject_rate=0.01)
    (bundle.directory / "thresholds.json").write_text(Thresholds(modes={"full": full}).model_dump_json())
    engine = build_engine(_with_new_digests(bundle), plan_engine, backend="tensorrt", precision="fp32")
    assert PlanBackend.built == 0
    assert engine.thresholds.modes["full"].value == 9.0
    assert load_engine(plan_engine)[0] == engine


@pytest.mark.parametrize("change", ["precision", "max_batch", "driver", "bundle", "damaged plan"])
def test_any_other_build_starts_anew(plan_engine: Path, bundle: Bundle, tmp_path: Path, change: str) -> None:
    if change == "driver":
        PlanBackend.facts = BoxFacts(**{**_facts(), "driver": "newer"})
    if change == "damaged plan":
        _flip(plan_engine / "model.plan")
    build_engine(
        make_bundle(tmp_path / "other", seed=8) if change == "bundle" else bundle,
        plan_engine,
        backend="tensorrt",
        precision="fp16" if change == "precision" else "fp32",
        max_batch=2 if change == "max_batch" else 1,
    )
    assert PlanBackend.built == 1
    load_engine(plan_engine)


def test_an_engine_that_no_longer_gives_the_golden_answers_is_refused(
    plan_engine: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(PlanBackend, "close", lambda self: closed.append(self))
    other = make_bundle(bundle.directory.parent / "other", seed=8).model_path.read_bytes()
    (plan_engine / "model.plan").write_bytes(b"PLAN" + other)
    resign(plan_engine)
    with pytest.raises(EngineError, match="fp32 does not give the answers.*anomaly_map differs by"):
        load_engine(plan_engine)
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("precision", "by", "accepted"),
    [("fp32", 5e-4, True), ("fp32", 5e-3, False), ("fp16", 5e-3, True), ("fp16", 5e-2, False)],
)
def test_golden_tolerance_follows_the_precision(
    bundle: Bundle, precision: Precision, by: float, accepted: bool
) -> None:
    peak = float(np.abs(_golden(bundle)["output.anomaly_map"]).max())
    golden = _spoil_golden(bundle, by * peak).directory / "golden.safetensors"
    backend = OnnxRuntimeBackend(bundle.model_path)
    if accepted:
        assert check_golden(backend, golden, precision) == pytest.approx(by * peak, rel=0.1)
    else:
        with pytest.raises(EngineError, match="does not give the answers"):
            check_golden(backend, golden, precision)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda t: t | {"output.more": t["output.score"]}, "more differs by inf", id="unknown output"),
        pytest.param(lambda t: t | {"output.score": t["output.score"] * np.nan}, "score differs by inf", id="NaN"),
        pytest.param(lambda t: t | {"output.score": t["output.score"] * np.inf}, "score differs by inf", id="infinite"),
        pytest.param(lambda t: t | {"output.score": t["output.score"][:, None]}, "score differs by inf", id="shape"),
        pytest.param(lambda t: t | {"output.score": t["output.score"][:1]}, "one number of samples", id="samples"),
        pytest.param(lambda t: {"output.score": t["output.score"]}, "needs inputs and outputs", id="no inputs"),
        pytest.param(lambda t: {n: a for n, a in t.items() if n != "input.rgb"}, "'rgb' is missing", id="an input"),
    ],
)
def test_odd_golden_files_are_refused(bundle: Bundle, change: Callable[[Tensors], Tensors], message: str) -> None:
    path = bundle.directory / "golden.safetensors"
    safetensors.numpy.save_file(change(_golden(bundle)), path)
    with pytest.raises(EngineError, match=message):
        check_golden(OnnxRuntimeBackend(bundle.model_path), path, "fp32")


def test_a_truncated_golden_file_is_named(bundle: Bundle) -> None:
    path = bundle.directory / "golden.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EngineError, match="golden.safetensors cannot be read"):
        check_golden(OnnxRuntimeBackend(bundle.model_path), path, "fp32")


def test_fp16_on_the_cpu_needs_tensorrt(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing here computes in fp16. there is onnxruntime: fp32, int8"):
        build_engine(bundle, tmp_path / "engine", backend="onnxruntime", precision="fp16")
    with pytest.raises(EngineError, match="fp16 needs TensorRT"):
        OnnxRuntimeBackend.build(
            bundle.model("full"), source="model.onnx", precision="fp16", max_batch=1, progress=None
        )
    assert not (tmp_path / "engine").exists()


def test_other_files_are_not_replaced(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.png").write_bytes(b"mine")
    with pytest.raises(EngineError, match="photos is not an engine"):
        build_engine(bundle, tmp_path / "photos", backend="onnxruntime", precision="fp32")
    with pytest.raises(EngineError, match="one.png is not an engine"):
        build_engine(bundle, tmp_path / "photos/one.png", backend="onnxruntime", precision="fp32")
    assert (tmp_path / "photos/one.png").read_bytes() == b"mine"


def test_a_batch_of_none_is_a_wrong_setting(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_batch"):
        build_engine(bundle, tmp_path / "engine", backend="onnxruntime", precision="fp32", max_batch=0)


def test_a_bundle_that_changed_after_it_was_opened_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    make_bundle(bundle.directory, seed=8)
    with pytest.raises(BundleError, match="changed since it was opened"):
        build_engine(bundle, tmp_path / "engine", backend="onnxruntime", precision="fp32")


def test_auto_takes_tensorrt_where_it_can_run() -> None:
    assert usable_backends("auto") == ("tensorrt",)
    assert usable_backends("onnxruntime") == ("onnxruntime",)


@pytest.mark.skipif(has_driver(), reason="this box has a driver")
def test_without_a_driver_auto_is_the_fastest_on_the_cpu_and_tensorrt_an_error(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "tensorrt", "edge_ad.backends.tensorrt.run:TensorRTBackend")
    manifest = build_engine(bundle, tmp_path / "engine", backend="auto", precision="fp32").manifest
    assert [one.backend for one in manifest.candidates] == list(usable_backends("auto"))
    assert "tensorrt" not in usable_backends("auto")
    assert manifest.chosen == min(manifest.candidates, key=lambda one: one.median_ms or 0)
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        build_engine(bundle, tmp_path / "engine", backend="tensorrt", precision="fp32")
    load_engine(tmp_path / "engine")


def test_unknown_backends_are_named() -> None:
    with pytest.raises(ConfigError, match="no backend 'tpu'.*auto, onnxruntime, openvino, tensorrt"):
        backend_class("tpu")


@pytest.mark.gpu
@pytest.mark.skipif(not has_driver(), reason="needs an NVIDIA GPU and a driver")
@pytest.mark.parametrize("max_batch", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_gives_the_golden_answers(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, max_batch: int
) -> None:
    monkeypatch.setitem(BACKENDS, "tensorrt", "edge_ad.backends.tensorrt.run:TensorRTBackend")
    build_engine(bundle, tmp_path / "engine", backend="tensorrt", precision=precision, max_batch=max_batch)
    engine, backend = load_engine(tmp_path / "engine")
    assert engine.manifest.gpu
    for batch in (max_batch, 1, max_batch):
        assert backend.run(make_feeds(batch))["anomaly_map"].shape == (batch, 64, 64)
    backend.close()
