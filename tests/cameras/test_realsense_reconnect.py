"""Cameras that come and go, and the cures for one that is silent."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri, opened
from edge_ad.cameras.realsense import RealSenseCamera, RealSenseOptions
from edge_ad.errors import CameraError
from edge_ad.types import Frame, ReadStatus
from tests.cameras.conftest import RECORDED_FRAMES
from tests.cameras.software_realsense import SERIAL, SoftwareRealSense, cold, make_images, plugged, read_frame, rs


@contextmanager
def loaded(context: Any, path: Path) -> Iterator[None]:
    """A recording that is plugged in: to the SDK it is a device, which it plays by the clock."""
    device = context.load_device(str(path))
    try:
        yield
    finally:
        context.unload_device(str(path))
        device.pause()  # a file that is still being read must not be freed


def test_a_camera_that_is_unplugged_says_so_and_opens_again_when_it_is_back(recording: Path) -> None:
    context = rs.context()
    camera = RealSenseCamera(context=context, warm_up_s=0)
    for _ in range(3):
        with loaded(context, recording):
            assert camera.open().live
            assert read_frame(camera).sequence < read_frame(camera).sequence
        while isinstance(outcome := camera.read(1.0), Frame):
            pass
        assert outcome is camera.read(0) is ReadStatus.DISCONNECTED
        assert camera.info is None
        with pytest.raises(CameraError, match="no RealSense camera found"):
            camera.open()


def test_a_camera_that_is_pulled_out_while_another_stays_is_lost_alone(recording: Path) -> None:
    context = rs.context()
    other = SoftwareRealSense("B2")
    with loaded(context, recording):
        camera = RealSenseCamera(context=context, warm_up_s=0)
        camera.open()
        other.plug_into(context)
        read_frame(camera)
    while isinstance(outcome := camera.read(1.0), Frame):
        pass
    assert outcome is ReadStatus.DISCONNECTED
    camera = RealSenseCamera("B2", context=context, warm_up_s=0)
    with opened(camera):
        other.push(1)
        assert read_frame(camera).source == "realsense://B2"


def test_a_software_device_is_unplugged_and_plugged_in_again() -> None:
    device = SoftwareRealSense()
    context = plugged(device)
    camera = RealSenseCamera(SERIAL, context=context, warm_up_s=0)
    for number in (1, 2):
        with opened(camera):
            device.push(number)
            np.testing.assert_array_equal(read_frame(camera).depth, make_images(number)[0])
        device.unplug()
        with pytest.raises(CameraError, match=f"camera {SERIAL} not found"):
            camera.open()
        device.plug_into(context)


def test_a_stall_ends_by_itself_and_no_frame_comes_twice() -> None:
    device = SoftwareRealSense()
    camera = cold(device)
    delivered = []
    with opened(camera):
        for number in (1, 2, 10, 11):
            assert camera.read(0.05) is ReadStatus.TIMEOUT
            device.push(number)
            delivered.append(read_frame(camera).sequence)
            device.push(number)  # the same images once more
            assert camera.read(0.05) is ReadStatus.TIMEOUT
    assert delivered == [1, 2, 10, 11]
    assert camera.dropped["sequence_gap"] == 7


# --- restart


def test_a_restart_keeps_the_device_and_delivers_nothing_from_before_it() -> None:
    device = SoftwareRealSense()
    camera = cold(device)
    with opened(camera) as info:
        device.push(1)
        assert read_frame(camera).sequence == 1
        device.push(2)
        camera.restart()
        assert camera.info is info
        assert camera.read(0.05) is ReadStatus.TIMEOUT
        for sent, sequence in ((1, 2), (2, 3), (4, 5)):  # a real camera counts from the start again
            device.push(sent)
            frame = read_frame(camera)
            np.testing.assert_array_equal(frame.rgb, make_images(sent)[1])
            assert frame.sequence == sequence
    assert camera.dropped == {"sequence_gap": 1}


def test_a_restart_of_a_closed_camera_opens_it_and_one_of_a_recording_begins_anew(recording: Path) -> None:
    camera = cold(SoftwareRealSense())
    camera.restart()
    assert camera.info is not None
    camera.close()
    player = camera_from_uri(f"realsense://{recording}")
    with opened(player):
        for _ in range(2):
            frame = player.read(2.0)
            assert isinstance(frame, Frame) and frame.sequence == 1
            player.restart()


def test_a_restart_of_a_camera_that_is_gone_fails_at_once(recording: Path) -> None:
    context = rs.context()
    camera = RealSenseCamera(context=context, warm_up_s=0)
    with loaded(context, recording):
        camera.open()
        read_frame(camera)
    started_s = time.monotonic()
    with pytest.raises(CameraError, match="is not attached any more"):
        camera.restart()
    assert time.monotonic() - started_s < 5  # the SDK left to itself takes 15 s
    camera.close()


# --- reset


def test_a_reset_boots_the_camera_with_this_serial_and_leaves_it_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Software devices cannot boot, so the SDK's ``hardware_reset`` is noted in its place; all else is real."""
    booted: list[str] = []
    monkeypatch.setattr(
        rs.device, "hardware_reset", lambda device: booted.append(device.get_info(rs.camera_info.serial_number))
    )
    context = plugged(SoftwareRealSense("A1"), SoftwareRealSense("B2"))
    camera = RealSenseCamera(context=context, warm_up_s=0)
    serial = camera.open().serial
    camera.reset()
    assert booted == [serial] and camera.info is None
    RealSenseCamera("B2", context=context).reset()
    assert booted == [serial, "B2"]


def test_a_reset_that_the_device_does_not_know_is_an_error() -> None:
    with pytest.raises(CameraError, match=f"{SERIAL} cannot be reset. hardware_reset is not implemented"):
        cold(SoftwareRealSense()).reset()


def test_a_camera_that_is_not_attached_and_a_recording_cannot_be_reset(recording: Path) -> None:
    with pytest.raises(CameraError, match="no RealSense camera found"):
        RealSenseCamera(context=rs.context()).reset()
    with pytest.raises(CameraError, match="cannot be reset by software"):
        camera_from_uri(f"realsense://{recording}").reset()


# --- a recording that repeats, and one in another process


def test_a_recording_that_repeats_loses_no_frame_and_counts_on(recording: Path) -> None:
    camera = RealSenseCamera(path=recording, options=RealSenseOptions(repeat=True))
    rounds = 3
    with opened(camera):
        frames = [read_frame(camera) for _ in range(rounds * RECORDED_FRAMES + 1)]
    assert [frame.sequence for frame in frames] == list(range(1, rounds * RECORDED_FRAMES + 2))
    for frame in frames:
        depth, rgb = make_images((frame.sequence - 1) % RECORDED_FRAMES + 1)
        np.testing.assert_array_equal(frame.depth, depth)
        np.testing.assert_array_equal(frame.rgb, rgb)
    assert not camera.dropped
    camera.close()


def test_a_recording_of_one_capture_repeats_it(tmp_path: Path) -> None:
    path = SoftwareRealSense().record(tmp_path / "a.db3", 1)
    camera = camera_from_uri(f"realsense://{path}?repeat=1")
    with opened(camera):
        frames = [camera.read(5.0) for _ in range(3)]
    assert [frame.sequence for frame in frames if isinstance(frame, Frame)] == [1, 2, 3]


def test_a_recording_that_vanishes_while_it_repeats_is_an_error(tmp_path: Path) -> None:
    path = SoftwareRealSense().record(tmp_path / "a.db3", 2)
    camera = camera_from_uri(f"realsense://{path}?repeat=1")
    camera.open()
    for _ in range(2):
        assert isinstance(camera.read(5.0), Frame)
    path.unlink()
    with pytest.raises(CameraError, match="does not exist"):
        camera.read(5.0)
    camera.close()


def _read_in_child(uri: str, answers: Connection) -> None:
    camera = camera_from_uri(uri)
    with opened(camera):
        for _ in range(5):
            frame = camera.read(10.0)
            assert isinstance(frame, Frame)
            answers.send((frame.sequence, int(np.asarray(frame.depth, np.int64).sum())))


@pytest.mark.parametrize("ends", ["closed", "while-open"])
def test_a_recording_is_read_in_a_spawned_process_that_ends_well(recording: Path, ends: str) -> None:
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    target = _read_in_child if ends == "closed" else _read_and_leave_open
    child = context.Process(target=target, args=(f"realsense://{recording}", sending))
    child.start()
    sending.close()
    read = [receiving.recv() for _ in range(5)]
    child.join(30)
    assert child.exitcode == 0
    assert read == [(number, int(make_images(number)[0].astype(np.int64).sum())) for number in range(1, 6)]


def _read_and_leave_open(uri: str, answers: Connection) -> None:
    camera = camera_from_uri(uri)
    camera.open()
    for _ in range(5):
        frame = camera.read(10.0)
        assert isinstance(frame, Frame)
        answers.send((frame.sequence, int(np.asarray(frame.depth, np.int64).sum())))
