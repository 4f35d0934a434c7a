"""``edge-ad run``: the line, from camera to verdict to outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_ad.alarms import Alarms
from edge_ad.cli.cameras import lost_camera, opened_camera
from edge_ad.cli.console import notes, print_json
from edge_ad.cli.line import STDOUT, DriftSink, Plan, Products, make_camera, make_sinks, planned
from edge_ad.cli.run_view import RunView, print_summary
from edge_ad.errors import CameraError, ConfigError, DataError, EdgeAdError, OutputError
from edge_ad.rig.identity import check_camera
from edge_ad.rig.monitor import RigMonitor
from edge_ad.rig.record import Rig, read_rig
from edge_ad.rig.settling import lock_exposure
from edge_ad.runtime.acquisition import Policy
from edge_ad.runtime.host import Host
from edge_ad.runtime.judging import ALARM as SENSORS
from edge_ad.runtime.latency_alarm import LatencyAlarm
from edge_ad.runtime.loop import Line, RunSummary
from edge_ad.runtime.loop import run as run_line
from edge_ad.runtime.notify import Systemd
from edge_ad.runtime.reader import EndReason, Recovery
from edge_ad.runtime.stats import Statistics
from edge_ad.triggers import TriggerSource, triggers_from_uri
from edge_ad.types import Camera, CameraInfo, Decision

SETTINGS = "settings"
"""The alarm of a camera that refuses what it should be set to."""

RECOVERY = Recovery()
"""A camera that is lost is waited for as long as it takes."""


def command(
    engine: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Engine, bundle, model.onnx, checkpoint, or grpc://… of a server."),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(metavar="URI", help="realsense, realsense://SERIAL, folder://DIR, synthetic://")
    ] = None,
    recipe: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="A product's TOML file, or a directory of them.")
    ] = None,
    policy: Annotated[
        Policy | None, typer.Option(help="What is inspected; by default the newest frame, of files every one.")
    ] = None,
    trigger: Annotated[
        str | None, typer.Option(metavar="URI", help="One verdict a part: tcp://127.0.0.1:7001, stdin, timer://?rate=2")
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="From a trigger to its verdict; 500 unless told.")
    ] = None,
    offset_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="From a trigger to the moment the part is in view.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="X", help="A score above it is NG; by default the model's.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(metavar="MODE", help="full, rgb_only or 3d_only; by default what the engine is for.")
    ] = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option(metavar="ENGINE", help="Takes over when a sensor fails: an engine of the same bundle."),
    ] = None,
    rig: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Made by rig calibrate: refuses another camera, watches for moves."),
    ] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="An alarm when 1 % of the results are older.")
    ] = None,
    frames: Annotated[int | None, typer.Option(metavar="N", help="End after so many.", min=1)] = None,
    duration_s: Annotated[float | None, typer.Option(metavar="S", help="End after so many seconds.", min=0)] = None,
    give_up_s: Annotated[
        float | None, typer.Option(metavar="S", help="End when the camera is lost for so long; never unless told.")
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Run a live camera in this process, not in one of its own.")
    ] = False,
    jsonl: Annotated[str | None, typer.Option(metavar="FILE", help="JSON lines go here; - is standard output.")] = None,
    maps: Annotated[str | None, typer.Option(metavar="DIR", help="Anomaly maps as float32 TIFF.")] = None,
    overlays: Annotated[str | None, typer.Option(metavar="DIR", help="Pictures with heat and regions, PNG.")] = None,
    sqlite: Annotated[str | None, typer.Option(metavar="FILE", help="Archive that survives a power cut.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No JSON lines on standard output.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one report at the end, as JSON.")] = False,
) -> None:
    """Inspects what a camera sees: one verdict a frame or part, OK, NG or ERROR.

    Prints one JSON line an inspection on standard output, and a summary at the
    end on standard error. On a terminal a live table takes the place of the
    lines, unless --jsonl - asks for them. Ctrl-C or SIGTERM ends the run.

    A live camera is judged by its newest frame, and those missed are counted;
    of a folder every frame is judged. With --trigger each part gets exactly
    one verdict, in order, by the first frame after its trigger and before its
    deadline; what is late is ERROR. The camera runs in a process of its own,
    and is brought back when it fails.

    When depth or colour fails, the model's mode for the other sensor judges,
    and every verdict says so: of a bundle by itself, of an engine by those of
    --fallback. --recipe reads all of this from one file a product, and
    "edge-ad recipe use" changes over.

    Exit codes: 0 whatever the verdicts, 3 if not one frame could be judged,
    4 for the engine, 5 if the camera is lost for good, 6 if results could
    not be written.

    A model that a server runs is named grpc://HOST:PORT/MODEL?bundle=DIR, with
    &mode=, &precision=, &timeout_ms= (1000), &version= where needed; grpcs://
    is the same over TLS. While the server is away, frames are ERROR.

    Example: edge-ad run --engine engines/lid --camera realsense

    Example: edge-ad run --engine engines/lid --camera synthetic:// --frames 9
    """
    rules = {"policy": policy, "deadline_ms": deadline_ms, "offset_ms": offset_ms}
    outputs = {"jsonl": jsonl, "sqlite": sqlite, "maps": maps, "overlays": overlays}
    overrides = {
        "model": engine,
        "camera": camera,
        "threshold": threshold,
        "mode": mode,
        "fallback": tuple(fallback or ()),
        "triggers": trigger,
        "rig": rig,
        "acquisition": {name: value for name, value in rules.items() if value is not None},
        "outputs": {name: value for name, value in outputs.items() if value is not None},
    }
    plan = planned(recipe or [], overrides)
    recovery = RECOVERY if give_up_s is None else Recovery(RECOVERY.delays_s, give_up_s)
    limits = Limits(frames, duration_s, max_latency_ms)
    _run(plan, limits, recovery, in_process=in_process, quiet=quiet, json_output=json_output)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run ends by itself, and what age of its results is an alarm."""

    frames: int | None
    duration_s: float | None
    latency_ms: float | None


def _run(
    plan: Plan,
    limits: Limits,
    recovery: Recovery,
    *,
    in_process: bool,
    quiet: bool,
    json_output: bool,
) -> None:
    shared = plan.shared
    uri, acquisition = str(shared.camera), shared.acquisition
    to_stdout = _lines_on_stdout(shared.outputs.jsonl, quiet=quiet, report=json_output)
    source = make_camera(uri, acquisition.policy, in_process=in_process)
    rig = None if shared.rig is None else read_rig(Path(shared.rig))
    alarms, statistics, systemd = Alarms(), Statistics(), Systemd()
    view = RunView(alarms, statistics)
    with ExitStack() as stack:
        products = Products(plan, rig)
        drift = DriftSink(products.loaded, alarms)
        watchers = [drift] if rig is None else [drift, RigMonitor(rig, alarms)]
        sinks = [*make_sinks(shared.outputs, to_stdout=to_stdout), *watchers]
        triggers = _triggers(shared.triggers)
        for output in (*sinks, *([] if triggers is None else [triggers])):
            stack.callback(output.close)
        model, limit = products.loaded[plan.active], products.book.inspector_for("").threshold
        notes.print(f"[green]engine[/] {model.description}  [dim]threshold {limit:.4g}[/]")
        info = stack.enter_context(opened_camera(source))
        prepare = partial(_prepare, source, products, rig, alarms)
        prepare()
        line = Line(
            products.book.inspector_for,
            sinks,
            acquisition=acquisition,
            triggers=triggers,
            recovery=recovery,
            prepare_camera=prepare,
            check_camera=None if rig is None else partial(check_camera, rig),
            on_update=view.update,
            every_second=_chores(statistics, alarms, systemd, limits.latency_ms),
            notifier=systemd,
            alarms=alarms,
            statistics=statistics,
        )
        # Of two change-overs in quick succession the last one counts, whichever thread comes first.
        products.on_switch = lambda: _changed_over(line, prepare, drift, products.book.active)
        stack.enter_context(products.following())
        with view.shown(notes.is_terminal and not (to_stdout and sys.stdout.isatty())):
            summary = run_line(source, info, line, max_frames=limits.frames, duration_s=limits.duration_s)
        refused = dict(source.health().dropped)
    if json_output:
        told = {"description": model.description, "id": model.model_id, "threshold": limit}
        report = _report(summary, info, refused, view.last_error)
        print_json({"model": told, **report, "drift": drift.summary()})
    else:
        print_summary(summary, refused, view.last_error, alarms)
    problem = _problem(summary, uri, view.last_error)
    if problem is not None:
        raise problem


def _triggers(uri: str | None) -> TriggerSource | None:
    """The source of triggers, listening; says where."""
    if uri is None:
        return None
    triggers = triggers_from_uri(uri)
    notes.print(f"[green]triggers[/] {triggers.address or uri}")
    return triggers


def _chores(
    statistics: Statistics, alarms: Alarms, systemd: Systemd, latency_ms: float | None
) -> list[Callable[[], None]]:
    """What is done once a second."""
    host = Host()
    chores = [lambda: statistics.host(host.figures()), lambda: systemd.report(statistics, alarms)]
    return chores if latency_ms is None else [*chores, LatencyAlarm(statistics, alarms, latency_ms).check]


def _prepare(camera: Camera, products: Products, rig: Rig | None, alarms: Alarms) -> None:
    """Sets what the rig was measured with, and then what the recipe in force wants; an alarm where it cannot.

    Raises:
        ConfigError, CameraError: the camera refuses.
    """
    wrong = "the camera has not the settings that parts should be judged with"
    wanted, refused = {} if rig is None else rig.record.camera.locked, ""
    try:
        if wanted:
            fixed, refused = lock_exposure(camera, wanted)
            refused = refused or ", ".join(f"it has no {name}" for name in wanted.keys() - fixed.keys())
        products.set_options(camera)
    except Exception as error:
        alarms.alert(SETTINGS, f"{wrong}: {error}")
        raise
    if refused:
        alarms.alert(SETTINGS, f"{wrong}, those of the rig: {refused}")
    else:
        alarms.clear(SETTINGS)


def _changed_over(line: Line, prepare: Callable[[], None], drift: DriftSink, recipe: str) -> None:
    """Another recipe is in force: its settings hold, and what is wrong is for its own model to say."""
    line.alarms.clear(SENSORS)
    drift.silence_others(recipe)
    line.camera_commands.put(prepare)


def _lines_on_stdout(jsonl: str | None, *, quiet: bool, report: bool) -> bool:
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


def _report(summary: RunSummary, info: CameraInfo, refused: dict[str, int], last_error: str) -> dict[str, Any]:
    """The whole run, JSON-able."""
    return {
        "camera": {**asdict(info), "refused": refused},
        "ended": summary.ended.value,
        "duration_s": summary.duration_s,
        **summary.statistics,
        "camera_error": summary.camera_error,
        "alarms": summary.alarms,
        "refused_triggers": summary.refused_triggers,
        "last_error": last_error,
    }


def _problem(summary: RunSummary, camera: str, last_error: str) -> EdgeAdError | None:
    """What should end the command with an exit code of its own."""
    statistics = summary.statistics
    if summary.ended is EndReason.CAMERA_LOST:
        return lost_camera(camera, summary.camera_error)
    if summary.ended is EndReason.CAMERA_REFUSED:
        what, _, rest = summary.camera_error.partition(". ")
        why, _, remedy = rest.partition(" Remedy: ")
        return CameraError(what, why=why, remedy=remedy)
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
