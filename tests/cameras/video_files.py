"""A film that stands in for a video device: both are a ``cv2.VideoCapture``."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edge_ad.cameras.v4l2 import V4l2Options
from edge_ad.types import AnyArray, UInt8Array

HEIGHT_PX, WIDTH_PX, FPS = 48, 64, 30


def film_image(number: int) -> UInt8Array:
    """RGB, reddish, with a bar that says which it is."""
    image = np.full((HEIGHT_PX, WIDTH_PX, 3), (200, 60, 30), dtype=np.uint8)
    image[:, : 2 + 4 * number] = (20, 40, 220)
    return image


def write_film(path: Path, images: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), FPS, (WIDTH_PX, HEIGHT_PX))
    assert writer.isOpened()
    for number in range(images):
        writer.write(cv2.cvtColor(film_image(number), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


class FilmCapture:
    """What ``DeviceCapture`` is to a device, for a film; its images are always ready."""

    def __init__(self, path: Path, options: V4l2Options) -> None:
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        assert self._capture.isOpened()

    def wait(self, timeout_s: float) -> bool:
        return True

    def read(self) -> AnyArray | None:
        good, image = self._capture.read()
        return image if good else None

    def get(self, name: int) -> float:
        return float(self._capture.get(name))

    def release(self) -> None:
        self._capture.release()
