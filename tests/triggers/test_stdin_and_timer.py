"""Triggers on standard input and by the clock."""

from __future__ import annotations

import io
import os
import threading
import time

import pytest

from edge_ad.errors import ConfigError
from edge_ad.triggers import TriggerSource, triggers_from_uri
from edge_ad.triggers.stdin import StdinTriggers
from tests.runtime.live_line import until


def announced(source: TriggerSource) -> list[tuple[str, str]]:
    """Everything that a source announces until it is over."""
    parts: list[tuple[str, str]] = []
    source.start(lambda part_id, recipe: parts.append((part_id, recipe)))
    until(lambda: source.is_over)
    source.close()
    return parts


def test_each_line_is_a_part_and_the_end_is_the_end() -> None:
    source = StdinTriggers(io.StringIO('a\n\n{"part": "b", "recipe": "lid"}\n{broken\nlast'))
    assert announced(source) == [("a", ""), ("", ""), ("b", "lid"), ("last", "")]
    assert source.refused == 1


def test_what_is_no_utf8_is_a_strange_name_and_not_the_end() -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"a\n\xff\xfe\nb\n"), encoding="utf-8")
    parts = announced(StdinTriggers(stream))
    assert [part_id for part_id, _ in parts] == ["a", "��", "b"]


def test_a_line_that_is_too_long_is_refused_whole() -> None:
    source = StdinTriggers(io.StringIO("x" * 4096 + "\n" + "y" * 9000 + "\n" + "z" * 4000 + "\n"))
    assert announced(source) == [("z" * 4000, "")]
    assert source.refused == 2


def test_a_stream_that_breaks_is_the_end() -> None:
    class Broken(io.StringIO):
        def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
            raise OSError(5, "Input/output error")

    assert announced(StdinTriggers(Broken())) == []


def test_lines_are_announced_as_they_come() -> None:
    ours, theirs = os.pipe()
    source = StdinTriggers(os.fdopen(ours, "r"))
    parts: list[str] = []
    source.start(lambda part_id, recipe: parts.append(part_id))
    for number in range(3):
        os.write(theirs, f"{number}\n".encode())
        until(lambda: len(parts) == number + 1)  # noqa: B023
        assert not source.is_over
    os.close(theirs)
    until(lambda: source.is_over)
    assert source._stream is not None
    source._stream.close()


def test_the_clock_announces_so_many_parts_at_its_rate() -> None:
    started_s = time.monotonic()
    assert announced(triggers_from_uri("timer://?rate=50&parts=5")) == [(str(number), "") for number in range(1, 6)]
    assert time.monotonic() - started_s >= 4 / 50


def test_closing_ends_the_clock() -> None:
    before = threading.active_count()
    source = triggers_from_uri("timer://?rate=0.01")
    source.start(lambda part_id, recipe: None)
    source.close()
    source.close()
    until(lambda: source.is_over and threading.active_count() <= before)


@pytest.mark.parametrize("uri", ["timer://?rate=0", "timer://?speed=2", "timer://?parts=-1", "stdin://x", "stdin?a=1"])
def test_options_that_cannot_be(uri: str) -> None:
    with pytest.raises(ConfigError) as refused:
        triggers_from_uri(uri)
    assert refused.value.remedy
