"""``edge-ad export-triton``: bundle or engine to a Triton model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import quote

import typer
from rich.markup import escape

from edge_ad.cli.console import notes, print_json
from edge_ad.engine import ENGINE
from edge_ad.errors import ConfigError
from edge_ad.triton import TritonExport, export_triton
from edge_ad.triton_config import Device

ONLY_HERE = "a TensorRT plan runs only on the very GPU and TensorRT version that it was built with"


def command(
    source: Annotated[Path, typer.Argument(metavar="BUNDLE_OR_ENGINE", help="Bundle, or engine built from one.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="REPOSITORY", help="Model repository to write to.")],
    name: Annotated[str | None, typer.Option(help="Of the model (the bundle's name, with its mode).")] = None,
    mode: Annotated[
        str | None, typer.Option(help="full, rgb_only or 3d_only; by default full, or what the engine was built for.")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Largest batch the server makes (8, or the TensorRT engine's).", min=1, max=64)
    ] = None,
    instances: Annotated[int, typer.Option(help="Copies of the model that work side by side.", min=1)] = 1,
    device: Annotated[
        str | None, typer.Option(help="cpu or gpu; by default cpu for ONNX and gpu for TensorRT.")
    ] = None,
    queue_delay_us: Annotated[
        int, typer.Option(help="Microseconds a frame may wait for others to share its batch.", min=0)
    ] = 1000,
    threads: Annotated[
        int | None, typer.Option(help="Of each instance on the CPU (this box's cores, shared).", min=1)
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Writes a model for Triton Inference Server, which serves many cameras.

    From a bundle or an ONNX Runtime engine comes an ONNX model, which runs on
    any box; from a TensorRT engine a plan, for this very GPU and TensorRT
    version. An earlier export of the same name is replaced.

    edge-ad run reaches the served model as grpc://HOST:PORT/NAME?bundle=DIR
    and checks it with the bundle's golden samples.

    Example: edge-ad export-triton bundles/lid --output models --instances 2
    """
    if device not in (None, "cpu", "gpu"):
        raise ConfigError(f"device {device!r} is unknown", remedy="choose cpu or gpu")
    exported = export_triton(
        source,
        output,
        name=name,
        mode=mode,
        max_batch=max_batch,
        instances=instances,
        device=cast("Device | None", device),
        queue_delay_us=queue_delay_us,
        threads=threads,
    )
    if json_output:
        print_json(_report(exported))
        return
    model, serving = exported.model, exported.serving
    what = f"{model.file_name}, {model.mode}, {model.precision}, {serving.instances} × {serving.device}"
    notes.print(f"[green]exported[/] {what}, batches to {serving.max_batch}: {escape(str(exported.directory))}")
    if _only_here(exported):
        notes.print(f"[yellow]mind[/] {ONLY_HERE}", soft_wrap=True)
    bundle = "BUNDLE" if (source / ENGINE).is_file() else quote(str(source))
    serve = f"tritonserver --model-repository {output} --grpc-address 127.0.0.1"
    notes.print(f"  next: [bold]{escape(serve)}[/], then", soft_wrap=True)
    uri = f"grpc://localhost:8001/{exported.name}?bundle={bundle}"
    uri += "" if model.mode == "full" else f"&mode={model.mode}"
    uri += "" if model.precision == "fp32" else f"&precision={model.precision}"
    notes.print(f"  [bold]edge-ad run --engine '{escape(uri)}' --camera realsense[/]", soft_wrap=True)


def _report(exported: TritonExport) -> dict[str, Any]:
    """What was written, JSON-able."""
    model, serving = exported.model, exported.serving
    return {
        "name": exported.name,
        "directory": str(exported.directory),
        "file": model.file_name,
        "bundle_digest": model.bundle_digest,
        "mode": model.mode,
        "precision": model.precision,
        "max_batch": serving.max_batch,
        "instances": serving.instances,
        "device": serving.device,
        "queue_delay_us": serving.queue_delay_us,
        "threads": serving.threads if serving.device == "cpu" else None,
        "only_for_this_gpu": _only_here(exported),
    }


def _only_here(exported: TritonExport) -> bool:
    return exported.model.file_name == "model.plan"
