"""What stands for the PLC in the soak run: sends triggers, and keeps book of what comes back."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """A part's verdict as it came over the wire, on this side's monotonic clock."""

    at_s: float
    decision: str
    mode: str
    reason: str


@dataclass
class Books:
    """Everything that was sent and came back.

    Attributes:
        sent_s: when each part was announced, in the order of the announcements.
        answers: of each part, all of them.
        order: of the answers.
        alarms: name, whether it was raised or is over, and when.
    """

    sent_s: dict[str, float] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    alarms: list[tuple[str, bool, float]] = field(default_factory=list)
    heartbeats: list[float] = field(default_factory=list)
    refused: int = 0


class Plc:
    """A client of the line's trigger port."""

    def __init__(self, port: int) -> None:
        self.books = Books()
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.settimeout(None)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._listen, name="plc", daemon=True)
        self._thread.start()

    def announce(self, part_id: str) -> None:
        """A part passes the trigger."""
        with self._lock:
            self.books.sent_s.setdefault(part_id, time.monotonic())
            self._socket.sendall(f"{part_id}\n".encode())

    def send(self, text: str) -> None:
        """Anything else."""
        with self._lock:
            self._socket.sendall(text.encode())

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()

    def _listen(self) -> None:
        with self._socket.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                self._note(json.loads(line), time.monotonic())

    def _note(self, message: dict[str, Any], now_s: float) -> None:
        books = self.books
        if "part" in message:
            answer = Answer(now_s, message["decision"], message["mode"], message["reason"])
            books.answers.setdefault(message["part"], []).append(answer)
            books.order.append(message["part"])
        elif "heartbeat" in message:
            books.heartbeats.append(now_s)
        elif "refused" in message:
            books.refused += 1
        else:
            raised = "alarm" in message
            books.alarms.append((message["alarm" if raised else "alarm_over"], raised, now_s))


def audit(books: Books, budget_s: float) -> dict[str, Any]:
    """What the promises come to: each part one answer, in order, in time."""
    announced = list(books.sent_s)
    place = {part: number for number, part in enumerate(announced)}
    numbers = [place[part] for part in books.order if part in place]
    late = {
        part: answers[0]
        for part, answers in books.answers.items()
        if part in books.sent_s and answers[0].at_s - books.sent_s[part] > budget_s
    }
    answers = [found[0] for found in books.answers.values()]
    waits_ms = sorted(1000 * (found[0].at_s - books.sent_s[part]) for part, found in books.answers.items())
    return {
        "triggers": len(announced),
        "verdicts": sum(map(len, books.answers.values())),
        "unanswered": [part for part in announced if part not in books.answers],
        "answered_twice": [part for part, found in books.answers.items() if len(found) > 1],
        "unknown_parts": [part for part in books.answers if part not in place],
        "out_of_order": sum(later < earlier for earlier, later in zip(numbers, numbers[1:], strict=False)),
        "late_ok_or_ng": sum(answer.decision != "ERROR" for answer in late.values()),
        "late_errors": sum(answer.decision == "ERROR" for answer in late.values()),
        "decisions": dict(Counter(answer.decision for answer in answers)),
        "modes": dict(Counter(answer.mode for answer in answers if answer.mode)),
        "errors_by_cause": dict(Counter(_cause(answer.reason) for answer in answers if answer.decision == "ERROR")),
        "answer_ms": {name: waits_ms[int(share * (len(waits_ms) - 1))] for name, share in _SHARES.items()},
    }


_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
_CAUSES = ("late", "overrun", "no frame", "cannot be judged", "ms apart", "px", "stopped")


def _cause(reason: str) -> str:
    return next((cause for cause in _CAUSES if cause in reason), reason[:60])
