from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import safetensors.numpy

from edge_ad.benchmark_frames import FRAMES, HOLES_SHARE, RANGE_M, chosen_frames
from edge_ad.bundle import InputSpec
from edge_ad.data.synthetic import write_synthetic
from edge_ad.errors import DataError, EngineError
from edge_ad.feeds import feeds_from_frame
from edge_ad.types import AnyArray, Intrinsics, Roi

Depth = Literal["uint16_planes", "float32_m", "none"]
NAMES = {"rgb", "depth", "normals"}


def spec_of(depth: Depth, roi: Roi | None = None) -> InputSpec:
    return InputSpec(
        frame_size_px=(48, 64),
        roi=roi or Roi(8, 4, 40, 32),
        depth=depth,
        depth_unit_m=0.0005,
        intrinsics=Intrinsics(fx=-70, fy=-70, cx=32, cy=24, width_px=64, height_px=48),
    )


def saved(path: Path, **inputs: AnyArray) -> Path:
    tensors = {f"input.{name}": array for name, array in inputs.items()}
    count = next(iter(inputs.values())).shape[0]
    safetensors.numpy.save_file(tensors | {"output.score": np.zeros(count, np.float32)}, path)
    return path


@pytest.mark.parametrize("depth", ["uint16_planes", "float32_m"])
def test_golden_frames_feed_the_golden_inputs_again(tmp_path: Path, depth: Depth) -> None:
    generator = np.random.default_rng(0)
    shape = (3, 32, 40)
    inputs: dict[str, Any] = {
        "rgb": generator.integers(0, 256, (*shape, 3), np.uint8),
        "normals": generator.integers(0, 256, (*shape, 3), np.uint8),
        "depth": generator.integers(0, 256, (*shape, 2), np.uint8)
        if depth == "uint16_planes"
        else generator.random(shape, np.float32),
    }
    spec = spec_of(depth)
    frames = chosen_frames(None, saved(tmp_path / "golden.safetensors", **inputs), spec, NAMES)
    assert len(frames) == 3
    for index, frame in enumerate(frames):
        assert frame.size_px == spec.frame_size_px
        feeds = feeds_from_frame(frame, spec, list(inputs))
        for name, array in inputs.items():
            np.testing.assert_array_equal(feeds[name], array[index : index + 1])


@pytest.mark.parametrize("depth", ["uint16_planes", "float32_m"])
def test_synthetic_frames_fit_and_have_holes(depth: Depth) -> None:
    spec = spec_of(depth)
    frames = chosen_frames("synthetic", Path("not read"), spec, NAMES)
    assert len(frames) == FRAMES
    for frame in frames:
        assert feeds_from_frame(frame, spec, sorted(NAMES)).keys() == NAMES
        depth_m = frame.depth_m()
        holes = depth_m == 0
        assert HOLES_SHARE / 2 < holes.mean() < 2 * HOLES_SHARE
        assert RANGE_M[0] - 0.001 <= depth_m[~holes].min() < depth_m[~holes].max() <= RANGE_M[1] + 0.001
        assert frame.normals is not None and frame.rgb is not None
        vectors = frame.normals.astype(np.float64) / 127.5 - 1
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=0.02)
        assert frame.rgb.std() > 5
    first, again = frames[0].rgb, chosen_frames(None, None, spec, NAMES)[0].rgb
    assert first is not None and again is not None
    np.testing.assert_array_equal(first, again)


def test_only_what_the_model_takes_is_made_up() -> None:
    frame = chosen_frames(None, None, spec_of("none"), {"rgb"})[0]
    assert frame.depth is None and frame.normals is None and frame.rgb is not None


def test_frames_of_a_data_set(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "lid", train=2, validation=1, test_good=1, test_per_defect=0, size_px=64)
    frames = chosen_frames(str(tmp_path / "lid"), None, spec_of("uint16_planes"), NAMES)
    assert [Path(frame.source).parts[-4:-2] for frame in frames] == [("test", "good")]


def test_what_is_no_data_set_or_golden_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a directory"):
        chosen_frames(str(tmp_path / "nowhere"), None, spec_of("none"), {"rgb"})
    with pytest.raises(EngineError, match="cannot be read"):
        chosen_frames(None, tmp_path / "golden.safetensors", spec_of("none"), {"rgb"})
