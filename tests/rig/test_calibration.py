from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_ad.errors import CameraError, ConfigError, DataError
from edge_ad.rig.calibration import STEP_SIGMAS, acceptance, calibrated
from edge_ad.rig.findings import Status
from edge_ad.rig.observation import FrameAverage, observe
from edge_ad.rig.settling import lock_exposure, settle
from edge_ad.types import CameraInfo, Frame, Roi
from tests.rig.scenes import (
    CAMERA,
    DISTANCE_M,
    HEIGHT_PX,
    INFO,
    WIDTH_PX,
    Scene,
    SceneCamera,
    plane_at,
)


def test_averages_are_those_of_numpy() -> None:
    frames = list(Scene(hole_share=0.3).frames(12))
    average = FrameAverage()
    for frame in frames:
        average.add(frame)
    maps = average.observation(INFO).maps
    depths = np.stack([frame.depth_m() for frame in frames]).astype(np.float64)
    returned = np.where(depths > 0, depths, np.nan)
    enough = (depths > 0).sum(0) >= 2
    assert enough.any()
    np.testing.assert_allclose(maps.depth_m[enough], np.nanmean(returned[:, enough], 0), rtol=1e-6)
    np.testing.assert_allclose(maps.noise_m[enough], np.nanstd(returned[:, enough], 0, ddof=1), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(maps.valid, (depths > 0).mean(0), rtol=1e-6)
    assert maps.grey is not None and frames[0].rgb is not None
    levels = np.stack([frame.rgb[..., 0] for frame in frames if frame.rgb is not None])
    np.testing.assert_allclose(maps.grey, levels.mean(0), atol=1e-3)


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (3.0, -2.0), (12.0, 0.0)])
def test_the_plane_is_what_it_is(tilt: tuple[float, float]) -> None:
    plane = plane_at(DISTANCE_M, *tilt)
    record = Scene(plane=plane).rig().record
    np.testing.assert_allclose(record.plane, plane, atol=2e-4)
    assert record.distance_m == pytest.approx(DISTANCE_M, abs=1e-4)
    normal = np.array([np.tan(np.radians(tilt[0])), np.tan(np.radians(tilt[1])), -1])
    expected_deg = np.degrees(np.arccos(1 / np.linalg.norm(normal)))
    assert record.tilt_deg == pytest.approx(expected_deg, abs=0.02)
    assert record.mm_per_px == pytest.approx(1000 * DISTANCE_M / CAMERA.fx, rel=1e-3)


def test_noise_fill_and_step_are_those_of_the_sensor() -> None:
    seen = Scene(noise_m=0.002, hole_share=0.05).observed(40)
    record = calibrated(seen, "bench://").record
    assert record.noise_m == pytest.approx(0.002, rel=0.03)
    assert record.fill == pytest.approx(0.95, abs=0.01)
    assert record.step_m == STEP_SIGMAS * record.noise_m
    assert seen.fps == pytest.approx(30, rel=1e-3)
    assert record.camera.sensor == {"exposure_us": 8000, "gain": 16}


def test_a_whole_table_is_the_roi() -> None:
    record = Scene().rig().record
    assert (record.roi, record.roi_given) == (Roi(0, 0, WIDTH_PX, HEIGHT_PX), False)


def test_the_roi_keeps_clear_of_where_there_is_no_depth() -> None:
    roi = Scene(blind=Roi(0, 0, 50, HEIGHT_PX)).rig().record.roi
    assert 50 <= roi.x_px < 58 and roi.x_px + roi.width_px == WIDTH_PX
    assert (roi.y_px, roi.height_px) == (0, HEIGHT_PX)


def test_the_roi_keeps_what_stands_on_the_table_but_not_the_floor_beside_it() -> None:
    stands = Scene(step=(Roi(60, 40, 30, 30), 0.05)).rig().record.roi
    assert stands == Roi(0, 0, WIDTH_PX, HEIGHT_PX)
    floor = Scene(step=(Roi(0, 90, WIDTH_PX, 30), -0.5)).rig().record.roi
    assert floor.y_px == 0 and 80 <= floor.height_px <= 90


def test_the_table_is_what_lies_in_a_given_roi() -> None:
    ends_in_the_picture = Scene(step=(Roi(0, 0, 60, HEIGHT_PX), -0.4))
    assert ends_in_the_picture.rig().record.distance_m == pytest.approx(DISTANCE_M, abs=0.01)
    assert ends_in_the_picture.rig(Roi(0, 0, 48, HEIGHT_PX)).record.distance_m == pytest.approx(1.0, abs=0.01)


def test_a_given_roi_is_kept_and_must_lie_inside() -> None:
    record = Scene().rig(Roi(10, 20, 64, 48)).record
    assert (record.roi, record.roi_given) == (Roi(10, 20, 64, 48), True)
    with pytest.raises(ConfigError, match="the ROI 130,20,64,48 leaves the frames of 160×120 px"):
        Scene().rig(Roi(130, 20, 64, 48))


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        pytest.param(Scene(hole_share=1.0), "sees no table", id="no depth"),
        pytest.param(Scene(hole_share=0.35), "no part of the picture returns depth", id="flickering depth"),
    ],
)
def test_where_there_is_nothing_to_measure(scene: Scene, message: str) -> None:
    with pytest.raises(DataError, match=message):
        scene.rig()


def test_what_makes_no_rig() -> None:
    with pytest.raises(DataError, match="only 3 frames"):
        Scene().observed(3)
    average = FrameAverage()
    for frame in Scene().frames(8):
        average.add(replace(frame, intrinsics=None))
    with pytest.raises(DataError, match="does not tell its intrinsics"):
        average.observation(INFO)
    first = next(Scene().frames(1))
    average = FrameAverage()
    average.add(first)
    with pytest.raises(DataError, match="is unlike the first"):
        average.add(Frame(rgb=first.rgb, depth=first.depth, depth_unit_m=0.0001))
    with pytest.raises(DataError, match="has no depth"):
        FrameAverage().add(Frame(rgb=first.rgb))


def troubles(scene: Scene) -> set[str]:
    seen = scene.observed()
    found = acceptance(calibrated(seen, "bench://"), seen)
    return {finding.name for finding in found if finding.status in (Status.WARN, Status.FAIL)}


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        pytest.param(Scene(), set(), id="good"),
        pytest.param(Scene(hole_share=0.05), {"depth_fill"}, id="holes"),
        pytest.param(Scene(hole_share=0.15), {"depth_fill"}, id="many holes"),
        pytest.param(Scene(noise_m=0.003), {"depth_noise"}, id="noise"),
        pytest.param(Scene(plane=plane_at(DISTANCE_M, 15)), {"tilt"}, id="tilt"),
        pytest.param(Scene(gain=2.2), {"clipped"}, id="bright"),
        pytest.param(Scene(blur_px=20), {"texture"}, id="no texture"),
        pytest.param(Scene(skew_ms=16), {"skew"}, id="skew"),
        pytest.param(Scene(info=CameraInfo("c", "B42", True, details={"usb": "2.1"})), {"usb"}, id="usb"),
        pytest.param(Scene(step=(Roi(40, 30, 40, 40), 0.03)), {"flatness"}, id="a part in view"),
    ],
)
def test_acceptance_names_what_is_wrong_and_only_that(scene: Scene, expected: set[str]) -> None:
    assert troubles(scene) == expected


def test_without_colour_it_says_so() -> None:
    seen = Scene(has_colour=False).observed()
    found = {finding.name: finding.status for finding in acceptance(calibrated(seen, "bench://"), seen)}
    assert found["brightness"] is Status.UNKNOWN
    assert "sharpness" not in found and found["depth_fill"] is Status.OK


def test_exposure_settles_and_is_fixed_where_it_ended() -> None:
    camera = SceneCamera(Scene())
    seen = observe(camera, camera.open(), 10)
    assert seen.settled
    assert seen.locked == {"exposure_us": camera.was_set["exposure_us"], "gain": 16.0}
    assert seen.locked["exposure_us"] == pytest.approx(8000, rel=0.15)
    assert seen.lock_remark == ""


def test_a_check_sets_the_exposure_of_the_calibration() -> None:
    camera = SceneCamera(Scene())
    seen = observe(camera, camera.open(), 10, exposure={"exposure_us": 4000.0, "gain": 16.0})
    assert camera.was_set["exposure_us"] == 4000
    assert seen.sensor["exposure_us"] == 4000


def test_a_camera_that_cannot_fix_its_exposure_says_so() -> None:
    camera = SceneCamera(Scene(), adjustable=False)
    seen = observe(camera, camera.open(), 10)
    assert (seen.locked, camera.was_set) == ({}, {})
    assert "driver cannot set the exposure" in seen.lock_remark
    found = {finding.name: finding for finding in acceptance(calibrated(seen, "bench://"), seen)}
    assert found["exposure"].status is Status.WARN and found["exposure"].figure == "not fixed"


def test_what_the_driver_has_fixed_is_left_alone() -> None:
    """As ``realsense://…?ae=lock`` tells it; the colour sensor itself often does not tell its exposure."""
    details = {"usb": "3.2", "exposure_us": "7812.5 (locked)", "gain": "64 (locked)", "depth": "848x480@30 z16"}
    camera = SceneCamera(Scene(info=replace(INFO, details=details), metadata={"exposure_us": 8000.0}))
    seen = observe(camera, camera.open(), 10)
    assert (seen.locked, seen.lock_remark, camera.was_set) == ({"exposure_us": 7812.5, "gain": 64.0}, "", {})
    again = observe(camera, camera.open(), 10, exposure=seen.locked)
    assert camera.was_set == {"exposure_us": 7812.5, "gain": 64.0} == again.locked


def test_what_the_camera_refuses_is_said_and_the_rest_is_fixed() -> None:
    camera = SceneCamera(Scene())
    camera.open()
    fixed, remark = lock_exposure(camera, {"exposure_us": 8000.0, "gain": 1e6})
    assert fixed == {"exposure_us": 8000.0}
    assert "gain cannot be 1e+06" in remark
    fixed, remark = lock_exposure(camera, {"gain": 16.0})
    assert fixed == {"gain": 16.0} and "do not tell the exposure" in remark


def test_light_that_never_settles_is_said() -> None:
    camera = SceneCamera(Scene(), settling=100_000)
    camera.open()
    assert settle(camera)[0] is True  # slow enough to pass for still
    restless = SceneCamera(Scene(), settling=160)
    restless.open()
    assert settle(restless)[0] is False


def test_a_camera_that_is_lost_is_an_error() -> None:
    camera = SceneCamera(Scene(), lost_after=30)
    with pytest.raises(CameraError, match="the camera was lost"):
        observe(camera, camera.open(), 60)
