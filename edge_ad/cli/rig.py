"""``edge-ad rig``: measures the empty fixture once, and tells later what has changed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from edge_ad.cameras import camera_from_uri
from edge_ad.cli.cameras import opened_camera
from edge_ad.cli.console import notes, print_json, progress_bar, results
from edge_ad.cli.train import parsed_roi
from edge_ad.report.rig_page import rig_html
from edge_ad.rig.calibration import acceptance, calibrated
from edge_ad.rig.check import check
from edge_ad.rig.findings import Finding, Status, healthy
from edge_ad.rig.observation import MIN_FRAMES, Observation, observe
from edge_ad.rig.record import REPORT, RigRecord, read_rig, write_rig
from edge_ad.types import Roi

STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.UNKNOWN: "dim"}

Camera = Annotated[str, typer.Option(metavar="URI", help="realsense, realsense://SERIAL, folder://DIR, synthetic://")]
Directory = Annotated[Path, typer.Argument(metavar="RIG", help="Directory of the rig.")]
Json = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]

app = typer.Typer(
    help="""Measures the empty fixture once, and tells later what has changed.

    A rig is one camera in its place over one fixture: serial number, factory
    calibration, exposure, plane of the table, region of interest, noise.

    Example: edge-ad rig calibrate rigs/lid --camera realsense
    """,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("calibrate")
def calibrate_rig(
    rig: Directory,
    camera: Camera,
    frames: Annotated[int, typer.Option(metavar="N", help="Frames to average.", min=MIN_FRAMES)] = 45,
    roi: Annotated[str | None, typer.Option(help="Part of the frame to inspect: X,Y,WIDTH,HEIGHT in pixels.")] = None,
    json_output: Json = False,
) -> None:
    """Measures the empty fixture and writes the rig with its acceptance report.

    Take every part away first. Exposure settles and is fixed where the camera
    can; without --roi, the largest rectangle that returns depth is taken.

    Exit code 1 if a figure fails; the rig is written all the same.

    Example: edge-ad rig calibrate rigs/lid --camera realsense
    """
    chosen = None if roi is None else Roi(**parsed_roi(roi).model_dump())
    seen = _observed(camera, frames, None)
    measured = calibrated(seen, camera, chosen)
    findings = acceptance(measured, seen)
    write_rig(rig, measured, rig_html(measured, findings, rig.resolve().name))
    record = measured.record
    if json_output:
        kept = record.model_dump(mode="json", exclude={"limits"})
        print_json({"rig": str(rig), "healthy": healthy(findings), "record": kept, "findings": _report(findings)})
    else:
        _print(findings)
        _print_rig(record, rig)
    if not healthy(findings):
        raise typer.Exit(1)


@app.command("check")
def check_rig(
    rig: Directory,
    camera: Camera,
    frames: Annotated[int, typer.Option(metavar="N", help="Frames to average.", min=MIN_FRAMES)] = 30,
    json_output: Json = False,
) -> None:
    """Compares the empty fixture with the rig, at the start of a shift.

    Finds another camera or mode, a camera that moved, a dirty lens, other
    light, lost or noisy depth, a slow link. Exit code 1 if a check fails.

    Example: edge-ad rig check rigs/lid --camera realsense
    """
    reference = read_rig(rig)
    findings = check(reference, _observed(camera, frames, reference.record.camera.locked or None))
    if json_output:
        print_json(
            {
                "rig": str(rig),
                "sha256": reference.record.sha256,
                "healthy": healthy(findings),
                "findings": _report(findings),
            }
        )
    else:
        _print(findings)
        if healthy(findings):
            notes.print(f"[green]as measured[/] {reference.record.measured_utc[:16].replace('T', ' ')} UTC")
    if not healthy(findings):
        raise typer.Exit(1)


def _observed(uri: str, frames: int, exposure: dict[str, float] | None) -> Observation:
    camera = camera_from_uri(uri)
    with opened_camera(camera) as info, progress_bar("looking at the empty fixture") as bar:
        return observe(
            camera,
            info,
            frames,
            exposure=exposure,
            progress=lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total),
        )


def _report(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [
        {
            "name": item.name,
            "status": item.status.value,
            "title": item.title,
            "value": item.value,
            "figure": item.figure,
            "limit": item.limit,
            "remedy": item.remedy,
        }
        for item in findings
    ]


def _print(findings: Sequence[Finding]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for item in findings:
        limit = f"  [dim]{escape(item.limit)}[/]" if item.status in (Status.WARN, Status.FAIL) and item.limit else ""
        status = f"[{STYLES[item.status]}]{item.status.value}[/]"
        table.add_row(status, escape(item.title), f"[bold]{escape(item.figure)}[/]{limit}")
        if item.remedy:
            table.add_row("", "", f"[dim]→ {escape(item.remedy)}[/]")
    results.print(table)


def _print_rig(record: RigRecord, directory: Path) -> None:
    roi = record.roi
    origin = "as given" if record.roi_given else "the largest rectangle that returns depth"
    corner = f"{roi.x_px},{roi.y_px},{roi.width_px},{roi.height_px}"
    notes.print(f"[green]measured[/] table at {1000 * record.distance_m:.1f} mm, tilted {record.tilt_deg:.2f}°")
    notes.print(f"  ROI {corner} ({origin}), {record.mm_per_px:.3f} mm per pixel")
    notes.print(f"  report: {escape(str(directory / REPORT))}", soft_wrap=True)
    product = directory.name
    words = ["edge-ad", "train", f"captures/{product}", "--rig", str(directory), "--output", f"runs/{product}"]
    notes.print(f"  next: capture good parts, then [bold]{escape(shlex.join(words))}[/]", soft_wrap=True)
