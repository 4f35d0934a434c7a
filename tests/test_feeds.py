from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_ad.bundle import InputSpec
from edge_ad.errors import DataError
from edge_ad.feeds import feeds_from_frame, map_on_frame
from edge_ad.types import AnyArray, Float32Array, Frame, Intrinsics, Roi

CAMERA = Intrinsics(fx=90.0, fy=95.0, cx=40.0, cy=30.0, width_px=80, height_px=60)
ROI = Roi(x_px=10, y_px=5, width_px=50, height_px=40)
PLANES = InputSpec(frame_size_px=(60, 80), roi=ROI, depth="uint16_planes", depth_unit_m=0.001, intrinsics=CAMERA)
METRES = PLANES.model_copy(update={"depth": "float32_m", "depth_unit_m": 1.0})


def make_frame(seed: int = 0) -> Frame:
    """Noise, with depth in millimetres up to the largest number that fits."""
    generator = np.random.default_rng(seed)
    return Frame(
        rgb=generator.integers(0, 256, (60, 80, 3), dtype=np.uint8),
        depth=generator.integers(0, 65536, (60, 80), dtype=np.uint16),
        depth_unit_m=0.001,
        normals=generator.integers(0, 256, (60, 80, 3), dtype=np.uint8),
        intrinsics=CAMERA,
        source="part.png",
    )


def in_metres(frame: Frame) -> Float32Array:
    return ROI.crop(frame.depth_m())


def test_images_are_cropped_and_batched() -> None:
    frame = make_frame()
    feeds = feeds_from_frame(frame, PLANES, ("rgb", "normals", "depth"))
    assert frame.rgb is not None and frame.normals is not None and frame.depth is not None
    np.testing.assert_array_equal(feeds["rgb"], frame.rgb[None, 5:45, 10:60])
    np.testing.assert_array_equal(feeds["normals"], frame.normals[None, 5:45, 10:60])
    low, high = np.moveaxis(feeds["depth"].astype(np.uint16), -1, 0)
    np.testing.assert_array_equal(low + 256 * high, frame.depth[None, 5:45, 10:60])
    assert all(array.flags.c_contiguous for array in feeds.values())


def test_a_whole_frame_is_not_copied() -> None:
    spec = PLANES.model_copy(update={"roi": Roi(0, 0, 80, 60)})
    frame = make_frame()
    feeds = feeds_from_frame(frame, spec, ("rgb", "depth"))
    assert frame.rgb is not None and frame.depth is not None
    assert np.shares_memory(feeds["rgb"], frame.rgb)
    assert np.shares_memory(feeds["depth"], frame.depth)


@pytest.mark.parametrize(
    ("unit_m", "dtype"), [(1.0, np.float32), (0.001, np.float32), (0.0001, np.uint16)], ids=["m", "mm", "0.1 mm"]
)
@pytest.mark.parametrize("spec", [PLANES, METRES], ids=["planes", "metres"])
def test_any_unit_and_type_arrives_as_trained(spec: InputSpec, unit_m: float, dtype: type) -> None:
    """A camera may send depth in another form than the training camera did."""
    depth: AnyArray = (np.random.default_rng(1).uniform(0.3, 2.0, (60, 80)) / unit_m).astype(dtype)
    frame = replace(make_frame(), depth=depth, depth_unit_m=unit_m)
    given = feeds_from_frame(frame, spec, ("depth",))["depth"]
    if spec is PLANES:
        given = (given[..., 0] + 256.0 * given[..., 1]) * 0.001
    np.testing.assert_allclose(given[0], in_metres(frame), atol=0.00051 if spec is PLANES else 1e-6)


def test_what_does_not_fit_into_uint16_has_no_wrong_value() -> None:
    depth = np.full((60, 80), 0.5, np.float32)
    depth[10:20] = [[np.nan], [np.inf], [-np.inf], [-1.0], [0.0], [100.0], [1e30], [65.535], [65.6], [0.0004]]
    given = feeds_from_frame(replace(make_frame(), depth=depth, depth_unit_m=1.0), PLANES, ("depth",))["depth"]
    units = given[0, 5:15, 0, 0] + 256 * given[0, 5:15, 0, 1].astype(int)
    assert units.tolist() == [0, 0, 0, 0, 0, 65535, 65535, 65535, 65535, 0]


@pytest.mark.parametrize("layout", ["transposed", "flipped"])
@pytest.mark.parametrize("spec", [PLANES, METRES], ids=["planes", "metres"])
def test_a_rotated_camera_still_gives_contiguous_arrays(spec: InputSpec, layout: str) -> None:
    frame = make_frame()
    assert frame.depth is not None
    depth: AnyArray = np.asfortranarray(frame.depth) if layout == "transposed" else frame.depth[::-1, ::-1]
    if spec is METRES:
        depth = depth.astype(np.float32, order="K")
    turned = replace(frame, depth=depth)
    feeds = feeds_from_frame(turned, spec, ("depth",))
    assert feeds["depth"].flags.c_contiguous
    plain = replace(turned, depth=np.ascontiguousarray(depth))
    np.testing.assert_array_equal(feeds["depth"], feeds_from_frame(plain, spec, ("depth",))["depth"])


@pytest.mark.parametrize("value", [0, np.nan, np.inf, -1], ids=str)
@pytest.mark.parametrize("spec", [PLANES, METRES], ids=["planes", "metres"])
def test_depth_without_a_return_is_named(spec: InputSpec, value: float) -> None:
    frame = replace(make_frame(), depth=np.full((60, 80), value, np.float32), depth_unit_m=1.0)
    with pytest.raises(DataError, match=r"part\.png has no valid depth"):
        feeds_from_frame(frame, spec, ("depth",))


def test_depth_only_outside_the_roi_is_no_depth() -> None:
    depth = np.zeros((60, 80), np.uint16)
    depth[:5] = 500
    with pytest.raises(DataError, match="no valid depth"):
        feeds_from_frame(replace(make_frame(), depth=depth), PLANES, ("depth",))


def test_another_size_is_named() -> None:
    frame = make_frame()
    assert frame.rgb is not None
    with pytest.raises(DataError, match=r"part\.png is 70×60 px.*trained on 80×60 px"):
        feeds_from_frame(Frame(rgb=frame.rgb[:, :70], source="part.png"), PLANES, ("rgb",))


@pytest.mark.parametrize("name", ["rgb", "depth", "normals"])
def test_a_missing_image_is_named(name: str) -> None:
    frame = make_frame()
    images = {key: getattr(frame, key) for key in ("rgb", "depth", "normals") if key != name}
    without = Frame(**images, depth_unit_m=0.001, source="part.png")
    with pytest.raises(DataError, match=rf"part\.png has no {name}"):
        feeds_from_frame(without, PLANES, ("rgb", "depth", "normals"))


@pytest.mark.parametrize(("fx", "accepted"), [(90.0, True), (94.0, True), (85.0, False), (95.0, False)])
def test_another_focal_length_is_named(fx: float, accepted: bool) -> None:
    frame = replace(make_frame(), intrinsics=replace(CAMERA, fx=fx))
    if accepted:
        assert feeds_from_frame(frame, PLANES, ("rgb",))
        return
    with pytest.raises(DataError, match=rf"has fx {fx:.1f} px.*trained with 90\.0 px"):
        feeds_from_frame(frame, PLANES, ("rgb",))


def test_a_mirrored_point_cloud_has_the_same_camera() -> None:
    mirrored = PLANES.model_copy(update={"intrinsics": replace(CAMERA, fx=-CAMERA.fx)})
    assert feeds_from_frame(make_frame(), mirrored, ("rgb",))


def test_unknown_intrinsics_are_not_compared() -> None:
    assert feeds_from_frame(replace(make_frame(), intrinsics=None), PLANES, ("rgb",))
    without = PLANES.model_copy(update={"intrinsics": None})
    assert feeds_from_frame(make_frame(), without, ("rgb",))


def test_a_map_lies_where_the_roi_is() -> None:
    network_map = np.full((20, 25), -3.0, np.float32)
    network_map[10, 20] = 7
    placed = map_on_frame(network_map, ROI, (60, 80))
    assert placed.shape == (60, 80) and placed.dtype == np.float32
    rows, columns = np.nonzero(placed > 2)
    # Network pixel (10, 20) covers two by two pixels of the ROI from (20, 40) on.
    assert (rows.mean(), columns.mean()) == (5 + 20.5, 10 + 40.5)
    outside = np.ones((60, 80), bool)
    ROI.crop(outside)[:] = False
    assert (placed[outside] == -3).all()


def test_a_map_over_the_whole_frame_is_only_resized() -> None:
    network_map = np.arange(12, dtype=np.float32).reshape(3, 4)
    placed = map_on_frame(network_map, Roi(0, 0, 80, 60), (60, 80))
    assert placed.shape == (60, 80)
    assert (placed.min(), placed.max()) == (0, 11)
