"""``edge-ad run``: the line, from camera to verdict to outputs."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edge_ad.cameras import camera_from_uri
from edge_ad.cli.cameras import lost_camera, opened_camera
from edge_ad.cli.console import notes, print_json
from edge_ad.cli.run_view import RunView, print_summary
from edge_ad.errors import ConfigError, DataError, EdgeAdError, OutputError
from edge_ad.predictor import Predictor, open_predictor
from edge_ad.runtime.loop import RunSummary
from edge_ad.runtime.loop import run as run_line
from edge_ad.runtime.reader import EndReason
from edge_ad.sinks.images import MapSink, OverlaySink
from edge_ad.sinks.jsonl import JsonLinesSink
from edge_ad.sinks.sqlite import SqliteSink
from edge_ad.types import CameraInfo, Decision, Sink

STDOUT = Path("-")


def command(
    engine: Annotated[
        str, typer.Option(metavar="MODEL", help="Engine, bundle, model.onnx, checkpoint, or grpc://… of a server.")
    ],
    camera: Annotated[
        str, typer.Option(metavar="URI", help="realsense, realsense://SERIAL, folder://DIR, synthetic://")
    ],
    threshold: Annotated[
        float | None, typer.Option(metavar="X", help="A score above it is NG; by default the model's.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(metavar="MODE", help="full, rgb_only or 3d_only; by default what the engine is for.")
    ] = None,
    frames: Annotated[int | None, typer.Option(metavar="N", help="End after so many.", min=1)] = None,
    duration_s: Annotated[float | None, typer.Option(metavar="S", help="End after so many seconds.", min=0)] = None,
    jsonl: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON lines go here; - is standard output.")
    ] = None,
    maps: Annotated[Path | None, typer.Option(metavar="DIR", help="Anomaly maps as float32 TIFF.")] = None,
    overlays: Annotated[Path | None, typer.Option(metavar="DIR", help="Pictures with heat and regions, PNG.")] = None,
    sqlite: Annotated[Path | None, typer.Option(metavar="FILE", help="Archive that survives a power cut.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No JSON lines on standard output.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one report at the end, as JSON.")] = False,
) -> None:
    """Inspects what a camera sees: one verdict a frame, OK, NG or ERROR.

    Prints one JSON line a frame on standard output, and a summary at the end
    on standard error. On a terminal a live table takes the place of the
    lines, unless --jsonl - asks for them. A live camera is judged by its
    newest frame, and those missed are counted; of a folder every frame is
    judged. Ctrl-C or SIGTERM ends the run cleanly.

    Exit codes: 0 whatever the verdicts, 3 if not one frame could be judged,
    4 for the engine, 5 if the camera is lost for good, 6 if results could
    not be written.

    A model that a server runs is named grpc://HOST:PORT/MODEL?bundle=DIR, with
    &mode=, &precision=, &timeout_ms= (1000), &version= where needed; grpcs://
    is the same over TLS. While the server is away, frames are ERROR.

    Example: edge-ad run --engine engines/lid --camera realsense

    Example: edge-ad run --engine engines/lid --camera synthetic:// --frames 9
    """
    source = camera_from_uri(camera)
    to_stdout = _lines_on_stdout(jsonl, quiet=quiet, report=json_output)
    with ExitStack() as stack:
        predictor = _ready(engine, mode, stack)
        limit = predictor.threshold if threshold is None else threshold
        sinks = _sinks(to_stdout, jsonl, sqlite, maps, overlays)
        for sink in sinks:
            stack.callback(sink.close)
        notes.print(f"[green]engine[/] {predictor.description}  [dim]threshold {limit:.4g}[/]")
        info = stack.enter_context(opened_camera(source))
        view = RunView()
        with view.shown(notes.is_terminal and not (to_stdout and sys.stdout.isatty())):
            summary = run_line(
                source, info, predictor, limit, sinks, max_frames=frames, duration_s=duration_s, on_update=view.update
            )
    refused = dict(source.health().dropped)
    if json_output:
        print_json(_report(summary, info, predictor, limit, refused, view.last_error))
    else:
        print_summary(summary, refused, view.last_error)
    problem = _problem(summary, camera, view.last_error)
    if problem is not None:
        raise problem


def _lines_on_stdout(jsonl: Path | None, *, quiet: bool, report: bool) -> bool:
    """Whether standard output gets a line per frame.

    Raises:
        ConfigError: it is asked for that and for something else.
    """
    if jsonl == STDOUT:
        if quiet or report:
            other = "--quiet" if quiet else "--json"
            raise ConfigError(f"--jsonl - and {other} contradict each other", remedy="leave one of them out")
        return True
    return jsonl is None and not (quiet or report or sys.stdout.isatty())


def _ready(model: str, mode: str | None, stack: ExitStack) -> Predictor:
    """Opens a model and runs it once on nothing, so that the first frame is not late."""
    with notes.status("loading the engine"):
        predictor = open_predictor(model, mode)
        stack.callback(predictor.close)
        inputs = predictor.backend.inputs
        shapes = {spec.name: tuple(1 if size is None else size for size in spec.shape) for spec in inputs}
        predictor.backend.run({spec.name: np.ones(shapes[spec.name], spec.dtype) for spec in inputs})
    return predictor


def _sinks(
    to_stdout: bool, jsonl: Path | None, sqlite: Path | None, maps: Path | None, overlays: Path | None
) -> list[Sink]:
    """The outputs, opened; the quickest first.

    Raises:
        OutputError: one cannot be opened.
    """
    sinks: list[Sink] = [JsonLinesSink(sys.stdout)] if to_stdout else []
    if jsonl not in (None, STDOUT):
        sinks.append(JsonLinesSink(jsonl))
    if sqlite is not None:
        sinks.append(SqliteSink(sqlite))
    if maps is not None:
        sinks.append(MapSink(maps))
    if overlays is not None:
        sinks.append(OverlaySink(overlays))
    return sinks


def _report(
    summary: RunSummary,
    info: CameraInfo,
    predictor: Predictor,
    threshold: float,
    refused: dict[str, int],
    last_error: str,
) -> dict[str, Any]:
    """The whole run, JSON-able."""
    return {
        "model": {"description": predictor.description, "id": predictor.model_id, "threshold": threshold},
        "camera": {**asdict(info), "refused": refused},
        "ended": summary.ended.value,
        "duration_s": summary.duration_s,
        **summary.statistics,
        "camera_error": summary.camera_error,
        "last_error": last_error,
    }


def _problem(summary: RunSummary, camera: str, last_error: str) -> EdgeAdError | None:
    """What should end the command with an exit code of its own."""
    statistics = summary.statistics
    if summary.ended is EndReason.CAMERA_LOST:
        return lost_camera(camera, summary.camera_error)
    if statistics["sink_errors"]:
        failures = ", ".join(f"{name} failed {count} times" for name, count in statistics["sink_errors"].items())
        return OutputError(
            "not everything could be written",
            why=failures,
            remedy="see the first error of each above; check the disk's space, the paths and their permissions",
        )
    if statistics["inspected"] and statistics["decisions"][Decision.ERROR.value] == statistics["inspected"]:
        why, _, remedy = last_error.partition(" Remedy: ")
        return DataError("no frame could be judged", why=why, remedy=remedy)
    return None
