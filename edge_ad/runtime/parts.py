"""From a part's trigger to its verdict: exactly one, in the order of the triggers, before its deadline.

A part that has no verdict in time gets ERROR, and so does one that was triggered while too many were waiting or while
the process stood still, one that no frame shows, and every part that is still open when the line ends. What becomes
ready after that is thrown away. Nothing else ever answers a part.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from edge_ad.types import Frame, Inspection

KEPT_FRAMES = 8
"""Frames kept for triggers that are told of after their frame has come."""

GRACE_NS = 50_000_000
"""A frame may be so long on its way after it was stamped."""


STALL_NS = 500_000_000
"""A watch that is so long overdue tells that the process stood still, and a trigger may have waited meanwhile."""


class Fate(str, Enum):
    """Why a part was answered without a judgement that counts, by the name under which it is counted."""

    LATE = "late"
    OVERRUN = "overrun"
    NO_FRAME = "no_frame"
    STALLED = "stalled"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Part:
    """One triggered part; times are on the host's monotonic clock.

    Attributes:
        part_id: as the trigger named it.
        number: counts the triggers.
        triggered_ns: when the trigger came.
        due_ns: its frame is the first one from then on.
        frame_until_ns: a frame that came later shows something else.
        deadline_ns: its verdict must be out before.
        recipe: of the product, where the trigger named one.
    """

    part_id: str
    number: int
    triggered_ns: int
    due_ns: int
    frame_until_ns: int
    deadline_ns: int
    recipe: str = ""


Emit = Callable[[Part, "Inspection | None", "Fate | None", "Frame | None"], None]
"""Receives each part once, in order: with its inspection, or with its fate and the frame it had, if any."""


@dataclass
class _Open:
    """A part that has not been answered."""

    part: Part
    frame: Frame | None = None
    taken: bool = False
    inspection: Inspection | None = None
    fate: Fate | None = None

    @property
    def is_settled(self) -> bool:
        return self.inspection is not None or self.fate is not None


@dataclass(frozen=True, slots=True)
class PartRules:
    """What is asked of every part.

    Attributes:
        budget_ns: from trigger to deadline.
        guard_ns: a part is given up so long before its deadline, for ERROR to be out in time.
        offset_ns: from the trigger to the moment the part is in view; below 0 where the camera is
            triggered itself and its frame may be here before the message.
        frame_within_ns: how long after that moment its frame may come.
        capacity: parts that may be open; more are answered ERROR.
        duplicate_ns: the same name again within so long is the same part.
    """

    budget_ns: int = 500_000_000
    guard_ns: int = 20_000_000
    offset_ns: int = 0
    frame_within_ns: int = 100_000_000
    capacity: int = 8
    duplicate_ns: int = 2_000_000_000


@dataclass
class PartTracker:
    """Keeps the open parts; safe for use from any thread, and ``emit`` is called by one thread at a time.

    Args:
        rules: what is asked of every part.
        emit: receives the answers; must be quick, and must not call back.
        count: receives the name of what else happens: ``duplicates``, ``discarded`` verdicts.
        clock_ns: the host's monotonic clock.
    """

    rules: PartRules
    emit: Emit
    count: Callable[[str], object] = lambda name: None
    clock_ns: Callable[[], int] = time.monotonic_ns
    _open: deque[_Open] = field(default_factory=deque, init=False)
    _recent: OrderedDict[str, int] = field(default_factory=OrderedDict, init=False)
    _kept: deque[Frame] = field(default_factory=lambda: deque(maxlen=KEPT_FRAMES), init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _number: int = field(default=0, init=False)
    _closed: bool = field(default=False, init=False)
    _watch_due_ns: int | None = field(default=None, init=False)
    _doubtful_until_ns: int = field(default=0, init=False)

    def trigger(self, part_id: str = "", recipe: str = "") -> Part | None:
        """A part passes the trigger.

        Args:
            part_id: its name; without one it gets the trigger's number.
            recipe: of its product.

        Returns:
            The part; None where it is one that is known already, or the line has ended.
        """
        with self._changed:
            now_ns, rules = self.clock_ns(), self.rules
            if self._closed or (part_id and self._is_known(part_id, now_ns)):
                self.count("duplicates" if not self._closed else "discarded")
                return None
            self._number += 1
            if part_id:
                self._recent[part_id] = now_ns
            part_id = part_id or str(self._number)
            due_ns = now_ns + rules.offset_ns
            part = Part(
                part_id,
                self._number,
                now_ns,
                due_ns,
                due_ns + rules.frame_within_ns,
                now_ns + rules.budget_ns,
                recipe,
            )
            waiting = sum(not entry.is_settled for entry in self._open)
            fate = Fate.STALLED if self._stood_still(now_ns) else Fate.OVERRUN if waiting >= rules.capacity else None
            self._open.append(_Open(part, fate=fate))
            for frame in list(self._kept):
                self._assign(frame)
            self._emit_settled(now_ns)
            self._changed.notify_all()
            return part

    def offer(self, frame: Frame) -> bool:
        """A frame has come; whether a part needed it.

        It goes to the newest part that is due: one before it, which still has none, is not in it any more.
        """
        with self._changed:
            used = self._assign(frame)
            if not used:
                self._kept.append(frame)
            self._emit_settled(self.clock_ns())
            if used:
                self._changed.notify_all()
            return used

    def wanted(self, timeout_s: float) -> Part | None:
        """The oldest part that waits for a frame, for a camera that takes one when told to."""
        with self._changed:
            self._changed.wait_for(lambda: self._first_without_frame() is not None, timeout_s)
            return self._first_without_frame()

    def fail(self, part: Part) -> None:
        """No frame can be had of a part."""
        with self._changed:
            for entry in self._open:
                if entry.part is part and not entry.is_settled:
                    entry.fate = Fate.NO_FRAME
            self._emit_settled(self.clock_ns())

    def take(self, timeout_s: float) -> tuple[Part, Frame] | None:
        """The oldest part with a frame that nobody has taken, to be judged; None when none comes in time."""

        def ready() -> _Open | None:
            return next((e for e in self._open if e.frame is not None and not e.taken and not e.is_settled), None)

        with self._changed:
            self._changed.wait_for(lambda: ready() is not None, timeout_s)
            entry = ready()
            if entry is None or entry.frame is None:
                return None
            entry.taken = True
            return entry.part, entry.frame

    def answer(self, part: Part, inspection: Inspection) -> bool:
        """A part has been judged; whether it counts, or came after its part was given up."""
        with self._changed:
            entry = next((entry for entry in self._open if entry.part is part and not entry.is_settled), None)
            if entry is None:
                self.count("discarded")
                return False
            entry.inspection = inspection
            self._emit_settled(self.clock_ns())
            return entry.inspection is not None

    def expire(self) -> int | None:
        """Gives up what is overdue; call it when the clock has reached what it returned last.

        Returns:
            When the next part will be overdue; None while none is open.
        """
        with self._changed:
            self._emit_settled(self.clock_ns())
            return min((self._overdue_ns(entry) for entry in self._open if not entry.is_settled), default=None)

    def watch(self, timeout_s: float) -> None:
        """Gives up what is overdue; returns when the next part may be, when one was triggered, or in ``timeout_s``."""
        with self._changed:
            now_ns = self.clock_ns()
            if self._watch_is_overdue(now_ns):
                self._doubtful_until_ns = now_ns + GRACE_NS
            due_ns = self.expire()
            if due_ns is not None:
                timeout_s = min(timeout_s, max(0.0, (due_ns - self.clock_ns()) / 1e9))
            self._watch_due_ns = self.clock_ns() + round(1e9 * timeout_s)
            self._changed.wait(timeout_s)

    def close(self) -> None:
        """Answers every open part with ERROR; later triggers are refused."""
        with self._changed:
            self._closed = True
            for entry in self._open:
                if not entry.is_settled:
                    entry.fate = Fate.STOPPED
            self._emit_settled(self.clock_ns())
            self._changed.notify_all()

    def __len__(self) -> int:
        """Parts that are open."""
        with self._changed:
            return len(self._open)

    def _watch_is_overdue(self, now_ns: int) -> bool:
        """Whether `watch` should long have been called again."""
        return self._watch_due_ns is not None and now_ns - self._watch_due_ns > STALL_NS

    def _stood_still(self, now_ns: int) -> bool:
        """Whether a trigger that is told now may have come long ago: its frame would be another part's."""
        return self._watch_is_overdue(now_ns) or now_ns < self._doubtful_until_ns

    def _is_known(self, part_id: str, now_ns: int) -> bool:
        while self._recent:
            name, seen_ns = next(iter(self._recent.items()))
            if now_ns - seen_ns <= self.rules.duplicate_ns:
                break
            del self._recent[name]
        return part_id in self._recent or any(entry.part.part_id == part_id for entry in self._open)

    def _first_without_frame(self) -> Part | None:
        return next((e.part for e in self._open if e.frame is None and not e.is_settled), None)

    def _assign(self, frame: Frame) -> bool:
        due = [
            entry
            for entry in self._open
            if entry.part.due_ns <= frame.timestamp_ns and not entry.is_settled and entry.frame is None
        ]
        if frame.part_id is not None:
            due = [entry for entry in due if entry.part.part_id == frame.part_id]
        if not due or frame.timestamp_ns > due[-1].part.frame_until_ns:
            return False
        for missed in due[:-1]:
            missed.fate = Fate.NO_FRAME
        due[-1].frame = frame
        # Older frames show nobody who may still come, and this one is used.
        self._kept = deque((kept for kept in self._kept if kept.timestamp_ns > frame.timestamp_ns), KEPT_FRAMES)
        return True

    def _given_up_ns(self, entry: _Open) -> int:
        return entry.part.deadline_ns - self.rules.guard_ns

    def _overdue_ns(self, entry: _Open) -> int:
        """When an open part is given up, if nothing happens before."""
        given_up_ns = self._given_up_ns(entry)
        return given_up_ns if entry.frame is not None else min(given_up_ns, entry.part.frame_until_ns + GRACE_NS)

    def _emit_settled(self, now_ns: int) -> None:
        """Gives up what is overdue, and answers in order."""
        overdue = [index for index, entry in enumerate(self._open) if now_ns >= self._given_up_ns(entry)]
        for index, entry in enumerate(self._open):
            if entry.is_settled:
                continue
            if overdue and index <= overdue[-1]:  # the later one cannot be out before it
                entry.fate = Fate.LATE
            elif now_ns >= self._overdue_ns(entry):
                entry.fate = Fate.NO_FRAME
        while self._open and self._open[0].is_settled:
            entry = self._open.popleft()
            if entry.inspection is not None and now_ns >= entry.part.deadline_ns:
                entry.inspection, entry.fate = None, Fate.LATE
            self.emit(entry.part, entry.inspection, entry.fate, entry.frame)
