"""The settings of a RealSense camera that can be changed while it runs, under names with units."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_ad.cameras.realsense_devices import color_exposure_unit_us, stream_sensors
from edge_ad.errors import CameraError, ConfigError

AUTO_EXPOSURE, AUTO_WHITE_BALANCE = "enable_auto_exposure", "enable_auto_white_balance"


@dataclass(frozen=True, slots=True)
class Control:
    """One setting: the sensor that has it, the SDK's name, and the automatic that must be off to set it."""

    sensor: str
    option: str
    automatic: str = ""


CONTROLS = {
    "exposure_us": Control("color", "exposure", AUTO_EXPOSURE),
    "gain": Control("color", "gain", AUTO_EXPOSURE),
    "white_balance_k": Control("color", "white_balance", AUTO_WHITE_BALANCE),
    "depth_exposure_us": Control("depth", "exposure", AUTO_EXPOSURE),
    "depth_gain": Control("depth", "gain", AUTO_EXPOSURE),
    "emitter": Control("depth", "emitter_enabled"),
    "laser_power_mw": Control("depth", "laser_power"),
    "auto_white_balance": Control("color", AUTO_WHITE_BALANCE),
}

OPTIONS = (*CONTROLS, "auto_exposure")
"""What ``RealSenseCamera.set`` takes; ``auto_exposure`` is that of both sensors."""

LOCKED = ("exposure_us", "gain", "white_balance_k", "depth_exposure_us", "depth_gain")
"""What automatics change, and ``ae=lock`` fixes."""

SWITCHES = {"on": 1.0, "true": 1.0, "yes": 1.0, "off": 0.0, "false": 0.0, "no": 0.0}

TEMPERATURES = ("asic_temperature", "projector_temperature")


class Controls:
    """Reads and changes the settings of one open device.

    Args:
        sdk: the ``pyrealsense2`` module.
        device: of the started pipeline.
        name: the camera, for errors.
    """

    def __init__(self, sdk: Any, device: Any, name: str) -> None:
        self._sdk, self._name = sdk, name
        self._sensors = stream_sensors(sdk, device)
        self._color_exposure_us = color_exposure_unit_us(sdk, device)

    def set(self, options: Mapping[str, float | str]) -> None:
        """Changes settings; all of them are checked before the first is changed.

        A value between two steps becomes the nearer one.

        Raises:
            ConfigError: the camera has no such setting, or the value is out of its range.
            CameraError: the camera refuses.
        """
        changes = [change for name, value in options.items() for change in self._changes(name, value)]
        for sensor, option, value in changes:
            self._write(sensor, option, value)

    def get(self, name: str) -> float | None:
        """A setting's value; None where the camera has no such setting, or does not tell."""
        control = CONTROLS[name]
        if not self._has(control.sensor, control.option):
            return None
        try:
            return float(self._sensors[control.sensor].get_option(self._key(control.option))) * self._unit(name)
        except RuntimeError:
            return None

    def range_of(self, name: str) -> tuple[float, float, float]:
        """Smallest and largest value and step of a setting that the camera has."""
        control = CONTROLS[name]
        allowed = self._sensors[control.sensor].get_option_range(self._key(control.option))
        unit = self._unit(name)
        return allowed.min * unit, allowed.max * unit, allowed.step * unit

    def lock(self, metadata: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        """Fixes what automatics have found.

        Args:
            metadata: of a frame taken now: the depth sensor tells its exposure there, and its options only
                what was last set by hand (librealsense issue 2549).

        Returns:
            The values that are set now, by name, and what could not be fixed.

        Raises:
            CameraError: the camera refuses.
        """
        found: dict[str, float] = {}
        for name in LOCKED:
            value = metadata.get(name) or self.get(name)
            if value is not None and self._has(CONTROLS[name].sensor, CONTROLS[name].option):
                low, high, _ = self.range_of(name)
                found[name] = min(max(value, low), high)
        self.set(found)
        loose = [f"{name} of {sensor}" for sensor, name in self._automatics() if self._is_on(sensor, name)]
        lacking = [name for name in ("exposure_us", "white_balance_k") if name not in found]
        warnings = [f"{', '.join(loose)} stays on: the camera has no value to fix"] if loose else []
        if lacking:
            warnings.append(f"ae=lock: this camera has no {' and no '.join(lacking)} to fix")
        return {name: value for name in found if (value := self.get(name)) is not None}, warnings

    def automatic(self) -> None:
        """Turns all automatics on that there are."""
        for sensor, option in self._automatics():
            self._write(sensor, option, 1.0)

    def choose_preset(self, wanted: str) -> str:
        """Tunes depth as the camera's preset of this name does; spaces, ``-`` and case do not matter.

        Returns:
            The preset's own name.

        Raises:
            ConfigError: there is no such preset; the error lists those that there are.
        """
        presets = self._presets()
        for name, value in presets.items():
            if _plain(name) == _plain(wanted):
                self._write("depth", "visual_preset", value)
                return name
        raise ConfigError(
            f"camera {self._name} has no preset {wanted!r}",
            why=f"it has {', '.join(_plain(name) for name in presets) or 'none'}",
            remedy="choose one of them" if presets else "leave out preset",
        )

    def temperatures_c(self) -> dict[str, float]:
        """What the device's thermometers show, by name; empty where it does not tell."""
        found = {}
        for option in TEMPERATURES:
            if self._has("depth", option):
                try:
                    found[f"{option}_c"] = float(self._sensors["depth"].get_option(self._key(option)))
                except RuntimeError:
                    continue  # some can be asked only while the projector runs
        return found

    def _changes(self, name: str, value: float | str) -> list[tuple[str, str, float]]:
        if name == "auto_exposure":
            having = [sensor for sensor in ("color", "depth") if self._has(sensor, AUTO_EXPOSURE)]
            if not having:
                raise self._lacks(name)
            return [(sensor, AUTO_EXPOSURE, _number(name, value)) for sensor in having]
        control = CONTROLS[name]
        if not self._has(control.sensor, control.option):
            raise self._lacks(name)
        low, high, step = self.range_of(name)
        number = _number(name, value)
        if not low <= number <= high:
            raise ConfigError(
                f"camera {self._name}: {name} cannot be {value}",
                remedy=f"choose {low:g} to {high:g}, in steps of {step:g}",
            )
        if step:
            number = min(low + round((number - low) / step) * step, high)
        change = (control.sensor, control.option, number / self._unit(name))
        if control.automatic and self._has(control.sensor, control.automatic):
            return [(control.sensor, control.automatic, 0.0), change]
        return [change]

    def _write(self, sensor: str, option: str, value: float) -> None:
        try:
            self._sensors[sensor].set_option(self._key(option), value)
        except RuntimeError as error:
            raise CameraError(
                f"camera {self._name} does not take {option} of {value:g}",
                why=str(error),
                remedy="end other programs that use it, or leave this setting out",
            ) from error

    def _presets(self) -> dict[str, float]:
        if not self._has("depth", "visual_preset"):
            return {}
        sensor, key = self._sensors["depth"], self._key("visual_preset")
        allowed = sensor.get_option_range(key)
        described = {
            float(value): sensor.get_option_value_description(key, float(value))
            for value in range(int(allowed.min), int(allowed.max) + 1)
        }
        names = {float(int(preset)): name for name, preset in self._sdk.rs400_visual_preset.__members__.items()}
        return {text or names.get(value, f"{value:g}"): value for value, text in described.items()}

    def _automatics(self) -> list[tuple[str, str]]:
        pairs = (("color", AUTO_EXPOSURE), ("color", AUTO_WHITE_BALANCE), ("depth", AUTO_EXPOSURE))
        return [(sensor, option) for sensor, option in pairs if self._has(sensor, option)]

    def _is_on(self, sensor: str, option: str) -> bool:
        return bool(self._sensors[sensor].get_option(self._key(option)))

    def _has(self, sensor: str, option: str) -> bool:
        return sensor in self._sensors and bool(self._sensors[sensor].supports(self._key(option)))

    def _unit(self, name: str) -> float:
        return self._color_exposure_us if name == "exposure_us" else 1.0

    def _key(self, option: str) -> Any:
        return getattr(self._sdk.option, option)

    def _lacks(self, name: str) -> ConfigError:
        return ConfigError(f"camera {self._name} has no {name} that could be set", remedy=f"leave out {name}")


def _number(name: str, value: float | str) -> float:
    try:
        number = SWITCHES.get(str(value).lower())
        number = float(value) if number is None else number
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{name} cannot be {value!r}", remedy="give a number, or on or off for a switch")
    return number


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())
