import time
from itertools import pairwise

import numpy as np
import pytest

from edge_ad.cameras.synthetic import SyntheticCamera
from edge_ad.cameras.uri import CameraUri
from edge_ad.data.synthetic import SyntheticProduct
from edge_ad.errors import CameraError, ConfigError
from edge_ad.types import Camera, Frame, ReadStatus, UInt8Array


def make_camera(**options: str) -> SyntheticCamera:
    quick = {"size": "64", "pool": "5", "fps": "0"}
    return SyntheticCamera.from_uri(CameraUri("synthetic", "", quick | options))


def frames_of(camera: SyntheticCamera, count: int) -> list[Frame]:
    camera.open()
    frames = [camera.read(1.0) for _ in range(count)]
    assert all(isinstance(frame, Frame) for frame in frames)
    return [frame for frame in frames if isinstance(frame, Frame)]


def colour(frame: Frame) -> UInt8Array:
    assert frame.rgb is not None
    return frame.rgb


def test_it_is_a_camera() -> None:
    camera = make_camera(fps="25", defect_rate="0.4")
    assert isinstance(camera, Camera)
    info = camera.open()
    assert info.live
    assert info.details["defective"] == "2 of 5"
    assert not make_camera().open().live


def test_pool_is_shown_over_and_over_with_fresh_numbers_and_times() -> None:
    before_ns = time.monotonic_ns()
    frames = frames_of(make_camera(), 12)
    assert [frame.sequence for frame in frames] == list(range(12))
    assert [frame.source for frame in frames[:7]] == [frame.source for frame in frames[5:]]
    assert len({frame.source for frame in frames}) == 5
    times = [before_ns, *(frame.timestamp_ns for frame in frames), time.monotonic_ns()]
    assert all(earlier <= later for earlier, later in pairwise(times))


def test_frames_own_their_memory() -> None:
    first, second = frames_of(make_camera(pool="1"), 2)
    assert not np.shares_memory(colour(first), colour(second))
    colour(first)[:] = 0
    assert colour(second).any()


def test_same_seed_shows_the_same_parts_and_none_of_a_data_set() -> None:
    first, second = (frames_of(make_camera(seed="2", defect_rate="0"), 5) for _ in range(2))
    product = SyntheticProduct(64, seed=2)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(colour(one), colour(other))
        number = int(one.source.split("/")[2])
        assert not np.array_equal(colour(one), colour(product.render(number).frame))
        assert one.intrinsics == product.intrinsics


@pytest.mark.parametrize(("rate", "defective"), [("0", 0), ("0.2", 2), ("1", 10)])
def test_source_says_which_parts_have_a_defect(rate: str, defective: int) -> None:
    frames = frames_of(make_camera(pool="10", defect_rate=rate), 10)
    assert sum(not frame.source.endswith("/good") for frame in frames) == defective


@pytest.mark.parametrize("fps", ["0", "500"])
def test_stream_ends_after_as_many_frames(fps: str) -> None:
    camera = make_camera(frames="3", fps=fps)
    camera.open()
    read = []
    while isinstance(frame := camera.read(1.0), Frame):
        read.append(frame.sequence)
    assert read[-1] == 2
    assert read == sorted(set(read))
    assert frame is ReadStatus.END_OF_STREAM
    assert camera.read(1.0) is ReadStatus.END_OF_STREAM


def test_slow_reader_sees_a_gap_and_gets_the_newest() -> None:
    camera = make_camera(fps="200")
    (first,) = frames_of(camera, 1)
    time.sleep(0.05)
    later = camera.read(1.0)
    assert isinstance(later, Frame)
    assert later.sequence >= first.sequence + 10
    age_ns = time.monotonic_ns() - later.timestamp_ns
    assert age_ns >= 0
    assert (later.timestamp_ns - first.timestamp_ns) // 5_000_000 == later.sequence - first.sequence


def test_frames_come_no_faster_than_produced() -> None:
    camera = make_camera(fps="100")
    frames = frames_of(camera, 6)
    assert frames[-1].timestamp_ns - frames[0].timestamp_ns >= 50_000_000
    assert all(frame.timestamp_ns <= time.monotonic_ns() for frame in frames)


def test_wait_ends_with_the_timeout() -> None:
    camera = make_camera(fps="0.1")
    frames_of(camera, 1)
    assert camera.read(0.01) is ReadStatus.TIMEOUT


def test_reading_needs_an_open_camera() -> None:
    camera = make_camera()
    with pytest.raises(CameraError, match="not open"):
        camera.read(0.1)
    camera.open()
    camera.close()
    camera.close()
    with pytest.raises(CameraError, match="not open"):
        camera.read(0.1)
    assert frames_of(camera, 1)[0].sequence == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("fps", "-1"), ("fps", "fast"), ("defect_rate", "1.5"), ("size", "10"), ("pool", "0"), ("colour", "red")],
)
def test_wrong_option_is_named(option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"synthetic.*{option}\W.*(not valid|unknown)"):
        make_camera(**{option: value})


def test_the_empty_table_keeps_still_and_only_the_sensors_differ() -> None:
    camera = make_camera(empty="1", defect_rate="0.5")
    frames = frames_of(camera, 5)
    assert [frame.source for frame in frames] == [f"synthetic://{number:04d}/empty" for number in range(5)]
    depths_m = np.stack([frame.depth_m() for frame in frames])
    assert np.median(depths_m) == pytest.approx(0.5, abs=1e-3)
    colours = np.stack([colour(frame) for frame in frames]).astype(float)
    assert 0.5 < colours.std(axis=0).mean() < 4  # grey levels of noise
    assert colours.mean(axis=0).std() > 3  # a table that has a look of its own
    assert not np.array_equal(colour(frames[0]), colour(frames[1]))
