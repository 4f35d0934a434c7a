"""Which frames are inspected: the newest, every one, or one for each part that a trigger announces."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field, model_validator

from edge_ad.errors import ConfigError
from edge_ad.runtime.latest import LatestSlot
from edge_ad.runtime.parts import Part, PartRules, PartTracker
from edge_ad.runtime.reader import READ_TIMEOUT_S, Reader, Reading
from edge_ad.runtime.stats import Statistics
from edge_ad.settings import Settings
from edge_ad.types import Camera, CameraCaps

Policy = Literal["latest", "every", "trigger", "software"]

POLL_S = 0.1

CAPTURE_S = 1.0
"""A camera that is told to take a picture and sends none for so long, whatever the deadline, is lost."""

JOIN_S = 5.0
_NS_PER_MS = 1_000_000

_log = logging.getLogger(__name__)


class Acquisition(Settings):
    """What is inspected, and by when.

    Attributes:
        policy: ``latest`` takes the newest frame and drops older ones; ``every`` takes each, and the
            camera waits; ``trigger`` gives each triggered part one verdict, by the first frame after
            it; ``software`` has the camera take one frame for each trigger. By default ``latest`` for
            a live camera and ``every`` for files, and ``trigger`` where there is a source of triggers.
        deadline_ms: from a trigger to the moment its verdict must be out.
        distance_mm: from the trigger to the reject gate, in place of ``deadline_ms``,
        speed_mm_s: with the speed of the belt.
        guard_ms: a part is given up so long before its deadline.
        offset_ms: from the trigger to the moment the part is in view; below 0 where the camera is wired
            to the trigger and its frame may be here before the message. Frames are timed by their arrival:
            add what the camera takes from exposure to arrival.
        frame_within_ms: how long after that its frame may come.
        queue: parts that may be open at a time; one more is answered ERROR at once.
        duplicate_ms: the same part id again within so long is the same part.
        max_skew_ms: colour and depth of an inspection may have been exposed so far apart.
        max_age_ms: an older frame is not judged (policy ``latest``).
    """

    policy: Policy | None = None
    deadline_ms: float = Field(default=500, gt=0)
    distance_mm: float | None = Field(default=None, gt=0)
    speed_mm_s: float | None = Field(default=None, gt=0)
    guard_ms: float = Field(default=20, ge=0)
    offset_ms: float = Field(default=0, ge=-1000)
    frame_within_ms: float = Field(default=100, gt=0)
    queue: int = Field(default=8, ge=1, le=1000)
    duplicate_ms: float = Field(default=2000, ge=0)
    max_skew_ms: float = Field(default=50, gt=0)
    max_age_ms: float = Field(default=1000, gt=0)

    @model_validator(mode="after")
    def _in_time(self) -> Acquisition:
        if (self.distance_mm is None) != (self.speed_mm_s is None):
            raise ValueError("distance_mm and speed_mm_s belong together")
        if self.guard_ms + max(self.offset_ms, 0) >= self.budget_ms:
            raise ValueError(
                f"the deadline of {self.budget_ms:g} ms is over before a part is in view: "
                "offset_ms and guard_ms must be less in sum"
            )
        return self

    @property
    def budget_ms(self) -> float:
        """From a trigger to its deadline."""
        if self.distance_mm is not None and self.speed_mm_s is not None:
            return 1000 * self.distance_mm / self.speed_mm_s
        return self.deadline_ms

    def policy_for(self, caps: CameraCaps, *, live: bool, triggered: bool) -> Policy:
        """The policy, or the default one.

        Args:
            caps: of the camera.
            live: whether its frames keep coming.
            triggered: whether there is a source of triggers.

        Raises:
            ConfigError: the policy needs triggers and there are none, or the other way round; or a camera that
                takes pictures when told to.
        """
        if self.policy is None:
            return "trigger" if triggered else "latest" if live else "every"
        by_parts = self.policy in ("trigger", "software")
        if by_parts and not triggered:
            raise ConfigError(
                f"policy {self.policy} has no source of triggers",
                why="parts are announced by triggers",
                remedy="give one: --trigger tcp://127.0.0.1:7001, or leave the policy out",
            )
        if triggered and not by_parts:
            raise ConfigError(
                f"policy {self.policy} does not go together with triggers",
                why="it judges frames whatever is triggered, so no trigger would be answered",
                remedy="use policy trigger or software, or leave --trigger out",
            )
        if self.policy == "software" and not caps.software_trigger:
            raise ConfigError(
                "the camera takes no pictures when told to, as policy software asks",
                why="it has no software trigger, or another trigger was chosen for it",
                remedy="use policy trigger, which picks the first frame after each trigger; or choose that trigger",
            )
        return self.policy

    def rules(self, policy: Policy) -> PartRules:
        """What the tracker asks of every part."""
        within_ms = self.budget_ms if policy == "software" else self.frame_within_ms
        offset_ms = max(self.offset_ms, 0.0) if policy == "software" else self.offset_ms
        return PartRules(
            budget_ns=_ns(self.budget_ms),
            guard_ns=_ns(self.guard_ms),
            offset_ns=_ns(offset_ms),
            frame_within_ns=_ns(within_ms),
            capacity=self.queue,
            duplicate_ns=_ns(self.duplicate_ms),
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A reading to be judged, and the part that it shows where one was triggered."""

    reading: Reading
    part: Part | None = None


Take = Callable[[], "Job | None"]


@contextmanager
def every(reader: Reader) -> Iterator[Take]:
    """Each frame in turn; it is read when the one before has been judged."""

    def take() -> Job | None:
        reading = reader.read(READ_TIMEOUT_S)
        return None if reading is None else Job(reading)

    yield take


@contextmanager
def latest(reader: Reader, halt: threading.Event, statistics: Statistics, max_age_ms: float) -> Iterator[Take]:
    """The newest frame; one that was not judged before the next came is dropped and counted."""
    slot: LatestSlot[Reading] = LatestSlot()

    def receive(reading: Reading) -> None:
        if slot.put(reading):
            statistics.dropped("queue")

    def take() -> Job | None:
        reading = slot.get(POLL_S)
        if reading is None:
            return None
        stamp_ns = reading.frame.timestamp_ns
        if stamp_ns and time.monotonic_ns() - stamp_ns > _ns(max_age_ms):
            statistics.dropped("stale")
            return None
        return Job(reading)

    with _capturing(lambda: reader.feed(receive), halt):
        yield take


@contextmanager
def triggered(reader: Reader, halt: threading.Event, tracker: PartTracker) -> Iterator[Take]:
    """One frame for each part: the first one after its trigger."""

    def receive(reading: Reading) -> None:
        if reading.error is None:
            tracker.offer(reading.frame)

    with _capturing(lambda: reader.feed(receive), halt):
        yield lambda: _part_job(tracker)


@contextmanager
def on_demand(reader: Reader, camera: Camera, halt: threading.Event, tracker: PartTracker) -> Iterator[Take]:
    """One frame for each part, which the camera is told to take."""

    def step() -> None:
        part = tracker.wanted(POLL_S)
        if part is None or reader.is_lost:
            reader.read(0)  # notices a loss, and mends it
        elif not halt.wait(max(0.0, (part.due_ns - time.monotonic_ns()) / 1e9)):
            _take_one(reader, camera, part, tracker, halt)

    with _capturing(lambda: reader.repeat(step), halt):
        yield lambda: _part_job(tracker)


def _take_one(reader: Reader, camera: Camera, part: Part, tracker: PartTracker, halt: threading.Event) -> None:
    try:
        camera.trigger(part.part_id)
    except Exception as error:
        reader.lose(str(error) or type(error).__name__)
        tracker.fail(part)
        return
    # Also beyond the deadline: a camera that does not name its frames would give this one for the next part's.
    until_s = time.monotonic() + max(CAPTURE_S, (part.deadline_ns - time.monotonic_ns()) / 1e9)
    while time.monotonic() < until_s and not reader.is_lost and reader.ended is None and not halt.is_set():
        reading = reader.read(READ_TIMEOUT_S)
        if reading is not None and reading.error is None and reading.frame.part_id in (None, part.part_id):
            tracker.offer(replace(reading.frame, part_id=part.part_id))
            return
        if reading is not None and reading.error is not None:
            break
    else:
        if not reader.is_lost and not halt.is_set():
            reader.lose("it took no picture when it was told to")
    tracker.fail(part)


def _part_job(tracker: PartTracker) -> Job | None:
    taken = tracker.take(POLL_S)
    if taken is None:
        return None
    part, frame = taken
    return Job(Reading(replace(frame, part_id=part.part_id)), part)


@contextmanager
def _capturing(work: Callable[[], None], halt: threading.Event) -> Iterator[None]:
    # A daemon, as a driver that hangs must not keep the process alive.
    thread = threading.Thread(target=work, name="capture", daemon=True)
    thread.start()
    try:
        yield
    finally:
        halt.set()
        thread.join(JOIN_S)
        if thread.is_alive():
            _log.error("the camera's driver does not return; its thread is left behind")


def _ns(milliseconds: float) -> int:
    return round(milliseconds * _NS_PER_MS)
