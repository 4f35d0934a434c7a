"""A live camera and a source of triggers in the test's hands, and a line that runs in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edge_ad.alarms import Alarm
from edge_ad.cameras.base import CameraDriver
from edge_ad.runtime.acquisition import Acquisition
from edge_ad.runtime.judging import Inspector
from edge_ad.runtime.loop import Line, RunSummary, run
from edge_ad.runtime.reader import Recovery
from edge_ad.triggers import TriggerSource
from edge_ad.triggers.base import OnTrigger
from edge_ad.types import AnomalyResult, CameraCaps, CameraInfo, Frame, Inspection, ReadStatus

INFO = CameraInfo("camera", "SN1", live=True)
LONG_S = 20.0
"""Nothing here takes so long, on any machine."""


def make_frame(sequence: int = 0, *, age_s: float = 0.0, part_id: str | None = None) -> Frame:
    stamp_ns = time.monotonic_ns() - round(age_s * 1e9)
    return Frame(
        rgb=np.full((4, 6, 3), 10, np.uint8), sequence=sequence, timestamp_ns=stamp_ns, source="live", part_id=part_id
    )


def predict(frame: Frame) -> AnomalyResult:
    return AnomalyResult(np.zeros(frame.size_px, np.float32), 1.0)


def until(condition: Callable[[], Any], seconds: float = LONG_S) -> None:
    """Waits for something that must come to be."""
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, "it does not come to be"
        time.sleep(0.002)


class LiveCamera(CameraDriver):
    """Sends a frame every few milliseconds until it is told to be silent, lost, or to fail."""

    def __init__(self, *, paced: bool = True, software: bool = False) -> None:
        super().__init__()
        self.caps = CameraCaps(paced=paced, software_trigger=software, options=("exposure_us",))
        self.info = INFO
        self.fault: ReadStatus | Exception | None = None
        self.absent: Exception | None = None
        self.told: list[str] = []
        self.age_s = 0.0
        self.opened = 0
        self._sequence = 0

    def open(self) -> CameraInfo:
        if self.absent is not None:
            raise self.absent
        self.opened += 1
        self.told.clear()
        self.info = INFO
        return INFO

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        time.sleep(min(timeout_s, 0.003))
        if isinstance(self.fault, Exception):
            raise self.fault
        if self.fault is not None:
            return self.fault
        if self.caps.software_trigger:
            return make_frame(part_id=self.told.pop(0)) if self.told else ReadStatus.TIMEOUT
        self._sequence += 1
        return make_frame(self._sequence, age_s=self.age_s)

    def trigger(self, part_id: str = "") -> None:
        self.told.append(part_id)

    def passes_by(self) -> None:
        """Waits for a part to be out of sight: else one frame would show it and the next."""
        wanted = self._sequence + 2
        until(lambda: self.caps.software_trigger or self._sequence > wanted)

    def close(self) -> None:
        self.info = None


class Announcer(TriggerSource):
    """Triggers in the test's hands; keeps the answers and what else it is told."""

    def __init__(self) -> None:
        self.answers: list[Inspection] = []
        self.alarms: list[tuple[str, bool]] = []
        self.closed = False
        self._started = threading.Event()
        self._on_trigger: OnTrigger = lambda part_id, recipe: None

    def start(self, on_trigger: OnTrigger) -> None:
        self._on_trigger = on_trigger
        self._started.set()

    def trigger(self, part_id: str = "", recipe: str = "") -> None:
        assert self._started.wait(LONG_S)
        self._on_trigger(part_id, recipe)

    def write(self, inspection: Inspection) -> None:
        self.answers.append(inspection)

    def alarm(self, alarm: Alarm, raised: bool) -> None:
        self.alarms.append((alarm.name, raised))

    def close(self) -> None:
        self.closed = True

    @property
    def outcome(self) -> list[tuple[str | None, str]]:
        return [(answer.frame.part_id, answer.verdict.decision.value) for answer in self.answers]


class Run:
    """A line that runs in a thread of its own."""

    def __init__(self, camera: CameraDriver, line: Line) -> None:
        self.line, self.stop = line, threading.Event()
        self.summary: RunSummary | None = None
        self.problem: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(camera,), name="the line")
        self._thread.start()

    def _work(self, camera: CameraDriver) -> None:
        try:
            self.summary = run(camera, INFO, self.line, stop=self.stop)
        except BaseException as problem:
            self.problem = problem

    def end(self) -> RunSummary:
        self.stop.set()
        self._thread.join(LONG_S)
        assert not self._thread.is_alive(), "the line does not end"
        if self.problem is not None:
            raise self.problem
        assert self.summary is not None
        return self.summary

    @property
    def events(self) -> dict[str, int]:
        found: dict[str, int] = self.line.statistics.summary()["events"]
        return found


@contextmanager
def running(
    camera: CameraDriver, *, judge: Callable[[Frame], AnomalyResult] = predict, rules: dict[str, Any], **line: Any
) -> Iterator[Run]:
    inspector = Inspector.of(judge, 5.0)
    settings = {"inspector_for": lambda recipe: inspector, "recovery": Recovery((0.0, 0.05)), **line}
    found = Run(camera, Line(acquisition=Acquisition(**rules), **settings))
    try:
        yield found
    finally:
        found.stop.set()
        found.end()
