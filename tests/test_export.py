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
from edge_ad.bundle import FULL, golden_name, model_name, read_bundle
from edge_ad.errors import BundleError, CheckpointError, OutputError
from edge_ad.export import export_bundle
from edge_ad.models.anomaly_map import cosine_distance
from edge_ad.models.checkpoint import CHECKPOINT, load_detector, read_checkpoint
from edge_ad.types import AnyArray

Arrays = dict[str, AnyArray]

CRD_GRAPHS = {
    "model",
    "model_rgb_only",
    "model_3d_only",
    "embedding",
    "teacher",
    "tuner_rgb",
    "tuner_normals",
    "student_rgb",
    "student_normals",
}
RD_GRAPHS = {"model", "embedding", "teacher", "student_depth"}
BUNDLES = pytest.mark.parametrize(
    "bundle", ["bundle_directory", "rd_bundle_directory"], indirect=True, ids=["crd", "rd"]
)


@pytest.fixture
def bundle(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def golden_of(bundle: Path, mode: str = FULL) -> tuple[Arrays, Arrays]:
    tensors = safetensors.numpy.load_file(bundle / golden_name(mode))
    inputs, outputs = (
        {name.removeprefix(kind): x for name, x in tensors.items() if name.startswith(kind)}
        for kind in ("input.", "output.")
    )
    return inputs, outputs


def run(path: Path, feeds: Arrays) -> Arrays:
    """From its path, as its weights lie in a file beside it."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_a_bundle_has_every_graph(bundle_directory: Path, rd_bundle_directory: Path) -> None:
    for directory, graphs in ((bundle_directory, CRD_GRAPHS), (rd_bundle_directory, RD_GRAPHS)):
        assert {path.stem for path in directory.glob("*.onnx")} == graphs
        manifest = read_bundle(directory).manifest
        assert manifest.parity.keys() == graphs
        assert max(manifest.parity.values()) <= 1e-4
        assert set(manifest.files) == {path.name for path in directory.iterdir()} - {"manifest.json"}
        modes = {f"golden_{name}.safetensors" for name in ("rgb_only", "3d_only") if f"model_{name}" in graphs}
        others = modes | {"golden.safetensors", "reference.json", "thresholds.json", "weights.safetensors"}
        assert set(manifest.files) == {f"{name}.onnx" for name in graphs} | others


@BUNDLES
def test_the_embedding_tells_frames_apart(bundle: Path) -> None:
    """One vector a frame: the mean of each channel of the teacher's maps (24, 40 and 112), by modality."""
    embedding, (inputs, _) = OnnxRuntimeBackend(read_bundle(bundle).graph("embedding.onnx")), golden_of(bundle)
    vectors = embedding.run(inputs)["embedding"]
    modalities = len(read_bundle(bundle).manifest.modalities)
    frames = next(iter(inputs.values())).shape[0]
    assert vectors.shape == (frames, modalities * (24 + 40 + 112))
    alone = [embedding.run({name: array[index : index + 1] for name, array in inputs.items()}) for index in range(2)]
    np.testing.assert_allclose(np.concatenate([one["embedding"] for one in alone]), vectors[:2], atol=1e-4)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-2


def test_the_manifest_describes_the_graph(bundle_directory: Path, trained_run: Path) -> None:
    manifest = read_bundle(bundle_directory).manifest
    assert {name: mode.modalities for name, mode in manifest.modes.items()} == {
        "full": ("rgb", "normals"),
        "rgb_only": ("rgb",),
        "3d_only": ("normals",),
    }
    for name, mode in manifest.modes.items():
        backend = OnnxRuntimeBackend(read_bundle(bundle_directory).model(name))
        assert mode.tensor_specs() == (backend.inputs, backend.outputs)
        maps = [f"map_{modality}" for modality in mode.modalities]
        assert [tensor.name for tensor in mode.outputs] == ["anomaly_map", "score", *maps]
    record = read_checkpoint(trained_run)[0]
    assert read_bundle(bundle_directory).thresholds == record.thresholds
    assert (manifest.model, manifest.backbone, manifest.modalities) == ("crd", "efficientnet_lite0", ("rgb", "normals"))
    assert manifest.input == record.detector.input
    assert manifest.training_data == record.data
    assert "Apache-2.0" in manifest.licences["teacher efficientnet_lite0"]


@BUNDLES
def test_golden_answers_are_pytorchs_and_onnxs(bundle: Path, trained_run: Path, rd_run: Path) -> None:
    manifest = read_bundle(bundle).manifest
    detector, _ = load_detector(rd_run if manifest.model == "rd" else trained_run)
    assert list(manifest.modes) == list(detector.method.modes)
    for mode in manifest.modes:
        inputs, expected = golden_of(bundle, mode)
        graph, path = detector.operating(mode), bundle / model_name(mode)
        with torch.no_grad():
            answers = graph(*(torch.from_numpy(inputs[name]) for name in graph.input_names))
        given = run(path, inputs)
        for name, answer in zip(graph.output_names, answers, strict=True):
            np.testing.assert_allclose(answer.numpy(), expected[name], atol=1e-5)
            np.testing.assert_allclose(given[name], expected[name], atol=1e-4)
        assert expected["score"][2] > expected["score"][:2].max()
        backend = OnnxRuntimeBackend(read_bundle(bundle).model(mode))
        assert check_golden(backend, bundle / golden_name(mode), "fp32", 3) <= 1e-4


def nodes(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


@pytest.mark.parametrize(("mode", "sensor"), [("rgb_only", "rgb"), ("3d_only", "depth")])
def test_a_mode_neither_reads_nor_computes_the_missing_sensor(bundle_directory: Path, mode: str, sensor: str) -> None:
    whole, part = bundle_directory / "model.onnx", bundle_directory / model_name(mode)
    assert [x.name for x in onnx.load(part).graph.input] == [sensor]
    assert len(nodes(part)) < 0.8 * len(nodes(whole))
    convolutions = [sum("Conv" in kind for kind in nodes(path)) for path in (whole, part)]
    # The teacher (47 with its stem) is there once in either graph; a student (of 62, with 9 in the amplifiers
    # that the other one lends) and a blur of two are not.
    assert convolutions[1] < 0.8 * convolutions[0]
    shapes = {tuple(tensor.dims) for tensor in onnx.load(part).graph.initializer}
    assert (32, 3, 3, 3) in shapes, "one teacher"
    inputs, expected = golden_of(bundle_directory, mode)
    assert list(inputs) == [sensor] and expected["anomaly_map"].shape == (3, 64, 64)


@BUNDLES
def test_weights_are_stored_once(bundle: Path) -> None:
    """The graphs point into one file, which is about as large as what PyTorch holds."""
    stored = (bundle / "weights.safetensors").stat().st_size
    referenced = 0
    for path in bundle.glob("*.onnx"):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries.get("location", "weights.safetensors") == "weights.safetensors"
            referenced += int(entries.get("length", 0))
    assert stored < 0.55 * referenced
    tensors = safetensors.numpy.load_file(bundle / "weights.safetensors")
    contents = [(x.shape, x.tobytes()) for x in tensors.values()]
    assert len(set(contents)) == len(contents)


@BUNDLES
def test_no_graph_names_a_place_of_the_machine_that_made_it(bundle: Path) -> None:
    """The exporter notes for each node which lines of which files it came from."""
    here = str(Path(export.__file__).parent).encode()
    assert [path.name for path in bundle.iterdir() if here in path.read_bytes()] == []


@BUNDLES
def test_a_bundles_model_is_whole_in_itself(bundle: Path, tmp_path: Path) -> None:
    opened = read_bundle(bundle)
    for mode in opened.manifest.modes:
        alone = tmp_path / model_name(mode)
        alone.write_bytes(opened.model(mode))
        inputs, _ = golden_of(bundle, mode)
        beside = run(bundle / model_name(mode), inputs)
        for name, x in run(alone, inputs).items():
            np.testing.assert_array_equal(x, beside[name])


@pytest.mark.parametrize("mode", ["rgb_only", "nonsense"])
def test_a_mode_that_a_bundle_lacks_is_named(rd_bundle_directory: Path, mode: str) -> None:
    bundle = read_bundle(rd_bundle_directory)
    for asked in (bundle.model, bundle.mode):
        with pytest.raises(
            BundleError, match=rf"{bundle.directory} has no mode {mode}. it has full, which looks at depth"
        ):
            asked(mode)


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
        "model_rgb_only": (["rgb"], ["anomaly_map", "score", "map_rgb"]),
        "model_3d_only": (["depth"], ["anomaly_map", "score", "map_normals"]),
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
    for mode in read_bundle(bundle).manifest.modes:
        graph = onnx.load(bundle / model_name(mode)).graph
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
        arrays = {name: torch.from_numpy(x) for name, x in inputs.items()}
        images, region = detector.preprocess(arrays, ("rgb", "normals"))
        raw = detector.teacher(images)
        features = detector.scaling(raw)
    maps = {name: run(bundle_directory / "teacher.onnx", {"image": x.numpy()}) for name, x in images.items()}
    floor, distances = detector.config.head.energy_floor, {}
    for modality, watching in (("rgb", "normals"), ("normals", "rgb")):
        own, other = (
            {f"{prefix}_{scale}": x for scale, x in maps[source].items()}
            for prefix, source in (("own", modality), ("other", watching))
        )
        tuned = run(bundle_directory / f"tuner_{modality}.onnx", other)
        restored = list(run(bundle_directory / f"student_{modality}.onnx", own | tuned).values())
        with torch.no_grad():
            outputs = detector.method.get_submodule(f"students.{modality}")(features[modality], features[watching])
        for given, expected_maps in ((maps[modality].values(), raw[modality]), (restored, outputs.mixed)):
            for ours, theirs in zip(given, expected_maps, strict=True):
                np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4 * float(theirs.abs().max()))
        distances[modality] = [
            cosine_distance(x, torch.from_numpy(y), floor) for x, y in zip(features[modality], restored, strict=True)
        ]
    anomaly_map, score, _ = detector.heads[FULL](distances, region)
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
