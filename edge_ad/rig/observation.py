"""Looking at an empty fixture for some dozen frames: averages, noise, and how steadily the camera delivers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import DataError
from edge_ad.rig.settling import already_locked, frames_of, lock_exposure, settle
from edge_ad.types import Camera, CameraInfo, Float32Array, Frame, Intrinsics, UInt8Array

MIN_FRAMES = 8
"""Fewer do not tell noise from signal."""


@dataclass(frozen=True, slots=True)
class Maps:
    """What some dozen frames of a still scene amount to, pixel by pixel.

    Attributes:
        depth_m: float32 (H, W), mean of the returns; 0 where there were fewer than two.
        noise_m: float32 (H, W), their standard deviation from frame to frame; 0 where ``depth_m`` is.
        valid: float32 (H, W), share of the frames that returned depth.
        grey: float32 (H, W), mean luma, 0 to 255; None without colour.
        rgb: uint8 (H, W, 3), mean colour; None without colour.
    """

    depth_m: Float32Array
    noise_m: Float32Array
    valid: Float32Array
    grey: Float32Array | None = None
    rgb: UInt8Array | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """A camera that looked at a still scene.

    Attributes:
        info: what the camera is.
        maps: the averages.
        frames: how many were averaged.
        intrinsics: of the frames.
        depth_unit_m: metres per unit of their depth.
        grey_noise: standard deviation of a single frame's luma from frame to frame, median over the pixels.
        sensor: median of each figure of the frames' metadata.
        fps: frames per second that arrived; None for files.
        skew_ms: median time between colour and depth.
        settled: False where exposure had not come to rest.
        locked: what was fixed, by option, for as long as the camera stays open.
        lock_remark: why nothing or not all was fixed; empty where it was.
    """

    info: CameraInfo
    maps: Maps
    frames: int
    intrinsics: Intrinsics
    depth_unit_m: float
    grey_noise: float
    sensor: dict[str, float]
    fps: float | None
    skew_ms: float
    settled: bool = True
    locked: dict[str, float] = field(default_factory=dict)
    lock_remark: str = ""


class FrameAverage:
    """Running mean and variance (Welford's) of frames of a still scene; depth only where it returned."""

    def __init__(self) -> None:
        self.frames = 0
        self.first: Frame | None = None
        self._last: Frame | None = None
        self._depth: _Running | None = None
        self._grey: _Running | None = None
        self._rgb_sum: NDArray[np.float64] | None = None
        self._sensor: defaultdict[str, list[float]] = defaultdict(list)
        self._skews_ms: list[float] = []

    def add(self, frame: Frame) -> None:
        """Takes one frame more.

        Raises:
            DataError: it has no depth, or is unlike those before in size or kind.
        """
        if self.first is None:
            self.first = frame
        first = self.first
        if (frame.size_px, frame.rgb is None, frame.intrinsics) != (first.size_px, first.rgb is None, first.intrinsics):
            raise DataError(
                f"frame {frame.sequence} of {frame.source} is unlike the first",
                why="size, images and intrinsics must stay the same",
                remedy="leave the camera's settings alone meanwhile",
            )
        depth_m = frame.depth_m()
        if self._depth is None:
            self._depth = _Running(depth_m.shape)
        self._depth.add(depth_m, depth_m > 0)
        if frame.rgb is not None:
            if self._grey is None or self._rgb_sum is None:
                self._grey, self._rgb_sum = _Running(depth_m.shape), np.zeros(frame.rgb.shape)
            self._grey.add(grey_of(frame.rgb), np.ones(depth_m.shape, np.bool_))
            self._rgb_sum += frame.rgb
        for name, value in frame.metadata.items():
            self._sensor[name].append(value)
        self._skews_ms.append(frame.skew_ms)
        self._last = frame
        self.frames += 1

    def observation(self, info: CameraInfo) -> Observation:
        """What came of the frames.

        Raises:
            DataError: they were too few, or say nothing of the camera's geometry.
        """
        first, last, depth, grey = self.first, self._last, self._depth, self._grey
        if self.frames < MIN_FRAMES or first is None or last is None or depth is None:
            raise DataError(
                f"only {self.frames} frames came from {info.name} {info.serial}",
                why=f"{MIN_FRAMES} are the least from which noise can be told",
                remedy="look for longer, or record more",
            )
        if first.intrinsics is None:
            raise DataError(
                f"{info.name} {info.serial} does not tell its intrinsics",
                why="without them there is no plane and no millimetre",
                remedy="use a camera that does, or add intrinsics.json to the folder",
            )
        enough = depth.count >= 2
        rgb = None if self._rgb_sum is None else np.rint(self._rgb_sum / self.frames).astype(np.uint8)
        maps = Maps(
            depth_m=np.where(enough, depth.mean, 0).astype(np.float32),
            noise_m=np.where(enough, depth.deviation(), 0).astype(np.float32),
            valid=(depth.count / self.frames).astype(np.float32),
            grey=None if grey is None else grey.mean.astype(np.float32),
            rgb=rgb,
        )
        seconds = (last.timestamp_ns - first.timestamp_ns) / 1e9
        return Observation(
            info=info,
            maps=maps,
            frames=self.frames,
            intrinsics=first.intrinsics,
            depth_unit_m=first.depth_unit_m,
            grey_noise=0.0 if grey is None else float(np.median(grey.deviation())),
            sensor={name: float(np.median(values)) for name, values in sorted(self._sensor.items())},
            # By the camera's own numbers: a busy computer that reads late is no slow camera.
            fps=(last.sequence - first.sequence) / seconds if info.live and seconds > 0 else None,
            skew_ms=float(np.median(np.abs(self._skews_ms))),
        )


class _Running:
    """Mean and sum of squared deviations where a mask allows, float64 (H, W)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = np.zeros(shape)
        self.mean = np.zeros(shape)
        self._squares = np.zeros(shape)

    def add(self, image: Float32Array, mask: NDArray[np.bool_]) -> None:
        self.count += mask
        difference = np.where(mask, image - self.mean, 0)
        self.mean += difference / np.maximum(self.count, 1)
        self._squares += difference * (image - self.mean)

    def deviation(self) -> NDArray[np.float64]:
        return np.asarray(np.sqrt(self._squares / np.maximum(self.count - 1, 1)))


def grey_of(rgb: UInt8Array) -> Float32Array:
    """Luma of an RGB image, float32 (H, W), 0 to 255."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.float32)


def observe(
    camera: Camera,
    info: CameraInfo,
    frames: int,
    *,
    exposure: dict[str, float] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Observation:
    """Lets exposure settle, fixes it where the camera can, then averages frames.

    Args:
        camera: an opened camera that looks at an empty fixture.
        info: what ``camera.open()`` returned.
        frames: how many to average; files may end earlier.
        exposure: values to set instead of those that the camera has settled at, as a rig has stored them.
        progress: called with the frames averaged and the number wanted.

    Raises:
        CameraError: it was lost or is silent.
        DataError: too few frames came, or they do not fit together.
    """
    settled, locked, remark = True, dict[str, float](), "a recording cannot be changed"
    if info.live:
        settled, sensor = settle(camera)
        locked, remark = already_locked(info), ""
        if exposure is not None or not locked:
            locked, remark = lock_exposure(camera, sensor if exposure is None else exposure)
    average = FrameAverage()
    source = frames_of(camera)
    while average.frames < frames:
        frame = next(source, None)
        if frame is None:
            break
        average.add(frame)
        progress(average.frames, frames)
    return replace(average.observation(info), settled=settled, locked=locked, lock_remark=remark)
