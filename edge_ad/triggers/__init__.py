"""Where triggers come from, chosen by URI: each announces one part, which then gets exactly one verdict.

tcp://127.0.0.1:7001           a PLC, robot or script connects, sends a line for each part and gets one back
stdin                          a line for each part on standard input
timer://?rate=2                so many parts a second, named 1, 2, 3, …: to try a line out

A line is a part's name, or JSON such as ``{"part": "A-17", "recipe": "lid"}``; an empty one is a part
without a name. What comes back on TCP is described in `edge_ad.triggers.tcp`.
"""

from __future__ import annotations

import importlib
from urllib.parse import parse_qsl, urlsplit

from edge_ad.errors import ConfigError
from edge_ad.triggers.base import TriggerSource

TRIGGERS = {
    "tcp": "edge_ad.triggers.tcp:TcpTriggers",
    "stdin": "edge_ad.triggers.stdin:StdinTriggers",
    "timer": "edge_ad.triggers.timer:TimerTriggers",
}
"""Scheme to ``module:Class``; each class makes itself with ``from_uri(address, options)``."""

__all__ = ["TRIGGERS", "TriggerSource", "triggers_from_uri"]


def triggers_from_uri(text: str) -> TriggerSource:
    """Makes the source of triggers that ``text`` names; a server listens from then on.

    Raises:
        ConfigError: there is no such source, or an option is unknown or out of range.
        OutputError: its address cannot be listened on.
    """
    unknown = ConfigError(
        f"source of triggers {text!r} is unknown", remedy="use stdin, tcp://127.0.0.1:7001 or timer://?rate=2"
    )
    try:
        parts = urlsplit(text if "://" in text else f"{text}://")
    except ValueError as error:  # such as a bracket that is not closed
        raise unknown from error
    if parts.scheme not in TRIGGERS:
        raise unknown
    options: dict[str, object] = dict(parse_qsl(parts.query, keep_blank_values=True))
    module, _, name = TRIGGERS[parts.scheme].partition(":")
    source: TriggerSource = getattr(importlib.import_module(module), name).from_uri(parts.netloc, options)
    return source
