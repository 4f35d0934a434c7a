from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from edge_ad.feeds import feeds_from_frame
from edge_ad.models.preprocess import Preprocess
from edge_ad.types import Float32Array, Frame, Roi
from tests.models.scenes import (
    BACKBONE,
    CAMERA,
    batch,
    images_of,
    make_preprocess,
    plane_depth,
    plane_through,
    rays,
    region_of,
    spoiled,
)

PLANE = plane_through(12, -8)
HEIGHT_M = 0.02


def box_on_plane() -> Float32Array:
    """Depth (H, W) of a box that stands ``HEIGHT_M`` above a tilted plane."""
    x, y = rays()
    top = (abs(x) < 0.2) & (abs(y + 0.05) < 0.15)
    # A point P is above the plane n·P = 1 by (1 − n·P) / |n|.
    raised = (1 - HEIGHT_M * np.linalg.norm(PLANE)) * plane_depth(PLANE)
    return np.where(top, raised, plane_depth(PLANE)).astype(np.float32)


def rgb_noise(height: int = CAMERA.height_px, width: int = CAMERA.width_px) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)


def test_colour_is_averaged_and_normalised_for_the_teacher() -> None:
    rgb = rgb_noise(256, 320)
    preprocess = make_preprocess("rgb", size_px=64, depth="none")
    images, region = preprocess({"rgb": rgb}, ("rgb",))
    # 256 and 320 rows are 4 and 5 times 64, so every network pixel is the mean of whole camera pixels.
    means = rgb[0].double().numpy().reshape(64, 4, 64, 5, 3).mean((1, 3)).transpose(2, 0, 1) / 255
    expected = (means - np.array(BACKBONE.mean)[:, None, None]) / np.array(BACKBONE.std)[:, None, None]
    np.testing.assert_allclose(images["rgb"][0].numpy(), expected, atol=1e-5)
    assert list(images) == ["rgb"] and region is None


@pytest.mark.parametrize("modalities", [("rgb", "depth"), ("depth", "normals"), ("normals", "rgb")])
def test_images_come_in_the_order_of_the_modalities(modalities: tuple[str, str]) -> None:
    inputs = {"rgb": rgb_noise(), "depth": batch(plane_depth(PLANE))}
    alone = {name: images_of(make_preprocess(name), **inputs)[0] for name in modalities}
    together = images_of(make_preprocess(*modalities), **inputs)
    for name, image in zip(modalities, together, strict=True):
        np.testing.assert_allclose(image, alone[name], atol=1e-6)


def test_only_the_wanted_images_are_made_of_the_arrays_that_are_there() -> None:
    preprocess = make_preprocess("rgb", "depth", "normals")
    inputs = {"rgb": rgb_noise(), "depth": batch(plane_depth(PLANE))}
    images, region = preprocess(inputs, ("rgb", "depth", "normals"))
    flat, _ = preprocess({"depth": inputs["depth"]}, ("normals", "depth"))
    colour, everywhere = preprocess({"rgb": inputs["rgb"]}, ("rgb",))
    assert list(flat) == ["normals", "depth"] and list(colour) == ["rgb"]
    for name, image in (flat | colour).items():
        assert torch.equal(image, images[name])
    assert region is not None and everywhere is not None
    assert bool(everywhere.all()), "before anything is learned, a part can be anywhere"


def test_normals_of_the_data_set_are_an_image() -> None:
    normals = rgb_noise()
    given = images_of(make_preprocess("normals", normals_source="frame", depth="none"), normals=normals)[0]
    np.testing.assert_allclose(given, images_of(make_preprocess("rgb", depth="none"), rgb=normals)[0], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e-40, 1e30])
@pytest.mark.parametrize("share", ["a patch", "every pixel"])
@pytest.mark.parametrize("plane", [None, PLANE], ids=["no plane", "plane"])
def test_no_depth_makes_a_nan(value: float, share: str, plane: tuple[float, float, float] | None) -> None:
    depth = np.full_like(plane_depth(PLANE), value) if share == "every pixel" else plane_depth(PLANE)
    depth[60:120, 60:120] = value
    preprocess = make_preprocess("depth", "normals", plane=plane, range_m=(0.0, 0.02) if plane else (0.3, 0.7))
    for image in images_of(preprocess, depth=batch(depth)):
        assert np.isfinite(image).all()
        assert image.min() > -1e-6
        assert image.max() < 1 + 1e-6


def test_uint16_planes_are_the_same_depth_as_float_metres() -> None:
    units = np.rint(spoiled(plane_depth(PLANE), 0.0003, 0.05) / 0.0001)
    units = np.nan_to_num(units).astype(np.uint16)
    metres = (units * 0.0001).astype(np.float32)
    planes = torch.from_numpy(np.stack([units & 255, units >> 8], 2).astype(np.uint8))[None]
    from_planes = images_of(make_preprocess("depth", "normals", depth="uint16_planes"), depth=planes)
    for a, b in zip(from_planes, images_of(make_preprocess("depth", "normals"), depth=batch(metres)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_depth_is_scaled_by_the_learned_range() -> None:
    near, far = 0.3, 0.7
    preprocess = make_preprocess("depth", range_m=(near, far))
    flat = np.full((256, 320), 0.4, np.float32)
    (image,) = images_of(preprocess, depth=batch(flat))
    np.testing.assert_allclose(image, 0.1 + 0.8 * (0.4 - near) / (far - near), atol=1e-5)
    flat[:, 160:] = 0.69
    (other,) = images_of(preprocess, depth=batch(flat))
    np.testing.assert_allclose(other[..., :60], image[..., :60], atol=1e-6)


@pytest.mark.parametrize("beyond_m", [-0.03, 0.03])
def test_what_leaves_the_range_of_good_parts_still_shows(beyond_m: float) -> None:
    near, far = 0.3, 0.7
    preprocess = make_preprocess("depth", range_m=(near, far))
    edge = near if beyond_m < 0 else far
    (good,) = images_of(preprocess, depth=batch(np.full((256, 320), edge, np.float32)))
    (bad,) = images_of(preprocess, depth=batch(np.full((256, 320), edge + beyond_m, np.float32)))
    np.testing.assert_allclose(bad - good, 0.8 * beyond_m / (far - near), atol=1e-5)


def test_resizing_averages_inverse_depth_and_leaves_holes_out() -> None:
    preprocess = make_preprocess("depth", size_px=64, roi=Roi(0, 0, 128, 128))
    depth = np.zeros((128, 128), np.float32)
    depth[::2, ::2] = 0.5
    height, _, _, mask = preprocess.height(batch(depth))
    np.testing.assert_allclose(height.numpy(), 0.5, rtol=1e-6)
    np.testing.assert_allclose(mask.numpy(), 0.25)
    depth[1::2, 1::2] = 1.0
    np.testing.assert_allclose(preprocess.height(batch(depth))[0].numpy(), 1 / 1.5, rtol=1e-6)


def test_holes_are_filled() -> None:
    depth = plane_depth(PLANE)
    whole = make_preprocess("depth").height(batch(depth))[0]
    depth[100:112, 200:215] = np.nan
    height, part, _, mask = make_preprocess("depth").height(batch(depth))
    assert float(mask.min()) == 0
    assert bool(part.all())
    assert float((height - whole).abs().max()) < 0.002


def test_what_no_sensor_reaches_is_background() -> None:
    depth = plane_depth(PLANE)
    depth[:, 160:] = 0
    preprocess = make_preprocess("depth")
    region = region_of(preprocess, depth=batch(depth))
    _, part, _, _ = preprocess.height(batch(depth))
    assert region is not None
    # The hole filling reaches 8 px beyond the last return, at half of its 17 px box.
    for mask in (part, region):
        assert bool(mask[..., :64].all())
        assert not bool(mask[..., 74:].any())
    (decoded,) = images_of(preprocess, depth=batch(depth))
    np.testing.assert_allclose(decoded[..., 74:], 0, atol=1e-6)


def test_the_part_is_what_stands_above_the_plane() -> None:
    depth = box_on_plane()
    preprocess = make_preprocess("depth", plane=PLANE, range_m=(0.0, 0.04))
    height, part, _, _ = preprocess.height(batch(spoiled(depth, 0.0003, 0.02)))
    x, y = rays(size_px=128)
    inner = (abs(x) < 0.17) & (abs(y + 0.05) < 0.12)
    outer = (abs(x) < 0.23) & (abs(y + 0.05) < 0.18)
    assert part[0, 0].numpy()[inner].all()
    assert not part[0, 0].numpy()[~outer].any()
    assert float(np.median(height[0, 0].numpy()[inner])) == pytest.approx(HEIGHT_M, abs=2e-4)
    assert float(np.median(height[0, 0].numpy()[~outer])) == pytest.approx(0, abs=2e-4)
    (image,) = images_of(preprocess, depth=batch(depth))
    np.testing.assert_allclose(image[0, :, inner], 0.1 + 0.8 * HEIGHT_M / 0.04, atol=1e-3)
    np.testing.assert_allclose(image[0, :, ~outer], 0, atol=1e-6)


def test_the_region_is_the_part_and_where_parts_use_to_be() -> None:
    depth = box_on_plane()
    empty = plane_depth(PLANE)
    preprocess = make_preprocess("depth", plane=PLANE)
    preprocess.learn_occupancy(torch.cat([batch(depth), batch(depth), batch(empty)]))
    usual = region_of(preprocess, depth=batch(depth))
    missing = region_of(preprocess, depth=batch(empty))
    assert usual is not None and missing is not None
    assert bool(usual.any()) and torch.equal(usual, missing)
    part = preprocess.height(batch(depth))[1].float()
    grown = torch.nn.functional.conv2d(part, torch.ones(1, 1, 5, 5), padding=2) > 0
    assert torch.equal(usual > 0, grown)


def test_parts_in_fewer_than_half_of_the_frames_are_not_usual() -> None:
    depth = box_on_plane()
    empty = batch(plane_depth(PLANE))
    preprocess = make_preprocess("depth", plane=PLANE)
    preprocess.learn_occupancy(torch.cat([batch(depth), empty, empty]))
    region = region_of(preprocess, depth=empty)
    assert region is not None and not bool(region.any())


def test_without_the_depth_sensor_the_region_is_where_parts_have_ever_been() -> None:
    depth, empty = batch(box_on_plane()), batch(plane_depth(PLANE))
    preprocess = make_preprocess("rgb", "depth", plane=PLANE)
    preprocess.learn_occupancy(torch.cat([depth, depth.flip(2), empty]))
    now = [preprocess({"rgb": rgb_noise(), "depth": x}, ("rgb",))[1] for x in (depth, depth.flip(2), empty)]
    expected = torch.stack(now).amax(0)
    without = preprocess({"rgb": rgb_noise().expand(2, -1, -1, -1)}, ("rgb",))[1]
    assert without is not None and without.shape == (1, 1, 128, 128)
    assert torch.equal(without, expected)
    assert not torch.equal(without, now[0]), "a part that is somewhere else now"


def test_colour_alone_has_no_region_without_depth_in_the_model() -> None:
    assert region_of(make_preprocess("rgb"), rgb=rgb_noise()) is None
    keep = make_preprocess("rgb", "depth", background="keep")
    assert keep({"rgb": rgb_noise()}, ("rgb",))[1] is None


def test_keeping_the_background_inspects_everything() -> None:
    depth = box_on_plane()
    preprocess = make_preprocess("depth", background="keep", plane=None)
    assert region_of(preprocess, depth=batch(depth)) is None
    assert float(images_of(preprocess, depth=batch(depth))[0].min()) > 0.09


def test_a_roi_sees_the_same_heights() -> None:
    """The plane is the same in camera coordinates wherever the ROI is."""
    depth = box_on_plane()
    roi = Roi(96, 60, 128, 128)
    full = make_preprocess("depth", plane=PLANE, size_px=64)
    small = make_preprocess("depth", plane=PLANE, size_px=64, roi=roi)
    height = small.height(batch(roi.crop(depth)))[0][0, 0].numpy()
    x, y = rays(roi, 64)
    inner = (abs(x) < 0.17) & (abs(y + 0.05) < 0.12)
    np.testing.assert_allclose(height[inner], HEIGHT_M, atol=2e-5)
    assert float(full.height(batch(depth))[0].max()) == pytest.approx(HEIGHT_M, abs=1e-4)


def test_frames_and_feeds_agree_on_the_roi() -> None:
    roi = Roi(96, 60, 128, 128)
    preprocess = make_preprocess("rgb", "depth", roi=roi, size_px=128)
    rgb = rgb_noise()[0].numpy()
    frame = Frame(rgb=rgb, depth=plane_depth(PLANE), intrinsics=CAMERA)
    feeds = feeds_from_frame(frame, preprocess.spec, preprocess.config.input_names)
    inputs = {name: torch.from_numpy(array) for name, array in feeds.items()}
    image, depth = images_of(preprocess, **inputs)
    np.testing.assert_allclose(image[0], rgb[60:188, 96:224].transpose(2, 0, 1) / 255, atol=1e-5)
    expected = 0.1 + 0.8 * (plane_depth(PLANE)[60:188, 96:224] - 0.3) / 0.4
    np.testing.assert_allclose(depth[0, 0], expected, atol=1e-5)


def test_a_batch_gives_what_its_frames_give_alone() -> None:
    depth = box_on_plane()
    depths = torch.cat([batch(spoiled(depth, 0.0003, 0.05, seed)) for seed in range(3)])
    preprocess: Preprocess = make_preprocess("depth", "normals", plane=PLANE, range_m=(0, 0.03))
    modalities = preprocess.config.modalities
    images, region = preprocess({"depth": depths}, modalities)
    assert region is not None
    for row in range(3):
        alone, alone_region = preprocess({"depth": depths[row : row + 1]}, modalities)
        assert alone_region is not None
        torch.testing.assert_close(region[row : row + 1], alone_region)
        for name, other in alone.items():
            torch.testing.assert_close(images[name][row : row + 1], other, rtol=1e-5, atol=1e-5)


def test_without_intrinsics_depth_still_works() -> None:
    frame = replace(Frame(depth=plane_depth(PLANE)), intrinsics=None)
    preprocess = make_preprocess("depth", intrinsics=None)
    feeds = feeds_from_frame(frame, preprocess.spec, ("depth",))
    (image,) = images_of(preprocess, depth=torch.from_numpy(feeds["depth"]))
    assert image.std() > 0.01


@pytest.mark.parametrize("side", [(128, 128), (100, 75), (97, 131), (256, 320)], ids=str)
def test_any_size_of_roi_is_resized(side: tuple[int, int]) -> None:
    """A ramp keeps its ends, whatever whole-number averaging comes before the interpolation."""
    roi = Roi(0, 0, side[1], side[0])
    preprocess = make_preprocess("rgb", depth="none", roi=roi, size_px=64)
    ramp = np.linspace(20, 220, side[1])
    rgb = torch.from_numpy(np.broadcast_to(np.rint(ramp)[None, :, None], (*side, 3)).astype(np.uint8).copy())[None]
    (image,) = images_of(preprocess, rgb=rgb)
    centres = (np.arange(64) + 0.5) / 64 * side[1] - 0.5
    expected = np.interp(centres, np.arange(side[1]), ramp) / 255
    np.testing.assert_allclose(image[0, 0, 32], expected, atol=0.006)
