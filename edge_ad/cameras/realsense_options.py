"""What may follow ``realsense://SERIAL?`` and ``realsense://FILE.db3?``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from edge_ad.cameras.uri import CameraUri
from edge_ad.errors import ConfigError
from edge_ad.settings import Settings

RECORDING_SUFFIXES = (".db3", ".bag")

SYNC_MODES = {"default": 0, "master": 1, "slave": 2, "full_slave": 3}
"""The SDK's ``inter_cam_sync_mode``: who gives the signal at which several cameras expose."""


@dataclass(frozen=True, slots=True)
class StreamMode:
    """Size and rate of one stream; 0 frames per second leaves the rate to the SDK."""

    width_px: int
    height_px: int
    fps: int = 0

    @classmethod
    def parse(cls, text: object) -> StreamMode:
        """Reads ``848x480`` or ``848x480@30``.

        Raises:
            ValueError: it is neither.
        """
        match = re.fullmatch(r"(\d+)x(\d+)(?:@(\d+))?", str(text))
        if match is None:
            raise ValueError("write WIDTHxHEIGHT or WIDTHxHEIGHT@FPS, such as 848x480@30")
        return cls(*(int(number or 0) for number in match.groups()))


def _sync_mode(text: object) -> int:
    if str(text).isdecimal():
        return int(str(text))
    if str(text) not in SYNC_MODES:
        raise ValueError(f"write {', '.join(SYNC_MODES)}, or the SDK's number")
    return SYNC_MODES[str(text)]


class RealSenseOptions(Settings):
    """The options of a camera or a recording. What is left out stays as the camera has it.

    A camera keeps its settings after it is closed, until it loses power: nothing is restored.

    Attributes:
        depth: size and rate, e.g. ``848x480@30``; the camera's default if absent.
        color: the same for colour.
        align: the image that keeps its pixels; the other one is resampled to it.
        repeat: a recording begins again at its end.
        preset: the camera's own tuning of depth by name, e.g. ``high_accuracy``.
        ae: ``auto`` turns automatic exposure, gain and white balance on; ``lock`` also lets them settle
            and then fixes what they have found, once in the life of the camera object, so that the
            picture is the same after a reconnect. Where the colour sensor does not tell its exposure, the
            one is looked for that makes the picture as bright as it was: keep the scene still meanwhile.
        sync: how several cameras share one pulse: ``default``, ``master``, ``slave``, ``full_slave``, or
            the SDK's number.
        exposure_us: of colour, fixed.
        gain: of colour, fixed, in the sensor's own unit.
        white_balance_k: of colour, fixed, in kelvin.
        depth_exposure_us: of the depth sensor, fixed.
        depth_gain: of the depth sensor, fixed, in its own unit.
        emitter: the projector of the depth sensor.
        laser_power_mw: of the projector.
    """

    depth: Annotated[StreamMode | None, BeforeValidator(StreamMode.parse)] = None
    color: Annotated[StreamMode | None, BeforeValidator(StreamMode.parse)] = None
    align: Literal["color", "depth"] = "color"
    repeat: bool = False
    preset: str = ""
    ae: Literal["auto", "lock"] | None = None
    sync: Annotated[int | None, BeforeValidator(_sync_mode), Field(ge=0, le=260)] = None
    exposure_us: float | None = Field(default=None, gt=0)
    gain: float | None = Field(default=None, ge=0)
    white_balance_k: float | None = Field(default=None, gt=0)
    depth_exposure_us: float | None = Field(default=None, gt=0)
    depth_gain: float | None = Field(default=None, ge=0)
    emitter: bool | None = None
    laser_power_mw: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_exposure(self) -> RealSenseOptions:
        fixed = [name for name in self.controls if name not in ("emitter", "laser_power_mw")]
        if self.ae is not None and fixed:
            raise ValueError(f"ae={self.ae} leaves to the camera what {' and '.join(fixed)} would fix")
        return self

    @property
    def controls(self) -> dict[str, float]:
        """What is to be set once the stream runs, by the names that ``RealSenseCamera.set`` takes."""
        names = (
            "exposure_us",
            "gain",
            "white_balance_k",
            "depth_exposure_us",
            "depth_gain",
            "emitter",
            "laser_power_mw",
        )
        return {name: float(value) for name in names if (value := getattr(self, name)) is not None}

    @classmethod
    def of_uri(cls, uri: CameraUri) -> tuple[Path | None, RealSenseOptions]:
        """The file, where the URI names a recording, and the options.

        Raises:
            ConfigError: an option is unknown or malformed, asks a recording for what only a camera has, or
                a camera for what only a recording has.
        """
        options = uri.options_as(cls)
        path = Path(uri.path).expanduser()
        if path.suffix.lower() in RECORDING_SUFFIXES:
            live_only = sorted(uri.options.keys() - {"align", "repeat"})
            if live_only:
                raise ConfigError(
                    f"camera {uri} asks a recording for {' and '.join(live_only)}",
                    why="a recording is played in the sizes and rates, and with the settings, that it was made with",
                    remedy=f"leave out {' and '.join(live_only)}",
                )
            return path, options
        if "/" in uri.path:
            raise ConfigError(
                f"camera {uri} is neither a serial number nor a recording",
                remedy=f"name a file that ends in {' or '.join(RECORDING_SUFFIXES)}",
            )
        if options.repeat:
            raise ConfigError(f"camera {uri} is no recording that could be repeated", remedy="leave out repeat")
        return None, options
