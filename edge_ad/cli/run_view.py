"""How ``edge-ad run`` looks: a live table while it goes on, a summary when it has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edge_ad.alarms import Alarms
from edge_ad.cli.console import notes
from edge_ad.runtime.loop import RunSummary
from edge_ad.runtime.reader import EndReason
from edge_ad.runtime.stats import AGE, RECOVERIES, STAGES, Statistics
from edge_ad.runtime.windows import WINDOW_S
from edge_ad.types import Decision, Inspection

UPDATES_PER_SECOND = 4
SILENCE_S = 1.0
"""Without a frame for so long, the live table says so."""

COLOURS = {Decision.OK.value: "green", Decision.NG.value: "red", Decision.ERROR.value: "yellow"}

MOST_ALARMS = 3
"""So many have a line of their own, as a terminal may have 24 lines."""

DROPS = {
    "queue": "while the model was busy",
    "camera": "on their way from the camera",
    "stale": "too old to be judged",
    "mispaired": "of colour and depth that were no pair",
    "overrun": "triggered too soon after the one before",
    "ring": "overwritten before they were read",
}
"""What became of frames that were not judged, by cause."""

ENDINGS = {
    EndReason.END_OF_STREAM: "the stream ended",
    EndReason.STOPPED: "stopped",
    EndReason.MAX_FRAMES: "as many as asked for",
    EndReason.DURATION: "time was up",
    EndReason.CAMERA_LOST: "the camera was lost",
    EndReason.CAMERA_REFUSED: "the camera is not the rig's",
}


class RunView:
    """Follows a run.

    Args:
        alarms: of the line, shown while they are on.
        statistics: of the line, shown from the start; without, from the first inspection on.

    Attributes:
        last_error: why the last ERROR frame could not be judged; empty if there was none.
    """

    def __init__(self, alarms: Alarms | None = None, statistics: Statistics | None = None) -> None:
        self.last_error = ""
        self._alarms = alarms
        self._started_s = self._updated_s = time.monotonic()
        self._last: Inspection | None = None
        self._statistics = statistics

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
        head = Text.assemble(("● ", "green"), str(timedelta(seconds=int(now_s - self._started_s))), no_wrap=True)
        if now_s - self._updated_s > SILENCE_S:
            head.append(f"   no frame for {now_s - self._updated_s:.0f} s", "bold yellow")
        lines: list[RenderableType] = [head]
        if self._last is None:
            head.append("   waiting for the first frame")
        else:
            lines += _verdict(self._last)
        if self._alarms is not None:
            lines += _alarms(self._alarms)
        if self._statistics is not None:
            figures = self._statistics.summary()
            head.append(f"   {figures['fps']:.1f} frames/s   ").append_text(_decisions(figures))
            lines += [*_conditions(figures), _latencies(figures["latency_ms"], f"last {WINDOW_S:.0f} s")]
        return Group(*lines)


def print_summary(summary: RunSummary, refused: dict[str, int], last_error: str, alarms: Alarms | None = None) -> None:
    """Prints how a run went, on standard error.

    Args:
        summary: of the run.
        refused: frames that the camera's driver did not deliver, by cause.
        last_error: why the last ERROR frame could not be judged; empty if there was none.
        alarms: of the line.
    """
    figures = summary.statistics
    frames = "1 frame" if figures["inspected"] == 1 else f"{figures['inspected']} frames"
    notes.print(f"[green]inspected[/] {frames} in {summary.duration_s:.1f} s: {ENDINGS[summary.ended]}")
    if figures["inspected"]:
        rate = figures["inspected"] / summary.duration_s
        notes.print(Text.assemble("  verdicts  ", _decisions(figures), f"   {rate:.1f} frames/s"))
    if last_error:
        notes.print(Text.assemble("  error     ", (last_error, "yellow")), soft_wrap=True)
    for title, line in (*_raised(alarms), *_incidents(figures, refused)):
        notes.print(Text(f"  {title:9s} {line}"), soft_wrap=True)
    if summary.refused_triggers:
        notes.print(f"  triggers  refused {summary.refused_triggers}, which named no part")
    if figures["latency_ms_total"]:
        notes.print(_latencies(figures["latency_ms_total"], "whole run"))


def _decisions(figures: dict[str, Any]) -> Text:
    parts = [(f"{name} {count}", COLOURS[name] if count else "dim") for name, count in figures["decisions"].items()]
    return Text("  ").join(Text(*part) for part in parts)


def _line(title: str, *parts: tuple[str, str]) -> Text:
    """One line of the live table, cut where the terminal ends."""
    text = Text(f"  {title:8s} ", no_wrap=True, overflow="ellipsis")
    return text.append_text(Text("  ").join(Text(*part) for part in parts))


def _verdict(inspection: Inspection) -> Iterator[Text]:
    """What was judged last; and how, where that is not as it always is."""
    verdict, result = inspection.verdict, inspection.result
    colour = COLOURS[verdict.decision.value]
    scored = f"score {result.score:.3g}, threshold {verdict.threshold:.3g}" if result is not None else ""
    judged = verdict.decision is not Decision.ERROR
    why = inspection.frame.source if judged else verdict.reason
    yield _line("verdict", (verdict.decision.value, colour), *([(scored, "")] if scored else []), (why, "dim"))
    how = [(inspection.recipe, "")] if inspection.recipe else []
    # A reason in spite of a verdict: it was judged with fewer sensors than there should be.
    how += [(f"{verdict.mode}: {verdict.reason}", "bold yellow")] if judged and verdict.reason else []
    if how:
        yield _line("recipe" if inspection.recipe else "mode", *how)


def _alarms(alarms: Alarms) -> Iterator[RenderableType]:
    """The oldest alarms; one alone has all the lines that its text takes."""
    active = alarms.active()
    if not active:
        return
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(min_width=10)
    table.add_column(min_width=8, style="red")
    table.add_column(no_wrap=len(active) > 1, overflow="ellipsis" if len(active) > 1 else "fold", style="bold red")
    for alarm in active[:MOST_ALARMS]:
        table.add_row("  alarm", f"{datetime.fromtimestamp(alarm.since_s):%H:%M:%S}", Text(alarm.text))
    if len(active) > MOST_ALARMS:
        table.add_row("  alarm", "", f"and {len(active) - MOST_ALARMS} more")
    yield table


def _conditions(figures: dict[str, Any]) -> Iterator[Text]:
    """Losses, and how camera, queues and machine are; only what is there."""
    lost = [(f"{cause} {count}", "yellow") for cause, count in figures["dropped"].items() if count]
    yield _line("dropped", *(lost or [("none", "dim")]))
    tried = [(f"{name} {figures['events'][name]}", "yellow") for name in RECOVERIES if figures["events"][name]]
    if tried:
        yield _line("recovery", *tried)
    if figures["sink_errors"]:
        failed = figures["sink_errors"].items()
        yield _line("outputs", *((f"{name} failed {count} times", "bold yellow") for name, count in failed))
    if figures["queues"]:
        waiting = figures["queues"].items()
        yield _line("queues", *((f"{name} {seen['now']:g} (max {seen['max']:g})", "") for name, seen in waiting))
    machine = [(f"{source} {celsius:.0f} °C", "") for source, celsius in figures["temperature_c"].items()]
    host = figures["host"]
    machine += [(f"{host['rss_bytes'] / 1e6:.0f} MB", "")] if "rss_bytes" in host else []
    machine += [(f"{host['cpu_share']:.1f} cores", "")] if "cpu_share" in host else []
    if machine:
        yield _line("machine", *machine)


def _latencies(measured: Mapping[str, Mapping[str, float]], span: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold underline")
    table.add_column(f"ms, {span}", no_wrap=True)
    for heading in ("p50", "p95", "p99", "max"):
        table.add_column(heading, justify="right", min_width=7)
    table.add_column("what it is", style="dim", no_wrap=True)
    # What a model of one's own measures has no name here and comes last.
    for stage in [*(stage for stage in STAGES if stage in measured), *(measured.keys() - STAGES.keys())]:
        whole, _, part = stage.partition(".")
        figures = (f"{measured[stage][key]:.2f}" for key in ("p50", "p95", "p99", "max"))
        style = "bold" if stage == AGE else None
        table.add_row(f"  {part}" if part else whole, *figures, STAGES.get(stage, ""), style=style)
    return table


def _raised(alarms: Alarms | None) -> Iterator[tuple[str, str]]:
    """What was wrong on the way, and what still is, as titled lines."""
    if alarms is None or not alarms.raised():
        return
    counts = alarms.raised().items()
    yield "alarms", ", ".join(f"{name} {'once' if count == 1 else f'{count} times'}" for name, count in counts)
    for alarm in alarms.active():
        yield "still on", alarm.text


def _incidents(figures: dict[str, Any], refused: dict[str, int]) -> Iterator[tuple[str, str]]:
    """What else should be known, as titled lines."""
    lost = [f"{count} {DROPS.get(cause, cause)}" for cause, count in figures["dropped"].items() if count]
    yield "dropped", ", ".join(lost) if lost else "none"
    if any(refused.values()):
        listed = ", ".join(f"{cause.replace('_', ' ')} {count}" for cause, count in refused.items() if count)
        yield "refused", f"{listed} (by the camera's driver)"
    happened = [f"{name.replace('_', ' ')} {count}" for name, count in figures["events"].items() if count]
    if happened:
        yield "events", ", ".join(happened)
    failures = [f"{name} failed {count} times" for name, count in figures["sink_errors"].items()]
    if failures:
        yield "outputs", ", ".join(failures)
    longest = [f"{name} {seen['max']:g}" for name, seen in figures["queues"].items() if seen["max"]]
    if longest:
        yield "queues", f"{', '.join(longest)} at most"
