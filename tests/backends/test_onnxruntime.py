from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_ad.backends.golden import check_golden
from edge_ad.backends.onnxruntime import OnnxRuntimeBackend, available_cores
from edge_ad.errors import EngineError
from edge_ad.types import AnyArray, Backend, TensorSpec
from tests.factories import make_feeds

Feeds = dict[str, AnyArray]


@pytest.fixture(scope="module")
def backend(sample_bundle: Path) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(sample_bundle / "model.onnx")


@pytest.mark.parametrize("max_batch", [1, 2, 8])
def test_gives_the_golden_answers(backend: Backend, sample_bundle: Path, max_batch: int) -> None:
    assert check_golden(backend, sample_bundle / "golden.safetensors", "fp32", max_batch) < 1e-4


def test_describes_inputs_and_outputs(backend: Backend) -> None:
    assert isinstance(backend, Backend)
    assert backend.inputs == (
        TensorSpec("rgb", "uint8", (None, 64, 64, 3)),
        TensorSpec("depth", "uint8", (None, 64, 64, 2)),
    )
    assert backend.outputs == (
        TensorSpec("anomaly_map", "float32", (None, 64, 64)),
        TensorSpec("score", "float32", (None,)),
    )


def test_reads_a_file_and_its_content_alike(backend: Backend, sample_bundle: Path) -> None:
    content = (sample_bundle / "model.onnx").read_bytes()
    feeds = make_feeds(3)
    from_bytes = OnnxRuntimeBackend(content).run(feeds)
    for name, array in backend.run(feeds).items():
        np.testing.assert_array_equal(from_bytes[name], array)


def test_results_belong_to_the_caller(backend: Backend) -> None:
    first = backend.run(make_feeds(1, seed=1))
    before = first["anomaly_map"].copy()
    backend.run(make_feeds(1, seed=2))
    np.testing.assert_array_equal(first["anomaly_map"], before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda f: {"rgb": f["rgb"]}, "'depth' is missing", id="missing"),
        pytest.param(lambda f: f | {"mask": f["rgb"]}, "'mask' is not an input", id="extra"),
        pytest.param(lambda f: f | {"rgb": f["rgb"].astype(np.float32)}, "'rgb' is float32", id="dtype"),
        pytest.param(lambda f: f | {"rgb": f["rgb"][:, :32]}, r"'rgb' has shape \(2, 32", id="size"),
        pytest.param(lambda f: f | {"rgb": f["rgb"][0]}, r"'rgb' has shape \(64, 64, 3\)", id="no batch"),
        pytest.param(lambda f: f | {"depth": f["depth"][:1]}, r"'depth' has shape \(1, .*\(2, 64", id="batches differ"),
        pytest.param(lambda f: {name: a[:0] for name, a in f.items()}, r"shape \(0, 64", id="empty"),
    ],
)
def test_wrong_feeds_are_named(backend: Backend, change: Callable[[Feeds], Feeds], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        backend.run(change(make_feeds(2)))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="truncated"),
        pytest.param(lambda content: b"not a model" * 20, id="garbage"),
    ],
)
def test_a_damaged_model_is_named(sample_bundle: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(damage((sample_bundle / "model.onnx").read_bytes()))
    with pytest.raises(EngineError, match="broken.onnx cannot be loaded"):
        OnnxRuntimeBackend(path)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="absent.onnx cannot be loaded"):
        OnnxRuntimeBackend(tmp_path / "absent.onnx")


def _machine(sysfs: Path, siblings: list[str], quota: str | None) -> None:
    for cpu, text in enumerate(siblings):
        topology = sysfs / f"devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(text + "\n")
    if quota is not None:
        (sysfs / "fs/cgroup").mkdir(parents=True)
        (sysfs / "fs/cgroup/cpu.max").write_text(quota + "\n")


@pytest.mark.parametrize(
    ("siblings", "quota", "cores"),
    [
        pytest.param(["0", "1", "2", "3"], "max 100000", 4, id="one thread a core"),
        pytest.param(["0,2", "1,3", "0,2", "1,3"], "max 100000", 2, id="two threads a core"),
        pytest.param(["0", "1", "2", "3"], "250000 100000", 2, id="container quota"),
        pytest.param(["0", "1", "2", "3"], "50000 100000", 1, id="half a core"),
        pytest.param([], None, 4, id="nothing known"),
    ],
)
def test_threads_follow_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, siblings: list[str], quota: str | None, cores: int
) -> None:
    _machine(tmp_path, siblings, quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert available_cores(tmp_path) == cores
