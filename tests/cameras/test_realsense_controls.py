"""Settings of a camera: librealsense's own software device with the options of a D435."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri, opened
from edge_ad.cameras.realsense import RealSenseCamera, RealSenseOptions
from edge_ad.errors import CameraError, ConfigError
from edge_ad.types import AnyArray
from tests.cameras.software_realsense import (
    DEPTH_OPTIONS,
    HEIGHT_PX,
    WIDTH_PX,
    SoftwareRealSense,
    cold,
    plugged,
    read_frame,
    rs,
)


def steady(_number: int) -> tuple[AnyArray, AnyArray]:
    depth = np.full((HEIGHT_PX, WIDTH_PX), 5_000, dtype=np.uint16)
    return depth, np.full((HEIGHT_PX, WIDTH_PX, 3), 90, dtype=np.uint8)


def locking(device: SoftwareRealSense) -> RealSenseCamera:
    return RealSenseCamera(options=RealSenseOptions(ae="lock"), context=plugged(device))


# --- while it runs


@pytest.mark.parametrize(
    ("setting", "value", "sensor", "option", "becomes"),
    [
        ("exposure_us", 8333, "color", "exposure", 83),
        ("gain", "40", "color", "gain", 40),
        ("white_balance_k", 4004, "color", "white_balance", 4000),
        ("depth_exposure_us", 8333, "depth", "exposure", 8333),
        ("depth_gain", 32, "depth", "gain", 32),
        ("emitter", "off", "depth", "emitter_enabled", 0),
        ("laser_power_mw", 200, "depth", "laser_power", 210),
        ("auto_exposure", 0, "depth", "enable_auto_exposure", 0),
        ("auto_exposure", "off", "color", "enable_auto_exposure", 0),
        ("auto_white_balance", 0.0, "color", "enable_auto_white_balance", 0),
    ],
)
def test_a_setting_reaches_its_sensor_in_the_sensors_unit_and_step(
    setting: str, value: float | str, sensor: str, option: str, becomes: float
) -> None:
    device = SoftwareRealSense.adjustable()
    camera = cold(device)
    assert setting in camera.caps.options
    with opened(camera):
        assert device.option(sensor, option) != becomes
        camera.set(**{setting: value})
    assert device.option(sensor, option) == becomes


def test_fixing_a_value_turns_off_the_automatic_that_would_change_it() -> None:
    device = SoftwareRealSense.adjustable()
    camera = cold(device)
    automatics = [
        ("color", "enable_auto_exposure"),
        ("color", "enable_auto_white_balance"),
        ("depth", "enable_auto_exposure"),
    ]
    with opened(camera):
        for fixed, setting in enumerate(({"gain": 10}, {"white_balance_k": 5000}, {"depth_exposure_us": 900}), 1):
            camera.set(**setting)
            assert [device.option(*each) for each in automatics] == [0] * fixed + [1] * (3 - fixed)
        camera.set(auto_exposure="on")
        assert [device.option(*each) for each in automatics] == [1, 0, 1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"exposure_us": 1_000_001}, r"exposure_us cannot be 1000001.*100 to 1e\+06, in steps of 100"),
        ({"laser_power_mw": -1}, r"laser_power_mw cannot be -1.*0 to 360, in steps of 30"),
        ({"gain": "much"}, r"gain cannot be 'much'.*a number"),
        ({"gain": float("nan")}, r"gain cannot be nan"),
        ({"zoom": 2}, r"no option 'zoom'.*use one of exposure_us, gain"),
    ],
    ids=["high", "low", "text", "nan", "unknown"],
)
def test_a_wrong_setting_is_refused_and_nothing_is_changed(options: dict[str, Any], says: str) -> None:
    device = SoftwareRealSense.adjustable()
    camera = cold(device)
    with opened(camera), pytest.raises(ConfigError, match=says):
        camera.set(emitter=0, **options)
    assert device.option("depth", "emitter_enabled") == 1


def test_a_setting_that_the_camera_lacks_is_named() -> None:
    camera = cold(SoftwareRealSense())
    with opened(camera):
        for setting in ("laser_power_mw", "auto_exposure"):
            with pytest.raises(ConfigError, match=f"has no {setting} that could be set"):
                camera.set(**{setting: 1})


def test_a_closed_camera_and_a_recording_take_no_settings(recording: Any) -> None:
    with pytest.raises(CameraError, match="not open"):
        cold(SoftwareRealSense.adjustable()).set(gain=3)
    camera = camera_from_uri(f"realsense://{recording}")
    with opened(camera), pytest.raises(ConfigError, match="no option 'gain'"):
        camera.set(gain=3)


# --- when it opens


def test_options_of_the_uri_are_set_when_it_opens() -> None:
    device = SoftwareRealSense.adjustable()
    options = RealSenseOptions.model_validate(
        {"exposure_us": "5000", "emitter": "off", "sync": "slave", "preset": "High-Accuracy"}
    )
    camera = RealSenseCamera(options=options, context=plugged(device), warm_up_s=0)
    with opened(camera) as info:
        assert info.details["preset"] == "high_accuracy"
    assert device.option("color", "exposure") == 50
    assert device.option("color", "enable_auto_exposure") == 0
    assert device.option("depth", "emitter_enabled") == 0
    assert device.option("depth", "inter_cam_sync_mode") == 2
    assert device.option("depth", "visual_preset") == int(rs.rs400_visual_preset.high_accuracy)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preset": "best"}, r"no preset 'best'.*custom, default, hand, high_accuracy, .*choose one of them"),
        ({"exposure_us": 1}, r"exposure_us cannot be 1"),
    ],
    ids=["preset", "range"],
)
def test_an_option_that_the_camera_has_not_like_this_keeps_it_closed(options: dict[str, Any], says: str) -> None:
    camera = cold(SoftwareRealSense.adjustable(), **options)
    with pytest.raises(ConfigError, match=says):
        camera.open()
    assert camera.info is None


def test_a_sync_mode_out_of_range_is_refused() -> None:
    device = SoftwareRealSense(depth_options={"inter_cam_sync_mode": (0, 3, 1, 0)})
    with pytest.raises(ConfigError, match=r"sync cannot be 4.*choose 0 to 3"):
        cold(device, sync=4).open()


@pytest.mark.parametrize("options", [{"preset": "hand"}, {"sync": "master"}, {"emitter": True}])
def test_an_option_that_the_camera_lacks_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"leave out {next(iter(options))}"):
        cold(SoftwareRealSense(), **options).open()


def test_a_lock_fixes_what_the_automatics_found_and_says_it() -> None:
    device = SoftwareRealSense.adjustable()
    device.tell("depth", actual_exposure=7000, gain_level=20)
    device.tell("color", actual_exposure=80, gain_level=30, white_balance=4200)
    camera = locking(device)
    with device.sending(steady), opened(camera) as info:
        assert info.warnings == ()
        assert {name: info.details[name] for name in ("exposure_us", "gain", "white_balance_k")} == {
            "exposure_us": "8000 (locked)",
            "gain": "30 (locked)",
            "white_balance_k": "4200 (locked)",
        }
    assert [device.option("color", name) for name in ("exposure", "gain", "white_balance")] == [80, 30, 4200]
    assert [device.option("depth", name) for name in ("exposure", "gain")] == [7000, 20]
    assert not device.option("color", "enable_auto_exposure") and not device.option("depth", "enable_auto_exposure")
    assert not device.option("color", "enable_auto_white_balance")


def test_a_camera_that_opens_again_keeps_its_lock() -> None:
    device = SoftwareRealSense.adjustable()
    device.tell("color", actual_exposure=80)
    camera = locking(device)
    with device.sending(steady):
        camera.open()
        device.tell("color", actual_exposure=500)
        info = camera.open()
        camera.close()
    assert info.details["exposure_us"] == "8000 (locked)"
    assert device.option("color", "exposure") == 80


def test_a_lock_falls_back_on_the_options_where_frames_do_not_tell() -> None:
    device = SoftwareRealSense.adjustable()
    with device.sending(steady), opened(locking(device)) as info:
        assert info.details["exposure_us"] == "15600 (locked)"
        assert info.details["depth_exposure_us"] == "8500 (locked)"


def test_a_lock_of_what_is_not_there_is_a_warning() -> None:
    device = SoftwareRealSense(depth_options=DEPTH_OPTIONS)
    with device.sending(steady), opened(locking(device)) as info:
        assert info.warnings == ("ae=lock: this camera has no exposure_us and no white_balance_k to fix",)
        assert info.details["depth_gain"] == "16 (locked)"


def seen_by(device: SoftwareRealSense, found: int, per_unit: float) -> Callable[[int], tuple[AnyArray, AnyArray]]:
    """A sensor that keeps for itself that its automatic has found the exposure ``found``."""

    def images(number: int) -> tuple[AnyArray, AnyArray]:
        depth, color = steady(number)
        exposure = found if device.option("color", "enable_auto_exposure") else device.option("color", "exposure")
        return depth, np.full_like(color, min(round(per_unit * exposure), 255))

    return images


def test_a_lock_finds_an_exposure_that_the_camera_does_not_tell() -> None:
    device = SoftwareRealSense.adjustable()  # its option says 156
    with device.sending(seen_by(device, found=40, per_unit=3)), opened(locking(device)) as info:
        assert info.warnings == ()
        locked_us = float(info.details["exposure_us"].removesuffix(" (locked)"))
    assert locked_us == 100 * device.option("color", "exposure") == pytest.approx(4000, abs=70)
    assert not device.option("color", "enable_auto_exposure")


def test_a_lock_that_changes_the_picture_is_a_warning() -> None:
    device = SoftwareRealSense.adjustable()
    # As bright as it was it could only be with less than 30 frames a second.
    with device.sending(seen_by(device, found=1000, per_unit=0.2)), opened(locking(device)) as info:
        assert "went from 200 to 6" in info.warnings[0]
        assert float(info.details["exposure_us"].removesuffix(" (locked)")) <= 1e6 / 30


# --- what it tells


def test_a_frame_carries_what_its_images_tell_and_no_more() -> None:
    device = SoftwareRealSense()
    camera = cold(device)
    with opened(camera):
        device.push(1)
        assert read_frame(camera).metadata == {}
        device.tell("color", actual_exposure=83, gain_level=64, white_balance=4600)
        device.tell("depth", actual_exposure=8500, frame_laser_power=150, gpio_input_data=2, temperature=41)
        device.push(2, color_late_ms=4.5)
        frame = read_frame(camera)
    assert frame.metadata == {
        "exposure_us": 8300,
        "gain": 64,
        "white_balance_k": 4600,
        "depth_exposure_us": 8500,
        "laser_power_mw": 150,
        "gpio": 2,
        "temperature_c": 41,
    }
    assert frame.skew_ms == pytest.approx(4.5)


def test_where_one_sensor_makes_both_images_its_exposure_is_in_microseconds() -> None:
    device = SoftwareRealSense(one_sensor=True, depth_options=DEPTH_OPTIONS)  # as a D405 is made
    camera = cold(device)
    with opened(camera):
        device.tell("depth", actual_exposure=8500)
        device.push(1)
        metadata = read_frame(camera).metadata
        camera.set(exposure_us=1234)
    assert metadata["exposure_us"] == metadata["depth_exposure_us"] == 8500
    assert device.option("depth", "exposure") == 1234


def test_health_names_the_hottest_sensor_and_what_was_lost() -> None:
    device = SoftwareRealSense()
    device.show("asic_temperature", 41.0)
    device.show("projector_temperature", 44.5)
    camera = cold(device)
    assert camera.health().temperature_c is None
    with opened(camera):
        for number in (1, 3):
            device.push(number)
            read_frame(camera)
        health = camera.health()
    assert health.temperature_c == 44.5
    assert health.details == {"asic_temperature_c": 41.0, "projector_temperature_c": 44.5}
    assert health.dropped == camera.health().dropped == {"sequence_gap": 1}
