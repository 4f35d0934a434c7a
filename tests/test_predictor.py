from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edge_ad.bundle import Thresholds, read_bundle
from edge_ad.data import Dataset
from edge_ad.engine import read_engine
from edge_ad.engine_build import build_engine
from edge_ad.errors import BundleError, CheckpointError, DataError, EngineError
from edge_ad.feeds import feeds_from_frame
from edge_ad.head_statistics import learn_head
from edge_ad.models.checkpoint import CHECKPOINT, load_detector, read_checkpoint
from edge_ad.predictor import Predictor, open_predictor
from edge_ad.types import Frame
from tests.datasets import RD, float_frame

FORMS = ("run", "bundle", "engine")


@pytest.fixture(scope="module")
def crd_engine(bundle_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("engine") / "crd"
    return build_engine(read_bundle(bundle_directory), directory, backend="onnxruntime", precision="fp32").directory


@pytest.fixture(scope="module")
def rd_engine(rd_bundle_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("engine") / "rd"
    return build_engine(read_bundle(rd_bundle_directory), directory, backend="onnxruntime", precision="fp32").directory


@pytest.fixture(scope="module")
def crd(trained_run: Path, bundle_directory: Path, crd_engine: Path) -> Iterator[dict[str, Predictor]]:
    paths = (trained_run, bundle_directory, crd_engine)
    predictors = {form: open_predictor(path) for form, path in zip(FORMS, paths, strict=True)}
    yield predictors
    for predictor in predictors.values():
        predictor.close()


@pytest.fixture(scope="module")
def rd(rd_run: Path, rd_bundle_directory: Path, rd_engine: Path) -> dict[str, Predictor]:
    return {
        form: open_predictor(path) for form, path in zip(FORMS, (rd_run, rd_bundle_directory, rd_engine), strict=True)
    }


@pytest.fixture(scope="module", params=["rgb_only", "3d_only"])
def few_modal(
    request: pytest.FixtureRequest, trained_run: Path, bundle_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Predictor]:
    """The CRD model without one of its sensors."""
    mode: str = request.param
    bundle, directory = read_bundle(bundle_directory), tmp_path_factory.mktemp("engine") / mode
    build_engine(bundle, directory, backend="onnxruntime", precision="fp32", mode=mode)
    return {
        "run": open_predictor(trained_run, mode),
        "bundle": open_predictor(bundle_directory, mode),
        "engine": open_predictor(directory),
    }


@pytest.fixture(scope="module")
def frame(dataset: Dataset) -> Frame:
    """A part with a dent."""
    return next(item.frame for item in dataset.frames("test") if item.defect == "dent")


@pytest.mark.parametrize("form", ["bundle", "engine"])
def test_checkpoint_bundle_and_engine_agree(
    crd: dict[str, Predictor], rd: dict[str, Predictor], dataset: Dataset, form: str
) -> None:
    for item in dataset.frames("test")[::4]:
        for predictors, frame in ((crd, item.frame), (rd, float_frame(item.frame))):
            expected, given = predictors["run"](frame), predictors[form](frame)
            assert given.score == pytest.approx(expected.score, abs=1e-3)
            np.testing.assert_allclose(given.anomaly_map, expected.anomaly_map, atol=1e-3)
            assert given.modality_maps.keys() == expected.modality_maps.keys()
            for name, modality_map in given.modality_maps.items():
                np.testing.assert_allclose(modality_map, expected.modality_maps[name], atol=1e-3)


def scores_through_the_lines_feeds(run: Path, dataset: Dataset, mode: str) -> tuple[float, ...]:
    """The scores of the validation frames, of what the line would feed the graph."""
    detector, _ = load_detector(run)
    names = detector.operating(mode).input_names
    frames = [without(mode, item.frame) for item in dataset.frames("validation")]
    feeds = [feeds_from_frame(frame, detector.config.input, names) for frame in frames]
    return learn_head(
        detector, mode, {name: torch.from_numpy(np.concatenate([x[name] for x in feeds])) for name in names}
    )


def test_the_line_scores_good_frames_as_training_did(
    crd: dict[str, Predictor], trained_run: Path, dataset: Dataset
) -> None:
    record = read_checkpoint(trained_run)[0]
    scores = scores_through_the_lines_feeds(trained_run, dataset, "full")
    np.testing.assert_allclose(scores, record.validation_scores["full"], atol=1e-3)
    for predictor in crd.values():
        assert predictor.threshold == pytest.approx(max(scores), abs=1e-3)


def without(mode: str, frame: Frame) -> Frame:
    """The frame as it comes while the other sensor is away."""
    if mode == "rgb_only":
        return replace(frame, depth=None, intrinsics=None)
    return replace(frame, rgb=None) if mode == "3d_only" else frame


def test_a_mode_judges_with_one_sensor_wherever_it_runs(
    few_modal: dict[str, Predictor], trained_run: Path, dataset: Dataset, frame: Frame
) -> None:
    """From checkpoint to bundle to engine: the mode's scores, maps and threshold."""
    mode = few_modal["run"].mode
    record = read_checkpoint(trained_run)[0]
    modality = {"rgb_only": "rgb", "3d_only": "normals"}[mode]
    scores = scores_through_the_lines_feeds(trained_run, dataset, mode)
    np.testing.assert_allclose(scores, record.validation_scores[mode], atol=1e-3)
    for form, predictor in few_modal.items():
        assert predictor.mode == mode
        assert predictor.threshold == record.thresholds.modes[mode].value == pytest.approx(max(scores), abs=1e-3)
        assert predictor.threshold != record.thresholds.modes["full"].value
        assert predictor.description.startswith(f"crd {modality}, ")
        result, expected = predictor(without(mode, frame)), few_modal["run"](frame)
        np.testing.assert_allclose(result.anomaly_map, expected.anomaly_map, atol=1e-3)
        assert list(result.modality_maps) == [modality], form


def test_modes_of_one_bundle_are_different_engines(
    bundle_directory: Path, crd_engine: Path, few_modal: dict[str, Predictor], tmp_path: Path
) -> None:
    mode, bundle = few_modal["run"].mode, read_bundle(bundle_directory)
    directory = Path(shutil.copytree(crd_engine, tmp_path / "engine"))
    before = (directory / "model.onnx").read_bytes()
    engine = build_engine(bundle, directory, backend="onnxruntime", precision="fp32", mode=mode)
    assert (directory / "model.onnx").read_bytes() != before
    assert (engine.manifest.mode, engine.manifest.bundle_digest) == (mode, bundle.digest)
    names = {tensor.name for tensor in bundle.mode(mode).inputs}
    assert set(engine.manifest.input_shapes) == names
    assert f"--mode {mode}" in engine.manifest.rebuild_command
    assert open_predictor(directory, mode).mode == mode
    with pytest.raises(EngineError, match=rf"was built for mode {mode}, not full.*--mode full"):
        open_predictor(directory, "full")


@pytest.mark.parametrize(
    ("model", "error"),
    [("rd_run", CheckpointError), ("rd_bundle_directory", BundleError), ("rd_engine", EngineError)],
    ids=FORMS,
)
def test_a_mode_that_a_model_lacks_is_named(request: pytest.FixtureRequest, model: str, error: type[Exception]) -> None:
    path: Path = request.getfixturevalue(model)
    for mode in ("rgb_only", "nonsense"):
        with pytest.raises(error, match=mode) as caught:
            open_predictor(path, mode)
        assert str(path) in str(caught.value) and "full" in str(caught.value)


def test_no_engine_is_built_for_a_mode_that_a_bundle_lacks(rd_bundle_directory: Path, tmp_path: Path) -> None:
    bundle = read_bundle(rd_bundle_directory)
    with pytest.raises(BundleError, match="has no mode rgb_only"):
        build_engine(bundle, tmp_path / "engine", backend="onnxruntime", precision="fp32", mode="rgb_only")
    assert list(tmp_path.iterdir()) == []


def test_a_result_is_whole(crd: dict[str, Predictor], frame: Frame, bundle_directory: Path) -> None:
    digest = read_bundle(bundle_directory).digest
    for form, predictor in crd.items():
        result = predictor(frame)
        assert result.anomaly_map.shape == frame.size_px
        assert result.score >= result.anomaly_map.max() - 1e-6
        assert {name: x.shape for name, x in result.modality_maps.items()} == {"rgb": (64, 64), "normals": (64, 64)}
        assert result.latency_ms.keys() == {"feed", "engine", "map"}
        assert min(result.latency_ms.values()) >= 0
        assert result.model_id == predictor.model_id
        assert (result.model_id == digest) is (form != "run")
    described = [predictor.description for predictor in crd.values()]
    assert described == ["crd rgb+normals, torch", "crd rgb+normals, onnx", "crd rgb+normals, onnxruntime fp32"]


@pytest.mark.parametrize("form", FORMS)
def test_the_map_lies_in_the_roi(rd: dict[str, Predictor], frame: Frame, form: str) -> None:
    assert RD.roi is not None
    result = rd[form](float_frame(frame))
    rows, columns = slice(10, 10 + 76), slice(4, 4 + 88)
    expected = cv2.resize(result.modality_maps["depth"], (88, 76), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(result.anomaly_map[rows, columns], expected, atol=1e-5)
    outside = np.ones(frame.size_px, bool)
    outside[rows, columns] = False
    np.testing.assert_allclose(result.anomaly_map[outside], expected.min())


def test_pixels_outside_the_roi_do_not_matter(rd: dict[str, Predictor], frame: Frame) -> None:
    before = float_frame(frame)
    assert before.depth is not None
    depth = before.depth.copy()
    depth[:10], depth[:, :4] = 0.3, np.nan
    after = rd["engine"](replace(before, depth=depth))
    np.testing.assert_array_equal(after.anomaly_map, rd["engine"](before).anomaly_map)


def with_depth(value: float) -> Callable[[Frame], Frame]:
    return lambda frame: replace(frame, depth=np.full(frame.size_px, value, np.float32), depth_unit_m=1.0)


def smaller(frame: Frame) -> Frame:
    assert frame.rgb is not None and frame.depth is not None
    return Frame(rgb=frame.rgb[:90], depth=frame.depth[:90], depth_unit_m=frame.depth_unit_m)


def zoomed(frame: Frame) -> Frame:
    assert frame.intrinsics is not None
    return replace(frame, intrinsics=replace(frame.intrinsics, fy=1.1 * frame.intrinsics.fy))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(smaller, "is 96×90 px. the model was trained on 96×96 px", id="size"),
        pytest.param(lambda f: replace(f, depth=None), "has no depth.*--mode rgb_only", id="no depth"),
        pytest.param(lambda f: replace(f, rgb=None), "has no rgb.*--mode 3d_only", id="no colour"),
        pytest.param(with_depth(0), "has no valid depth", id="zero depth"),
        pytest.param(with_depth(np.nan), "has no valid depth", id="NaN depth"),
        pytest.param(with_depth(np.inf), "has no valid depth", id="infinite depth"),
        pytest.param(zoomed, r"has fy .* trained with", id="focal length"),
    ],
)
def test_a_frame_that_does_not_fit_is_named(
    crd: dict[str, Predictor], frame: Frame, form: str, change: Callable[[Frame], Frame], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        crd[form](change(frame))


def test_any_file_of_a_model_opens_it(
    rd_run: Path, rd_bundle_directory: Path, rd_engine: Path, rd: dict[str, Predictor]
) -> None:
    for form, path in (
        ("run", rd_run / CHECKPOINT),
        ("bundle", rd_bundle_directory / "model.onnx"),
        ("engine", rd_engine / "model.onnx"),
    ):
        predictor = open_predictor(path)
        assert (predictor.description, predictor.model_id) == (rd[form].description, rd[form].model_id)


def test_a_small_graph_of_a_bundle_opens_in_its_mode(bundle_directory: Path) -> None:
    mode = next(name for name in read_bundle(bundle_directory).manifest.modes if name != "full")
    predictor = open_predictor(bundle_directory / f"model_{mode}.onnx")
    assert predictor.mode == mode
    assert predictor.description == open_predictor(bundle_directory, mode).description


def test_what_is_no_model_is_named(tmp_path: Path, bundle_directory: Path) -> None:
    with pytest.raises(DataError, match="absent is no model. it is not there"):
        open_predictor(tmp_path / "absent")
    with pytest.raises(DataError, match="holds neither engine.json nor manifest.json nor a checkpoint"):
        open_predictor(tmp_path)
    with pytest.raises(DataError, match="is no model"):
        open_predictor(bundle_directory / "teacher.onnx")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        open_predictor(bundle_directory / "golden.safetensors")


def test_a_damaged_model_is_refused(rd_engine: Path, rd_bundle_directory: Path, tmp_path: Path) -> None:
    for source, error in ((rd_engine, EngineError), (rd_bundle_directory, BundleError)):
        copy = tmp_path / source.name / error.__name__
        copy.mkdir(parents=True)
        for path in source.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        (copy / "model.onnx").write_bytes((source / "model.onnx").read_bytes()[:-1])
        with pytest.raises(error, match=r"model\.onnx is not the file"):
            open_predictor(copy)


def test_a_missing_threshold_is_named(rd: dict[str, Predictor]) -> None:
    with pytest.raises(BundleError, match="rd depth, onnx has no threshold"):
        _ = replace(rd["bundle"], thresholds=Thresholds(modes={})).threshold


def test_an_engine_keeps_its_bundles_identity(rd_engine: Path, rd_bundle_directory: Path) -> None:
    assert read_engine(rd_engine).manifest.bundle_digest == read_bundle(rd_bundle_directory).digest
