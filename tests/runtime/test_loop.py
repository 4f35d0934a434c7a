"""Real threads, and cameras that play a script; what must happen in order is ordered by events."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from edge_ad.cameras.base import CameraDriver
from edge_ad.errors import CameraError, ConfigError, DataError, EngineError, OutputError
from edge_ad.runtime.judging import Inspector, Predict
from edge_ad.runtime.loop import Line, OnUpdate, RunSummary, run
from edge_ad.runtime.reader import EndReason, Recovery
from edge_ad.runtime.stats import DROP_CAUSES
from edge_ad.sinks.memory import MemorySink
from edge_ad.types import AnomalyResult, Camera, CameraInfo, Decision, Frame, Inspection, ReadStatus, Sink

Step = Frame | ReadStatus | Exception | Callable[[], Frame | ReadStatus]

FILES = CameraInfo("files", "shelf", live=False)
LIVE = CameraInfo("camera", "SN1", live=True)
BOTH = pytest.mark.parametrize("info", [FILES, LIVE], ids=["files", "live"])


def make_frame(sequence: int, value: int = 10) -> Frame:
    rgb = np.full((4, 6, 3), value, dtype=np.uint8)
    return Frame(rgb=rgb, sequence=sequence, timestamp_ns=time.monotonic_ns(), source=f"part {sequence}")


def predict(frame: Frame) -> AnomalyResult:
    """Scores a frame by its brightness."""
    assert frame.rgb is not None
    anomaly_map = frame.rgb[..., 0].astype(np.float32)
    return AnomalyResult(anomaly_map, float(anomaly_map.max()), latency_ms={"infer": 1.5})


class ScriptedCamera(CameraDriver):
    """Plays its steps, one for each read, and then ends; ``opens`` says how each re-opening goes."""

    def __init__(self, *steps: Step, opens: Sequence[Exception | None] = ()) -> None:
        super().__init__()
        self._steps, self._opens = iter(steps), iter(opens)
        self.opened = self.closed = 0

    def open(self) -> CameraInfo:
        self.opened += 1
        failure = next(self._opens, None)
        if failure is not None:
            raise failure
        return LIVE

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        step = next(self._steps, ReadStatus.END_OF_STREAM)
        if isinstance(step, Exception):
            raise step
        return step() if callable(step) else step

    def close(self) -> None:
        self.closed += 1


class FailingSink:
    """Fails at every call."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def write(self, inspection: Inspection) -> None:
        raise self._error

    def close(self) -> None:
        raise self._error


def run_line(
    camera: Camera,
    info: CameraInfo,
    sinks: Sequence[Sink],
    *,
    predict: Predict = predict,
    threshold: float = 50.0,
    reopen_delays_s: tuple[float, ...] = (0.0, 0.0, 0.0),
    on_update: OnUpdate | None = None,
    **limits: Any,
) -> RunSummary:
    """Runs a line that gives a lost camera up after as many attempts as there are delays."""
    inspector = Inspector.of(predict, threshold)
    recovery = Recovery(reopen_delays_s, give_up_s=0.0)
    return run(camera, info, Line(lambda recipe: inspector, sinks, recovery=recovery, on_update=on_update), **limits)


def run_steps(
    *steps: Step, info: CameraInfo = FILES, threshold: float = 50.0, **options: Any
) -> tuple[RunSummary, list[Inspection]]:
    sink = MemorySink()
    summary = run_line(ScriptedCamera(*steps), info, [sink], threshold=threshold, **options)
    assert sink.closed
    assert summary.statistics["inspected"] == len(sink.inspections)
    return summary, sink.inspections


def decisions(inspections: Sequence[Inspection]) -> list[str]:
    return [inspection.verdict.decision.value for inspection in inspections]


def test_files_are_all_judged_in_order() -> None:
    frames = [make_frame(index, value=10 * index) for index in range(10)]
    summary, inspections = run_steps(*frames)
    assert summary.ended is EndReason.END_OF_STREAM
    assert [inspection.frame for inspection in inspections] == frames
    assert decisions(inspections) == ["OK"] * 6 + ["NG"] * 4
    assert summary.statistics["decisions"] == {"OK": 6, "NG": 4, "ERROR": 0}
    assert not any(summary.statistics["dropped"].values())


def test_every_sink_gets_every_inspection_and_the_summary_is_json() -> None:
    sinks = [MemorySink(), MemorySink()]
    summary = run_line(ScriptedCamera(make_frame(0), make_frame(1)), FILES, sinks)
    assert sinks[0].inspections == sinks[1].inspections
    assert len(sinks[0].inspections) == 2
    statistics = json.loads(json.dumps(summary.statistics, allow_nan=False))
    assert set(statistics["latency_ms"]) == {"read", "predict", "predict.infer", "judge", "sinks", "age"}
    assert statistics["latency_ms"]["predict.infer"]["max"] == 1.5


def test_age_is_measured_from_the_capture() -> None:
    frame = Frame(rgb=np.zeros((4, 6, 3), dtype=np.uint8), timestamp_ns=time.monotonic_ns() - 2_000_000_000)
    summary, _ = run_steps(frame)
    assert 2000 <= summary.statistics["latency_ms"]["age"]["max"] < 10_000


def test_a_frame_without_a_timestamp_has_no_age() -> None:
    summary, _ = run_steps(Frame(rgb=np.zeros((4, 6, 3), dtype=np.uint8)))
    assert "age" not in summary.statistics["latency_ms"]


def test_a_slow_model_sees_the_newest_frame_and_the_others_are_counted() -> None:
    judging, delivered, judged_last = (threading.Event() for _ in range(3))

    def first_wait(event: threading.Event, result: Frame | ReadStatus) -> Callable[[], Frame | ReadStatus]:
        def step() -> Frame | ReadStatus:
            assert event.wait(30)
            return result

        return step

    def last_delivered() -> ReadStatus:
        delivered.set()
        assert judged_last.wait(30)
        return ReadStatus.END_OF_STREAM

    def slow(frame: Frame) -> AnomalyResult:
        judging.set()
        assert delivered.wait(30)
        if frame.sequence == 5:
            judged_last.set()
        return predict(frame)

    summary, inspections = run_steps(
        make_frame(0),
        first_wait(judging, make_frame(1)),
        *(make_frame(index) for index in (2, 3, 4, 5)),
        last_delivered,
        info=LIVE,
        predict=slow,
    )
    assert [inspection.frame.sequence for inspection in inspections] == [0, 5]
    assert summary.statistics["dropped"] == dict.fromkeys(DROP_CAUSES, 0) | {"queue": 4}


def test_the_last_frame_of_a_live_camera_is_judged() -> None:
    for _ in range(5):
        _, inspections = run_steps(make_frame(0), info=LIVE)
        assert len(inspections) == 1


@pytest.mark.parametrize(
    ("sequences", "lost"),
    [
        pytest.param([5, 6, 7], 0, id="starting late is no loss"),
        pytest.param([0, 1, 4, 5, 9], 5, id="gaps"),
        pytest.param([7, 8, 0, 1, 3], 1, id="counting anew is no loss"),
        pytest.param([0, 0, 0], 0, id="unnumbered"),
    ],
)
def test_frames_lost_before_us_are_counted(sequences: list[int], lost: int) -> None:
    summary, _ = run_steps(*(make_frame(sequence) for sequence in sequences))
    assert summary.statistics["dropped"] == dict.fromkeys(DROP_CAUSES, 0) | {"camera": lost}


@pytest.mark.parametrize(
    ("error", "reason", "bugs"),
    [
        pytest.param(EngineError("the device failed"), "the device failed.", 0, id="known"),
        pytest.param(ZeroDivisionError("oops"), "ZeroDivisionError: oops", 1, id="bug"),
    ],
)
def test_a_frame_that_cannot_be_judged_is_an_error_and_the_line_goes_on(
    error: Exception, reason: str, bugs: int
) -> None:
    def sometimes(frame: Frame) -> AnomalyResult:
        if frame.sequence == 1:
            raise error
        return predict(frame)

    summary, inspections = run_steps(*(make_frame(index) for index in range(3)), predict=sometimes)
    assert decisions(inspections) == ["OK", "ERROR", "OK"]
    assert inspections[1].result is None
    assert inspections[1].verdict.reason == reason
    assert summary.statistics["events"]["bugs"] == bugs


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(AnomalyResult(np.zeros((4, 6), dtype=np.float32), float("nan")), id="NaN"),
        pytest.param(None, id="no result"),
    ],
)
def test_an_answer_that_is_none_is_never_ok(answer: Any) -> None:
    _, inspections = run_steps(make_frame(0), predict=lambda frame: answer)
    assert decisions(inspections) == ["ERROR"]


def test_an_unreadable_file_is_an_error_and_the_next_one_is_judged() -> None:
    error = DataError("000.png cannot be read", why="it is truncated")
    summary, inspections = run_steps(make_frame(0), error, make_frame(2), make_frame(4))
    assert decisions(inspections) == ["OK", "ERROR", "OK", "OK"]
    assert inspections[1].verdict.reason == str(error)
    assert (inspections[1].frame.sequence, inspections[1].frame.source) == (1, "shelf")
    assert summary.statistics["events"] | {"read_errors": 1, "reconnects": 0} == summary.statistics["events"]
    assert summary.statistics["dropped"]["camera"] == 1  # number 3; number 1 was an ERROR


@BOTH
def test_timeouts_are_counted_and_are_no_inspections(info: CameraInfo) -> None:
    timeout = ReadStatus.TIMEOUT
    summary, inspections = run_steps(timeout, timeout, make_frame(0), timeout, info=info)
    assert len(inspections) == 1
    assert summary.statistics["events"]["timeouts"] == 3


@BOTH
@pytest.mark.parametrize(
    ("loss", "errors"),
    [
        pytest.param(ReadStatus.DISCONNECTED, 0, id="disconnected"),
        pytest.param(CameraError("the cable is out"), 1, id="camera error"),
        pytest.param(KeyError("driver"), 1, id="bug in the driver"),
    ],
)
def test_a_lost_camera_is_opened_again(loss: ReadStatus | Exception, errors: int, info: CameraInfo) -> None:
    camera = ScriptedCamera(loss, make_frame(3), opens=[CameraError("not there"), None])
    sink = MemorySink()
    summary = run_line(camera, info, [sink])
    assert summary.ended is EndReason.END_OF_STREAM
    assert camera.opened == 2
    assert decisions(sink.inspections)[-1] == "OK"
    assert summary.statistics["events"]["reconnects"] == 1
    assert summary.statistics["events"]["read_errors"] == errors
    assert summary.statistics["dropped"]["camera"] == 0


@BOTH
@pytest.mark.parametrize("opens", [True, False], ids=["opens but gives nothing", "does not open"])
def test_a_camera_lost_for_good_ends_the_run(opens: bool, info: CameraInfo) -> None:
    failures = [] if opens else [CameraError(f"attempt {number}") for number in range(3)]
    camera = ScriptedCamera(make_frame(0), *(ReadStatus.DISCONNECTED,) * 10, opens=failures)
    sink = MemorySink()
    summary = run_line(camera, info, [sink])
    assert summary.ended is EndReason.CAMERA_LOST
    assert camera.opened == 3
    assert summary.camera_error == ("the camera is disconnected" if opens else "attempt 2.")
    assert len(sink.inspections) == 1
    assert sink.closed


def test_a_frame_renews_the_attempts() -> None:
    steps = [step for index in range(6) for step in (ReadStatus.DISCONNECTED, make_frame(index))]
    summary, inspections = run_steps(*steps, reopen_delays_s=(0.0, 0.0))
    assert len(inspections) == 6
    assert summary.statistics["events"]["reconnects"] == 6


@pytest.mark.parametrize("error", [OutputError("disk full"), RuntimeError("bug")], ids=["known", "bug"])
def test_a_failing_sink_is_counted_and_the_others_go_on(error: Exception) -> None:
    good = MemorySink()
    frames = [make_frame(index) for index in range(3)]
    summary = run_line(ScriptedCamera(*frames), FILES, [FailingSink(error), good])
    assert decisions(good.inspections) == ["OK"] * 3
    assert good.closed
    assert summary.statistics["sink_errors"] == {"FailingSink": 4}  # three inspections and the closing


def test_updates_follow_each_inspection_and_may_fail() -> None:
    seen: list[tuple[int, int]] = []

    def display(inspection: Inspection, statistics: Any) -> None:
        seen.append((inspection.frame.sequence, statistics.summary()["inspected"]))
        raise BrokenPipeError("the page is gone")

    summary, inspections = run_steps(make_frame(0), make_frame(1), on_update=display)
    assert seen == [(0, 1), (1, 2)]
    assert decisions(inspections) == ["OK", "OK"]
    assert summary.statistics["sink_errors"] == {"display": 2}


def endless() -> list[Step]:
    return [make_frame(index) for index in range(1000)]


@BOTH
def test_max_frames(info: CameraInfo) -> None:
    summary, inspections = run_steps(*endless(), info=info, max_frames=1)
    assert summary.ended is EndReason.MAX_FRAMES
    assert len(inspections) == 1


@BOTH
def test_duration(info: CameraInfo) -> None:
    def idle() -> ReadStatus:
        time.sleep(0.005)
        return ReadStatus.TIMEOUT

    summary, _ = run_steps(*[idle] * 10_000, info=info, duration_s=0.1)
    assert summary.ended is EndReason.DURATION
    assert 0.1 <= summary.duration_s < 10


@BOTH
def test_stop_event_ends_after_the_frame_in_hand(info: CameraInfo) -> None:
    stop = threading.Event()

    def stopping(frame: Frame) -> AnomalyResult:
        stop.set()
        return predict(frame)

    summary, inspections = run_steps(*endless(), info=info, predict=stopping, stop=stop)
    assert summary.ended is EndReason.STOPPED
    assert decisions(inspections) == ["OK"]


@BOTH
def test_stop_event_ends_the_waiting_for_a_lost_camera(info: CameraInfo) -> None:
    stop = threading.Event()
    timer = threading.Timer(0.02, stop.set)
    timer.start()
    summary, _ = run_steps(ReadStatus.DISCONNECTED, info=info, stop=stop, reopen_delays_s=(60.0,))
    timer.join()
    assert summary.ended is EndReason.STOPPED
    assert summary.duration_s < 10


@BOTH
def test_the_callers_stop_event_is_not_set_by_the_run(info: CameraInfo) -> None:
    stop = threading.Event()
    run_steps(*endless(), info=info, max_frames=1, stop=stop)
    assert not stop.is_set()


@BOTH
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_cleanly_and_its_handler_comes_back(info: CameraInfo, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    interrupted = threading.Event()

    def interrupting(frame: Frame) -> AnomalyResult:
        if not interrupted.is_set():
            interrupted.set()
            signal.raise_signal(number)
            assert signal.getsignal(number) is before, "a second signal must act as it would without us"
        return predict(frame)

    def next_frame() -> Frame:
        time.sleep(0.001)
        return make_frame(0)

    summary, inspections = run_steps(*[next_frame] * 10_000, info=info, predict=interrupting)
    assert summary.ended is EndReason.STOPPED
    assert inspections
    assert set(decisions(inspections)) == {"OK"}
    assert signal.getsignal(number) is before


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    for _ in range(5):
        run_steps(*endless(), info=LIVE, max_frames=1)
    assert threading.active_count() == before


def test_a_run_in_a_thread_leaves_signals_alone() -> None:
    endings: list[EndReason] = []
    thread = threading.Thread(target=lambda: endings.append(run_steps(make_frame(0))[0].ended))
    thread.start()
    thread.join()
    assert endings == [EndReason.END_OF_STREAM]


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_that_is_no_number_is_refused_before_the_first_frame(threshold: float) -> None:
    with pytest.raises(ConfigError, match="the threshold is"):
        run_steps(make_frame(0), threshold=threshold)


def test_error_verdicts_reach_the_sinks_of_a_live_camera() -> None:
    _, inspections = run_steps(DataError("colour and depth are of two captures"), info=LIVE)
    assert decisions(inspections) == [Decision.ERROR.value]
