"""What every camera promises; a new driver is one more line in ``DRIVERS``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri, opened
from edge_ad.cameras.isolated import IsolatedCamera
from edge_ad.errors import CameraError
from edge_ad.types import AnyArray, Camera, CameraInfo, Frame

Request = pytest.FixtureRequest


@pytest.fixture
def attached_realsense(recording: Path) -> Iterator[Camera]:
    """A camera as far as the SDK knows: a recording that it plays by the clock."""
    from edge_ad.cameras.realsense import RealSenseCamera
    from tests.cameras.software_realsense import rs

    context = rs.context()
    device = context.load_device(str(recording))  # listed for as long as somebody holds it
    yield RealSenseCamera(context=context, warm_up_s=0)
    device.pause()  # a file that is still being read must not be freed


@pytest.fixture
def film_camera(tmp_path: Path) -> Camera:
    """A video device as far as OpenCV knows: a film."""
    from edge_ad.cameras.v4l2 import V4l2Camera
    from tests.cameras.video_files import FilmCapture, write_film

    return V4l2Camera(write_film(tmp_path / "film.avi", 4), open_capture=FilmCapture)


@pytest.fixture
def attached_orbbec(orbbec_bag: Path) -> Camera:
    """A camera as far as the SDK knows: a recording that sends as a camera does."""
    from edge_ad.cameras.orbbec import OrbbecCamera
    from tests.cameras.orbbec_bag import RecordedBus

    return OrbbecCamera(bus=RecordedBus(orbbec_bag))


@pytest.fixture
def host_oak() -> Camera:
    """A camera as far as depthai's pairing knows."""
    from edge_ad.cameras.oak import OakCamera, OakOptions
    from tests.cameras.host_oak import HostOak, steady

    options = OakOptions.model_validate({"size": "32x24", "fps": 50})
    return OakCamera(options=options, open_link=HostOak(lambda: steady(1000)))


DRIVERS: dict[str, Callable[[Request], Camera]] = {
    "realsense": lambda request: request.getfixturevalue("attached_realsense"),
    "realsense-file": lambda request: camera_from_uri(f"realsense://{request.getfixturevalue('recording')}"),
    "realsense-file-repeated": lambda request: camera_from_uri(
        f"realsense://{request.getfixturevalue('recording')}?repeat=1"
    ),
    "folder": lambda request: camera_from_uri(f"folder://{request.getfixturevalue('captures')}"),
    "replay": lambda request: camera_from_uri(f"replay://{request.getfixturevalue('captures')}"),
    "genicam": lambda request: camera_from_uri(f"genicam://1?cti={request.getfixturevalue('producer')}"),
    "orbbec": lambda request: request.getfixturevalue("attached_orbbec"),
    "orbbec-file": lambda request: camera_from_uri(f"orbbec://{request.getfixturevalue('orbbec_bag')}"),
    "oak": lambda request: request.getfixturevalue("host_oak"),
    "v4l2": lambda request: request.getfixturevalue("film_camera"),
    "replay-clouds": lambda request: camera_from_uri(f"replay://{request.getfixturevalue('clouds')}?fps=100"),
    "synthetic": lambda request: camera_from_uri("synthetic://?size=64&pool=2"),
    "isolated": lambda request: IsolatedCamera("synthetic://?size=64&pool=2"),
    "synthetic-wide": lambda request: camera_from_uri("synthetic://?width=96&height=72&pool=2"),
    "synthetic-faulty": lambda request: camera_from_uri(
        "synthetic://?size=64&pool=2&fps=100&junk_rate=0.5&stall_every_s=0.2&stall_s=0.1"
    ),
    "synthetic-triggered": lambda request: camera_from_uri("synthetic://?size=64&pool=2&trigger=1"),
}


@pytest.fixture(params=DRIVERS)
def camera(request: Request) -> Iterator[Camera]:
    camera = DRIVERS[request.param](request)
    yield camera
    camera.close()


def read_frame(camera: Camera) -> Frame:
    if camera.caps.software_trigger:
        camera.trigger()
    frame = camera.read(2.0)
    assert isinstance(frame, Frame)
    return frame


def arrays(camera: Camera, frame: Frame) -> list[AnyArray]:
    """The images that the camera says its frames hold."""
    images = [getattr(frame, name) for name in camera.caps.images]
    assert images and all(image is not None for image in images)
    return images


def test_reading_before_opening_is_refused(camera: Camera) -> None:
    assert isinstance(camera, Camera)
    with pytest.raises(CameraError, match="not open"):
        camera.read(0.1)


def test_an_open_camera_says_what_it_is_and_delivers(camera: Camera) -> None:
    before_ns = time.monotonic_ns()
    info = camera.open()
    assert isinstance(info, CameraInfo) and info.name and info.serial
    first, second = read_frame(camera), read_frame(camera)
    assert first.sequence < second.sequence
    assert before_ns <= first.timestamp_ns < second.timestamp_ns <= time.monotonic_ns()
    assert first.source
    for frame in (first, second):
        for array in arrays(camera, frame):
            assert array.flags.c_contiguous


def test_a_frame_owns_its_memory(camera: Camera) -> None:
    camera.open()
    first = read_frame(camera)
    copies = [array.copy() for array in arrays(camera, first)]
    second = read_frame(camera)
    for one, other in zip(arrays(camera, first), arrays(camera, second), strict=True):
        assert not np.shares_memory(one, other)
    for array in arrays(camera, second):
        array[:] = 0
    camera.close()
    for array, copy in zip(arrays(camera, first), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_closing_twice_is_nothing_and_a_closed_camera_opens_again(camera: Camera) -> None:
    camera.close()
    camera.open()
    read_frame(camera)
    camera.close()
    camera.close()
    with pytest.raises(CameraError, match="not open"):
        camera.read(0.1)
    camera.open()
    read_frame(camera)


def test_opening_an_open_camera_starts_it_afresh(camera: Camera) -> None:
    camera.open()
    read_frame(camera)
    camera.open()
    read_frame(camera)


def test_a_with_block_closes_the_camera_whatever_happens(camera: Camera) -> None:
    with pytest.raises(ZeroDivisionError), opened(camera) as info:
        assert info.serial
        read_frame(camera)
        raise ZeroDivisionError
    with pytest.raises(CameraError, match="not open"):
        camera.read(0.1)
