"""Empty fixtures of which the truth is known, and a camera that shows them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from edge_ad.cameras.base import CameraDriver
from edge_ad.errors import ConfigError
from edge_ad.geometry import Plane
from edge_ad.rig.calibration import calibrated
from edge_ad.rig.observation import FrameAverage, Observation
from edge_ad.rig.record import Rig
from edge_ad.types import CameraCaps, CameraInfo, Float32Array, Frame, Intrinsics, ReadStatus, Roi

WIDTH_PX, HEIGHT_PX, MARGIN_PX = 160, 120, 24
CAMERA = Intrinsics(fx=400.0, fy=410.0, cx=80.5, cy=58.0, width_px=WIDTH_PX, height_px=HEIGHT_PX)
MIDDLE = ((WIDTH_PX - 1) / 2, (HEIGHT_PX - 1) / 2)
DISTANCE_M = 0.6
INFO = CameraInfo("bench camera", "B42", live=True, details={"usb": "3.2", "firmware": "1.0"})


def plane_at(distance_m: float, tilt_x_deg: float = 0.0, tilt_y_deg: float = 0.0) -> Plane:
    """The plane that lies ``distance_m`` deep in the middle of the picture and is turned around there."""
    slope_x, slope_y = math.tan(math.radians(tilt_x_deg)), math.tan(math.radians(tilt_y_deg))
    ray_x, ray_y = (MIDDLE[0] - CAMERA.cx) / CAMERA.fx, (MIDDLE[1] - CAMERA.cy) / CAMERA.fy
    # z = z0 + sx (x - x0) + sy (y - y0), divided by z and the constant.
    constant = distance_m * (1 - slope_x * ray_x - slope_y * ray_y)
    return -slope_x / constant, -slope_y / constant, 1 / constant


@dataclass(frozen=True)
class Scene:
    """A still scene: what is on the table, how the camera looks at it, and what is wrong with either."""

    seed: int = 0
    plane: Plane = field(default_factory=lambda: plane_at(DISTANCE_M, 1.0, -0.5))
    noise_m: float = 0.0008
    hole_share: float = 0.01
    gain: float = 1.0
    blur_px: float = 0.0
    shift_px: tuple[int, int] = (0, 0)
    step: tuple[Roi, float] | None = None
    blind: Roi | None = None
    info: CameraInfo = INFO
    fps: float = 30.0
    skew_ms: float = 0.5
    metadata: Mapping[str, float] = field(default_factory=lambda: {"exposure_us": 8000.0, "gain": 16.0})
    intrinsics: Intrinsics = CAMERA
    has_colour: bool = True

    def depth_m(self) -> Float32Array:
        """The truth, float32 (H, W)."""
        v, u = np.mgrid[:HEIGHT_PX, :WIDTH_PX]
        alpha, beta, gamma = self.plane
        depth = 1 / (alpha * (u - CAMERA.cx) / CAMERA.fx + beta * (v - CAMERA.cy) / CAMERA.fy + gamma)
        if self.step is not None:
            self.step[0].crop(depth)[:] -= self.step[1]
        return np.asarray(depth, np.float32)

    def grey(self) -> Float32Array:
        """The truth, float32 (H, W): stains and grain of a painted table, without any period."""
        random = np.random.default_rng(self.seed)
        canvas = np.zeros((HEIGHT_PX + 2 * MARGIN_PX, WIDTH_PX + 2 * MARGIN_PX), np.float32)
        for size_px, contrast in ((0.8, 10), (3, 10), (12, 15)):
            layer = cv2.GaussianBlur(random.standard_normal(canvas.shape, np.float32), (0, 0), size_px)
            canvas += np.asarray(contrast * layer / layer.std(), np.float32)
        x, y = (MARGIN_PX - shift for shift in self.shift_px)
        image = 110 + canvas[y : y + HEIGHT_PX, x : x + WIDTH_PX]
        if self.blur_px:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), self.blur_px), np.float32)
        return np.asarray(image * self.gain, np.float32)

    def frames(self, count: int, noise_seed: int = 0) -> Iterator[Frame]:
        """Captures with sensor noise; another ``noise_seed`` is another day."""
        random = np.random.default_rng([self.seed, noise_seed])
        depth_m, grey = self.depth_m(), self.grey()
        start_ns = time.monotonic_ns()
        for number in range(count):
            seen = depth_m + self.noise_m * random.standard_normal(depth_m.shape, np.float32)
            seen[random.random(depth_m.shape) < self.hole_share] = 0
            if self.blind is not None:
                self.blind.crop(seen)[:] = 0
            level = grey + 2 * random.standard_normal(grey.shape, np.float32)
            rgb = np.repeat(np.clip(level + 0.5, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
            yield Frame(
                rgb=rgb if self.has_colour else None,
                depth=np.rint(seen * 10_000).astype(np.uint16),
                depth_unit_m=0.0001,
                intrinsics=self.intrinsics,
                timestamp_ns=start_ns + round(number * 1e9 / self.fps),
                sequence=number,
                skew_ms=self.skew_ms,
                metadata=dict(self.metadata),
            )

    def observed(self, frames: int = 20, noise_seed: int = 0) -> Observation:
        average = FrameAverage()
        for frame in self.frames(frames, noise_seed):
            average.add(frame)
        return average.observation(self.info)

    def rig(self, roi: Roi | None = None) -> Rig:
        return calibrated(self.observed(), "bench://", roi)


class SceneCamera(CameraDriver):
    """Shows a scene; automatic exposure takes ``settling`` frames to find its value."""

    def __init__(self, scene: Scene, *, settling: int = 12, adjustable: bool = True, lost_after: int = 10**9) -> None:
        super().__init__()
        options = ("exposure_us", "gain") if adjustable else ()
        self.caps = CameraCaps(options=options)
        self.was_set: dict[str, float | str] = {}
        self._scene, self._settling, self._lost_after = scene, settling, lost_after
        self._number = 0

    def open(self) -> CameraInfo:
        self.info, self._number = self._scene.info, 0
        return self.info

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        number, self._number = self._number, self._number + 1
        if number >= self._lost_after:
            return ReadStatus.DISCONNECTED
        settled = min(1.0, 0.3 + 0.7 * number / self._settling) if "exposure_us" not in self.was_set else 1.0
        exposure_us = float(self.was_set.get("exposure_us", self._scene.metadata["exposure_us"] * settled))
        scene = replace(self._scene, gain=self._scene.gain * exposure_us / self._scene.metadata["exposure_us"])
        frame = next(scene.frames(1, number))
        metadata = {**frame.metadata, "exposure_us": exposure_us}
        return replace(frame, sequence=number, timestamp_ns=round(number * 1e9 / 30), metadata=metadata)

    def set(self, **options: float | str) -> None:
        for name, value in options.items():
            if name not in self.caps.options:
                raise ConfigError(f"{name} is unknown", remedy="use another")
            if float(value) > 100_000:
                raise ConfigError(f"{name} cannot be {value:g}", remedy="choose less")
            self.was_set[name] = value

    def close(self) -> None:
        self.info = None
