"""Everything about engines that only a GPU can prove, in one go, on any box with one.

    python scripts/gpu_check.py prepare --output DIR    where torch is: graphs, golden answers, PyTorch's own timings
    python scripts/gpu_check.py check --output DIR      where TensorRT is, torch not needed: builds, answers, latencies
    python scripts/gpu_check.py gate --output DIR --bundle BUNDLE --calibration SET    what the accuracy gate says
    python scripts/gpu_check.py report --output DIR     all of it as DIR/report.md

The parts may run on different machines: carry DIR. PyTorch's timings and the roofline are measured only if
``prepare`` sees a GPU. ``prepare`` and ``check`` keep what they have and go on from there when called again, so
that they fit into short sessions (``--models``, ``--backbones``, ``--budget-s``). Weights are random, as speed
does not depend on them, with BatchNorm statistics of rendered frames, as the range of values does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from gpu_check_results import CASES, comma_separated

from edge_ad.errors import EdgeAdError

app = typer.Typer(add_completion=False, help=__doc__)

Output = Annotated[Path, typer.Option("--output", "-o", help="Directory of graphs and results.")]


@app.command()
def prepare(
    output: Output,
    models: Annotated[str, typer.Option(help="Several with commas.")] = "crd,rd",
    backbones: Annotated[
        str, typer.Option(help="Several with commas.")
    ] = "efficientnet_lite0,resnet18,wide_resnet50_2",
    size: Annotated[int, typer.Option(help="Side of frames and of the network's input, px.")] = 256,
    samples: Annotated[int, typer.Option(help="Frames with golden answers.", min=1)] = 4,
    rounds: Annotated[int, typer.Option(help="Timed runs of each PyTorch variant.", min=1)] = 200,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Time torch.compile too.")] = True,
) -> None:
    """Exports graphs and golden answers; with a GPU also times eager PyTorch and torch.compile.

    Cases that are there already are kept, so that this can go on case by case.
    """
    from gpu_check_prepare import Choices, prepare_all

    choices = Choices(size, samples, rounds, compiled)
    prepare_all(output, comma_separated(models), comma_separated(backbones), choices)


@app.command()
def check(
    output: Output,
    backend: Annotated[str, typer.Option(help="tensorrt; onnxruntime for a CPU's figures beside it.")] = "tensorrt",
    only: Annotated[str, typer.Option(help="Cases, several with commas; by default all that were prepared.")] = "",
    precisions: Annotated[str, typer.Option(help="Several with commas; by default all but bf16.")] = "",
    batches: Annotated[str, typer.Option(help="Several with commas; each is an engine of its own.")] = "1,16",
    rounds: Annotated[int, typer.Option(help="Timed runs of each variant.", min=1)] = 300,
    rebuild: Annotated[bool, typer.Option(help="Build twice: the second time with what the first measured.")] = False,
    budget_s: Annotated[float, typer.Option(help="Begin no engine after so many seconds.")] = float("inf"),
) -> None:
    """Builds every engine, compares its answers and times it, with CUDA graphs and without."""
    from gpu_check_engines import Plan, check_all

    os.environ["EDGE_AD_HOME"] = str(output.resolve() / "home")  # neither the user's key nor the user's timing cache
    cases = comma_separated(only) or sorted(path.name for path in (output / CASES).glob("*") if path.is_dir())
    if not cases:
        raise typer.BadParameter(f"nothing was prepared in {output}; run `prepare` first", param_hint="--output")
    plan = Plan(cases, comma_separated(precisions), tuple(int(x) for x in comma_separated(batches)), rounds, rebuild)
    if not check_all(output, backend, plan, budget_s):
        raise typer.Exit(1)


@app.command()
def gate(
    output: Output,
    bundle: Annotated[Path, typer.Option(help="A trained model.")],
    calibration: Annotated[Path, typer.Option(help="Its calibration set.")],
    backend: Annotated[str, typer.Option(help="tensorrt, or another one.")] = "tensorrt",
) -> None:
    """Builds every precision of a trained model here, and tells what the accuracy gate says of each."""
    from gpu_check_engines import judge

    judge(output, bundle, calibration, backend)


@app.command()
def report(output: Output) -> None:
    """Writes DIR/report.md from whatever has been measured, and prints it."""
    from gpu_check_report import markdown

    text = markdown(output)
    (output / "report.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    try:
        app()
    except EdgeAdError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
