"""How a lost camera is brought back: which cure after which, how often, and when it is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import numpy as np
import pytest

from edge_ad.cameras.base import CameraDriver
from edge_ad.errors import CameraError, DataError
from edge_ad.runtime import reader as reading
from edge_ad.runtime.reader import EndReason, Reader, Reading, Recovery
from edge_ad.runtime.stats import Statistics
from edge_ad.types import CameraCaps, CameraHealth, CameraInfo, Frame, ReadStatus

INFO = CameraInfo("camera", "SN1", live=True)
LOST, SILENT = ReadStatus.DISCONNECTED, ReadStatus.TIMEOUT


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    perf_counter = monotonic

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(reading, "time", found)
    return found


class Halt(threading.Event):
    """Never set, and waiting for it makes the time pass."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.waited_s: list[float] = []
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s.append(timeout or 0.0)
        self._clock.now_s += timeout or 0.0
        return self.is_set()


class Camera(CameraDriver):
    """Notes the cures; ``state`` is what each read comes to."""

    def __init__(self, clock: Clock, *, paced: bool = True, can_reset: bool = True) -> None:
        super().__init__()
        self.caps = CameraCaps(paced=paced, can_reset=can_reset)
        self.info = INFO
        self.state: Frame | ReadStatus | Exception = SILENT
        self.absent = False
        self.cures: list[str] = []
        self._clock, self._sequence = clock, 0

    def open(self) -> CameraInfo:
        self.cures.append("open")
        if self.absent:
            raise CameraError("it is not there")
        return INFO

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        self._clock.now_s += timeout_s
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    def frame(self) -> Frame:
        self._sequence += 1
        return Frame(rgb=np.zeros((2, 2, 3), np.uint8), sequence=self._sequence, timestamp_ns=1)

    def restart(self) -> None:
        self.cures.append("restart")

    def reset(self) -> None:
        self.cures.append("reset")

    def close(self) -> None:
        self.info = None


class Spawned(Camera):
    def respawn(self) -> None:
        self.cures.append("respawn")


class Bench:
    """A reader whose camera, clock and waits are in the test's hands."""

    def __init__(self, clock: Clock, camera: Camera, recovery: Recovery | None = None, **options: object) -> None:
        self.clock, self.camera, self.halt, self.statistics = clock, camera, Halt(clock), Statistics()
        recovery = recovery or Recovery((0.1, 0.2, 0.5))
        self.reader = Reader(camera, "SN1", self.statistics, self.halt, recovery, **options)  # type: ignore[arg-type]

    def read(self, times: int = 1) -> Reading | None:
        found = None
        for _ in range(times):
            found = self.reader.read(0.1)
        return found

    def lost_after_s(self) -> float:
        """Reads until it is lost; seconds since the call."""
        before_s = self.clock.now_s
        while not self.reader.is_lost:
            assert self.clock.now_s - before_s < 100, "nobody notices"
            self.read()
        return self.clock.now_s - before_s

    def see(self, frames: int = 2) -> None:
        """Has it send some frames."""
        for _ in range(frames):
            self.camera.state = self.camera.frame()
            assert self.read() is not None

    @property
    def events(self) -> dict[str, int]:
        found: dict[str, int] = self.statistics.summary()["events"]
        return {name: count for name, count in found.items() if count}


@pytest.fixture
def make(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setattr(reading, "RESPAWN_AFTER_S", 0.0)
    yield lambda kind=Spawned, recovery=None, paced=True, can_reset=True, **options: Bench(
        clock, kind(clock, paced=paced, can_reset=can_reset), recovery, **options
    )


ROUND = ["open", "open", "reset", "open", "respawn", "open"]


def test_a_camera_that_is_gone_is_opened_then_reset_then_gets_a_new_process_and_so_on(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.camera.state, bench.camera.absent = LOST, True
    bench.read(9)
    assert bench.camera.cures == ROUND * 2
    assert bench.events == {"disconnects": 1, "reopens": 4, "resets": 2, "respawns": 2}
    boots = [0.1, 0.2, 0.5, reading.BOOT_S, 0.5, 0.5, 0.5, 0.5, reading.BOOT_S, 0.5]
    assert bench.halt.waited_s == boots


@pytest.mark.parametrize(
    ("kind", "can_reset", "cures"),
    [
        pytest.param(Camera, False, ["open", "open", "open", "open"], id="neither"),
        pytest.param(Camera, True, ["open", "open", "reset", "open", "open"], id="reset"),
        pytest.param(Spawned, False, ["open", "open", "respawn", "open", "open"], id="process"),
    ],
)
def test_cures_that_a_camera_cannot_have_are_left_out(
    make: Callable[..., Bench], kind: type[Camera], can_reset: bool, cures: list[str]
) -> None:
    bench = make(kind, can_reset=can_reset)
    bench.camera.state, bench.camera.absent = LOST, True
    bench.read(5)
    assert bench.camera.cures == cures


def test_a_process_whose_camera_is_away_for_a_moment_is_kept(
    make: Callable[..., Bench], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(can_reset=False)
    monkeypatch.setattr(reading, "RESPAWN_AFTER_S", 20.0)
    bench.camera.state, bench.camera.absent = LOST, True
    began_s = clock.now_s
    while "respawn" not in bench.camera.cures:
        bench.read()
    assert 20 <= clock.now_s - began_s < 30
    assert set(bench.camera.cures) == {"open", "respawn"}


def test_silence_begins_with_the_mildest_cure_and_a_frame_begins_anew(make: Callable[..., Bench]) -> None:
    bench = make()
    for _ in range(2):
        bench.see()
        bench.camera.state = SILENT
        assert bench.lost_after_s() == pytest.approx(reading.SILENCE_S, abs=0.11)
        assert "sent nothing for" in bench.reader.problem
        bench.read()
        assert bench.camera.cures == ["restart"]
        bench.camera.cures.clear()
        bench.see(1)
        assert bench.reader.problem == "" and not bench.reader.is_silent
    assert bench.events["restarts"] == bench.events["reconnects"] == 2


def test_opened_again_is_not_back_until_a_frame_comes(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.see()
    bench.camera.state = LOST
    bench.read()
    bench.camera.state = SILENT
    bench.read(10)
    assert bench.events["reconnects"] == 1 and not bench.reader.is_lost
    assert bench.reader.is_silent, "the alarm must not flap"
    assert bench.camera.cures == ["open"], "a camera that was just opened may take its time"
    assert bench.lost_after_s() > reading.FIRST_FRAME_S - 2
    bench.read()
    assert bench.camera.cures == ["open", "open"]
    bench.see(1)
    assert (bench.reader.is_silent, bench.reader.silent_s) == (False, 0)


def test_without_triggers_a_camera_that_waits_for_them_is_not_silent(make: Callable[..., Bench]) -> None:
    bench = make(paced=False)
    bench.read(100)
    assert not bench.reader.is_silent and not bench.reader.is_lost
    bench.camera.state = LOST
    bench.read()
    assert (bench.reader.is_lost, bench.reader.is_silent) == (True, False), "not before it has been away for a while"


def test_a_slow_consumers_time_is_not_the_cameras(make: Callable[..., Bench], clock: Clock) -> None:
    bench = make()
    bench.see()
    for _ in range(5):
        clock.now_s += 60
        assert not bench.reader.is_silent
        bench.see(1)
    assert bench.camera.cures == []


def test_a_slow_camera_is_given_four_of_its_periods(make: Callable[..., Bench], clock: Clock) -> None:
    bench = make()
    for _ in range(5):
        clock.now_s += 2.0
        bench.see(1)
    bench.camera.state = SILENT
    assert bench.lost_after_s() == pytest.approx(4 * 2.1, abs=0.11)


def test_nothing_but_damaged_captures_is_a_camera_that_is_lost(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.see()
    bench.camera.state = DataError("colour and depth do not belong together")
    for _ in range(7):
        found = bench.read()
        assert found is not None and found.error is bench.camera.state
    assert not bench.reader.is_lost
    bench.read(4)
    assert "restart" in bench.camera.cures


@pytest.mark.parametrize(("give_up_s", "reads"), [(None, 60), (1.0, 3)])
def test_it_is_given_up_only_where_that_was_asked_for(
    make: Callable[..., Bench], give_up_s: float | None, reads: int
) -> None:
    bench = make(recovery=Recovery((0.1, 0.2, 2.0), give_up_s))
    bench.see()
    bench.camera.state, bench.camera.absent = LOST, True
    bench.read(1 + reads)
    assert bench.reader.ended is None
    assert len(bench.camera.cures) >= reads
    bench.read()
    assert bench.reader.ended is (None if give_up_s is None else EndReason.CAMERA_LOST)
    assert bench.reader.problem == "it is not there."


def test_a_stop_while_the_device_boots_opens_nothing(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.camera.state, bench.camera.absent = LOST, True
    bench.read(3)
    bench.camera.absent = False
    bench.camera.cures.clear()
    reset = bench.camera.reset

    def stopped() -> None:
        reset()
        bench.halt.set()

    bench.camera.reset = stopped  # type: ignore[method-assign]
    assert bench.read() is None
    assert bench.camera.cures == ["reset"]
    assert "reconnects" not in bench.events


def test_another_camera_is_refused_when_it_comes_back(make: Callable[..., Bench]) -> None:
    serial = {"now": "SN1"}

    def check(frame: Frame) -> None:
        if serial["now"] != "SN1":
            raise CameraError(f"the camera is {serial['now']}", why="the line was set up with SN1", remedy="swap it")

    bench = make(check=check)
    bench.see()
    serial["now"] = "SN2"
    bench.camera.state = LOST
    bench.read()
    bench.camera.state = bench.camera.frame()
    for _ in range(6):
        assert bench.read() is None
    assert "the camera is SN2" in bench.reader.problem and bench.reader.ended is None
    assert len(bench.camera.cures) > 3
    serial["now"] = "SN1"
    assert [bench.read() is not None for _ in range(2)][-1]


def test_the_wrong_camera_at_the_start_ends_the_run(make: Callable[..., Bench]) -> None:
    def check(frame: Frame) -> None:
        raise CameraError("the camera is SN2")

    bench = make(check=check)
    bench.camera.state = bench.camera.frame()
    assert bench.read() is None
    assert bench.reader.ended is EndReason.CAMERA_REFUSED


def test_commands_and_preparation_run_with_the_reads_and_their_failures_cost_nothing(
    make: Callable[..., Bench],
) -> None:
    happened: list[str] = []

    def fails() -> None:
        happened.append("prepared")
        raise ZeroDivisionError

    commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
    bench = make(prepare=fails, commands=commands)
    commands.put(lambda: happened.append("told"))
    commands.put(fails)
    bench.see()
    assert happened == ["told", "prepared"]
    bench.camera.state = LOST
    bench.read(2)
    assert happened == ["told", "prepared", "prepared"]
    bench.see()


class Sick(Camera):
    def health(self) -> CameraHealth:
        raise KeyError("driver")


def test_a_camera_that_cannot_tell_how_it_is_goes_on(make: Callable[..., Bench]) -> None:
    make(Sick).see(30)


def test_what_receives_frames_may_fail_and_the_next_one_comes() -> None:
    halt, statistics, numbers = threading.Event(), Statistics(), []

    class Steady(Camera):
        def read(self, timeout_s: float) -> Frame | ReadStatus:
            return self.frame()

    def receive(found: Reading) -> None:
        numbers.append(found.frame.sequence)
        if len(numbers) == 3:
            halt.set()
        raise ZeroDivisionError

    started_s = time.monotonic()
    Reader(Steady(Clock()), "SN1", statistics, halt).feed(receive)
    assert numbers == [1, 2, 3] and time.monotonic() - started_s < 30
    assert statistics.summary()["events"]["bugs"] == 3
