"""An OAK camera without hardware: depthai's own pairing and queues, in a pipeline that runs on the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from edge_ad.cameras.oak_devices import load_sdk
from edge_ad.cameras.oak_pipeline import OakLink, paired_queue
from edge_ad.cameras.realsense_options import StreamMode
from edge_ad.errors import MissingExtraError
from edge_ad.types import AnyArray

try:
    dai: Any = load_sdk()  # a plain import would leave its handlers for signals in the process of the tests
except MissingExtraError as error:
    pytest.skip(str(error), allow_module_level=True)

SERIAL = "HOST0001"
Event = tuple[str, int, float]
"""What is sent: ``rgb`` or ``depth``, its number, and its time in seconds."""


def make_images(number: int, mode: StreamMode) -> tuple[AnyArray, AnyArray]:
    """What only capture ``number`` shows: colour uint8 (H, W, 3), depth uint16 (H, W) in mm."""
    random = np.random.default_rng(number)
    shape = (mode.height_px, mode.width_px)
    return random.integers(0, 256, (*shape, 3), dtype=np.uint8), random.integers(0, 4000, shape, dtype=np.uint16)


def steady(numbers: int) -> Iterator[Event]:
    """Captures 1 … ``numbers`` at the pace of their clock, 50 a second."""
    for number in range(1, numbers + 1):
        now_s = time.monotonic()
        yield "rgb", number, now_s
        yield "depth", number, now_s
        time.sleep(0.02)


class Source(dai.node.ThreadedHostNode):  # type: ignore[misc]
    """Sends images as the camera's nodes do."""

    def start_with(self, events: Iterator[Event], mode: StreamMode) -> None:
        self.events, self.mode = events, mode
        self.outputs = {"rgb": self.createOutput(), "depth": self.createOutput()}

    def run(self) -> None:
        for name, number, time_s in self.events:
            if not self.isRunning():
                return
            rgb, depth = make_images(number, self.mode)
            image = dai.ImgFrame()
            image.setFrame(rgb if name == "rgb" else depth)
            image.setType(dai.ImgFrame.Type.RGB888i if name == "rgb" else dai.ImgFrame.Type.RAW16)
            image.setSize(self.mode.width_px, self.mode.height_px)
            image.setSequenceNum(number)
            image.setTimestamp(timedelta(seconds=time_s))
            self.outputs[name].send(image)


class HostOak:
    """Opens links to a camera that sends what it is told to."""

    def __init__(self, events: Callable[[], Iterator[Event]]) -> None:
        self._events = events

    def __call__(self, sdk: Any, serial: str, mode: StreamMode, triggered: bool) -> OakLink:
        pipeline = sdk.Pipeline(False)
        source = pipeline.create(Source)
        source.start_with(self._events(), mode)
        groups = paired_queue(sdk, pipeline, source.outputs["rgb"], source.outputs["depth"], mode.fps, on_host=True)
        pipeline.start()
        return OakLink("Host OAK", serial or SERIAL, pipeline, groups)
