"""Model repositories for Triton, read back with Triton's own messages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tritonclient.grpc import model_config_pb2

from edge_ad.backends.box_key import sign
from edge_ad.backends.onnxruntime import available_cores
from edge_ad.bundle import bytes_digest, read_bundle
from edge_ad.engine import EngineManifest
from edge_ad.engine_build import build_engine
from edge_ad.errors import BundleError, ConfigError, DataError, EngineError, OutputError
from edge_ad.triton import export_triton
from tests.cli.command_line import edge_ad
from tests.factories import make_bundle, make_feeds
from tests.serving.servers import read_config

UINT8, FP32 = model_config_pb2.TYPE_UINT8, model_config_pb2.TYPE_FP32


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("triton") / "bundle").directory


@pytest.fixture(scope="module")
def engine(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("triton") / "engine"
    return build_engine(read_bundle(bundle), directory, backend="onnxruntime", precision="fp32").directory


def planned(engine: Path, directory: Path, **changes: Any) -> Path:
    """The engine as TensorRT's, whose plans no test without a GPU can build; signed as this box signs."""
    shutil.copytree(engine, directory)
    plan = (directory / "model.onnx").replace(directory / "model.plan").read_bytes()
    manifest = EngineManifest.model_validate_json((directory / "engine.json").read_bytes())
    files = {name: digest for name, digest in manifest.files.items() if name != "model.onnx"}
    changes = {"backend": "tensorrt", "backend_version": "tensorrt 10.3.0", "max_batch": 4} | changes
    manifest = manifest.model_copy(update={**changes, "files": {**files, "model.plan": bytes_digest(plan)}})
    manifest = manifest.model_copy(update={"mac": sign(manifest.signed_content())})
    (directory / "engine.json").write_text(manifest.model_dump_json())
    return directory


def tensors(described: Any) -> dict[str, Any]:
    return {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in described}


def parameters(config: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


def test_a_bundle_becomes_a_model_of_a_repository(bundle: Path, tmp_path: Path) -> None:
    exported = export_triton(bundle, tmp_path / "models")
    config = read_config(exported.directory)
    assert exported.directory == tmp_path / "models" / "widget"
    assert (config.name, config.platform, config.backend) == ("widget", "onnxruntime_onnx", "onnxruntime")
    assert (config.default_model_filename, config.max_batch_size) == ("model.onnx", 8)
    assert tensors(config.input) == {"rgb": (UINT8, [64, 64, 3]), "depth": (UINT8, [64, 64, 2])}
    assert tensors(config.output) == {"anomaly_map": (FP32, [64, 64]), "score": (FP32, [1])}
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_CPU]
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    digest = read_bundle(bundle).digest
    assert {"edge_ad_bundle": digest, "edge_ad_mode": "full", "edge_ad_precision": "fp32"}.items() <= parameters(
        config
    ).items()


def test_a_scalar_is_sent_as_one_number(bundle: Path, tmp_path: Path) -> None:
    """Triton refuses outputs without dims; ``score`` (N,) has none besides the batch."""
    config = read_config(export_triton(bundle, tmp_path).directory)
    reshaped = {tensor.name: list(tensor.reshape.shape) for tensor in config.output if tensor.HasField("reshape")}
    assert reshaped == {"score": []}
    assert not any(tensor.HasField("reshape") for tensor in config.input)


def test_the_server_warms_up_with_the_smallest_and_the_largest_batch(rd_bundle_directory: Path, tmp_path: Path) -> None:
    """Random bytes as float32 would be infinite or not a number, so depth in metres is zero."""
    config = read_config(export_triton(rd_bundle_directory, tmp_path, max_batch=4).directory)
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 4]
    expected = tensors(config.input)
    for warmup in config.model_warmup:
        assert {name: (x.data_type, list(x.dims)) for name, x in warmup.inputs.items()} == expected
        for given in warmup.inputs.values():
            assert (given.random_data, given.zero_data) == (given.data_type == UINT8, given.data_type == FP32)


def test_the_exported_graph_answers_like_the_bundles(bundle_directory: Path, tmp_path: Path) -> None:
    """It holds its weights, which lie beside the graphs of a bundle."""
    exported = export_triton(bundle_directory, tmp_path, mode="rgb_only")
    ours, theirs = (
        onnxruntime.InferenceSession(path)
        for path in (exported.directory / "1" / "model.onnx", bundle_directory / "model_rgb_only.onnx")
    )
    config = read_config(exported.directory)
    assert parameters(config)["edge_ad_mode"] == "rgb_only" and config.name.endswith("-rgb_only")
    [given] = config.input
    image = np.random.default_rng(0).integers(0, 256, (3, *given.dims), np.uint8)
    for mine, expected in zip(ours.run(None, {"rgb": image}), theirs.run(None, {"rgb": image}), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_settings_reach_the_server(bundle: Path, tmp_path: Path) -> None:
    exported = export_triton(
        bundle, tmp_path, name="lid", max_batch=2, instances=3, queue_delay_us=0, threads=5, device="cpu"
    )
    config = read_config(exported.directory)
    assert (exported.name, config.name, config.max_batch_size) == ("lid", "lid", 2)
    assert [group.count for group in config.instance_group] == [3]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert parameters(config)["intra_op_thread_count"] == "5"


def test_instances_share_the_cores_and_a_gpu_needs_none(bundle: Path, tmp_path: Path) -> None:
    cores = available_cores()
    config = read_config(export_triton(bundle, tmp_path, instances=1).directory)
    assert parameters(config)["intra_op_thread_count"] == str(cores)
    config = read_config(export_triton(bundle, tmp_path, instances=cores + 1).directory)
    assert parameters(config)["intra_op_thread_count"] == "1"
    config = read_config(export_triton(bundle, tmp_path, device="gpu").directory)
    assert "intra_op_thread_count" not in parameters(config)
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_GPU]


def test_frames_one_at_a_time_need_no_batching(bundle: Path, tmp_path: Path) -> None:
    config = read_config(export_triton(bundle, tmp_path, max_batch=1).directory)
    assert config.max_batch_size == 1 and not config.HasField("dynamic_batching")
    assert len(config.model_warmup) == 1


def test_an_engine_of_onnx_runtime_brings_its_own_graph(engine: Path, bundle: Path, tmp_path: Path) -> None:
    exported = export_triton(engine, tmp_path)
    config = read_config(exported.directory)
    assert (exported.directory / "1" / "model.onnx").read_bytes() == (engine / "model.onnx").read_bytes()
    assert (config.max_batch_size, exported.model.bundle_digest) == (8, read_bundle(bundle).digest)


def test_an_engine_of_tensorrt_becomes_a_plan(engine: Path, tmp_path: Path) -> None:
    directory = planned(engine, tmp_path / "planned", precision="fp16")
    exported = export_triton(directory, tmp_path / "models")
    config = read_config(exported.directory)
    assert (exported.directory / "1" / "model.plan").read_bytes() == (directory / "model.plan").read_bytes()
    assert (config.platform, config.backend, config.max_batch_size) == ("tensorrt_plan", "tensorrt", 4)
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_GPU]
    assert parameters(config)["edge_ad_precision"] == "fp16"
    told = edge_ad("export-triton", directory, "--output", tmp_path / "models")
    assert "runs only on the very GPU and TensorRT version" in told.stderr
    assert "grpc://localhost:8001/widget?bundle=BUNDLE&precision=fp16" in told.stderr.replace("\n", "")


def test_what_a_plan_cannot_do_is_refused(engine: Path, tmp_path: Path) -> None:
    directory = planned(engine, tmp_path / "planned")
    with pytest.raises(ConfigError, match=r"at most 4, not 5.*build-engine BUNDLE --max-batch 5"):
        export_triton(directory, tmp_path / "models", max_batch=5)
    with pytest.raises(ConfigError, match="needs a GPU"):
        export_triton(directory, tmp_path / "models", device="cpu")
    with pytest.raises(EngineError, match="built for mode full, not rgb_only"):
        export_triton(directory, tmp_path / "models", mode="rgb_only")
    with pytest.raises(EngineError, match=r"cannot be served by Triton.*tensorrt_rtx 1\.7"):
        export_triton(planned(engine, tmp_path / "rtx", backend_version="tensorrt_rtx 1.7"), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_what_is_no_model_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent is neither a bundle nor an engine. it is not there"):
        export_triton(tmp_path / "absent", tmp_path / "models")
    with pytest.raises(BundleError, match="has no mode rgb_only"):
        export_triton(bundle, tmp_path / "models", mode="rgb_only")
    for name in ("../lid", ".lid", "a b", 'a"b'):
        with pytest.raises(ConfigError, match="is no name for a model"):
            export_triton(bundle, tmp_path / "models", name=name)
    edited = Path(shutil.copytree(bundle, tmp_path / "edited"))
    (edited / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="is not the file that was exported"):
        export_triton(edited, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_an_earlier_export_is_replaced_whole(bundle: Path, engine: Path, tmp_path: Path) -> None:
    export_triton(planned(engine, tmp_path / "planned"), tmp_path / "models")
    directory = export_triton(bundle, tmp_path / "models").directory
    found = sorted(path.relative_to(tmp_path / "models").as_posix() for path in (tmp_path / "models").rglob("*"))
    assert found == ["widget", "widget/1", "widget/1/model.onnx", "widget/config.pbtxt"]
    feeds = make_feeds(3)
    session = onnxruntime.InferenceSession(directory / "1" / "model.onnx")
    assert session.run(["score"], feeds)[0].shape == (3,)


def test_a_server_never_sees_half_a_model(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton does not start with a directory in its repository that is no model, hidden or not."""
    seen: list[list[str]] = []
    rename = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append(sorted(path.name for path in (tmp_path / "models").iterdir()))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    for _ in range(2):
        export_triton(bundle, tmp_path / "models")
    assert seen == [[], ["widget"], []], "the new one; the old one away, the new one"
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


@pytest.mark.parametrize("file", ["config.pbtxt", "1/model.onnx", "2/model.onnx", "notes.txt"])
def test_what_others_have_made_stays(bundle: Path, tmp_path: Path, file: str) -> None:
    """A model of somebody else, and an export of ours that somebody has added to."""
    place = tmp_path / "widget" / file
    if file in ("2/model.onnx", "notes.txt"):
        export_triton(bundle, tmp_path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("mine")
    with pytest.raises(OutputError, match="is not replaced"):
        export_triton(bundle, tmp_path)
    assert place.read_text() == "mine"


def test_a_repository_that_cannot_be_written_is_named(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(OutputError, match=r"models/widget cannot be written"):
        export_triton(bundle, tmp_path / "models")


def test_the_command_says_what_it_wrote(bundle: Path, tmp_path: Path) -> None:
    done = edge_ad("export-triton", bundle, "--output", tmp_path, "--instances", "2", "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (report["directory"], report["instances"]) == (str(tmp_path / "widget"), 2)
    assert (report["precision"], report["device"], report["only_for_this_gpu"]) == ("fp32", "cpu", False)
    told = edge_ad("export-triton", bundle, "--output", tmp_path).stderr.replace("\n", "")
    assert f"tritonserver --model-repository {tmp_path}" in told
    assert f"grpc://localhost:8001/widget?bundle={bundle}'" in told
    assert "very GPU" not in told
    assert edge_ad("export-triton", bundle, "--output", tmp_path, "--device", "tpu").exit_code == 2
