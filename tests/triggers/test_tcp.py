"""Triggers over TCP with real sockets: what comes in, what goes out, and who is cut off."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_ad.alarms import Alarm
from edge_ad.errors import ConfigError, OutputError
from edge_ad.triggers import tcp as module
from edge_ad.triggers import triggers_from_uri
from edge_ad.triggers.tcp import TcpOptions, TcpTriggers
from edge_ad.types import AnomalyResult, Decision, Frame, Inspection, Verdict
from tests.runtime.live_line import until


class Server:
    """A source of triggers and what it announced."""

    def __init__(self, **options: Any) -> None:
        self.triggers = TcpTriggers("127.0.0.1", 0, TcpOptions(**options))
        self.parts: list[tuple[str, str]] = []
        self.triggers.start(lambda part_id, recipe: self.parts.append((part_id, recipe)))


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    server = Server(**options)
    try:
        yield server
    finally:
        server.triggers.close()


class Client:
    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.triggers.port), timeout=20)
        self._lines = self.socket.makefile("r", encoding="utf-8")

    def send(self, text: str) -> None:
        self.socket.sendall(text.encode())

    def receive(self) -> dict[str, Any] | None:
        line = self._lines.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        self._lines.close()
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()


def connected(server: Server, clients: int) -> None:
    until(lambda: len(server.triggers._clients) == clients)


def answer(part_id: str, *, score: float = 1.5, triggered_ns: int = 1) -> Inspection:
    frame = Frame(rgb=np.zeros((1, 1, 3), np.uint8), part_id=part_id, timestamp_ns=time.monotonic_ns())
    result = AnomalyResult(np.zeros((1, 1), np.float32), score)
    verdict = Verdict(Decision.NG, 1.0, reason="judged by depth alone", mode="3d_only")
    return Inspection(frame, verdict, result, recipe="lid", triggered_ns=triggered_ns)


def test_lines_announce_parts_and_all_clients_get_the_verdicts() -> None:
    with serving() as server, Client(server) as first, Client(server) as second:
        first.send('A-17\r\n\n{"part": "A-18", "recipe": "lid"}\n')
        second.send('{"part": 19}\n  part with spaces \n')
        until(lambda: len(server.parts) == 5)
        assert sorted(server.parts) == [
            ("", ""),
            ("19", ""),
            ("A-17", ""),
            ("A-18", "lid"),
            ("part with spaces", ""),
        ]
        server.triggers.write(answer("A-17", triggered_ns=time.monotonic_ns()))
        for client in (first, second):
            told = client.receive()
            assert told is not None
            expected = {"part": "A-17", "decision": "NG", "score": 1.5, "threshold": 1.0, "mode": "3d_only"}
            assert told | expected | {"recipe": "lid", "reason": "judged by depth alone"} == told
            assert 0 <= told["answer_ms"] < 60_000 and 0 <= told["age_ms"] < 60_000


def test_what_was_not_triggered_is_not_told_and_numbers_are_json() -> None:
    with serving() as server, Client(server) as client:
        connected(server, 1)
        server.triggers.write(answer("untriggered", triggered_ns=0))
        server.triggers.write(answer("b", score=float("nan")))
        told = client.receive()
        assert told is not None and (told["part"], told["score"]) == ("b", None)


def test_a_verdict_that_is_held_up_beyond_its_deadline_is_an_error() -> None:
    with serving() as server, Client(server) as client:
        connected(server, 1)
        for deadline_s in (-0.001, 60.0):
            found = answer("A-17", triggered_ns=time.monotonic_ns())
            server.triggers.write(replace(found, deadline_ns=time.monotonic_ns() + round(1e9 * deadline_s)))
        late, timely = client.receive(), client.receive()
        assert late is not None and timely is not None
        assert (late["decision"], timely["decision"]) == ("ERROR", "NG")
        assert late["reason"].startswith("late: ")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        pytest.param('{"part": "A', "is not JSON", id="broken"),
        pytest.param('{"part": ' + "[" * 3000, "is not JSON", id="deep"),
        pytest.param('{"piece": "A"}', 'write {"part": "A-17"}', id="unknown"),
        pytest.param('{"part": ["A"]}', 'write {"part": "A-17"}', id="a list"),
        pytest.param('{"part": "\\ud800"}', "surrogates not allowed", id="half a character"),
        pytest.param('{"part": true}', 'write {"part": "A-17"}', id="a truth"),
        pytest.param("x" * 10_000, "more than 4096 characters", id="long"),
    ],
)
def test_a_line_that_names_no_part_is_refused_once_and_the_next_one_counts(line: str, why: str) -> None:
    with serving() as server, Client(server) as client:
        client.send(f"{line}\nA-2\n")
        told = client.receive()
        assert told is not None and why in told["refused"]
        until(lambda: server.parts)
        assert server.parts == [("A-2", "")]
        assert server.triggers.refused == 1


def test_heartbeats_and_alarms_are_told() -> None:
    with serving() as server, Client(server) as client:
        connected(server, 1)
        alarm = Alarm("camera", "no frame for 1 s", 0.0)
        server.triggers.alarm(alarm, True)
        server.triggers.heartbeat([alarm])
        server.triggers.alarm(alarm, False)
        server.triggers.heartbeat([])
        assert [client.receive() for _ in range(4)] == [
            {"alarm": "camera", "text": "no frame for 1 s"},
            {"heartbeat": 1, "alarms": {"camera": "no frame for 1 s"}},
            {"alarm_over": "camera", "text": "no frame for 1 s"},
            {"heartbeat": 2, "alarms": {}},
        ]


def test_a_client_that_takes_nothing_is_cut_off_and_holds_up_nobody() -> None:
    with serving() as server, Client(server) as deaf, Client(server) as good:
        connected(server, 2)
        told: list[str] = []

        def listen() -> None:
            while (message := good.receive()) is not None:
                told.append(message["part"])

        thread = threading.Thread(target=listen)
        thread.start()
        sent = 0
        while len(server.triggers._clients) == 2 and sent < 200_000:
            server.triggers.write(answer(f"p{sent}"))
            sent += 1
            wanted = sent - 100
            until(lambda: len(told) > wanted)  # noqa: B023
        assert sent < 200_000, "it is never cut off"
        server.triggers.write(answer("last"))
        until(lambda: told[-1:] == ["last"])
        assert len(told) == sent + 1
        server.triggers.close()
        thread.join(20)
        assert deaf.socket.fileno() >= 0


def test_a_client_that_leaves_in_the_middle_of_a_line_makes_room() -> None:
    with serving() as server:
        for _ in range(3):
            with Client(server) as client:
                connected(server, 1)
                client.send("A-1\nA-17")
            connected(server, 0)
        assert server.parts == [("A-1", "")] * 3


def test_one_client_too_many_is_told_so() -> None:
    with serving(clients=1) as server, Client(server):
        connected(server, 1)
        with Client(server) as late:
            assert late.receive() == {"refused": "1 clients are connected already"}
            assert late.receive() is None


def test_accepting_goes_on_when_the_system_is_short_of_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    triggers = TcpTriggers("127.0.0.1", 0)
    real, failures = triggers._server, [OSError(24, "Too many open files")] * 3

    class Short:
        def accept(self) -> Any:
            if failures:
                raise failures.pop()
            return real.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    triggers._server = Short()  # type: ignore[assignment]
    parts: list[str] = []
    triggers.start(lambda part_id, recipe: parts.append(part_id))
    try:
        with socket.create_connection(("127.0.0.1", triggers.port), timeout=20) as client:
            client.sendall(b"A-1\n")
            until(lambda: parts == ["A-1"])
        assert not failures
    finally:
        triggers.close()


def test_closing_cuts_clients_off_ends_all_threads_and_frees_the_port() -> None:
    before = threading.active_count()
    server = Server()
    with Client(server) as client:
        connected(server, 1)
        server.triggers.close()
        server.triggers.close()
        assert client.receive() is None
    until(lambda: threading.active_count() <= before)
    again = TcpTriggers("127.0.0.1", server.triggers.port)
    assert again.address == f"tcp://127.0.0.1:{server.triggers.port}"
    again.close()


def test_a_port_that_is_taken_is_said() -> None:
    with serving() as server, pytest.raises(OutputError, match="cannot listen for triggers") as refused:
        triggers_from_uri(server.triggers.address)
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        pytest.param("tcp://0.0.0.0:7001", "would listen beyond this machine", id="everywhere"),
        pytest.param("tcp://192.0.2.1:7001", "would listen beyond this machine", id="elsewhere"),
        pytest.param("tcp://127.0.0.1", "is no address", id="no port"),
        pytest.param("tcp://:7001", "is no address", id="no host"),
        pytest.param("tcp://127.0.0.1:70000", "is no address", id="no such port"),
        pytest.param("tcp://127.0.0.1:²", "is no address", id="no number"),
        pytest.param("tcp://127.0.0.1:7001?expsoe=1", "expose", id="misspelt"),
        pytest.param("tcp://127.0.0.1:7001?clients=0", "clients", id="nobody"),
        pytest.param("opc://127.0.0.1:7001", "is unknown", id="unknown"),
    ],
)
def test_addresses_that_cannot_be(uri: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        triggers_from_uri(uri)
    assert refused.value.remedy


def test_it_listens_beyond_this_machine_only_when_told_to() -> None:
    source = triggers_from_uri("tcp://0.0.0.0:0?expose=1")
    assert source.address.startswith("tcp://0.0.0.0:")
    source.close()
