"""``edge-ad threshold``: sets the threshold of a run or a bundle, and says what it promises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from edge_ad.bundle import Threshold, Thresholds, read_bundle, write_thresholds
from edge_ad.cli.console import notes, print_json, results
from edge_ad.cli.threshold_scores import GoodScores, bundle_directory, cross_scores, good_count, good_scores, judged
from edge_ad.data import Dataset, open_dataset
from edge_ad.data.dataset import GOOD
from edge_ad.engine import ENGINE
from edge_ad.errors import ConfigError, DataError, EngineError
from edge_ad.predictor import open_predictor
from edge_ad.separation import Detection, detection, separating_threshold
from edge_ad.tail import MIN_TAIL_SCORES, REACH, tail_threshold
from edge_ad.thresholding import (
    CONFIDENCE,
    check_enough,
    check_share,
    conformal_threshold,
    false_reject_bound,
    promise,
    threshold_from_scores,
)

MODES = ("full", "rgb_only", "3d_only", "all")
METHODS = ("conformal", "tail")
CANDIDATES = 5
"""Thresholds that ``--with-defects`` compares: the largest good scores."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a threshold; the best separation of defects where no rate is."""

    false_reject_rate: float | None
    confidence: float
    method: str
    with_defects: bool

    @property
    def by_defects(self) -> bool:
        """Whether the defective parts choose the threshold."""
        return self.with_defects and self.false_reject_rate is None


@dataclass(frozen=True, slots=True)
class Choice:
    """The threshold of one mode: before, now, and what it catches; ``candidates`` are others to compare with."""

    before: Threshold | None
    now: Threshold
    detection: Detection | None
    candidates: tuple[dict[str, float], ...]

    def report(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "old": None if self.before is None else self.before.model_dump(),
            "new": self.now.model_dump(),
            "promise": promise(self.now),
            "detection": None if self.detection is None else asdict(self.detection),
            "candidates": list(self.candidates),
        }


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Run, checkpoint or bundle.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Data set; its good validation frames set the threshold.")
    ],
    category: Annotated[str | None, typer.Option(help="Folder of DATA, where it holds several products.")] = None,
    mode: Annotated[str, typer.Option(help="full, rgb_only, 3d_only, or all that the model has.")] = "full",
    false_reject_rate: Annotated[
        float | None, typer.Option(help="Share of good parts that may be rejected, e.g. 0.05 (the least possible).")
    ] = None,
    confidence: Annotated[float, typer.Option(help="With which no more are rejected.")] = CONFIDENCE,
    method: Annotated[
        str, typer.Option(help="conformal: whatever the scores' distribution. tail: fewer frames, by a model of it.")
    ] = "conformal",
    folds: Annotated[
        int, typer.Option(help="Also score the training frames, by this many models trained without a part of them.")
    ] = 0,
    weights: Annotated[Path | None, typer.Option(help="Teacher weights for --folds, as for 'edge-ad train'.")] = None,
    with_defects: Annotated[
        bool,
        typer.Option(
            "--with-defects", help="Say what is caught of the test split's defects; without a rate, choose by it."
        ),
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Sets the threshold from good parts, and says how many of them it rejects.

    The promise is for parts like the validation frames of DATA. Those that
    the model was trained with also set the scale of its scores: set such a
    threshold on the run, which has kept scores for that, before the export.
    Good parts that the model has never met do for run and bundle alike.

    A rate of 0.05 takes 59 good frames at 95 % confidence, 0.01 takes 299.

    Example: edge-ad threshold runs/lid captures/lid --false-reject-rate 0.05
    """
    wish = checked_wish(false_reject_rate, confidence, method, with_defects)
    _check_place(model, mode, folds)
    dataset = open_dataset(data, category=category)
    _check_frames(dataset, wish, folds)
    predictor = open_predictor(model)
    before = predictor.thresholds.modes
    predictor.close()
    modes = list(before) if mode == "all" else [mode]
    good = good_scores(model, dataset, modes)
    defective = {name: judged(model, dataset, "test", name, anomalous=True) for name in modes if with_defects}
    trained_on = cross_scores(dataset, model, folds, modes, weights) if folds else {}
    choices = {}
    for name in modes:
        scores = good.modes[name], trained_on.get(name, []), defective.get(name, [])
        choice = choose(wish, *scores, folds, before.get(name))
        choices[name] = replace(choice, now=good.assumed_by(choice.now))
    _tell_doubts(dataset, good, before)
    _write(model, Thresholds(modes={name: choice.now for name, choice in choices.items()}))
    if json_output:
        print_json({"model": str(model), "modes": {name: choice.report() for name, choice in choices.items()}})
        return
    for name, choice in choices.items():
        print_choice(name, choice)
    following = "edge-ad build-engine" if bundle_directory(model) else "edge-ad export"
    notes.print(f"[green]set[/]; next: [bold]{following} {escape(str(model))}[/]", soft_wrap=True)
    if good.assumption:
        notes.print(
            "  DATA is what the model was trained with: set the threshold on the run before the export, or with good "
            "parts that it has not met, and the promise needs no such assumption",
            soft_wrap=True,
        )
    if wish.by_defects:
        notes.print(
            "  the test split's defects chose it: to know what it catches, evaluate it on others", soft_wrap=True
        )


def checked_wish(false_reject_rate: float | None, confidence: float, method: str, with_defects: bool) -> Wish:
    """The wish, if it makes sense.

    Raises:
        ConfigError: a share is out of range, the method unknown, or a tail wanted without a rate.
    """
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is unknown", remedy=f"choose {' or '.join(METHODS)}")
    check_share("--confidence", confidence)
    if false_reject_rate is not None:
        check_share("--false-reject-rate", false_reject_rate)
    elif method == "tail":
        raise ConfigError(
            "--method tail needs a rate", why="a tail has no largest score", remedy="add --false-reject-rate 0.01"
        )
    return Wish(false_reject_rate, confidence, method, with_defects)


def choose(
    wish: Wish,
    validation: Sequence[float],
    trained_on: Sequence[float],
    defective: Sequence[float],
    folds: int,
    before: Threshold | None,
) -> Choice:
    """The threshold that ``wish`` asks for.

    Args:
        wish: what is asked.
        validation: scores of good validation frames.
        trained_on: scores of training frames, each by a model of ``folds`` that had not seen it; empty for none.
        defective: scores of defective parts; empty for none.
        folds: how many such models there are.
        before: the threshold until now.

    Raises:
        ConfigError: the frames are too few for the promise.
        DataError: the scores make no threshold.
    """
    good, rate, confidence = [*validation, *trained_on], wish.false_reject_rate, wish.confidence
    if wish.by_defects:
        now = separating_threshold(good, defective, confidence=confidence)
    elif rate is None:
        now = threshold_from_scores(good, confidence)
    elif wish.method == "tail":
        now = tail_threshold(good, false_reject_rate=rate, confidence=confidence)
    else:
        now = conformal_threshold(good, false_reject_rate=rate, confidence=confidence)
    if trained_on:
        from edge_ad.cross_scoring import cross_scored

        now = cross_scored(now, folds, len(trained_on))
    if not wish.with_defects:
        return Choice(before, now, None, ())
    highest = sorted(good, reverse=True)[:CANDIDATES]
    candidates = tuple(
        {
            "value": value,
            "false_reject_bound": false_reject_bound(len(good), rank, confidence),
            "found": float(detection(value, defective, confidence=confidence).found),
        }
        for rank, value in enumerate(highest, 1)
    )
    found = detection(now.value, defective, confidence=confidence, chosen_on_them=wish.by_defects)
    return Choice(before, now, found, candidates)


def print_choice(mode: str, choice: Choice) -> None:
    """What changed, what is promised, and what that rests on."""
    old = "none" if choice.before is None else f"{choice.before.value:.3f}"
    results.print(f"[bold]{mode}[/]: threshold {old} → [bold]{choice.now.value:.3f}[/]", soft_wrap=True)
    results.print(f"  {promise(choice.now)}", soft_wrap=True)
    results.print(f"  {choice.now.method}", soft_wrap=True)
    if choice.detection is None:
        return
    found = choice.detection
    share = (
        f"at least {100 * found.rate_bound:.1f} % of defects like these at {100 * found.confidence:.6g} % confidence"
    )
    results.print(f"  finds {found.found} of {found.parts} defective parts: {share}", soft_wrap=True)
    table = Table(title="the largest good scores as thresholds", title_justify="left")
    for heading in ("threshold", "false rejects at most", "defects found"):
        table.add_column(heading, justify="right")
    for row in choice.candidates:
        bound = f"{100 * row['false_reject_bound']:.1f} %"
        table.add_row(f"{row['value']:.3f}", bound, f"{row['found']:.0f} of {found.parts}")
    results.print(table)


def _check_place(model: Path, mode: str, folds: int) -> None:
    """Refuses what can't be given a threshold, before anything is judged."""
    directory = model.parent if model.suffix == ".onnx" else model
    if (directory / ENGINE).is_file():
        raise EngineError(
            f"{model} is an engine",
            why="it was signed with the thresholds of its bundle",
            remedy="set the threshold on the bundle and build the engine again: only the thresholds are made anew",
        )
    if mode not in MODES:
        raise ConfigError(f"mode {mode!r} is unknown", remedy=f"choose one of {', '.join(MODES)}")
    if folds and bundle_directory(model):
        raise ConfigError(
            f"{model} cannot be cross-scored", why="a bundle has no settings to train by", remedy="name the run instead"
        )


def _check_frames(dataset: Dataset, wish: Wish, folds: int) -> None:
    """Refuses what these frames cannot give, before anything is judged and not only after an hour of folds."""
    rate = wish.false_reject_rate
    frames = good_count(dataset, "validation", "train") if folds else good_count(dataset, "validation")
    if rate is not None and wish.method == "conformal":
        check_enough(frames, rate, wish.confidence)
    if rate is not None and wish.method == "tail":
        needed = max(MIN_TAIL_SCORES, math.ceil(1 / (REACH * rate)))
        if frames < needed:
            raise ConfigError(
                f"{frames} good frames are too few for a tail that says something of {100 * rate:.6g} % false rejects",
                why=f"that takes {needed}",
                remedy=f"capture {needed - frames} more good parts with 'edge-ad capture --split validation'",
            )
    if wish.with_defects and all(entry.defect == GOOD for entry in dataset.frames("test").entries):
        raise DataError(
            f"{dataset.root} has no defective test frames",
            why="--with-defects says what is caught of them",
            remedy="record some with 'edge-ad capture --split test --defect NAME', or leave out --with-defects",
        )


def _tell_doubts(dataset: Dataset, good: GoodScores, before: Mapping[str, Threshold]) -> None:
    """Warns of frames that do not look like what the model has learned: a threshold for them lets everything pass."""
    if good.product != dataset.category:
        text = f"DATA is {dataset.category}, the model has learned {good.product}"
        notes.print(f"[yellow]mind[/] {escape(text)}", soft_wrap=True)
    for mode, scores in good.modes.items():
        above = sum(score > before[mode].value for score in scores) if mode in before else 0
        if 2 * above > len(scores):
            text = f"{mode}: {above} of {len(scores)} good parts were above the threshold until now"
            notes.print(f"[yellow]mind[/] {text}: another product, camera or light?", soft_wrap=True)


def _write(model: Path, thresholds: Thresholds) -> None:
    directory = bundle_directory(model)
    if directory is not None:
        write_thresholds(read_bundle(directory), thresholds)
        return
    from edge_ad.models.checkpoint import replace_thresholds

    replace_thresholds(model, thresholds)
