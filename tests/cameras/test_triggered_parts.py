from __future__ import annotations

import pytest

from edge_ad.cameras import triggered
from edge_ad.cameras.triggered import TriggeredParts


def test_a_capture_has_the_name_of_its_trigger() -> None:
    parts = TriggeredParts()
    for name in "ab":
        parts.triggered(name)
        assert parts.captured() == name
    assert parts.captured() is None
    parts.triggered("")
    assert parts.captured() is None


def test_two_triggers_under_way_name_nothing() -> None:
    parts = TriggeredParts()
    parts.triggered("a")
    parts.triggered("b")
    assert parts.captured() is None


def test_a_lost_capture_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = TriggeredParts()
    parts.triggered("a")
    monkeypatch.setattr(triggered, "LOST_AFTER_S", -1.0)
    parts.triggered("b")
    assert parts.captured() == "b"


def test_a_new_stream_knows_no_triggers() -> None:
    parts = TriggeredParts()
    parts.triggered("a")
    parts.clear()
    assert parts.captured() is None
