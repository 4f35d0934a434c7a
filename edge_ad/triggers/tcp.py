"""Triggers over TCP: a line for each part in, a JSON line for each verdict out, to all who are connected.

In:   ``A-17`` or ``{"part": "A-17", "recipe": "lid"}``
Out:  ``{"part": "A-17", "decision": "NG", "score": 4.2, "threshold": 3.1, "mode": "full", "recipe": "lid",
      "reason": "", "age_ms": 48.1, "answer_ms": 61.7}``, in the order of the triggers, once for each part, and
      ERROR where it could not be sent before its deadline;
      ``{"heartbeat": 12, "alarms": {}}`` once a second; ``{"alarm": "camera", "text": "…"}`` and later
      ``{"alarm_over": "camera", …}`` at once; ``{"refused": "why"}`` for a line that names no part.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from edge_ad.alarms import Alarm
from edge_ad.errors import ConfigError, OutputError
from edge_ad.settings import Settings, validated
from edge_ad.triggers.base import MAX_LINE, OnTrigger, TriggerSource, lines_of
from edge_ad.types import Decision, Inspection

UNHEARD_MS = 10_000
"""A client that has not confirmed what was sent to it for so long, such as one without power, is cut off."""

PAUSE_S = 0.1
"""Before the next attempt, where no client can be accepted, such as for want of file handles."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_log = logging.getLogger(__name__)


class TcpOptions(Settings):
    """What may follow ``tcp://HOST:PORT?``.

    Attributes:
        expose: listen beyond this machine: whoever reaches the port can then trigger and read verdicts.
        clients: that may be connected at a time.
    """

    expose: bool = False
    clients: int = Field(default=8, ge=1, le=256)


class TcpTriggers(TriggerSource):
    """Listens from its making on; parts are announced once it is started.

    A client that does not take what is sent to it is cut off: it must not hold up the others.

    Args:
        host: address to listen on.
        port: 0 takes a free one, see ``port``.
        options: the rest.

    Raises:
        OutputError: the address cannot be listened on.
    """

    def __init__(self, host: str, port: int, options: TcpOptions | None = None) -> None:
        self._options = options or TcpOptions()
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._server = socket.create_server((host, port), family=family, backlog=self._options.clients)
        except OSError as error:
            raise OutputError(
                f"cannot listen for triggers on {host}:{port}",
                why=str(error),
                remedy="end the program that has the port, or choose another one; the host must be one of this machine",
            ) from error
        self.port: int = self._server.getsockname()[1]
        self.address = f"tcp://[{host}]:{self.port}" if ":" in host else f"tcp://{host}:{self.port}"
        self._closed = threading.Event()
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._beats = 0

    @classmethod
    def from_uri(cls, address: str, options: dict[str, object]) -> TcpTriggers:
        """Makes the source of ``tcp://HOST:PORT?expose=0&clients=8``.

        Raises:
            ConfigError: the address or an option is not right, or reaches beyond this machine unasked.
            OutputError: the address cannot be listened on.
        """
        chosen = validated(TcpOptions, options, f"trigger tcp://{address}")
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ConfigError(f"trigger tcp://{address} is no address", remedy="write tcp://127.0.0.1:7001")
        if host not in LOOPBACK and not chosen.expose:
            raise ConfigError(
                f"trigger tcp://{address} would listen beyond this machine",
                why="whoever reaches the port could trigger parts and read verdicts",
                remedy=f"write tcp://127.0.0.1:{port}, or tcp://{address}?expose=1 on a network of its own",
            )
        return cls(host, int(port), chosen)

    def start(self, on_trigger: OnTrigger) -> None:
        """Accepts clients, each with a thread of its own."""
        threading.Thread(target=self._accept, args=(on_trigger,), name="triggers", daemon=True).start()

    def write(self, inspection: Inspection) -> None:
        """Tells all clients of a part's verdict; what was not triggered is nobody's business here."""
        if inspection.triggered_ns:
            self._tell(_answer(inspection))

    def heartbeat(self, alarms: Sequence[Alarm]) -> None:
        """Tells all clients that the line is alive, and what is wrong."""
        self._beats += 1
        self._tell({"heartbeat": self._beats, "alarms": {alarm.name: alarm.text for alarm in alarms}})

    def alarm(self, alarm: Alarm, raised: bool) -> None:
        """Tells all clients at once what is wrong, or right again."""
        self._tell({"alarm" if raised else "alarm_over": alarm.name, "text": alarm.text})

    def close(self) -> None:
        """Cuts all clients off and frees the port."""
        with self._lock:
            self._closed.set()
            clients = list(self._clients)
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for client in clients:
            self._cut(client)

    def _accept(self, on_trigger: OnTrigger) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._server.accept()
                self._admit(client, on_trigger)
            except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
                if not self._closed.wait(PAUSE_S):
                    _log.error("a client for triggers could not be accepted: %s", error)

    def _admit(self, client: socket.socket, on_trigger: OnTrigger) -> None:
        with self._lock:
            full = len(self._clients) >= self._options.clients
            if not full and not self._closed.is_set():
                self._clients.add(client)
        if full or self._closed.is_set():
            _log.warning("a client for triggers was refused: %d are connected", self._options.clients)
            self._send(client, {"refused": f"{self._options.clients} clients are connected already"})
            self._cut(client)
            return
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)
            threading.Thread(target=self._listen, args=(client, on_trigger), name="trigger client", daemon=True).start()
        except (OSError, RuntimeError):
            self._cut(client)
            raise

    def _listen(self, client: socket.socket, on_trigger: OnTrigger) -> None:
        try:
            with client.makefile("r", encoding="utf-8", errors="replace", newline="\n") as lines:
                for line in lines_of(lines):
                    if len(line) < MAX_LINE and not line.endswith("\n"):
                        break  # cut short by the end of the connection: half a name is another part's
                    problem = self.announce(line, on_trigger)
                    if problem:
                        self._send(client, {"refused": problem})
        except (OSError, ValueError):
            pass  # cut off
        finally:
            self._cut(client)

    def _tell(self, message: dict[str, Any]) -> None:
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            self._send(client, message)

    def _send(self, client: socket.socket, message: dict[str, Any]) -> None:
        content = (json.dumps(message, ensure_ascii=False) + "\n").encode()
        try:
            sent = client.send(content, socket.MSG_DONTWAIT)
        except OSError:
            sent = 0
        if sent < len(content):
            _log.warning("a client for triggers does not take what is sent to it; it is cut off")
            self._cut(client)

    def _cut(self, client: socket.socket) -> None:
        with self._lock:
            self._clients.discard(client)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()


def _answer(inspection: Inspection) -> dict[str, Any]:
    verdict, result, now_ns = inspection.verdict, inspection.result, time.monotonic_ns()
    if verdict.decision is not Decision.ERROR and 0 < inspection.deadline_ns <= now_ns:  # held up on its way to here
        verdict = replace(verdict, decision=Decision.ERROR, reason="late: the verdict was not sent before the deadline")
    score = None if result is None or not math.isfinite(result.score) else result.score
    return {
        "part": inspection.frame.part_id,
        "decision": verdict.decision.value,
        "score": score,
        "threshold": verdict.threshold if math.isfinite(verdict.threshold) else None,
        "mode": verdict.mode,
        "recipe": inspection.recipe,
        "reason": verdict.reason,
        "age_ms": round((now_ns - inspection.frame.timestamp_ns) / 1e6, 1),
        "answer_ms": round((now_ns - inspection.triggered_ns) / 1e6, 1),
    }
