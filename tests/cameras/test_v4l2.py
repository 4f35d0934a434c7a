from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri
from edge_ad.cameras.v4l2 import DeviceCapture, V4l2Camera, V4l2Options
from edge_ad.errors import CameraError, ConfigError
from edge_ad.types import Frame, ReadStatus
from tests.cameras.video_files import HEIGHT_PX, WIDTH_PX, FilmCapture, film_image, write_film

IMAGES = 6


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "video0.avi", IMAGES)


class SilentFilm(FilmCapture):
    """A device that sends nothing."""

    def wait(self, timeout_s: float) -> bool:
        return False


def test_images_are_rgb_and_numbered_until_the_device_fails(film: Path) -> None:
    camera = V4l2Camera(film, open_capture=FilmCapture)
    info = camera.open()
    assert (info.serial, info.live, info.details["size"]) == (str(film), True, f"{WIDTH_PX}x{HEIGHT_PX}")
    for number in range(IMAGES):
        frame = camera.read(1.0)
        assert isinstance(frame, Frame) and frame.rgb is not None and frame.depth is None
        assert frame.sequence == number
        # JPEG keeps means, not pixels.
        assert np.abs(frame.rgb.mean(axis=(0, 1)) - film_image(number).mean(axis=(0, 1))).max() < 4
    assert camera.read(1.0) is ReadStatus.DISCONNECTED
    assert camera.read(1.0) is ReadStatus.DISCONNECTED
    camera.open()
    frame = camera.read(1.0)
    assert isinstance(frame, Frame) and frame.sequence == IMAGES
    camera.close()


def test_a_silent_device_is_waited_for_until_its_node_goes(film: Path) -> None:
    camera = V4l2Camera(film, open_capture=SilentFilm)
    camera.open()
    assert camera.read(0.01) is ReadStatus.TIMEOUT
    film.unlink()
    assert camera.read(0.01) is ReadStatus.DISCONNECTED
    camera.close()


def test_another_size_than_asked_is_refused_and_another_rate_told(film: Path) -> None:
    options = V4l2Options(size="640x480")
    with pytest.raises(CameraError, match=f"no images of 640x480.*it would send {WIDTH_PX}x{HEIGHT_PX}"):
        V4l2Camera(film, options, FilmCapture).open()
    camera = V4l2Camera(film, V4l2Options(size=f"{WIDTH_PX}x{HEIGHT_PX}", fps=60), FilmCapture)
    assert camera.open().warnings == ("it sends 30 images a second, not 60",)
    camera.close()


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("v4l2:///films/part.avi", "is no video device"),
        ("v4l2://../part.avi?size=640x480", "is no video device"),
        ("v4l2:///dev/video0?size=large", "WIDTHxHEIGHT"),
        ("v4l2:///dev/video0?fps=0", "greater than 0"),
        ("v4l2:///dev/video0?fourcc=motion", "fourcc is not valid"),
        ("v4l2:///dev/video0?depth=1", "'depth' is unknown"),
    ],
)
def test_wrong_uris_are_refused(uri: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        camera_from_uri(uri)


def test_a_missing_device_or_what_is_none_is_told(film: Path) -> None:
    with pytest.raises(CameraError, match=r"/dev/video77 does not exist"):
        camera_from_uri("v4l2:///dev/video77").open()
    with pytest.raises(CameraError, match=r"video0\.avi is no device"):
        DeviceCapture(film, V4l2Options())


def test_a_device_without_images_cannot_be_opened() -> None:
    """/dev/null is a device, and no camera."""
    camera = camera_from_uri("v4l2:///dev/null")
    with pytest.raises(CameraError, match="/dev/null cannot be opened.*second node"):
        camera.open()
    with pytest.raises(CameraError, match="not open"):
        camera.read(0.1)


def test_opencv_can_wait_for_a_device() -> None:
    """What bounds the wait for a silent device; only a device can be waited for."""
    assert callable(cv2.VideoCapture.waitAny)
    assert camera_from_uri("v4l2").caps.images == ("rgb",)


def test_an_image_that_waited_in_the_driver_is_as_old_as_it_is(film: Path) -> None:
    """A film's times go on by 1/30 s from image to image, as if the later ones had waited."""
    camera = V4l2Camera(film, open_capture=FilmCapture)
    camera.open()
    first = camera.read(1.0)
    time.sleep(0.5)
    second = camera.read(1.0)
    assert isinstance(first, Frame) and isinstance(second, Frame)
    assert (second.timestamp_ns - first.timestamp_ns) / 1e9 == pytest.approx(1 / 30, abs=1e-3)
    camera.close()
