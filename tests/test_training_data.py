from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_ad.config import PreprocessConfig, RoiConfig, TrainConfig
from edge_ad.data import Dataset
from edge_ad.data.digest import frames_digest
from edge_ad.errors import ConfigError, DataError, EdgeAdError, OutputError
from edge_ad.training import train
from edge_ad.training_data import golden_samples, input_spec, learn_geometry, stacked_inputs
from edge_ad.types import Frame, LabelledFrame
from tests.datasets import CRD, QUICK, SIZE_PX, ListedFrames, float_listed, listed


@pytest.mark.parametrize("make", [listed, float_listed], ids=["uint16", "float32"])
def test_geometry_finds_the_conveyor_and_the_parts_height(
    dataset: Dataset, make: Callable[[Dataset], ListedFrames]
) -> None:
    """The synthetic conveyor is half a metre away and tilted a little; parts stand 5 to 12 mm above it."""
    frames = make(dataset)
    spec = input_spec(frames.train, frames.intrinsics, CRD)
    geometry = learn_geometry(frames.train, stacked_inputs(frames.train, spec, ("depth",)), spec, CRD.preprocess)
    assert geometry.plane is not None and frames.intrinsics is not None
    alpha, beta, gamma = geometry.plane
    assert gamma == pytest.approx(1 / 0.5, rel=2e-3)
    x = (np.arange(SIZE_PX) - frames.intrinsics.cx) / frames.intrinsics.fx
    for column in (2, SIZE_PX - 3):
        conveyor_m = np.stack([item.frame.depth_m()[:, column] for item in frames.train])
        expected_m = 1 / (alpha * x[column] + beta * x + gamma)
        errors_m = np.where(conveyor_m > 0, conveyor_m - expected_m, np.nan)
        np.testing.assert_allclose(np.nanmedian(errors_m, axis=0), 0, atol=4e-4)
        assert abs(np.nanmean(errors_m)) < 5e-5
    low_m, high_m = geometry.range_m
    assert 0.005 <= low_m < 0.007
    assert 0.010 < high_m < 0.013
    assert geometry.reference_m == pytest.approx(0.5, abs=0.01)


def test_geometry_without_a_plane_is_the_range_of_depth(dataset: Dataset) -> None:
    frames = listed(dataset, 4)
    spec = input_spec(frames.train, frames.intrinsics, QUICK)
    config = PreprocessConfig(modalities=("depth",), image_size_px=64, background="keep")
    geometry = learn_geometry(frames.train, stacked_inputs(frames.train, spec, ("depth",)), spec, config)
    assert geometry.plane is None
    assert 0.485 < geometry.range_m[0] < 0.495 < 0.5 < geometry.range_m[1] < 0.51


def test_no_part_above_the_plane_is_named(dataset: Dataset) -> None:
    frames = listed(dataset, 4)
    spec = input_spec(frames.train, frames.intrinsics, QUICK)
    config = PreprocessConfig(modalities=("depth",), image_size_px=64, foreground_height_m=0.1)
    with pytest.raises(DataError, match="no training frame shows a part.*100 mm above the plane.*foreground_height_m"):
        learn_geometry(frames.train, stacked_inputs(frames.train, spec, ("depth",)), spec, config)


@pytest.mark.parametrize(
    ("frame", "roi"), [((131, 200), (130, 198)), ((128, 192), (128, 192)), ((100, 90), (100, 90))], ids=str
)
def test_the_roi_shrinks_by_whole_factors(frame: tuple[int, int], roi: tuple[int, int]) -> None:
    """131 rows would have to shrink to 64 in one step, since they have no divisor; 130 are halved first."""
    image = np.zeros((*frame, 3), np.uint8)
    item = LabelledFrame(Frame(rgb=image), "housing", "train", "good", Path("part.png"))
    config = TrainConfig(model="rd", preprocess=PreprocessConfig(modalities=("rgb",), image_size_px=64))
    spec = input_spec([item], None, config)
    assert spec.frame_size_px == frame
    assert (spec.roi.height_px, spec.roi.width_px) == roi


def test_the_digest_is_over_pixels_and_their_order(dataset: Dataset) -> None:
    frames = list(listed(dataset, 3).train)
    assert frames_digest(frames) == frames_digest(list(listed(dataset, 3).train))
    assert frames_digest(frames) != frames_digest(frames[::-1])
    assert frames[0].frame.depth is not None
    depth = frames[0].frame.depth.copy()
    depth[0, 0] += 1
    changed = replace(frames[0], frame=replace(frames[0].frame, depth=depth))
    assert frames_digest([changed, *frames[1:]]) != frames_digest(frames)


def test_golden_samples_are_two_good_frames_and_a_broken_one(dataset: Dataset) -> None:
    frames = listed(dataset)
    spec = input_spec(frames.train, frames.intrinsics, CRD)
    validation = stacked_inputs(frames.validation, spec, ("rgb", "depth"))
    for name, samples in golden_samples(validation).items():
        first, last, broken = samples
        assert first.equal(validation[name][0]) and last.equal(validation[name][-1])
        third = SIZE_PX // 3
        assert broken[:third].equal(first[:third]) and broken[2 * third :].equal(first[2 * third :])
        assert broken[third : 2 * third].equal(first[third : 2 * third].flip(0))


@pytest.mark.parametrize(
    ("change", "config", "error", "message"),
    [
        pytest.param(lambda f: replace(f, train=f.train[:1]), QUICK, DataError, "has 1 good train frames", id="train"),
        pytest.param(
            lambda f: replace(f, validation=f.validation[:2]),
            QUICK,
            DataError,
            "has 2 good validation",
            id="validation",
        ),
        pytest.param(
            lambda f: replace(f, train=[replace(item, defect="dent") for item in f.train]),
            QUICK,
            DataError,
            "has 0 good",
            id="defects",
        ),
        pytest.param(
            lambda f: replace(f, train=[replace(i, frame=replace(i.frame, depth=None)) for i in f.train]),
            QUICK,
            DataError,
            "has no depth",
            id="no depth",
        ),
        pytest.param(
            lambda f: f,
            QUICK.model_copy(update={"roi": RoiConfig(x_px=40, y_px=0, width_px=64, height_px=64)}),
            ConfigError,
            "leaves the frames of 96×96 px",
            id="roi",
        ),
        pytest.param(
            lambda f: f,
            QUICK.model_copy(update={"backbone": "vgg16"}),
            ConfigError,
            "no backbone 'vgg16'",
            id="backbone",
        ),
    ],
)
def test_unusable_input_is_named(
    dataset: Dataset,
    tmp_path: Path,
    change: Callable[[ListedFrames], ListedFrames],
    config: TrainConfig,
    error: type[EdgeAdError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        train(change(listed(dataset, 4, 3)), config, tmp_path / "run")
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_normals_need_intrinsics(dataset: Dataset, tmp_path: Path) -> None:
    frames = listed(dataset, 4, 3)
    blind = replace(
        frames, train=[replace(i, frame=replace(i.frame, intrinsics=None)) for i in frames.train], intrinsics=None
    )
    with pytest.raises(DataError, match="normals need the camera's intrinsics"):
        train(blind, CRD, tmp_path)


def test_an_unwritable_run_is_named(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="run cannot be made"):
        train(listed(dataset, 4, 3), QUICK, tmp_path / "file" / "run")
