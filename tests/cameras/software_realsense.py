"""A RealSense camera without hardware: librealsense's own software device, which its real pipeline opens."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edge_ad.cameras.realsense import RealSenseCamera, RealSenseOptions
from edge_ad.types import AnyArray, Frame, Intrinsics

rs: Any = pytest.importorskip("pyrealsense2")

HEIGHT_PX, WIDTH_PX, FPS = 120, 160, 30
PERIOD_MS = 1000 / FPS
DEPTH_UNIT_M = 0.0001
SERIAL = "SOFT0001"
INTRINSICS = Intrinsics(fx=144, fy=144, cx=80, cy=60, width_px=WIDTH_PX, height_px=HEIGHT_PX)
"""Of both cameras, unless colour is scaled."""

Images = Callable[[int], tuple[AnyArray, AnyArray]]
CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "yuyv": 2, "y8": 1}


def make_images(number: int, color_format: str = "rgb8") -> tuple[AnyArray, AnyArray]:
    """Noise that only frame ``number`` has: depth uint16 (H, W), colour uint8 (H, W, channels)."""
    random = np.random.default_rng(number)
    shape = (HEIGHT_PX, WIDTH_PX)
    depth = random.integers(0, 4000, shape, dtype=np.uint16)
    return depth, random.integers(0, 256, (*shape, CHANNELS[color_format]), dtype=np.uint8)


COLOR_OPTIONS = {
    "exposure": (1, 10_000, 1, 156),
    "gain": (0, 128, 1, 64),
    "enable_auto_exposure": (0, 1, 1, 1),
    "white_balance": (2800, 6500, 10, 4600),
    "enable_auto_white_balance": (0, 1, 1, 1),
}
DEPTH_OPTIONS = {
    "exposure": (1, 165_000, 1, 8500),
    "gain": (16, 248, 1, 16),
    "enable_auto_exposure": (0, 1, 1, 1),
    "emitter_enabled": (0, 2, 1, 1),
    "laser_power": (0, 360, 30, 150),
    "visual_preset": (0, 7, 1, 0),
    "inter_cam_sync_mode": (0, 260, 1, 0),
}
"""Of a D435: smallest, largest, step and first value."""


class SoftwareRealSense:
    """A device that sends what it is given; its cameras are pinholes side by side, ``baseline_m`` apart."""

    def __init__(
        self,
        serial: str = SERIAL,
        *,
        color_format: str = "rgb8",
        color_scale: int = 1,
        baseline_m: float = 0.0,
        usb: str = "3.2",
        depth_unit_m: float = DEPTH_UNIT_M,
        color_options: Mapping[str, tuple[float, ...]] = MappingProxyType({}),
        depth_options: Mapping[str, tuple[float, ...]] = MappingProxyType({}),
        one_sensor: bool = False,
    ) -> None:
        self.serial, self._color_format, self._depth_unit_m = serial, color_format, depth_unit_m
        self.device = rs.software_device()
        for key, value in (
            (rs.camera_info.name, "Software D400"),
            (rs.camera_info.serial_number, serial),
            (rs.camera_info.firmware_version, "1.2.3"),
            (rs.camera_info.usb_type_descriptor, usb),
        ):
            self.device.register_info(key, value)
        stereo = self.device.add_sensor("Stereo Module")
        self._sensors = stereo, stereo if one_sensor else self.device.add_sensor("RGB Camera")
        streams = (
            _stream(rs.stream.depth, "z16", 2, 1),
            _stream(rs.stream.color, color_format, CHANNELS[color_format], color_scale),
        )
        depth, color = self._profiles = [
            sensor.add_video_stream(stream, True).as_video_stream_profile()
            for sensor, stream in zip(self._sensors, streams, strict=True)
        ]
        depth.register_extrinsics_to(color, _shift(baseline_m))
        color.register_extrinsics_to(depth, _shift(-baseline_m))
        self._sensors[0].add_read_only_option(rs.option.depth_units, depth_unit_m)
        self._sensors[0].add_read_only_option(rs.option.stereo_baseline, 50.0)
        for sensor, options in zip(self._sensors, (depth_options, color_options), strict=True):
            for name, values in options.items():
                allowed = rs.option_range()  # its other constructor takes the step for the default
                allowed.min, allowed.max, allowed.step, allowed.default = values
                sensor.add_option(getattr(rs.option, name), allowed, True)
        for sensor in self._sensors:
            # Without it the syncer takes the rate for 1 Hz and pairs nothing.
            sensor.set_metadata(rs.frame_metadata_value.actual_fps, 1000 * FPS)
        self.device.create_matcher(rs.matchers.dlr_c)
        self._listed: list[Any] = []

    @classmethod
    def adjustable(cls) -> SoftwareRealSense:
        """One with the settings of a D435."""
        return cls(color_options=COLOR_OPTIONS, depth_options=DEPTH_OPTIONS)

    def option(self, sensor: str, name: str) -> float:
        """What an option of the ``depth`` or ``color`` sensor is set to."""
        value: float = self._sensors[sensor == "color"].get_option(getattr(rs.option, name))
        return value

    def show(self, name: str, value: float) -> None:
        """Gives the depth sensor an option that can only be read, such as a thermometer."""
        self._sensors[0].add_read_only_option(getattr(rs.option, name), value)

    def tell(self, sensor: str, **metadata: int) -> None:
        """What the frames of a sensor say from now on, by the SDK's names."""
        for name, value in metadata.items():
            self._sensors[sensor == "color"].set_metadata(getattr(rs.frame_metadata_value, name), value)

    def plug_into(self, context: Any) -> None:
        """Makes the device appear in the context for as long as this object lives."""
        # The context keeps a weak reference only; what its callback is handed keeps the device listed.
        context.set_devices_changed_callback(lambda event: self._listed.append((event, event.get_new_devices())))
        self.device.add_to(context)

    def unplug(self) -> None:
        """Makes the device disappear for those who have not opened it: who has keeps it, and gets no more frames."""
        self._listed.clear()

    def push(
        self,
        number: int,
        *,
        depth: AnyArray | None = None,
        color: AnyArray | None = None,
        streams: str = "depth color",
        color_late_ms: float = 0.0,
    ) -> None:
        """Sends frame ``number``, stamped with its time at 30 frames a second."""
        noise = make_images(number, self._color_format)
        images = noise[0] if depth is None else depth, noise[1] if color is None else color
        for name, late_ms, sensor, profile, image in zip(
            ("depth", "color"), (0.0, color_late_ms), self._sensors, self._profiles, images, strict=True
        ):
            if name not in streams:
                continue
            frame = rs.software_video_frame()
            frame.pixels = np.ascontiguousarray(image)
            frame.bpp = image.nbytes // (profile.width() * profile.height())
            frame.stride = profile.width() * frame.bpp
            frame.timestamp = number * PERIOD_MS + late_ms
            frame.domain = rs.timestamp_domain.hardware_clock
            frame.frame_number = number
            frame.profile = profile
            if name == "depth":
                frame.depth_units = self._depth_unit_m
            sensor.on_video_frame(frame)

    @contextmanager
    def sending(self, images: Images) -> Iterator[None]:
        """Sends ``images(1)``, ``images(2)``, … from a thread, some 200 a second."""
        done = threading.Event()

        def send() -> None:
            for number in itertools.count(1):
                depth, color = images(number)
                self.push(number, depth=depth, color=color)
                if done.wait(0.005):
                    return

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def record(self, path: Path, frames: int, *, how: Callable[[int], dict[str, Any]] | None = None) -> Path:
        """Writes frames 1 … ``frames``, each pushed as ``how(number)`` says, to a ``.db3`` file."""
        self.plug_into(rs.context())
        recorder = rs.recorder(str(path), self.device, True)
        queue = rs.frame_queue(2 * frames)
        sensors = recorder.query_sensors()
        for sensor in sensors:
            sensor.open(sensor.get_stream_profiles())
            sensor.start(queue)
        for number in range(1, frames + 1):
            self.push(number, **({} if how is None else how(number)))
        for sensor in sensors:
            sensor.stop()
            sensor.close()
        del recorder, sensors, sensor
        _space_out(path, duration_s=frames / FPS)
        return path


def _space_out(path: Path, duration_s: float) -> None:
    """Spaces the images of a recording evenly: they were written as fast as the disk allowed."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "WITH ranked AS (SELECT id, DENSE_RANK() OVER (ORDER BY timestamp) - 1 AS step FROM messages) "
            "UPDATE messages SET timestamp = step * ? / (SELECT MAX(step) FROM ranked) "
            "FROM ranked WHERE ranked.id = messages.id",
            (round(duration_s * 1e9),),
        )


def _stream(kind: Any, pixels: str, channels: int, scale: int) -> Any:
    stream = rs.video_stream()
    stream.type, stream.fmt, stream.bpp, stream.fps = kind, getattr(rs.format, pixels), channels, FPS
    stream.index, stream.uid = 0, 1 if kind == rs.stream.depth else 2
    stream.width, stream.height = scale * WIDTH_PX, scale * HEIGHT_PX
    camera = rs.intrinsics()
    camera.width, camera.height = stream.width, stream.height
    camera.fx = camera.fy = 144.0 * scale
    camera.ppx, camera.ppy = scale * WIDTH_PX / 2, scale * HEIGHT_PX / 2
    camera.model, camera.coeffs = rs.distortion.none, [0.0] * 5
    stream.intrinsics = camera
    return stream


def _shift(x_m: float) -> Any:
    motion = rs.extrinsics()
    motion.rotation = np.eye(3).ravel().tolist()
    motion.translation = [x_m, 0.0, 0.0]
    return motion


def read_frame(camera: RealSenseCamera) -> Frame:
    frame = camera.read(2.0)
    assert isinstance(frame, Frame)
    return frame


def plugged(*devices: SoftwareRealSense) -> Any:
    """A context in which these devices, and no others, are attached."""
    context = rs.context()
    for device in devices:
        device.plug_into(context)
    return context


def cold(device: SoftwareRealSense, serial: str = "", **options: Any) -> RealSenseCamera:
    """A camera without warm-up, so that it delivers exactly what the test sends."""
    return RealSenseCamera(serial, options=RealSenseOptions(**options), context=plugged(device), warm_up_s=0)
