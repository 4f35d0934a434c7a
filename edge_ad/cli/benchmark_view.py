"""How ``edge-ad benchmark`` shows its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from edge_ad.cli.console import notes, results

if TYPE_CHECKING:
    from edge_ad.benchmark_figures import Comparison, ContestantFigures, PeakFigures


def print_benchmark(figures: Sequence[ContestantFigures], peaks: PeakFigures, comparison: Comparison | None) -> None:
    """Tables for each model, the box's limits, and the comparison in words."""
    for item in figures:
        results.print(f"[bold]{escape(item.path)}[/]  [dim]{escape(item.description)}[/]", soft_wrap=True)
        results.print(_stages(item), _batches(item))
        results.print(f"  {_memory(item)}", soft_wrap=True)
        results.print(f"  {_work(item)}", soft_wrap=True)
    _print_peaks(peaks)
    if comparison is not None:
        _print_comparison(comparison, figures)


def _stages(item: ContestantFigures) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("one frame, ms")
    for heading in ("p50", "p95", "p99", "max"):
        table.add_column(heading, justify="right")
    for stage, row in item.latency_ms.items():
        style = "bold" if stage == "total" else ""
        table.add_row(stage, *(f"{row[name]:.2f}" for name in ("p50", "p95", "p99", "max")), style=style)
    table.add_row("outside the engine", f"{item.outside_engine_share:.1%}")
    return table


def _batches(item: ContestantFigures) -> Table:
    rows = item.batches
    columns = {
        "batch": [str(row.batch) for row in rows],
        "p50 ms": [f"{row.latency_ms['p50']:.2f}" for row in rows],
        "p95 ms": [f"{row.latency_ms['p95']:.2f}" for row in rows],
        "frames/s": [f"{row.frames_per_s:.1f}" for row in rows],
        "GFLOP/s": ["" if row.gflops is None else f"{row.gflops:.1f}" for row in rows],
        "of GEMM": [_share(row.gemm_share) for row in rows],
        "of int8 GEMM": [_share(row.integer_share) for row in rows],
        "of copy": [_share(row.copy_share) for row in rows],
    }
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    for heading in shown:
        table.add_column(heading, justify="right")
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*cells)
    for batch, reason in item.skipped.items():
        notes.print(f"  [yellow]skipped[/] batch {batch}: {escape(reason)}", soft_wrap=True)
    return table


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _memory(item: ContestantFigures) -> str:
    memory = item.memory_bytes
    words = {"before": "before", "opening": "+ opening", "running": "+ running", "peak": "process peak"}
    told = [f"{word} {_megabytes(memory[name])}" for name, word in words.items() if memory[name] is not None]
    if memory["device"] is not None:
        told.append(f"on the device {_megabytes(memory['device'])}")
    return f"memory: {', '.join(told) or 'not told by this system'}"


def _megabytes(size_bytes: int | None) -> str:
    return f"{(size_bytes or 0) / 1e6:.0f} MB"


def _work(item: ContestantFigures) -> str:
    if item.macs is None:
        return "work: unknown, as no ONNX graph is at hand (that of a compiled engine comes with --against its bundle)"
    return (
        f"work: {item.macs / 1e9:.3g} GMAC a frame, {(item.least_bytes or 0) / 1e6:.1f} MB of weights, inputs, outputs"
    )


def _print_peaks(peaks: PeakFigures) -> None:
    told = [f"{name} float32 GEMM {rate:.1f} GFLOP/s" for name, rate in peaks.gemm_gflops.items()]
    told += [f"{name} int8 GEMM {rate:.1f} GOP/s" for name, rate in peaks.integer_gops.items()]
    told.append(f"copy {peaks.copy_gb_s:.1f} GB/s on {peaks.copy_threads} threads")
    results.print(f"[bold]this box[/], in the same rounds, at its best: {'; '.join(told)}", soft_wrap=True)
    for name, reason in peaks.absent.items():
        notes.print(f"  [yellow]no GEMM[/] on {name}: {escape(reason)}", soft_wrap=True)


def _print_comparison(comparison: Comparison, figures: Sequence[ContestantFigures]) -> None:
    first, second = (escape(item.path) for item in figures)
    for what, ratio, (low, high) in (
        ("in all", comparison.speedup, comparison.speedup_interval),
        ("the engine alone", comparison.engine_speedup, comparison.engine_speedup_interval),
    ):
        # Said as slower where it is, so that nobody has to turn a ratio below 1 round.
        turned = (1 / ratio, 1 / high, 1 / low, "slower") if ratio < 1 else (ratio, low, high, "faster")
        factor, lowest, highest, word = turned
        interval = f"[dim]{lowest:.2f}–{highest:.2f}[/]"
        results.print(f"{first} is {factor:.2f}× {interval} {word} than {second}, {what}", soft_wrap=True)
    shown = "not finite" if comparison.map_difference is None else f"{comparison.map_difference:.3g}"
    allowed = "" if comparison.map_allowed is None else f", {comparison.map_allowed:.3g} is the tolerance"
    results.print(
        f"their maps differ by at most {shown}{allowed}; {comparison.decisions_differ} of {comparison.frames} "
        "frames are decided otherwise",
        soft_wrap=True,
    )
    if not comparison.agree:
        notes.print(
            "[bold yellow]they do not judge alike[/]: these times are not of the same work"
            if comparison.same_model
            else "[yellow]they are different models[/], and judge differently",
            soft_wrap=True,
        )
