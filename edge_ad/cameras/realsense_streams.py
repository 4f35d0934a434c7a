"""The two kinds of RealSense stream, each shaped by what librealsense does to it.

Live: once the device is gone, ``pipeline.try_wait_for_frames`` tries for 15 s to get it back, so frames
come through a queue instead, which only waits. ``pipeline.start`` would do the same with the GIL held,
so a stream is started only for a device that has just been listed.

Recording: played as fast as it is read, a queue deadlocks; the pipeline's own wait loses no frame. It
must be paused while it starts: the SDK begins to read when the first of its sensors starts, and what the
others should have had meanwhile is lost. To resume may take until the first frames have been read, or
10 s, so a thread does it. The end may be announced before the last frames have come out.

Python callbacks are given to neither: the SDK deadlocks when a pipeline with one is destroyed.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

from edge_ad.cameras.realsense_devices import stream_sensors
from edge_ad.cameras.realsense_options import StreamMode
from edge_ad.errors import CameraError, ConfigError, DataError
from edge_ad.types import ReadStatus

BUSY = re.compile(r"busy|is streaming|power state", re.IGNORECASE)
"""How the SDK says that another program, or another camera object of this one, has the device."""

COMPLETE_WITHIN_S = 1.0
"""Streams do not stop at one instant: the last pair may come this long before a recording's end."""


class LiveStream:
    """Streams from a camera that has just been listed; keeps only the newest set.

    Args:
        sdk: the ``pyrealsense2`` module.
        context: the SDK's context that lists the device.
        serial: of the device.
        depth: mode of the depth stream, None for the camera's default.
        color: mode of the colour stream, None for the camera's default.
        sync: the device's part among several that expose at once, a value of the SDK's
            ``inter_cam_sync_mode``; None leaves it.

    Raises:
        ConfigError: the camera has no ``inter_cam_sync_mode``, or not this one.
        CameraError: the camera has no such modes, is in use, or does not start.
    """

    def __init__(
        self,
        sdk: Any,
        context: Any,
        serial: str,
        depth: StreamMode | None,
        color: StreamMode | None,
        sync: int | None = None,
    ) -> None:
        self._context, self._serial = context, serial
        self._pipeline = sdk.pipeline(context)
        self._queue = sdk.frame_queue(1)
        self._config = config = sdk.config()
        config.enable_device(serial)
        for stream, pixels, mode in (
            (sdk.stream.depth, sdk.format.z16, depth),
            (sdk.stream.color, sdk.format.rgb8, color),
        ):
            wanted = mode or StreamMode(0, 0)
            config.enable_stream(stream, 0, wanted.width_px, wanted.height_px, pixels, wanted.fps)
        if not config.can_resolve(sdk.pipeline_wrapper(self._pipeline)):
            raise CameraError(
                f"camera {serial} cannot stream as asked",
                why=f"it has {_modes(sdk, context, serial)}",
                remedy="choose among these with depth=WIDTHxHEIGHT@FPS&color=WIDTHxHEIGHT@FPS",
            )
        if sync is not None:
            # Cameras refuse to change it while they stream.
            _set_sync(sdk, config.resolve(sdk.pipeline_wrapper(self._pipeline)).get_device(), serial, sync)
        self.profile = self._start()
        self.device = self.profile.get_device()

    def _start(self) -> Any:
        try:
            return self._pipeline.start(self._config, self._queue)
        except RuntimeError as error:
            raise _start_error(self._serial, error) from error

    def restart(self) -> None:
        """Stops and starts the streams of the open device, which takes milliseconds.

        Raises:
            CameraError: the device is gone, or does not start.
        """
        if self.is_over():  # starting it would wait 15 s, and hold the GIL
            raise CameraError(
                f"camera {self._serial} is not attached any more", remedy="check its cable; open it again"
            )
        self._pipeline.stop()
        while self.wait(0) is not None:
            pass  # what came before the restart is no new frame
        self._start()

    def wait(self, timeout_ms: int) -> Any | None:
        """The newest set not yet taken, or None when none came in time."""
        arrived, images = self._queue.try_wait_for_frame(timeout_ms)
        return images.as_frameset() if arrived else None

    def is_over(self) -> bool:
        """Whether the device is gone."""
        return not (self.device.is_connected() and self._context.query_devices().contains(self.device))

    def end(self) -> ReadStatus:
        """What the end of this stream means."""
        return ReadStatus.DISCONNECTED

    def stop(self) -> None:
        """Frees the device."""
        self._pipeline.stop()


class RecordingStream:
    """Plays a ``.db3`` or ``.bag`` file, every frame of it, at the pace of the reader.

    Args:
        sdk: the ``pyrealsense2`` module.
        context: the SDK's context.
        path: of the file.

    Raises:
        CameraError: the file is missing, damaged, or lacks depth or colour.
    """

    def __init__(self, sdk: Any, context: Any, path: Path) -> None:
        self._sdk, self._context, self._path = sdk, context, path
        self._stopped = sdk.playback_status.stopped
        self._start()

    def _start(self) -> None:
        path, sdk = self._path, self._sdk
        self._reached_s, self._reported = 0.0, False
        if not path.is_file():
            raise CameraError(f"recording {path} does not exist", remedy="check the path")
        self._pipeline = sdk.pipeline(self._context)
        config = sdk.config()
        config.enable_device_from_file(str(path), False)
        # By kind only: a recording is played in the formats and sizes it has, or not at all.
        config.enable_stream(sdk.stream.depth)
        config.enable_stream(sdk.stream.color)
        try:
            playback = config.resolve(sdk.pipeline_wrapper(self._pipeline)).get_device().as_playback()
            playback.set_real_time(False)
            playback.pause()
            self.profile = self._pipeline.start(config)
            self._resuming = threading.Thread(target=playback.resume, name="resume recording", daemon=True)
            self._resuming.start()
        except RuntimeError as error:
            raise CameraError(
                f"recording {path} cannot be played",
                why=str(error),
                remedy="record it again with depth and colour, or copy it again from its source",
            ) from error
        self.device = self.profile.get_device()
        self._playback = self.device.as_playback()

    def rewind(self) -> None:
        """Begins the file anew, and loses nothing of it.

        The SDK's own repetition does: at each wrap depth is read ahead before colour has started, and what
        belonged to it is lost (measured: up to 13 captures).

        Raises:
            CameraError: the file is gone or damaged by now.
        """
        self.stop()
        self._start()

    def wait(self, timeout_ms: int) -> Any | None:
        """The next set, or None when none came in time."""
        arrived, images = self._pipeline.try_wait_for_frames(timeout_ms)
        if not arrived:
            return None
        # Asked now, as the SDK forgets it at the end.
        self._reached_s = max(self._reached_s, self._playback.get_position() / 1e9)
        return images

    def is_over(self) -> bool:
        """Whether the SDK has stopped; the last sets may still be on their way."""
        return bool(self._playback.current_status() == self._stopped)

    def end(self) -> ReadStatus:
        """What the end of this stream means, once the last set has been taken.

        Raises:
            DataError: the recording broke off long before its end, said once: the SDK stops in
                silence at content that it cannot read.
        """
        duration_s = self._playback.get_duration().total_seconds()
        if duration_s - self._reached_s > COMPLETE_WITHIN_S and not self._reported:
            self._reported = True
            raise DataError(
                f"recording {self._path} breaks off after {self._reached_s:.1f} of {duration_s:.1f} s",
                why="what follows cannot be read, or lacks depth or colour",
                remedy="copy it again from its source, or record it again",
            )
        return ReadStatus.END_OF_STREAM

    def stop(self) -> None:
        """Closes the file."""
        self._pipeline.stop()
        self._resuming.join()
        self._playback.pause()  # returns when the SDK's reader is at rest: freeing a file that is read crashes


def _set_sync(sdk: Any, device: Any, serial: str, mode: int) -> None:
    option, sensor = sdk.option.inter_cam_sync_mode, stream_sensors(sdk, device)["depth"]
    if not sensor.supports(option):
        raise ConfigError(f"camera {serial} cannot be synchronised with others", remedy="leave out sync")
    try:
        sensor.set_option(option, mode)
    except RuntimeError as error:
        allowed = sensor.get_option_range(option)
        raise ConfigError(
            f"camera {serial}: sync cannot be {mode}",
            why=str(error),
            remedy=f"choose {allowed.min:g} to {allowed.max:g}",
        ) from error


def _start_error(serial: str, error: RuntimeError) -> CameraError:
    if BUSY.search(str(error)):
        return CameraError(
            f"camera {serial} is in use",
            why=str(error),
            remedy="end the program that has it (realsense-viewer, another edge-ad)",
        )
    return CameraError(
        f"camera {serial} does not start",
        why=str(error),
        remedy="unplug it and plug it in again, then run: edge-ad doctor",
    )


def _modes(sdk: Any, context: Any, serial: str) -> str:
    """The modes that a camera has, e.g. ``depth 640x480@30, 848x480@30; color 640x480@30``."""
    found: dict[str, set[tuple[int, int, int]]] = {"depth": set(), "color": set()}
    usable = {(sdk.stream.depth, sdk.format.z16): "depth", (sdk.stream.color, sdk.format.rgb8): "color"}
    for device in context.query_devices():
        if device.get_info(sdk.camera_info.serial_number) == serial:
            for profile in (item for sensor in device.query_sensors() for item in sensor.get_stream_profiles()):
                kind = usable.get((profile.stream_type(), profile.format()))
                if kind is not None:
                    video = profile.as_video_stream_profile()
                    found[kind].add((video.width(), video.height(), video.fps()))
    return "; ".join(
        f"{kind} {', '.join(f'{w}x{h}@{fps}' for w, h, fps in sorted(modes)) or 'none'}"
        for kind, modes in found.items()
    )
