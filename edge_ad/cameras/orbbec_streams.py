"""The two kinds of Orbbec stream: a camera's newest captures, and every capture of a recording.

The SDK plays a recording by the clock, and throws away what nobody fetches. So a thread of our own fetches
everything, and slows the recording down while its reader cannot keep up; to pause it would lose a capture.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_ad.cameras.orbbec_devices import sdk_context
from edge_ad.cameras.realsense_options import StreamMode
from edge_ad.errors import CameraError
from edge_ad.types import Frame

RATES = ((16, 1.0), (32, 0.06), (64, 0.008))
"""How fast a recording plays when so many captures wait for the reader; at 30 a second, the last is one in 4 s."""

LAST_WAIT_MS = 200
"""The SDK says that a recording has stopped while it still hands out the last captures."""


class Stream:
    """Colour and depth of one device, in sets that belong together.

    Args:
        sdk: the ``pyorbbecsdk`` module.
        device: the SDK's device, live or a recording.
        name: of it, for errors.
        depth: mode of the depth stream, None for the camera's default.
        color: mode of the colour stream, None for the camera's default.

    Raises:
        CameraError: the device has no depth, no colour, or not in these modes.
    """

    def __init__(
        self, sdk: Any, device: Any, name: str, depth: StreamMode | None = None, color: StreamMode | None = None
    ) -> None:
        self._sdk = sdk
        self.device = device
        self._pipeline = sdk.Pipeline(device)
        sensors = sdk.OBSensorType
        self.depth = self._profile(name, sensors.DEPTH_SENSOR, sdk.OBFormat.Y16, depth)
        self.color = self._profile(name, sensors.COLOR_SENSOR, sdk.OBFormat.RGB, color)
        self._config = sdk.Config()
        self._config.enable_stream(self.depth)
        self._config.enable_stream(self.color)
        self._config.set_frame_aggregate_output_mode(sdk.OBFrameAggregateOutputMode.FULL_FRAME_REQUIRE)

    def _profile(self, name: str, sensor: Any, pixels: Any, mode: StreamMode | None) -> Any:
        try:
            profiles = self._pipeline.get_stream_profile_list(sensor)
            wanted = mode or _mode(profiles.get_default_video_stream_profile())
            return profiles.get_video_stream_profile(wanted.width_px, wanted.height_px, pixels, wanted.fps)
        except (RuntimeError, self._sdk.OBError) as error:
            kind = "depth" if "DEPTH" in sensor.name else "color"
            raise CameraError(
                f"camera {name} has no {kind} {_text(mode)} as {pixels.name}",
                why=str(error),
                remedy=f"choose another mode: {kind}=WIDTHxHEIGHT@FPS" if mode else "use a camera that has it",
            ) from error

    def start(self) -> None:
        """Begins."""
        self._pipeline.enable_frame_sync()
        self._pipeline.start(self._config)

    def wait(self, timeout_ms: int) -> Any | None:
        """The next set, or None when none came in time."""
        return self._pipeline.wait_for_frames(timeout_ms)

    def stop(self) -> None:
        """Ends."""
        self._pipeline.stop()


class RecordingStream:
    """Plays a ``.bag`` file, every capture of it, at the pace it was recorded at or the reader's, if that is slower.

    Args:
        sdk: the ``pyorbbecsdk`` module.
        path: of the file.

    Raises:
        CameraError: the file is missing, damaged, or lacks depth or colour.
    """

    def __init__(self, sdk: Any, path: Path) -> None:
        self._sdk = sdk
        if not path.is_file():
            raise CameraError(f"recording {path} does not exist", remedy="check the path")
        try:
            sdk_context()  # without one, the SDK's logger ends with a file that cannot be opened, and may take 60 s
            self.device = sdk.PlaybackDevice(str(path))
        except (RuntimeError, sdk.OBError) as error:
            raise CameraError(
                f"recording {path} cannot be played",
                why=str(error),
                remedy="copy it again from its source, or record it again with depth and colour",
            ) from error
        self.stream = Stream(sdk, self.device, str(path))
        self._arrived = threading.Condition()
        self._frames: deque[Frame] = deque()
        self._over = self._stopping = False
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self, make_frame: Callable[[Any], Frame | None]) -> None:
        """Begins to play.

        Args:
            make_frame: makes a frame of a set, in a thread; None for a set that is no capture.
        """
        self.stream.start()
        # It began with the first of the two sensors, and what the other should have had meanwhile was lost.
        self.device.seek(0)
        self._thread = threading.Thread(target=self._fetch, args=[make_frame], name="play recording", daemon=True)
        self._thread.start()

    def _fetch(self, make_frame: Callable[[Any], Frame | None]) -> None:
        stopped, rate = self._sdk.OBPlaybackStatus.STOPPED, 1.0
        try:
            while not self._stopping:
                was_over = self.device.get_playback_status() == stopped
                images = self.stream.wait(LAST_WAIT_MS)
                if images is None and was_over:
                    break
                frame = None if images is None else make_frame(images)
                with self._arrived:
                    if frame is not None:
                        self._frames.append(frame)
                        self._arrived.notify_all()
                    waiting = len(self._frames)
                wanted = max((step for step in RATES if step[0] <= waiting), default=RATES[0])[1]
                if wanted != rate:
                    rate = wanted
                    self.device.set_playback_rate(rate)
        except Exception as error:
            self._failure = error
        with self._arrived:
            self._over = True
            self._arrived.notify_all()

    def take(self, timeout_s: float) -> Frame | None:
        """The next frame, or None when none came in time or none is left.

        Raises:
            CameraError: the SDK failed, or the frames cannot be used.
        """
        with self._arrived:
            self._arrived.wait_for(lambda: self._frames or self._over, timeout_s)
            if self._frames:
                return self._frames.popleft()
        failure, self._failure = self._failure, None
        if isinstance(failure, CameraError):
            raise failure
        if failure is not None:
            raise CameraError("the recording cannot be read", why=str(failure), remedy="copy it again") from failure
        return None

    def is_over(self) -> bool:
        """Whether every capture has been taken."""
        with self._arrived:
            return self._over and not self._frames

    def stop(self) -> None:
        """Closes the file."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join()
        self.stream.stop()


def _mode(profile: Any) -> StreamMode:
    return StreamMode(profile.get_width(), profile.get_height(), profile.get_fps())


def _text(mode: StreamMode | None) -> str:
    return "stream" if mode is None else f"{mode.width_px}x{mode.height_px}" + (f"@{mode.fps}" if mode.fps else "")
