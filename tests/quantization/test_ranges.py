"""Ranges of a network's tensors, against every value that the graph computes."""

from __future__ import annotations

import json
import logging
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest

from edge_ad.quantization.calibration import CalibrationSet, RangeMethod, read_calibration_set
from edge_ad.quantization.network import network_nodes
from edge_ad.quantization.ranges import Ranges, activation_ranges, ranges_of
from edge_ad.types import AnyArray
from tests.datasets import SIZE_PX
from tests.factories import make_feeds
from tests.onnx_graphs import inspection_graph

NAMES = ("rgb", "depth")


def sample_frames(count: int = 3) -> list[dict[str, AnyArray]]:
    return [make_feeds(1, seed) for seed in range(count)]


def every_tensor(model: onnx.ModelProto, feeds: dict[str, AnyArray]) -> dict[str, AnyArray]:
    """What ONNX's own reference computes, tensor by tensor."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [name for node in watched.graph.node for name in node.output]
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, onnx.reference.ReferenceEvaluator(watched).run(None, feeds), strict=True))


@pytest.fixture(scope="module")
def minmax() -> Ranges:
    return activation_ranges(inspection_graph().SerializeToString(), sample_frames())


def test_minmax_covers_what_the_graph_computes_and_no_more(minmax: Ranges) -> None:
    values = [every_tensor(inspection_graph(), feeds) for feeds in sample_frames()]
    for name, (low, high) in minmax.items():
        seen = np.stack([each[name] for each in values])
        assert low == pytest.approx(min(seen.min(), 0), abs=1e-4) or low == pytest.approx(seen.min(), abs=1e-4), name
        assert high == pytest.approx(seen.max(), abs=1e-4), name


def test_the_tensors_are_those_of_the_networks(minmax: Ranges) -> None:
    assert set(minmax) == {"seen", "stem", "stem_relu", "teacher", "down", "down_relu", "student"}
    learned = {node.output[0] for node in network_nodes(inspection_graph().graph)}
    assert learned == set(minmax) - {"seen"}


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_an_outlier_is_cut_off(method: RangeMethod) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> one (float[1,8,64,64] x) => (float[1,8,64,64] y) { y = Conv (x, w) }'
    )
    identity = np.eye(8, dtype=np.float32)[..., None, None]
    model.graph.initializer.append(onnx.numpy_helper.from_array(identity, "w"))
    model.graph.node[0].name = "one"
    generator = np.random.default_rng(0)
    frames = [{"x": generator.normal(size=(1, 8, 64, 64)).astype(np.float32)} for _ in range(8)]
    frames[3]["x"][0, 2, 10, 10] = 60.0
    content = model.SerializeToString()
    extremes, cut = (activation_ranges(content, frames, kind) for kind in ("minmax", method))
    assert extremes["x"][1] == 60.0
    for name in ("x", "y"):
        low, high = cut[name]
        assert extremes[name][0] <= low < -2
        assert 2 < high < 20, "the outlier is alone"


def test_percentile_and_entropy_stay_within_the_extremes(minmax: Ranges) -> None:
    model = inspection_graph().SerializeToString()
    for method in ("percentile", "entropy"):
        found = activation_ranges(model, sample_frames(), method)
        assert set(found) == set(minmax)
        for name, (low, high) in found.items():
            bound = 1e-4 + max(map(abs, minmax[name]))
            assert -bound <= low < high <= bound, (method, name)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_only_one_frame_is_in_memory(method: RangeMethod) -> None:
    made: list[weakref.ref[AnyArray]] = []
    told: list[int] = []

    def frames() -> Iterator[dict[str, AnyArray]]:
        for seed in range(5):
            assert sum(reference() is not None for reference in made) <= 1, "the one before, which is replaced now"
            feeds = make_feeds(1, seed)
            made.extend(weakref.ref(array) for name, array in feeds.items() if name == "rgb")
            yield feeds

    activation_ranges(inspection_graph().SerializeToString(), frames(), method, told.append)
    assert told == [1, 2, 3, 4, 5]


@pytest.fixture
def copy(calibration_set: CalibrationSet, tmp_path: Path) -> CalibrationSet:
    """A set without ranges, that the test may damage."""
    ignored = shutil.ignore_patterns("ranges")
    return read_calibration_set(Path(shutil.copytree(calibration_set.directory, tmp_path / "set", ignore=ignored)))


@pytest.fixture(scope="module")
def model(calibration_set: CalibrationSet) -> bytes:
    """The sample graph for frames of the set's size."""
    proto = inspection_graph()
    for tensor in proto.graph.input:
        for axis in (1, 2):
            tensor.type.tensor_type.shape.dim[axis].dim_value = SIZE_PX
    for axis in (1, 2):
        proto.graph.output[0].type.tensor_type.shape.dim[axis].dim_value = SIZE_PX
    content: bytes = proto.SerializeToString()
    return content


def test_ranges_are_measured_once(copy: CalibrationSet, model: bytes) -> None:
    told: list[int] = []
    found = ranges_of(model, copy, NAMES, progress=told.append)
    assert told == [1, 2, 3, 4, 5]
    assert found == activation_ranges(model, copy.feeds("calibration", NAMES))
    assert ranges_of(model, copy, NAMES, progress=told.append) == found
    assert len(told) == 5, "nothing was measured again"
    assert read_calibration_set(copy.directory) == copy


@pytest.mark.parametrize("damage", ["no JSON", "not a table", "foreign frames", "other values"])
def test_a_damaged_or_foreign_cache_is_measured_again(copy: CalibrationSet, model: bytes, damage: str) -> None:
    found = ranges_of(model, copy, NAMES)
    (path,) = (copy.directory / "ranges").iterdir()
    kept = json.loads(path.read_text())
    if damage == "no JSON":
        path.write_text(path.read_text()[:-20])
    elif damage == "not a table":
        path.write_text("[]")
    elif damage == "foreign frames":
        kept["key"]["frames"] = "0" * 64
        kept["ranges"] = {name: (0, 1) for name in kept["ranges"]}
        path.write_text(json.dumps(kept))
    else:
        kept["ranges"] = {name: "wide" for name in kept["ranges"]}
        path.write_text(json.dumps(kept))
    told: list[int] = []
    assert ranges_of(model, copy, NAMES, progress=told.append) == found
    assert len(told) == 5
    assert json.loads(path.read_text())["key"]["frames"] == copy.digest


def test_each_method_has_its_own_ranges(copy: CalibrationSet, model: bytes) -> None:
    assert ranges_of(model, copy, NAMES) != ranges_of(model, copy, NAMES, "percentile")
    assert len(list((copy.directory / "ranges").iterdir())) == 2


def test_where_nothing_can_be_kept_the_ranges_are_there_all_the_same(
    copy: CalibrationSet, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy.directory / "ranges").write_text("in the way")
    told: list[str] = []
    monkeypatch.setattr(
        logging.getLogger("edge_ad.quantization.ranges"), "handle", lambda r: told.append(r.getMessage())
    )
    assert ranges_of(model, copy, NAMES)
    assert any("the ranges are not kept" in text for text in told)
