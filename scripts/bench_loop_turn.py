"""One turn of ``scripts/bench loop``, in a process of its own: judges frames one way for some seconds."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
from bench_loop_camera import RETURNED_S, ReplayCamera, capture
from pydantic import BaseModel

from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import FULL, InputSpec, Threshold, Thresholds
from edge_ad.cameras import CAMERAS, opened
from edge_ad.cameras.isolated import IsolatedCamera
from edge_ad.cameras.uri import CameraUri
from edge_ad.predictor import Predictor
from edge_ad.runtime.acquisition import Acquisition
from edge_ad.runtime.judging import Inspector
from edge_ad.runtime.loop import Line, run
from edge_ad.runtime.stats import Statistics
from edge_ad.scoring import judge
from edge_ad.types import AnomalyResult, Camera, Frame, Inspection, ReadStatus

Way = Literal["edge_ad", "edge_ad_in_process", "naive", "naive_newest", "queue"]

WARM_UP_S = 1.0
THRESHOLD = 1e6
"""Of noise nothing is a defect, so that no way spends time on regions."""
QUEUE = 5


class Turn(BaseModel):
    """What to do.

    Attributes:
        way: how frames get from the camera to the model.
        model, spec: of the light model; its ONNX file and how frames feed it.
        seconds: to measure for.
        predict_ms: the model takes so long at least, waiting as for an accelerator.
        sink_ms: the sink takes so long for each inspection, waiting as for a disk.
    """

    way: Way
    model: Path
    spec: InputSpec
    seconds: float
    predict_ms: float = 0
    sink_ms: float = 0


class Figures(BaseModel):
    """What came of it.

    Attributes:
        age_p50_ms, age_p99_ms: from the instant a frame was due to its verdict.
        hand_over_p50_ms: from the return of the camera's ``read`` to the frame in the process that judges;
            None where that is one process.
        predict_ms: median time in the model.
        outside_ms: CPU time of the judging thread outside the model, per frame.
        cpu: cores used, all processes; cpu_without_model: the same less the judging thread's in the model.
        judged, missed: frames in the time measured.
        written: inspections that the sink took in that time.
    """

    age_p50_ms: float
    age_p99_ms: float
    hand_over_p50_ms: float | None
    predict_ms: float
    outside_ms: float
    cpu: float
    cpu_without_model: float
    judged: int
    missed: int
    written: int

    @property
    def beside_model_ms(self) -> float:
        """The age less the time in the model: what a busy machine, which slows the model, hides."""
        return self.age_p50_ms - self.predict_ms


class Meter:
    """The model and the sink of a turn, and the clocks around them; used by the judging thread."""

    def __init__(self, turn: Turn) -> None:
        self.done = threading.Event()
        self._turn, self._predictor = turn, _predictor(turn)
        self._start_s = 0.0
        self._begun: tuple[float, float, float] | None = None
        self._ages_ms: list[float] = []
        self._predicts_ms: list[float] = []
        self._hand_overs_ms: list[float] = []
        self._numbers: list[int] = []
        self._written = 0
        self._model_cpu_s = 0.0
        self.figures: Figures | None = None

    def arrived(self, frame: Frame) -> None:
        """The frame is in the process that judges."""
        self._hand_overs_ms.append(1000 * (time.monotonic() - frame.metadata[RETURNED_S]))

    def predict(self, frame: Frame) -> AnomalyResult:
        cpu_s, started_s = time.thread_time(), time.monotonic()
        result = self._predictor(frame)
        self._model_cpu_s += time.thread_time() - cpu_s
        time.sleep(max(0.0, self._turn.predict_ms / 1000 - (time.monotonic() - started_s)))
        self._predicts_ms.append(1000 * (time.monotonic() - started_s))
        return result

    def judged(self, frame: Frame) -> None:
        """There is a verdict; after some seconds the figures are made."""
        now_s = time.monotonic()
        self._start_s = self._start_s or now_s
        if self._begun is None:
            if now_s - self._start_s >= WARM_UP_S:
                for values in (self._ages_ms, self._predicts_ms, self._hand_overs_ms, self._numbers):
                    values.clear()
                self._numbers.append(frame.sequence)
                self._model_cpu_s, self._written = 0.0, 0
                self._begun = (now_s, time.thread_time(), _cpu_s())
            return
        self._ages_ms.append(now_s * 1000 - frame.timestamp_ns / 1e6)
        self._numbers.append(frame.sequence)
        if now_s - self._begun[0] >= self._turn.seconds and self.figures is None:
            self.figures = self._made(*self._begun)
            self.done.set()

    def write(self, inspection: Inspection) -> None:
        """The sink."""
        time.sleep(self._turn.sink_ms / 1000)
        self._written += 1

    def close(self) -> None:
        """Of the sink: nothing to do."""

    def _made(self, begun_s: float, thread_s: float, cpu_s: float) -> Figures:
        seconds, judged = time.monotonic() - begun_s, len(self._ages_ms)
        outside_s = time.thread_time() - thread_s - self._model_cpu_s
        cpu = (_cpu_s() - cpu_s) / seconds
        p50, p99 = np.percentile(self._ages_ms, (50, 99))
        return Figures(
            age_p50_ms=p50,
            age_p99_ms=p99,
            hand_over_p50_ms=float(np.median(self._hand_overs_ms)) if self._hand_overs_ms else None,
            predict_ms=float(np.median(self._predicts_ms)),
            outside_ms=1000 * outside_s / judged,
            cpu=cpu,
            cpu_without_model=cpu - self._model_cpu_s / seconds,
            judged=judged,
            missed=self._numbers[-1] - self._numbers[0] - judged,
            written=self._written,
        )


class Watched(IsolatedCamera):
    """Tells the meter of each frame when it has left the ring."""

    arrived: Callable[[Frame], None]

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        outcome = super().read(timeout_s)
        if isinstance(outcome, Frame):
            self.arrived(outcome)
        return outcome


def edge_ad(meter: Meter) -> None:
    """The line as ``edge-ad run`` runs it."""
    CAMERAS["bench"] = f"{ReplayCamera.__module__}:{ReplayCamera.__name__}"
    camera = Watched("bench://")
    camera.arrived = meter.arrived
    _line(meter, camera)


def edge_ad_in_process(meter: Meter) -> None:
    """The line as ``edge-ad run --in-process`` runs it."""
    _line(meter, _camera())


def naive(meter: Meter, uri: str = "bench://") -> None:
    """Read, judge, write, in one thread."""
    camera = _camera(uri)
    with opened(camera):
        while not meter.done.is_set():
            frame = camera.read(1.0)
            if isinstance(frame, Frame):
                _judge(meter, frame)


def naive_newest(meter: Meter) -> None:
    """The same with a driver that keeps the newest frame only."""
    naive(meter, "bench://?buffers=1&keep=newest")


def queue(meter: Meter) -> None:
    """A capture process that pickles its frames into a queue."""
    context = multiprocessing.get_context("spawn")
    frames = context.Queue(QUEUE)
    process = context.Process(target=capture, args=("bench://", frames), daemon=True)
    process.start()
    try:
        while not meter.done.is_set():
            frame: Frame = frames.get()
            meter.arrived(frame)
            _judge(meter, frame)
    finally:
        process.terminate()
        process.join()


WAYS: dict[Way, Callable[[Meter], None]] = {
    "edge_ad": edge_ad,
    "edge_ad_in_process": edge_ad_in_process,
    "naive": naive,
    "naive_newest": naive_newest,
    "queue": queue,
}


def main() -> None:
    """Takes a `Turn` from standard input and prints its `Figures`."""
    turn = Turn.model_validate_json(sys.stdin.read())
    meter = Meter(turn)
    WAYS[turn.way](meter)
    assert meter.figures is not None
    print(json.dumps(meter.figures.model_dump()))


def _line(meter: Meter, camera: Camera) -> None:
    inspector = Inspector.of(meter.predict, THRESHOLD)

    def on_update(inspection: Inspection, statistics: Statistics) -> None:
        meter.judged(inspection.frame)

    line = Line(lambda recipe: inspector, [meter], Acquisition(policy="latest"), on_update=on_update)
    with opened(camera) as info:
        run(camera, info, line, stop=meter.done)


def _judge(meter: Meter, frame: Frame) -> None:
    result = meter.predict(frame)
    verdict = judge(result, THRESHOLD)
    meter.judged(frame)
    meter.write(Inspection(frame, verdict, result))


def _camera(uri: str = "bench://") -> ReplayCamera:
    return ReplayCamera.from_uri(CameraUri.parse(uri))


def _predictor(turn: Turn) -> Predictor:
    # The backend takes as many threads as it may use cores: one is to be left to camera and sinks.
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        backend = OnnxRuntimeBackend.open(turn.model.read_bytes(), source=str(turn.model))
    finally:
        os.sched_setaffinity(0, cores)
    thresholds = Thresholds(modes={FULL: Threshold(value=THRESHOLD, method="none", frames=1, false_reject_rate=0.5)})
    return Predictor(backend, turn.spec, thresholds, "", "light")


def _cpu_s() -> float:
    """CPU time so far of this process and those that it started."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


if __name__ == "__main__":
    main()
