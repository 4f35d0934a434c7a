"""The rig of a RealSense: librealsense itself, with its software device in the place of the camera."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.cameras import opened
from edge_ad.cameras.realsense import RealSenseCamera
from edge_ad.rig.calibration import acceptance, calibrated
from edge_ad.rig.check import check
from edge_ad.rig.findings import Status
from edge_ad.rig.observation import Observation, observe
from edge_ad.types import AnyArray
from tests.cameras.software_realsense import HEIGHT_PX, WIDTH_PX, SoftwareRealSense, plugged

TABLE_UNITS = 5000


def table(number: int) -> tuple[AnyArray, AnyArray]:
    """Half a metre away, with the same stains in every frame."""
    noise = np.random.default_rng(number)
    stains = np.random.default_rng(7).integers(60, 140, (HEIGHT_PX // 4, WIDTH_PX // 4), dtype=np.uint8)
    level = np.kron(stains, np.ones((4, 4), np.uint8)) + noise.integers(0, 3, (HEIGHT_PX, WIDTH_PX), dtype=np.uint8)
    depth = TABLE_UNITS + np.rint(noise.normal(0, 5, (HEIGHT_PX, WIDTH_PX))).astype(np.int32)
    return depth.astype(np.uint16), np.repeat(level[..., None], 3, axis=2)


def seen_by(device: SoftwareRealSense, exposure: dict[str, float] | None = None) -> Observation:
    camera = RealSenseCamera(context=plugged(device))
    with device.sending(table), opened(camera) as info:
        return observe(camera, info, 10, exposure=exposure)


def test_its_exposure_is_fixed_and_set_again_for_a_check() -> None:
    device = SoftwareRealSense.adjustable()
    device.tell("depth", actual_exposure=7000, gain_level=20)
    device.tell("color", actual_exposure=80, gain_level=30, white_balance=4200)
    seen = seen_by(device)
    wanted = {"exposure_us": 8000, "gain": 30, "white_balance_k": 4200, "depth_exposure_us": 7000, "depth_gain": 20}
    assert seen.locked == wanted
    assert [device.option("color", name) for name in ("exposure", "gain", "white_balance")] == [80, 30, 4200]
    assert not device.option("color", "enable_auto_exposure") and not device.option("depth", "enable_auto_exposure")
    rig = calibrated(seen, "realsense")
    assert rig.record.camera.serial == device.serial
    assert rig.record.camera.details["usb"] == "3.2" and rig.record.camera.details["firmware"] == "1.2.3"
    assert rig.record.distance_m == pytest.approx(TABLE_UNITS * rig.record.camera.depth_unit_m, rel=1e-3)
    assert {item.name: item.status for item in acceptance(rig, seen)}["exposure"] is Status.OK
    other_day = SoftwareRealSense.adjustable()
    other_day.tell("color", actual_exposure=300, gain_level=30)
    again = seen_by(other_day, rig.record.camera.locked)
    assert other_day.option("color", "exposure") == 80
    found = {item.name: item.status for item in check(rig, again)}
    assert found["serial"] is found["plane_distance"] is found["image_shift"] is found["usb"] is Status.OK


def test_a_usb_2_link_is_found() -> None:
    rig = calibrated(seen_by(SoftwareRealSense()), "realsense")
    found = {item.name: item for item in check(rig, seen_by(SoftwareRealSense(usb="2.1")))}
    assert found["usb"].status is Status.FAIL
    assert found["usb"].figure == "2.1"


def test_a_colour_sensor_that_does_not_tell_its_exposure_asks_for_a_lock() -> None:
    device = SoftwareRealSense.adjustable()
    device.tell("depth", actual_exposure=7000, gain_level=20)
    seen = seen_by(device)
    assert "exposure_us" not in seen.locked and "?ae=lock" in seen.lock_remark
