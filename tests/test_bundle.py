from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_ad.bundle import Bundle, Manifest, RigReference, file_digest, read_bundle
from edge_ad.errors import BundleError
from edge_ad.types import Intrinsics
from tests.factories import make_bundle


@pytest.fixture
def copy(bundle_directory: Path, tmp_path: Path) -> Path:
    """A bundle with several modes that a test may damage."""
    return Path(shutil.copytree(bundle_directory, tmp_path / "bundle"))


def with_threshold(bundle: Bundle, value: float) -> None:
    """As if the threshold had been set anew, manifest included."""
    path, manifest_path = bundle.directory / "thresholds.json", bundle.directory / "manifest.json"
    thresholds = bundle.thresholds.model_dump()
    thresholds["modes"]["full"]["value"] = value
    path.write_text(json.dumps(thresholds))
    manifest = json.loads(manifest_path.read_text())
    manifest["files"]["thresholds.json"] = file_digest(path).model_dump()
    manifest_path.write_text(Manifest.model_validate(manifest).sealed().model_dump_json())


def test_the_digest_is_of_all_but_the_thresholds(copy: Path, tmp_path: Path) -> None:
    bundle = read_bundle(copy)
    with_threshold(bundle, 123.0)
    changed = read_bundle(copy)
    assert changed.thresholds.modes["full"].value == 123.0
    assert changed.digest == bundle.digest
    assert make_bundle(tmp_path / "one", seed=1).digest != make_bundle(tmp_path / "two", seed=2).digest


RIG = RigReference(
    sha256="c0ffee",
    serial="B42",
    frame_size_px=(64, 64),
    intrinsics=Intrinsics(60.0, 60.0, 31.5, 31.5, 64, 64),
    plane=(0.0, 0.01, 2.0),
)


def test_a_bundle_knows_its_rig_and_those_without_keep_the_digests_of_versions_that_knew_none(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    path = bundle.directory / "manifest.json"
    content = json.loads(path.read_text())
    del content["training_data"]["rig"]
    path.write_text(json.dumps(content))
    assert read_bundle(bundle.directory).digest == bundle.digest
    digest = content.pop("sha256")
    assert hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() == digest
    data = bundle.manifest.training_data.model_copy(update={"rig": RIG})
    path.write_text(bundle.manifest.model_copy(update={"training_data": data}).sealed().model_dump_json())
    known = read_bundle(bundle.directory)
    assert known.manifest.training_data.rig == RIG
    assert known.digest != bundle.digest
    path.write_text(path.read_text().replace("B42", "B43"))
    with pytest.raises(BundleError, match="was edited"):
        read_bundle(bundle.directory)


def flipped(name: str) -> Callable[[Path], None]:
    def flip_a_byte(bundle: Path) -> None:
        content = bytearray((bundle / name).read_bytes())
        content[len(content) // 2] ^= 1
        (bundle / name).write_bytes(content)

    return flip_a_byte


def manifest_with(**changes: object) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        path = bundle / "manifest.json"
        edited = json.loads(path.read_text()) | changes
        with suppress(ValidationError):  # what is no manifest at all cannot be sealed either
            edited = Manifest.model_validate(edited).sealed().model_dump(mode="json")
        path.write_text(json.dumps(edited))

    return change


def unsealed_edit(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace("uint16_planes", "float32_m").replace('"crd"', '"rd"'))


def unlisted(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        files = json.loads((bundle / "manifest.json").read_text())["files"]
        files.pop(name)
        manifest_with(files=files)(bundle)

    return change


def escaping(bundle: Path) -> None:
    digest = file_digest(bundle / "model.onnx").model_dump()
    manifest_with(files={"../model.onnx": digest})(bundle)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(flipped("model.onnx"), r"model\.onnx is not the file that was exported", id="flipped byte"),
        pytest.param(
            lambda b: (b / "thresholds.json").write_text("{}"), r"thresholds\.json is not the file", id="edited"
        ),
        pytest.param(lambda b: (b / "student_rgb.onnx").unlink(), r"student_rgb\.onnx is missing", id="missing"),
        pytest.param(flipped("weights.safetensors"), r"weights\.safetensors is not the file", id="flipped weight"),
        pytest.param(unsealed_edit, r"manifest\.json was edited", id="edited manifest"),
        pytest.param(lambda b: (b / "manifest.json").unlink(), r"it has no manifest\.json", id="no manifest"),
        pytest.param(lambda b: (b / "manifest.json").write_text("{"), r"manifest\.json: .* not valid", id="not JSON"),
        pytest.param(manifest_with(schema_version=3), r"schema_version is not valid", id="other schema"),
        pytest.param(manifest_with(extra=1), r"manifest\.json: there is no setting extra", id="unknown field"),
        pytest.param(lambda b: (b / "manifest.json").write_text("[1]"), r"manifest\.json: ", id="foreign"),
        pytest.param(unlisted("golden.safetensors"), r"does not list golden\.safetensors", id="unlisted"),
        pytest.param(unlisted("model_rgb_only.onnx"), r"does not list model_rgb_only\.onnx", id="unlisted mode"),
        pytest.param(
            unlisted("golden_3d_only.safetensors"), r"does not list golden_3d_only\.safetensors", id="golden of a mode"
        ),
        pytest.param(escaping, r"lists '\.\./model\.onnx'", id="outside"),
    ],
)
def test_a_changed_bundle_is_refused_by_name(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copy)
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(copy)
    assert str(copy) in str(caught.value)
    assert "edge-ad export" in str(caught.value)
