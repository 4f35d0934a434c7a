from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_ad.alarms import Alarms
from edge_ad.cameras import opened
from edge_ad.cameras.synthetic import SyntheticCamera, SyntheticOptions
from edge_ad.runtime.judging import Inspector
from edge_ad.runtime.loop import Line, Notifier, run
from edge_ad.runtime.notify import ALIVE, READY, STOPPING, Systemd, sd_notify, sd_status, watchdog_period_s
from edge_ad.runtime.stats import Statistics
from edge_ad.types import AnomalyResult, Decision


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that takes what systemd would."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("only Linux has abstract sockets")
    name = str(tmp_path / "notify") if request.param == "path" else f"@edge-ad-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0"))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listening


def test_the_manager_is_told(manager: socket.socket) -> None:
    assert sd_notify(READY)
    assert sd_notify(ALIVE, STOPPING)
    assert [manager.recv(1000) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1\nSTOPPING=1"]


def test_a_status_is_one_line(manager: socket.socket) -> None:
    assert sd_status("30 frames/s,\n 54 °C\nREADY=0")
    assert manager.recv(1000).decode() == "STATUS=30 frames/s, 54 °C READY=0"


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative"], ids=str)
def test_nobody_to_tell(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not sd_notify(READY)
    assert not sd_status("well")


def test_a_manager_that_is_gone_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not sd_notify(ALIVE)
    monkeypatch.setenv("NOTIFY_SOCKET", "/" + "x" * 200)  # longer than an address may be
    assert not sd_notify(ALIVE)


def test_a_manager_that_does_not_listen_holds_nothing_up(manager: socket.socket) -> None:
    for _ in range(10_000):
        if not sd_notify(ALIVE, wait_s=0):
            break
    else:
        pytest.fail("the queue of a socket is never full")
    started_s = time.monotonic()
    assert not sd_notify(READY, wait_s=0.1)
    assert time.monotonic() - started_s >= 0.1, "it waits, and not for ever"


def test_no_file_is_left_open(manager: socket.socket) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        sd_notify(ALIVE)
        manager.recv(1000)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("usec", "pid", "expected_s"),
    [
        pytest.param("10000000", "mine", 5.0, id="half of it"),
        pytest.param("3000000", None, 1.5, id="of whichever process"),
        pytest.param("10000000", "1", None, id="of another process"),
        pytest.param("10000000", "junk", None, id="of none"),
        pytest.param(None, None, None, id="no watchdog"),
        pytest.param("0", None, None, id="switched off"),
        pytest.param("soon", None, None, id="junk"),
    ],
)
def test_the_watchdogs_period(
    usec: str | None, pid: str | None, expected_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "mine" else pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert watchdog_period_s() == expected_s


def test_a_line_says_once_a_second_that_it_lives(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    notifier: Notifier = Systemd()
    notifier.ready()
    for now_s[0] in (100.0, 100.4, 100.9, 101.0, 101.5, 103.0):
        notifier.alive()
    notifier.stopping()
    told = [manager.recv(1000) for _ in range(5)]
    assert told == [b"READY=1", *[b"WATCHDOG=1"] * 3, b"STOPPING=1"]


def test_a_line_that_nobody_watches_does_not_say_that_it_lives(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    notifier = Systemd()
    notifier.alive()
    notifier.stopping()
    assert manager.recv(1000) == b"STOPPING=1"


def test_the_status_names_rate_verdicts_age_and_alarms(manager: socket.socket) -> None:
    statistics, alarms = Statistics(), Alarms()
    statistics.inspected(Decision.NG)
    statistics.record("age", 40.0)
    alarms.alert("camera", "no frame\nfor 3 s")
    Systemd().report(statistics, alarms)
    status = manager.recv(1000).decode()
    assert status.startswith("STATUS=")
    assert status.endswith("frames/s, OK 0, NG 1, ERROR 0, age p99 40 ms, ALARM no frame for 3 s")


def test_a_line_tells_the_manager_how_it_goes(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    camera = SyntheticCamera(SyntheticOptions(fps=100, size=64, pool=1))
    brightness = Inspector.of(lambda frame: AnomalyResult(np.ones((64, 64), np.float32), 1.0), 5.0)
    with opened(camera) as info:
        run(camera, info, Line(lambda recipe: brightness, notifier=Systemd()), duration_s=0.5)
    manager.setblocking(False)
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told.append(manager.recv(1000))
    assert (told[0], told[-1]) == (b"READY=1", b"STOPPING=1")
    assert set(told[1:-1]) == {b"WATCHDOG=1"}
