"""How ``edge-ad run`` looks: a live table while it goes on, a summary when it has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edge_ad.cli.console import notes
from edge_ad.runtime.loop import RunSummary
from edge_ad.runtime.reader import EndReason
from edge_ad.runtime.stats import WINDOW, Statistics
from edge_ad.types import Decision, Inspection

UPDATES_PER_SECOND = 4
SILENCE_S = 1.0
"""Without a frame for so long, the live table says so."""

COLOURS = {Decision.OK.value: "green", Decision.NG.value: "red", Decision.ERROR.value: "yellow"}

STAGES = {
    "read": ("read", "waiting for the camera"),
    "predict": ("predict", "the model, of which"),
    "predict.feed": ("  feed", "frame to inputs"),
    "predict.engine": ("  engine", "inference"),
    "predict.map": ("  map", "map to the frame's size"),
    "judge": ("judge", "threshold and regions"),
    "age": ("age", "capture to verdict"),
    "sinks": ("sinks", "writing results"),
}
"""In the order of a frame's way: what the stage is called, and what it is."""

ENDINGS = {
    EndReason.END_OF_STREAM: "the stream ended",
    EndReason.STOPPED: "stopped",
    EndReason.MAX_FRAMES: "as many as asked for",
    EndReason.DURATION: "time was up",
    EndReason.CAMERA_LOST: "the camera was lost",
}


class RunView:
    """Follows a run.

    Attributes:
        last_error: why the last ERROR frame could not be judged; empty if there was none.
    """

    def __init__(self) -> None:
        self.last_error = ""
        self._started_s = self._updated_s = time.monotonic()
        self._last: Inspection | None = None
        self._statistics: Statistics | None = None

    def update(self, inspection: Inspection, statistics: Statistics) -> None:
        """Takes note of an inspection; draws nothing, as the line must not wait for a terminal."""
        if inspection.verdict.decision is Decision.ERROR:
            self.last_error = inspection.verdict.reason
        self._last, self._statistics, self._updated_s = inspection, statistics, time.monotonic()

    @contextmanager
    def shown(self, visible: bool) -> Iterator[None]:
        """Shows the live table on standard error, from a thread of its own, and removes it at the end.

        Args:
            visible: False shows nothing.
        """
        if not visible:
            yield
            return
        with Live(
            console=notes,
            get_renderable=self._picture,
            refresh_per_second=UPDATES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
        ):
            yield

    def _picture(self) -> Group:
        now_s = time.monotonic()
        head = Text.assemble(("● ", "green"), str(timedelta(seconds=int(now_s - self._started_s))))
        if now_s - self._updated_s > SILENCE_S:
            head.append(f"   no frame for {now_s - self._updated_s:.0f} s", "bold yellow")
        if self._statistics is None or self._last is None:
            return Group(head.append("   waiting for the first frame"))
        figures = self._statistics.summary()
        head.append(f"   {figures['fps']:.1f} frames/s   ")
        head.append_text(_decisions(figures))
        head.append_text(_losses(figures))
        return Group(head, _verdict(self._last), _latencies(figures))


def print_summary(summary: RunSummary, refused: dict[str, int], last_error: str) -> None:
    """Prints how a run went, on standard error.

    Args:
        summary: of the run.
        refused: frames that the camera's driver did not deliver, by cause.
        last_error: why the last ERROR frame could not be judged; empty if there was none.
    """
    figures = summary.statistics
    frames = "1 frame" if figures["inspected"] == 1 else f"{figures['inspected']} frames"
    notes.print(f"[green]inspected[/] {frames} in {summary.duration_s:.1f} s: {ENDINGS[summary.ended]}")
    if figures["inspected"]:
        rate = figures["inspected"] / summary.duration_s
        notes.print(Text.assemble("  verdicts  ", _decisions(figures), f"   {rate:.1f} frames/s"))
    if last_error:
        notes.print(Text.assemble("  error     ", (last_error, "yellow")), soft_wrap=True)
    for title, line in _incidents(figures, refused):
        notes.print(Text(f"  {title:9s} {line}"), soft_wrap=True)
    if figures["latency_ms"]:
        notes.print(_latencies(figures))


def _decisions(figures: dict[str, Any]) -> Text:
    parts = [(f"{name} {count}", COLOURS[name] if count else "dim") for name, count in figures["decisions"].items()]
    return Text("  ").join(Text(*part) for part in parts)


def _losses(figures: dict[str, Any]) -> Text:
    lost = sum(figures["dropped"].values())
    failed = sum(figures["sink_errors"].values())
    text = Text(f"   dropped {lost}", "yellow" if lost else "dim")
    return text.append(f"   write errors {failed}", "bold yellow") if failed else text


def _verdict(inspection: Inspection) -> Text:
    verdict, result = inspection.verdict, inspection.result
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"  {verdict.decision.value:5s} ", COLOURS[verdict.decision.value])
    if result is not None:
        text.append(f" score {result.score:.3g}, threshold {verdict.threshold:.3g}  ")
    return text.append(verdict.reason or inspection.frame.source, "dim")


def _latencies(figures: dict[str, Any]) -> Table:
    newest = f", newest {WINDOW} frames" if figures["inspected"] > WINDOW else ""
    table = Table(title=f"latency in ms{newest}", title_justify="left")
    table.add_column("stage")
    for heading in ("p50", "p95", "p99", "max"):
        table.add_column(heading, justify="right", min_width=7)
    table.add_column("what it is", style="dim")
    measured = figures["latency_ms"]
    # What a model of one's own measures has no name here and comes last.
    for stage in [*(stage for stage in STAGES if stage in measured), *(measured.keys() - STAGES.keys())]:
        name, meaning = STAGES.get(stage, (stage, ""))
        values = measured[stage]
        table.add_row(name, *(f"{values[key]:.2f}" for key in ("p50", "p95", "p99", "max")), meaning)
    return table


def _incidents(figures: dict[str, Any], refused: dict[str, int]) -> Iterator[tuple[str, str]]:
    """What else should be known, as titled lines."""
    dropped, events = figures["dropped"], figures["events"]
    causes = [f"{dropped['queue']} while the model was busy", f"{dropped['camera']} on their way from the camera"]
    yield "dropped", ", ".join(causes) if any(dropped.values()) else "none"
    if any(refused.values()):
        listed = ", ".join(f"{cause.replace('_', ' ')} {count}" for cause, count in refused.items() if count)
        yield "refused", f"{listed} (by the camera's driver)"
    happened = [f"{name.replace('_', ' ')} {count}" for name, count in events.items() if count]
    if happened:
        yield "events", ", ".join(happened)
    failures = [f"{name} failed {count} times" for name, count in figures["sink_errors"].items()]
    if failures:
        yield "outputs", ", ".join(failures)
