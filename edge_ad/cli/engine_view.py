"""What a build found out, for people: all candidates side by side, and why the one was chosen."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edge_ad.cli.console import notes, results
from edge_ad.engine import Candidate, EngineManifest

CAPTION = (
    "ms: median of the engine alone. The rest is against fp32, on good frames: rank correlation of the scores, their "
    "largest shift in standard deviations, false rejects in points; then I-AUROC and AUPRO in points, with {defects} "
    "defects. ✓ chosen, ✗ refused."
)


def print_engine(manifest: EngineManifest) -> None:
    """The table, where there was a choice or a gate, and what else is worth saying."""
    if len(manifest.candidates) > 1 or manifest.chosen.gate is not None:
        results.print(_table(manifest))
    for one in manifest.candidates:
        if one.refused:
            notes.print(f"  [yellow]{one.backend} {one.precision} refused:[/] {escape(one.refused)}", soft_wrap=True)
    asked, chosen = manifest.request, manifest.chosen
    if asked.precision not in ("auto", manifest.precision):
        notes.print(f"  [yellow]{manifest.precision} in place of {asked.precision}")
    if chosen.kept:
        notes.print(f"  {len(chosen.kept)} layers stay in floating point, as the gate asks for it (see engine.json)")
    if asked.precision == "auto" and not asked.calibration:
        notes.print("  INT8 was not tried: it needs a calibration set, see [bold]edge-ad calibrate --help[/]")


def _table(manifest: EngineManifest) -> Table:
    gates = [one.gate for one in manifest.candidates if one.gate is not None]
    defects = "real" if any(gate.defects for gate in gates) else "pasted"
    table = Table(caption=CAPTION.format(defects=defects) if gates else None, caption_justify="left")
    table.add_column("engine", no_wrap=True)
    for heading in ("ms", "rank", "shift", "rejects", "AUROC", "AUPRO") if gates else ("ms",):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in manifest.candidates:
        style = "green" if one == manifest.chosen else "dim" if one.refused else ""
        mark = "✓ " if one == manifest.chosen else "✗ " if one.refused else "  "
        table.add_row(f"{mark}{one.backend} {one.precision}", *_figures(one, gated=bool(gates)), style=style)
    return table


def _figures(one: Candidate, *, gated: bool) -> list[str]:
    speed = "" if one.median_ms is None else f"{one.median_ms:.1f}"
    if not gated:
        return [speed]
    gate = one.gate
    if gate is None:
        return [speed, *[""] * 5]
    detection = gate.defects or gate.pasted
    rejects = "" if gate.false_reject_points is None else f"{gate.false_reject_points:.2f}"
    drops = ["", ""] if detection is None else [f"{-detection.image_auroc_drop:+.2f}", f"{-detection.aupro_drop:+.2f}"]
    return [speed, f"{gate.rank_correlation:.4f}", f"{gate.shift_sigma:.3f}", rejects, *drops]
