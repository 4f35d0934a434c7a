"""``edge-ad capture``: from a camera to a data set that ``edge-ad train`` reads."""

from __future__ import annotations

import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from edge_ad.cameras import camera_from_uri
from edge_ad.cli.cameras import lost_camera, opened_camera
from edge_ad.cli.console import notes, print_json, progress_bar
from edge_ad.data.dataset import GOOD
from edge_ad.data.writer import FolderWriter
from edge_ad.errors import CameraError, DataError, EdgeAdError
from edge_ad.runtime.reader import READ_TIMEOUT_S, EndReason, Reader, Recovery
from edge_ad.runtime.signals import stopped_by_signals
from edge_ad.runtime.stats import Statistics
from edge_ad.types import Frame

RECOVERY = Recovery(give_up_s=60.0)
"""A camera that is lost for longer ends the recording."""

GIVE_UP_S = 10.0
"""So long a live camera may go without a frame worth keeping."""

COMPLETE, USELESS = "all recorded", "no usable frame"


def command(
    output: Annotated[Path, typer.Argument(help="Data set to add to; made where it is not there.")],
    camera: Annotated[
        str, typer.Option(metavar="URI", help="realsense, realsense://SERIAL, folder://DIR, synthetic://")
    ],
    frames: Annotated[int, typer.Option(metavar="N", help="Captures to record.", min=1)] = 40,
    interval_ms: Annotated[int, typer.Option(metavar="MS", help="Least time between live captures.", min=0)] = 200,
    split: Annotated[str, typer.Option(metavar="NAME", help="train, validation or test.")] = "train",
    defect: Annotated[str, typer.Option(metavar="NAME", help="What is wrong with the parts (test split).")] = GOOD,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was recorded as JSON.")] = False,
) -> None:
    """Records a data set from a camera.

    Show good parts for the train split, then other good parts for the
    validation split: they set the threshold. The test split, with or without
    defects, measures the result. Each run adds to what was recorded before.

    Frames without valid depth are skipped and counted. Ctrl-C ends early and
    keeps what there is. Of a folder or recording every frame is taken,
    whatever the interval.

    Example: edge-ad capture captures/lid --camera realsense --frames 60

    Example: edge-ad capture captures/lid --camera realsense --split validation
    """
    source, writer = camera_from_uri(camera), FolderWriter(output, split, defect)
    stop, tally = threading.Event(), Tally()
    with opened_camera(source) as info, progress_bar("recording") as bar, stopped_by_signals(stop):
        reader = Reader(source, camera, Statistics(), stop, RECOVERY)
        record(
            reader,
            writer,
            tally,
            frames=frames,
            interval_s=interval_ms / 1000 if info.live else 0,
            give_up_s=GIVE_UP_S if info.live else None,
            stop=stop,
            show=lambda: bar.update(
                bar.task_ids[0], completed=tally.written, total=frames, remark=tally.skipped_in_words()
            ),
        )
    # The same recording again would validate on what was trained on.
    following = _next_command(output, camera if info.live else "URI", split)
    if json_output:
        print_json({"directory": str(writer.directory), **tally.report(), "next": following})
    else:
        _print(tally, writer.directory, frames, reader.problem or tally.problem, following)
    problem = _problem(tally, camera, reader.problem or tally.problem)
    if problem is not None:
        raise problem


@dataclass
class Tally:
    """What a recording has come to.

    Attributes:
        written: captures.
        skipped: frames left out, by cause.
        coverage: sum over the captures of the share of pixels with depth.
        ended: why it ended.
        problem: what the last capture that could not be read failed with.
    """

    written: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    coverage: float = 0.0
    ended: str = ""
    problem: str = ""

    def report(self) -> dict[str, object]:
        """The figures, JSON-able."""
        coverage = self.coverage / self.written if self.written else None
        return {
            "written": self.written,
            "skipped": dict(self.skipped),
            "depth_coverage": coverage,
            "ended": self.ended,
        }

    def skipped_in_words(self) -> str:
        """For example ``3 skipped (no valid depth)``."""
        return ", ".join(f"{count} skipped ({cause})" for cause, count in self.skipped.items())


def record(
    reader: Reader,
    writer: FolderWriter,
    tally: Tally,
    *,
    frames: int,
    interval_s: float,
    give_up_s: float | None,
    stop: threading.Event,
    show: Callable[[], None],
) -> None:
    """Records until there are ``frames`` captures, the source ends, or it is told to stop.

    Args:
        reader: of an opened camera.
        writer: of one folder of the data set.
        tally: is kept up to date, and says at last why it ended.
        frames: captures to make.
        interval_s: least time between them.
        give_up_s: ends it after so long without a frame worth keeping; None waits for the source's end.
        stop: ends it when set.
        show: called before each read.

    Raises:
        DataError: a frame does not go with those that are there.
        OutputError: the disk is full, or the folder cannot be written.
    """
    kept_s, due_s = time.monotonic(), 0.0
    while not tally.ended:
        show()
        if tally.written >= frames:
            tally.ended = COMPLETE
        elif stop.is_set():
            tally.ended = EndReason.STOPPED.value
        elif give_up_s is not None and time.monotonic() > max(kept_s, due_s) + give_up_s:
            tally.ended = USELESS
        elif reader.ended is not None:
            tally.ended = reader.ended.value
        elif (reading := reader.read(READ_TIMEOUT_S)) is None:
            continue
        elif reading.error is not None:
            tally.skipped["unreadable"] += 1
            tally.problem = str(reading.error)
        elif time.monotonic() >= due_s and _keep(reading.frame, writer, tally):
            kept_s = time.monotonic()
            due_s = kept_s + interval_s


def _keep(frame: Frame, writer: FolderWriter, tally: Tally) -> bool:
    coverage = 0.0 if frame.depth is None else float((frame.depth > 0).mean())
    if frame.depth is not None and coverage == 0:
        tally.skipped["no valid depth"] += 1
        return False
    writer.write(frame)
    tally.written += 1
    tally.coverage += coverage
    return True


def _next_command(output: Path, camera: str, split: str) -> str:
    """What the data set wants next: validation parts, training, or an evaluation."""
    if split == "test":
        return shlex.join(["edge-ad", "evaluate", f"runs/{output.name}", str(output)])
    for needed in ("train", "validation"):
        if not (output / needed).is_dir():
            return shlex.join(["edge-ad", "capture", str(output), "--camera", camera, "--split", needed])
    return shlex.join(["edge-ad", "train", str(output), "--output", f"runs/{output.name}"])


def _print(tally: Tally, directory: Path, frames: int, last_problem: str, following: str) -> None:
    captures = "1 capture" if tally.written == 1 else f"{tally.written} captures"
    ending = "" if tally.ended == COMPLETE else f" of {frames} ({tally.ended})"
    notes.print(f"[green]recorded[/] {captures}{ending}: {escape(str(directory))}", soft_wrap=True)
    if tally.written:
        notes.print(f"  depth covers {100 * tally.coverage / tally.written:.0f} % of the picture on average")
    if tally.skipped:
        notes.print(f"  {tally.skipped_in_words()}")
    if last_problem:
        notes.print(f"  last problem: {escape(last_problem)}", soft_wrap=True)
    if tally.written:
        notes.print(f"  next: [bold]{escape(following)}[/]", soft_wrap=True)


def _problem(tally: Tally, camera: str, last_problem: str) -> EdgeAdError | None:
    """What should end the command with an exit code of its own."""
    if tally.ended == EndReason.CAMERA_LOST.value:
        return lost_camera(camera, last_problem)
    if tally.ended == USELESS:
        return CameraError(
            f"camera {camera} sent nothing worth keeping for {GIVE_UP_S:g} s",
            why=tally.skipped_in_words() or "no frame arrived",
            remedy="check the sensor's range, its lens and its cable",
        )
    if tally.ended == EndReason.END_OF_STREAM.value and not tally.written:
        return DataError(
            f"nothing was recorded from {camera}",
            why=last_problem or tally.skipped_in_words() or "it holds no frames",
            remedy="check what the camera sees, or record it again",
        )
    return None
