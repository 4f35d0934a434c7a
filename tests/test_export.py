from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import torch
from safetensors.torch import save_file

from edge_ad import export
from edge_ad.backends.golden import check_golden
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import read_bundle
from edge_ad.errors import BundleError, CheckpointError, OutputError
from edge_ad.export import export_bundle
from edge_ad.models.anomaly_map import cosine_distance
from edge_ad.models.checkpoint import CHECKPOINT, load_detector, read_checkpoint
from edge_ad.types import AnyArray

Arrays = dict[str, AnyArray]

CRD_GRAPHS = {"model", "teacher", "tuner_rgb", "tuner_normals", "student_rgb", "student_normals"}
RD_GRAPHS = {"model", "teacher", "student_depth"}
BUNDLES = pytest.mark.parametrize(
    "bundle", ["bundle_directory", "rd_bundle_directory"], indirect=True, ids=["crd", "rd"]
)


@pytest.fixture
def bundle(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def golden_of(bundle: Path) -> tuple[Arrays, Arrays]:
    tensors = safetensors.numpy.load_file(bundle / "golden.safetensors")
    inputs, outputs = (
        {name.removeprefix(kind): x for name, x in tensors.items() if name.startswith(kind)}
        for kind in ("input.", "output.")
    )
    return inputs, outputs


def run(path: Path, feeds: Arrays) -> Arrays:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_a_bundle_has_every_graph(bundle_directory: Path, rd_bundle_directory: Path) -> None:
    for directory, graphs in ((bundle_directory, CRD_GRAPHS), (rd_bundle_directory, RD_GRAPHS)):
        assert {path.stem for path in directory.glob("*.onnx")} == graphs
        manifest = read_bundle(directory).manifest
        assert manifest.parity.keys() == graphs
        assert max(manifest.parity.values()) <= 1e-4
        assert set(manifest.files) == {path.name for path in directory.iterdir()} - {"manifest.json"}


def test_the_manifest_describes_the_graph(bundle_directory: Path, trained_run: Path) -> None:
    manifest = read_bundle(bundle_directory).manifest
    backend = OnnxRuntimeBackend(bundle_directory / "model.onnx")
    assert manifest.tensor_specs() == (backend.inputs, backend.outputs)
    assert [tensor.name for tensor in manifest.outputs] == ["anomaly_map", "score", "map_rgb", "map_normals"]
    record = read_checkpoint(trained_run)[0]
    assert (manifest.model, manifest.backbone, manifest.modalities) == ("crd", "efficientnet_lite0", ("rgb", "normals"))
    assert manifest.input == record.detector.input
    assert manifest.training_data == record.data
    assert "Apache-2.0" in manifest.licences["teacher efficientnet_lite0"]


@BUNDLES
def test_golden_answers_are_pytorchs_and_onnxs(bundle: Path, trained_run: Path, rd_run: Path) -> None:
    inputs, expected = golden_of(bundle)
    run_dir = rd_run if read_bundle(bundle).manifest.model == "rd" else trained_run
    detector, _ = load_detector(run_dir)
    with torch.no_grad():
        answers = detector(*(torch.from_numpy(inputs[name]) for name in detector.input_names))
    given = run(bundle / "model.onnx", inputs)
    for name, answer in zip(detector.output_names, answers, strict=True):
        np.testing.assert_allclose(answer.numpy(), expected[name], atol=1e-5)
        np.testing.assert_allclose(given[name], expected[name], atol=1e-4)
    assert expected["score"][2] > expected["score"][:2].max()
    assert check_golden(OnnxRuntimeBackend(bundle / "model.onnx"), bundle / "golden.safetensors", "fp32", 3) <= 1e-4


@BUNDLES
def test_graphs_hold_only_what_inference_needs(bundle: Path) -> None:
    for path in sorted(bundle.glob("*.onnx")):
        graph = onnx.load(path).graph
        assert "BatchNormalization" not in {node.op_type for node in graph.node}, path.name
        needed = {output.name for output in graph.output}
        superfluous = []
        for node in reversed(graph.node):
            if needed.isdisjoint(node.output):
                superfluous.append(node.name)
            needed.update(node.input)
        assert superfluous == [], path.name
        assert {tensor.name for tensor in graph.initializer} <= needed, path.name
        assert {tensor.name for tensor in graph.input} <= needed, path.name


def test_graphs_have_the_named_inputs_and_outputs(bundle_directory: Path, rd_bundle_directory: Path) -> None:
    scales = ("stride4", "stride8", "stride16")
    own, other, restored = ([f"{kind}_{s}" for s in scales] for kind in ("own", "other", "restored"))
    tuned = [f"{kind}_{s}" for kind in ("filtered", "amplified") for s in scales]
    expected = {
        "model": (["rgb", "depth"], ["anomaly_map", "score", "map_rgb", "map_normals"]),
        "teacher": (["image"], list(scales)),
        "tuner_rgb": (other, tuned),
        "tuner_normals": (other, tuned),
        "student_rgb": (own + tuned, restored),
        "student_normals": (own + tuned, restored),
    }
    for name, sides in expected.items():
        graph = onnx.load(bundle_directory / f"{name}.onnx").graph
        assert ([x.name for x in graph.input], [x.name for x in graph.output]) == sides, name
    graph = onnx.load(rd_bundle_directory / "student_depth.onnx").graph
    assert ([x.name for x in graph.input], [x.name for x in graph.output]) == (own, restored)


@BUNDLES
def test_the_teacher_is_in_the_graph_once(bundle: Path) -> None:
    graph = onnx.load(bundle / "model.onnx").graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    stems = [node for node in graph.node if node.op_type == "Conv" and shapes.get(node.input[1]) == (32, 3, 3, 3)]
    assert len(stems) == 1


@BUNDLES
def test_a_batch_gives_what_its_samples_give_alone(bundle: Path) -> None:
    inputs, _ = golden_of(bundle)
    together = run(bundle / "model.onnx", inputs)
    for row in range(3):
        alone = run(bundle / "model.onnx", {name: x[row : row + 1] for name, x in inputs.items()})
        for name, x in alone.items():
            np.testing.assert_allclose(x[0], together[name][row], atol=1e-4)


def test_chained_components_are_the_fused_model(bundle_directory: Path, trained_run: Path) -> None:
    """The teacher's raw maps → tuners → students in ONNX Runtime; before and after them PyTorch."""
    detector, _ = load_detector(trained_run)
    inputs, expected = golden_of(bundle_directory)
    with torch.no_grad():
        images, region = detector.preprocess({name: torch.from_numpy(x) for name, x in inputs.items()})
        raw = detector.teacher_features(images)
        features = detector.scaling(raw)
        expected_restored = detector.students(features)
    maps = [run(bundle_directory / "teacher.onnx", {"image": image.numpy()}) for image in images]
    restored = []
    for index, modality in enumerate(("rgb", "normals")):
        own, other = (
            {f"{prefix}_{scale}": x for scale, x in maps[source].items()}
            for prefix, source in (("own", index), ("other", 1 - index))
        )
        tuned = run(bundle_directory / f"tuner_{modality}.onnx", other)
        restored.append(list(run(bundle_directory / f"student_{modality}.onnx", own | tuned).values()))
    for index in range(2):
        for ours, theirs in zip(maps[index].values(), raw[index], strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4 * float(theirs.abs().max()))
        for ours, theirs in zip(restored[index], expected_restored[index], strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4 * float(theirs.abs().max()))
    floor = detector.config.head.energy_floor
    distances = [
        [cosine_distance(x, torch.from_numpy(y), floor) for x, y in zip(own, theirs, strict=True)]
        for own, theirs in zip(features, restored, strict=True)
    ]
    anomaly_map, score, _ = detector.head(distances, region)
    np.testing.assert_allclose(anomaly_map.numpy(), expected["anomaly_map"], atol=2e-4)
    np.testing.assert_allclose(score.numpy(), expected["score"], atol=2e-4)


def test_an_unfinished_run_is_not_exported(rd_run: Path, tmp_path: Path) -> None:
    record, tensors = read_checkpoint(rd_run)
    unfinished = record.model_copy(update={"finished": False, "step": 4})
    save_file(tensors, tmp_path / CHECKPOINT, metadata={"edge_ad": unfinished.model_dump_json()})
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors is not finished. it stopped at step 4 of 12"):
        export_bundle(tmp_path, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_survives_an_export_that_fails(
    rd_bundle_directory: Path, rd_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(rd_bundle_directory, tmp_path / "bundle"))
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    monkeypatch.setattr(export, "ROUNDING", -1.0)
    monkeypatch.setattr(export, "onnx_from_graph", lambda graph: onnx.load(copy / f"{graph.name}.onnx"))  # saves time
    with pytest.raises(BundleError, match=r"model\.onnx does not give PyTorch's answers.*differs by .*, allowed is -"):
        export_bundle(rd_run, copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    read_bundle(copy)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_other_files_are_not_replaced(rd_run: Path, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "directory":
        place.mkdir()
        (place / "notes.txt").write_text("mine")
    else:
        place.write_text("mine")
    with pytest.raises(OutputError, match="place is not a bundle. something else is there"):
        export_bundle(rd_run, place)
    assert (place / "notes.txt" if kind == "directory" else place).read_text() == "mine"


def test_an_unwritable_place_is_named(rd_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        export_bundle(rd_run, tmp_path / "file" / "bundle")
