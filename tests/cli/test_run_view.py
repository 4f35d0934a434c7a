"""What ``edge-ad run`` shows, on a terminal of 80 columns and 24 lines."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from edge_ad.alarms import Alarms
from edge_ad.cli import run_view
from edge_ad.cli.run_view import RunView, print_summary
from edge_ad.runtime.host import HostFigures
from edge_ad.runtime.loop import RunSummary
from edge_ad.runtime.reader import EndReason
from edge_ad.runtime.stats import STAGES, Statistics
from edge_ad.types import AnomalyResult, Decision, Frame, Inspection, Verdict


def make_inspection(decision: Decision = Decision.OK, reason: str = "", mode: str = "full") -> Inspection:
    frame = Frame(rgb=np.zeros((2, 2, 3), np.uint8), source="realsense://0815")
    result = None if decision is Decision.ERROR else AnomalyResult(np.zeros((2, 2), np.float32), 1.25)
    return Inspection(frame, Verdict(decision, 4.0, reason=reason, mode=mode), result, recipe="lid [blue]")


def make_statistics() -> Statistics:
    """A line that has seen everything."""
    statistics = Statistics()
    for number, stage in enumerate(STAGES):
        for value_ms in range(1, 1001):
            statistics.record(stage, (number + 1) * value_ms / 10)
    for cause in ("queue", "camera", "ring"):
        statistics.dropped(cause, 1234)
    for event in ("restarts", "reopens", "resets", "respawns", "reconnects", "timeouts"):
        statistics.event(event)
    for queue in ("ring", "sqlite", "jsonl"):
        statistics.gauge(queue, 7)
        statistics.gauge(queue, 2)
    statistics.temperature("camera", 41.4)
    statistics.host(HostFigures({"cpu": 61.0, "gpu": 55.0}, {"rss_bytes": 412e6, "cpu_share": 1.25}))
    statistics.inspected(Decision.NG)
    statistics.sink_failed("SqliteSink")
    return statistics


def make_alarms(count: int) -> Alarms:
    alarms = Alarms()
    for number in range(count):
        alarms.alert(f"alarm{number}", f"the camera [{number}] is silent: check its cable, and the light over the belt")
    return alarms


def picture_of(view: RunView) -> list[str]:
    console = Console(file=io.StringIO(), width=80, height=24, color_system=None)
    console.print(view._picture())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def line_of(lines: list[str], title: str) -> str:
    found = [line for line in lines if line.split()[:1] == [title]]
    assert len(found) == 1, lines
    return found[0]


def test_everything_at_once_fits_the_terminal() -> None:
    view = RunView(make_alarms(9))
    view.update(make_inspection(reason="the depth camera gives nothing", mode="rgb_only"), make_statistics())
    lines = picture_of(view)
    # One line stays free for the cursor.
    assert len(lines) <= 23
    assert max(len(line) for line in lines) <= 80
    for stage in STAGES:
        assert line_of(lines, stage.rpartition(".")[2].split()[0])
    alarms = [line for line in lines if line.split()[0] == "alarm"]
    assert len(alarms) == 4
    assert "and 6 more" in alarms[-1]


def test_each_figure_has_its_line() -> None:
    view = RunView(make_alarms(1))
    view.update(make_inspection(reason="no depth", mode="rgb_only"), make_statistics())
    lines = picture_of(view)
    assert "SqliteSink failed 1 times" in line_of(lines, "outputs")
    assert "score 1.25, threshold 4" in line_of(lines, "verdict")
    assert "lid [blue]  rgb_only: no depth" in line_of(lines, "recipe")
    assert "the camera [0] is silent" in line_of(lines, "alarm")
    assert line_of(lines, "dropped").split()[1:] == ["queue", "1234", "camera", "1234", "ring", "1234"]
    assert "restarts 1  reopens 1  resets 1  respawns 1  reconnects 1" in line_of(lines, "recovery")
    assert "ring 2 (max 7)" in line_of(lines, "queues")
    for told in ("camera 41 °C", "cpu 61 °C", "412 MB", "1.2 cores"):
        assert told in line_of(lines, "machine")
    p50, p95, p99, largest = map(float, line_of(lines, "age").split()[1:5])
    assert (p50, p95, p99, largest) == pytest.approx((50, 95, 99, 100), rel=0.02)


def test_what_is_as_it_should_be_takes_no_line() -> None:
    view, statistics = RunView(Alarms()), Statistics()
    statistics.record("age", 5.0)
    statistics.inspected(Decision.OK)
    view.update(make_inspection(), statistics)
    lines = picture_of(view)
    assert "none" in line_of(lines, "dropped")
    assert {"mode", "alarm", "recovery", "queues", "machine"} & {line.split()[0] for line in lines} == set()


def test_why_a_frame_could_not_be_judged_is_said_and_kept() -> None:
    view = RunView()
    view.update(make_inspection(Decision.ERROR, "the frame is dark", mode=""), Statistics())
    assert "ERROR  the frame is dark" in line_of(picture_of(view), "verdict")
    view.update(make_inspection(), Statistics())
    assert view.last_error == "the frame is dark"


def test_an_alarm_alone_is_told_in_full() -> None:
    lines = picture_of(RunView(make_alarms(1)))
    told = " ".join(word for line in lines[1:] for word in line.split())
    assert told.endswith("is silent: check its cable, and the light over the belt")
    assert len(lines) == 3


def test_figures_are_shown_before_the_first_frame() -> None:
    lines = picture_of(RunView(statistics=make_statistics()))
    assert "waiting for the first frame" in lines[0]
    assert "restarts 1" in line_of(lines, "recovery")


def test_alarms_are_shown_before_the_first_frame() -> None:
    lines = picture_of(RunView(make_alarms(1)))
    assert "waiting for the first frame" in lines[0]
    assert "the camera [0] is silent" in line_of(lines, "alarm")


def test_the_summary_tells_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    monkeypatch.setattr(run_view, "notes", console)
    alarms = make_alarms(2)
    alarms.clear("alarm0")
    alarms.alert("alarm0", "the camera is silent again")
    alarms.clear("alarm0")
    print_summary(RunSummary(EndReason.STOPPED, 2.0, make_statistics().summary()), {}, "", alarms)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for told in (
        "  alarms    alarm0 2 times, alarm1 once\n",
        "  still on  the camera [1] is silent: check its cable",
        "1234 while the model was busy, 1234 on their way from the camera, 1234 overwritten",
        "restarts 1",
        "  queues    ring 7, sqlite 7, jsonl 7 at most\n",
        "whole run",
    ):
        assert told in shown
