"""Tells systemd how the service is, by the protocol of sd_notify(3); does nothing where systemd did not start it."""

from __future__ import annotations

import os
import socket
import time

from edge_ad.alarms import Alarms
from edge_ad.runtime.stats import AGE, Statistics

READY = "READY=1"
"""Started: the first frame can be judged."""

ALIVE = "WATCHDOG=1"
"""All is well; systemd restarts a service that has not said so in time."""

STOPPING = "STOPPING=1"
"""Shutting down, which may take a moment."""

ALIVE_PERIOD_S = 1.0
"""`ALIVE` is sent at most so often; as little time as that is lost when the line then hangs."""

SEND_TIMEOUT_S = 1.0
"""A manager that does not listen must not hold up the line."""


def sd_notify(*states: str, wait_s: float = SEND_TIMEOUT_S) -> bool:
    """Sends ``VARIABLE=value`` lines, such as `READY`, to the service manager; True if they were sent.

    Nothing is raised: whoever misses them is the manager, which restarts what does not answer.

    Args:
        states: the lines.
        wait_s: how long to wait for a manager that has no room for them.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(wait_s)
            manager.connect(address)
            manager.send("\n".join(states).encode())
    except OSError:
        return False
    return True


def sd_status(text: str) -> bool:
    """Sends what ``systemctl status`` shows of the service; True if it was sent."""
    return sd_notify(f"STATUS={' '.join(text.split())}")


def watchdog_period_s() -> float | None:
    """How often `ALIVE` should be sent: half of what the manager waits for it, as sd_watchdog_enabled(3) advises.

    None where nobody waits for it from this process.
    """
    wanted_of = os.environ.get("WATCHDOG_PID", "")
    if wanted_of not in ("", str(os.getpid())):
        return None
    try:
        limit_us = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return limit_us / 2e6 if limit_us > 0 else None


class Systemd:
    """Tells systemd of a line, as the line's notifier."""

    def __init__(self) -> None:
        wanted_s = watchdog_period_s()
        self._period_s = None if wanted_s is None else min(wanted_s, ALIVE_PERIOD_S)
        self._due_s = 0.0

    def ready(self) -> None:
        """The line takes frames and triggers from now on."""
        sd_notify(READY)

    def alive(self) -> None:
        """The thread that judges has come round; costs next to nothing where it is too early to say so."""
        if self._period_s is not None and (now_s := time.monotonic()) >= self._due_s:
            self._due_s = now_s + self._period_s
            # Without a wait: this is the thread that judges, and the next one comes in a second.
            sd_notify(ALIVE, wait_s=0)

    def stopping(self) -> None:
        """The line ends."""
        sd_notify(STOPPING)

    def report(self, statistics: Statistics, alarms: Alarms) -> None:
        """Sends what ``systemctl status`` shows: the rate, the verdicts, the age, what is wrong."""
        if "NOTIFY_SOCKET" not in os.environ:
            return
        figures = statistics.summary()
        told = [f"{figures['fps']:.1f} frames/s"]
        told += [f"{name} {count}" for name, count in figures["decisions"].items()]
        if AGE in figures["latency_ms"]:
            told.append(f"age p99 {figures['latency_ms'][AGE]['p99']:.0f} ms")
        told += [f"ALARM {alarm.text}" for alarm in alarms.active()]
        sd_status(", ".join(told))
