"""``edge-ad build-engine``: bundle to an engine for this box."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.markup import escape

from edge_ad.backends import BackendName
from edge_ad.bundle import FULL, Bundle, read_bundle
from edge_ad.candidates import Evidence, defects_from_dataset
from edge_ad.cli.console import notes, print_json, progress_bar
from edge_ad.cli.engine_view import print_engine
from edge_ad.data import open_dataset
from edge_ad.engine_build import PrecisionName, build_engine
from edge_ad.errors import ConfigError
from edge_ad.quantization.calibration import RangeMethod, read_calibration_set


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of a bundle.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory of the engine (engines/NAME-BACKEND-PRECISION, as asked for)."),
    ] = None,
    backend: Annotated[str, typer.Option(help=f"{', '.join(get_args(BackendName))}.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16 (OpenVINO), fp16 (TensorRT), int8, int8_fp16 (TensorRT).")
    ] = "auto",
    calibration: Annotated[
        Path | None, typer.Option(metavar="SET", help="Calibration set: what INT8 needs, and all are judged by.")
    ] = None,
    ranges: Annotated[str, typer.Option(help="minmax, percentile or entropy, for INT8.")] = "minmax",
    defects: Annotated[
        Path | None, typer.Option(metavar="DATASET", help="Also judge by the test split of this data set.")
    ] = None,
    mode: Annotated[str, typer.Option(help="full: all sensors; rgb_only; 3d_only.")] = FULL,
    max_batch: Annotated[int, typer.Option(help="Largest batch it will take.", min=1, max=64)] = 1,
    json_output: Annotated[bool, typer.Option("--json", help="Print the engine's manifest as JSON.")] = False,
) -> None:
    """Makes a bundle ready for this box, and only this box.

    auto takes the fastest engine that judges as the trained model does. With
    a calibration set it tries every precision; without, those that need no
    proof beyond the golden samples. Backends: TensorRT where a GPU and its
    driver are, otherwise all that run on the CPU.

    An engine in fewer bits than fp32 must pass the accuracy gate: rank
    correlation of good parts' scores at least 0.99, changes within 0.25 of
    their standard deviation, false rejects within 0.2 points, and I-AUROC
    within 0.5 and AUPRO within 1 point, with defects pasted into good frames
    and with real ones (--defects). Where INT8 does not pass, its worst layers
    go back to floating point until it does; where nothing helps, the next
    best precision is built, and both are said.

    The engine must give the bundle's golden answers whenever it is loaded.
    Where the model can do without a sensor, --mode builds the smaller graph
    that runs without it.

    Example: edge-ad build-engine bundles/lid --calibration calibration/lid

    Example: edge-ad build-engine bundles/lid --backend tensorrt --precision fp16
    """
    asked_backend: Any = _one_of("backend", backend, get_args(BackendName))
    asked_precision: Any = _one_of("precision", precision, get_args(PrecisionName))
    method: Any = _one_of("ranges", ranges, get_args(RangeMethod))
    source = read_bundle(bundle)
    name = f"{source.manifest.name}-{backend}-{precision}" + ("" if mode == FULL else f"-{mode}")
    directory = output or Path("engines") / name
    with progress_bar("building") as bar:
        engine = build_engine(
            source,
            directory,
            backend=asked_backend,
            precision=asked_precision,
            mode=mode,
            max_batch=max_batch,
            evidence=_evidence(source, mode, calibration, method, defects),
            progress=lambda message: bar.update(bar.task_ids[0], description=message),
        )
    manifest = engine.manifest
    if json_output:
        print_json(manifest.model_dump(mode="json"))
        return
    name = escape(str(directory))
    print_engine(manifest)
    notes.print(f"[green]built[/] {manifest.backend_version}, {manifest.precision}: {name}")
    notes.print(f"  next: [bold]edge-ad run --engine {name} --camera realsense[/]", soft_wrap=True)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(f"{option} {value!r} is unknown", remedy=f"choose {', '.join(known)}")
    return value


def _evidence(
    bundle: Bundle, mode: str, calibration: Path | None, ranges: RangeMethod, defects: Path | None
) -> Evidence:
    if calibration is None and defects is not None:
        raise ConfigError(
            "--defects needs --calibration",
            why="the gate compares good frames as well",
            remedy="make a set with: edge-ad calibrate BUNDLE DATASET",
        )
    if calibration is None:
        return Evidence()
    frames = read_calibration_set(calibration)
    if defects is None:
        return Evidence(frames, ranges)
    return Evidence(frames, ranges, *defects_from_dataset(bundle, mode, open_dataset(defects)))
