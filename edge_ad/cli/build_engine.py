"""``edge-ad build-engine``: bundle to an engine for this box."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer
from rich.markup import escape

from edge_ad.backends import BackendName, choose_backend
from edge_ad.backends.base import Precision
from edge_ad.bundle import FULL, read_bundle
from edge_ad.cli.console import notes, print_json, progress_bar
from edge_ad.engine import build_engine
from edge_ad.errors import ConfigError


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of a bundle.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory of the engine (engines/NAME-BACKEND-PRECISION)."),
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, onnxruntime or tensorrt.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or fp16.")] = "fp32",
    mode: Annotated[str, typer.Option(help="full: all sensors; rgb_only; 3d_only.")] = FULL,
    max_batch: Annotated[int, typer.Option(help="Largest batch it will take.", min=1, max=64)] = 1,
    json_output: Annotated[bool, typer.Option("--json", help="Print the engine's manifest as JSON.")] = False,
) -> None:
    """Makes a bundle ready for this box, and only this box.

    auto takes TensorRT where a GPU and its driver are, and ONNX Runtime
    elsewhere. The engine must give the bundle's golden answers before it is
    kept, and is checked again whenever it is loaded.

    Where the model can do without a sensor, --mode builds the smaller graph
    that runs without it.

    Example: edge-ad build-engine bundles/lid --backend tensorrt --precision fp16
    """
    if backend not in ("auto", "onnxruntime", "tensorrt"):
        raise ConfigError(f"backend {backend!r} is unknown", remedy="choose auto, onnxruntime or tensorrt")
    if precision not in ("fp32", "fp16"):
        raise ConfigError(f"precision {precision!r} is unknown", remedy="choose fp32 or fp16")
    source = read_bundle(bundle)
    chosen = choose_backend(cast(BackendName, backend))
    name = f"{source.manifest.name}-{chosen}-{precision}" + ("" if mode == FULL else f"-{mode}")
    directory = output or Path("engines") / name
    with progress_bar("building") as bar:
        engine = build_engine(
            source,
            directory,
            backend=cast(BackendName, chosen),
            precision=cast(Precision, precision),
            mode=mode,
            max_batch=max_batch,
            progress=lambda message: bar.update(bar.task_ids[0], description=message),
        )
    manifest = engine.manifest
    if json_output:
        print_json(manifest.model_dump(mode="json"))
        return
    name = escape(str(directory))
    notes.print(f"[green]built[/] {manifest.backend} {manifest.backend_version}, {manifest.precision}: {name}")
    notes.print(f"  next: [bold]edge-ad run --engine {name} --camera realsense[/]", soft_wrap=True)
