"""The faults of the soak run: what is done to the line, for how long, and what must have happened after."""

from __future__ import annotations

import math
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from soak_plc import Books, Plc

FLAGGED_S = 1.0
RECOVERED_S = 10.0
PAUSE_S = 1.5
"""Parts come 6 a second: so long between two that are judged does not happen by chance."""
MOST_SETTLE_S = 25.0
"""Between two faults; more would tell no more."""
DISK_BYTES = 96 << 20
SHIM = Path(__file__).with_name("soak_clock.c")


@dataclass
class Event:
    """One fault that happened, on the monotonic clock."""

    fault: str
    began_s: float
    ended_s: float


@dataclass
class Scene:
    """What the faults act on.

    Attributes:
        control: tells the soak camera how to fail.
        disk: a small file system for the outputs.
        database: of the archive, on the same.
        port: the line's trigger port.
        events: the faults so far.
    """

    control: Path
    disk: Path
    database: Path
    port: int
    clock: Path
    is_small: bool
    fakes_time: bool
    events: list[Event] = field(default_factory=list)
    line: int = 0
    plc: Plc | None = None

    @classmethod
    @contextmanager
    def prepared(cls, directory: Path, environment: dict[str, str]) -> Iterator[Scene]:
        """A scene with a small disk and a clock that can jump, where the system allows them."""
        disk, clock, library = directory / "disk", directory / "clock", directory / "soak_clock.so"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
        small = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        clock.write_bytes(bytes(8))
        compiler = shutil.which("cc")
        if compiler is not None:
            subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SHIM, "-ldl"], check=True)
            environment |= {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(clock)}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        control = directory / "control"
        control.write_text("")
        try:
            yield cls(control, disk, disk / "archive.sqlite", port, clock, small, compiler is not None)
        finally:
            if small:
                subprocess.run(["umount", "--lazy", str(disk)], check=False)

    def attach(self, line: int, plc: Plc) -> None:
        """Names the line's process and the client that hears from it."""
        self.line, self.plc = line, plc

    def play(self, duration_s: float, line: subprocess.Popen[bytes]) -> None:
        """One fault after the other, round and round, until the time is up; each once at least."""
        end_s = time.monotonic() + duration_s
        names = [name for name in FAULTS if self._is_possible(name)]
        least_s = sum(FAULTS[name].lasts_s + FAULTS[name].settle_s for name in names)
        more_s = max(0.0, 0.5 * (duration_s - least_s) / len(names))
        is_first_round = True
        while line.poll() is None and (is_first_round or time.monotonic() < end_s):
            for name in names:
                fault = FAULTS[name]
                if not is_first_round and time.monotonic() + fault.lasts_s + fault.settle_s > end_s:
                    break
                began_s = time.monotonic()
                fault.happens(self, fault.lasts_s)
                self.events.append(Event(name, began_s, time.monotonic()))
                time.sleep(min(fault.settle_s + more_s, MOST_SETTLE_S))
            else:
                is_first_round = False
                continue
            time.sleep(max(0.0, end_s - time.monotonic()))

    def camera_process(self) -> psutil.Process:
        """The capture process."""
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            for child in psutil.Process(self.line).children():
                if "capture_process" in " ".join(child.cmdline()):
                    return child
            time.sleep(0.05)
        raise RuntimeError("the line has no capture process")

    def _is_possible(self, name: str) -> bool:
        return (name != "full disk" or self.is_small) and (name != "clock jump" or self.fakes_time)


def _by_camera(word: str) -> Callable[[Scene, float], None]:
    def happens(scene: Scene, lasts_s: float) -> None:
        scene.control.write_text(word)
        time.sleep(lasts_s)
        scene.control.write_text("")

    return happens


def _kill(scene: Scene, lasts_s: float) -> None:
    scene.camera_process().send_signal(signal.SIGKILL)


def _pause(scene: Scene, lasts_s: float) -> None:
    process = scene.camera_process()
    process.send_signal(signal.SIGSTOP)
    time.sleep(lasts_s)
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGCONT)


def _jump(scene: Scene, lasts_s: float) -> None:
    """The wall clock goes an hour ahead, then two back, and is put right."""
    for shift_s in (3600, -3600, 0):
        with scene.clock.open("r+b") as clock:  # in place, as the line has it mapped
            clock.write(shift_s.to_bytes(8, "little", signed=True))
        time.sleep(lasts_s / 2 if shift_s else 0)


def _lock(scene: Scene, lasts_s: float) -> None:
    with closing(sqlite3.connect(scene.database, isolation_level=None, timeout=10)) as database:
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(lasts_s)
        database.execute("ROLLBACK")


def _fill(scene: Scene, lasts_s: float) -> None:
    filler = scene.disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 16))
    time.sleep(lasts_s)
    filler.unlink()
    for picture in (scene.disk / "overlays").glob("*.png"):
        picture.unlink(missing_ok=True)


def _flood(scene: Scene, lasts_s: float) -> None:
    assert scene.plc is not None
    for number in range(30):
        scene.plc.announce(f"flood-{len(scene.events)}-{number}")


def _hang_up(scene: Scene, lasts_s: float) -> None:
    """A second client connects, does not read, and goes away in the middle of a line."""
    client = socket.create_connection(("127.0.0.1", scene.port), timeout=5)
    time.sleep(lasts_s)
    client.sendall(b'{"part": "half')
    client.close()


@dataclass(frozen=True)
class Fault:
    """What is done, and whether the camera is away meanwhile."""

    happens: Callable[[Scene, float], None]
    lasts_s: float
    camera_away: bool = False

    @property
    def settle_s(self) -> float:
        """Until the next one at least, so that the books can tell them apart."""
        return 8.0 if self.camera_away else 3.0


FAULTS = {
    "stall": Fault(_by_camera("stall"), 3.0, True),
    "unplug": Fault(_by_camera("unplug"), 4.0, True),
    "kill -9": Fault(_kill, 0.0, True),
    "no depth": Fault(_by_camera("no_depth"), 3.0),
    "SIGSTOP": Fault(_pause, 5.0, True),
    "short SIGSTOP": Fault(_pause, 0.5),
    "junk frames": Fault(_by_camera("junk"), 3.0),
    "hang with the GIL": Fault(_by_camera("hang"), 1.0, True),
    "segfault": Fault(_by_camera("crash"), 0.5, True),
    "clock jump": Fault(_jump, 3.0),
    "slow sink": Fault(_lock, 3.0),
    "full disk": Fault(_fill, 3.0),
    "flood of triggers": Fault(_flood, 0.0),
    "client that does not read": Fault(_hang_up, 1.0),
}


def _back_after(event: Event, until_s: float, judged_s: list[float]) -> float:
    """How long after a fault's end the last pause between judged parts ended; 0 where there was none after it."""
    until_s = min(until_s, judged_s[-1] if judged_s else until_s)
    marks = [event.began_s, *(at_s for at_s in judged_s if event.began_s < at_s < until_s)]
    if len(marks) == 1:
        return math.inf
    pairs = zip(marks, [*marks[1:], until_s], strict=True)
    pauses = [later for earlier, later in pairs if later - earlier > PAUSE_S]
    return max(0.0, pauses[-1] - event.ended_s) if pauses else 0.0


def errors_in_peace(scene: Scene, books: Books) -> dict[str, int]:
    """Of the parts that were announced while nothing was wrong: how many there were, and how many were ERROR."""
    troubled = [(event.began_s - 1, event.ended_s + RECOVERED_S) for event in scene.events]
    parts = [
        part
        for part, sent_s in books.sent_s.items()
        if part in books.answers and not any(began <= sent_s <= ended for began, ended in troubled)
    ]
    return {"parts": len(parts), "errors": sum(books.answers[part][0].decision == "ERROR" for part in parts)}


def recoveries(scene: Scene, books: Books) -> dict[str, dict[str, Any]]:
    """Of each kind of fault: how often, how soon flagged, and how soon after its end parts were judged again."""
    judged_s = sorted(found[0].at_s for found in books.answers.values() if found[0].decision != "ERROR")
    result: dict[str, dict[str, Any]] = {}
    following_s = [event.began_s for event in scene.events[1:]] + [math.inf]
    for event, next_s in zip(scene.events, following_s, strict=True):
        fault = FAULTS[event.fault]
        kind = result.setdefault(event.fault, {"times": 0, "flagged_s": [], "recovered_s": [], "broken": []})
        kind["times"] += 1
        flagged = [at_s - event.began_s for name, on, at_s in books.alarms if name == "camera" and on]
        flagged = [delay_s for delay_s in flagged if 0 <= delay_s < event.ended_s - event.began_s + RECOVERED_S]
        back_s = _back_after(event, min(next_s, event.ended_s + 2 * RECOVERED_S), judged_s)
        kind["recovered_s"].append(round(back_s, 2))
        if back_s > RECOVERED_S:
            kind["broken"].append(f"no verdict within {RECOVERED_S:g} s of the end of {event.fault}")
        if fault.camera_away and event.ended_s - event.began_s >= 2:
            kind["flagged_s"].append(round(flagged[0], 2) if flagged else None)
            if not flagged or flagged[0] > FLAGGED_S + 0.2:
                kind["broken"].append(f"not flagged within {FLAGGED_S:g} s")
    for kind in result.values():
        for name in ("flagged_s", "recovered_s"):
            values = [value for value in kind[name] if value is not None]
            kind[name] = {"median": sorted(values)[len(values) // 2], "max": max(values)} if values else None
    return result
