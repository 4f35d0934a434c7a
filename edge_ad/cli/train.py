"""``edge-ad train``: good captures to a checkpoint."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import typer
from rich.markup import escape

from edge_ad.cli.console import notes, print_json, progress_bar, results
from edge_ad.config import RoiConfig, TrainConfig
from edge_ad.data import open_dataset
from edge_ad.errors import ConfigError
from edge_ad.extras import require
from edge_ad.rig.identity import check_frames
from edge_ad.rig.record import Rig, read_rig
from edge_ad.runtime.signals import stopped_by_signals
from edge_ad.settings import read_toml, validated


def command(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Data set: MVTec 3D-AD, Eyecandies, or what 'edge-ad capture' wrote.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the run.")],
    category: Annotated[str | None, typer.Option(help="Folder of DATA, where it holds several products.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; the options here go before it.")] = None,
    model: Annotated[str | None, typer.Option(help="crd, mmrd, rd, fd or cmdiad, see the README.")] = None,
    backbone: Annotated[str | None, typer.Option(help="The frozen teacher, e.g. efficientnet_lite0, resnet18.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Teacher weights; by default the published ones.")] = None,
    modalities: Annotated[
        str | None,
        typer.Option(help="Of rgb, depth, normals, see the README; crd takes two."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Frames a step.")] = None,
    roi: Annotated[str | None, typer.Option(help="Part of the frame to inspect: X,Y,WIDTH,HEIGHT in pixels.")] = None,
    rig: Annotated[
        Path | None, typer.Option(metavar="RIG", help="What 'edge-ad rig calibrate' wrote: gives ROI and plane.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and order.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run left off.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Learns what good parts look like.

    Reads the train and validation frames (good parts only) and writes
    OUTPUT/checkpoint.safetensors. A run that is stopped, by Ctrl-C or a
    power cut, goes on with --resume.

    All settings, for --config, are in docs/settings.toml.

    Example: edge-ad train captures/lid --output runs/lid --modalities rgb,depth
    """
    require("torch", extra="train")
    from edge_ad.models.checkpoint import CHECKPOINT
    from edge_ad.training import Progress, train

    options = {"model": model, "backbone": backbone, "steps": steps, "batch_size": batch_size, "seed": seed}
    measured = None if rig is None else read_rig(rig)
    settings = with_roi_of(measured, train_config(config, options, modalities, roi))
    dataset = open_dataset(data, category=category)
    if measured is not None:
        shown = dataset.frames("train")
        check_frames(measured, [shown[index].frame for index in range(0, len(shown), max(1, len(shown) // 5))])
    if int(os.environ.get("RANK", "0")) > 0:
        notes.quiet = results.quiet = True  # of the processes that torchrun started, one reports
    stop, alone = Event(), int(os.environ.get("WORLD_SIZE", "1")) == 1
    with progress_bar("reading frames") as bar, stopped_by_signals(stop) if alone else nullcontext():
        task = bar.task_ids[0]

        def show(progress: Progress) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            if not notes.is_terminal and progress.step % max(1, progress.steps // 10) == 0:
                place = f"step {progress.step} of" if progress.losses else f"{progress.step} of"
                notes.print(f"{progress.stage}: {place} {progress.steps}" if progress.step else progress.stage)
            left = f"{progress.seconds_left:.0f} s left" if progress.step else ""
            losses = " ".join(f"{loss:.3f}" for loss in progress.losses)
            remark = f"loss {losses}   {left}" if losses else left
            bar.update(task, description=progress.stage, completed=progress.step, total=progress.steps, remark=remark)

        try:
            known = None if measured is None else measured.reference
            record = train(dataset, settings, output, weights_path=weights, rig=known, resume=resume, progress=show)
        except KeyboardInterrupt:
            kept = (output / CHECKPOINT).is_file()
            text = "the same command with --resume goes on" if kept else "nothing was trained yet"
            notes.print(f"[yellow]stopped[/] {text}", soft_wrap=True)
            raise typer.Exit(130) from None
    scores = record.validation_scores
    if json_output:
        print_json({"run": str(output), "steps": record.step, "validation_scores": scores})
        return
    product = escape(f"{record.data.category}: {output}")
    notes.print(f"[green]trained[/] {settings.model} on {record.data.train_frames} good frames of {product}")
    for mode, values in scores.items():
        notes.print(f"  {mode}: {len(values)} good validation frames score {min(values):.2f} to {max(values):.2f}")
    following = [f"edge-ad export {output}"]
    if "test" in dataset.splits:
        named = "" if category is None else f" --category {category}"
        following.insert(0, f"edge-ad evaluate {output} {data}{named}")
    notes.print("  next: " + " or ".join(f"[bold]{escape(line)}[/]" for line in following), soft_wrap=True)


def train_config(
    path: Path | None, options: dict[str, Any], modalities: str | None = None, roi: str | None = None
) -> TrainConfig:
    """Settings from a TOML file with the command's options on top.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    values = read_toml(path) if path is not None else {}
    source = str(path) if path is not None else "the training settings"
    preprocess = values.get("preprocess", {})
    if not isinstance(preprocess, dict):
        raise ConfigError(
            f"{source}: preprocess is not a table", why=f"it is {preprocess!r}", remedy="use [preprocess]"
        )
    values |= {name: value for name, value in options.items() if value is not None}
    said = {name: f"--{name.replace('_', '-')} {value}" for name, value in options.items() if value is not None}
    if modalities is not None:
        preprocess = {**preprocess, "modalities": [name.strip() for name in modalities.split(",")]}
        said["preprocess.modalities"] = f"--modalities {modalities}"
    if roi is not None:
        values["roi"] = parsed_roi(roi)
    values["preprocess"] = preprocess
    return validated(TrainConfig, values, source, options=said)


def with_roi_of(rig: Rig | None, settings: TrainConfig) -> TrainConfig:
    """The settings with the rig's ROI, where they have none."""
    if rig is None or settings.roi is not None:
        return settings
    return settings.model_copy(update={"roi": RoiConfig(**asdict(rig.record.roi))})


def parsed_roi(text: str) -> RoiConfig:
    """``X,Y,WIDTH,HEIGHT`` as a rectangle.

    Raises:
        ConfigError: it is not four whole numbers, or the rectangle is too small.
    """
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"ROI {text!r} is not X,Y,WIDTH,HEIGHT", remedy="write, for example, --roi 100,40,512,512")
    names = ("x_px", "y_px", "width_px", "height_px")
    return validated(RoiConfig, dict(zip(names, map(int, parts), strict=True)), f"ROI {text}")
