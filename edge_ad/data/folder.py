"""edge-ad's own layout, which ``edge-ad capture`` writes: camera images as they came.

    ROOT/intrinsics.json                            the camera, see ``CameraRecord``
    ROOT/{train,validation}/good/rgb/NNNNNN.png     uint8 (H, W, 3)
                                /depth/NNNNNN.png   uint16 in ``depth_unit_m``, or .tiff: float32 metres
    ROOT/test/DEFECT/{rgb,depth}/…                  ``good`` or the kind of defect
                    /gt/NNNNNN.png                  defect masks, optional

Either of ``rgb`` and ``depth`` may be absent from a whole data set. A plain recording
``ROOT/{rgb,depth}`` of good parts is a data set too. Where there is no validation split, the last
fifth of the training captures validates instead of training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from edge_ad.data.dataset import GOOD, SPLITS, Dataset, Entry, paired_files, subfolders, with_masks
from edge_ad.data.images import (
    DEPTH_SUFFIXES,
    MASK_SUFFIXES,
    RGB_SUFFIXES,
    read_depth,
    read_mask,
    read_rgb,
)
from edge_ad.errors import DataError
from edge_ad.settings import Settings, validated
from edge_ad.types import Frame, Intrinsics, LabelledFrame

LAYOUT = "folder"
CAMERA_FILE = "intrinsics.json"
MILLIMETRE_M = 0.001
VALIDATION_SHARE = 5


def _not_zero(value: float) -> float:
    if value == 0:
        raise ValueError("a focal length cannot be 0")
    return value


_Focal = Annotated[float, AfterValidator(_not_zero)]


class CameraRecord(Settings):
    """``intrinsics.json``: the camera that took a recording.

    Attributes:
        fx: focal length in pixels, across; negative where the x axis points left.
        fy: focal length in pixels, down; negative where the y axis points up.
        cx: principal point in pixels, across.
        cy: principal point in pixels, down.
        width_px: image width.
        height_px: image height.
        depth_unit_m: metres per unit of the uint16 depth images.
    """

    fx: _Focal
    fy: _Focal
    cx: float
    cy: float
    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    depth_unit_m: float = Field(default=MILLIMETRE_M, gt=0)


@dataclass(frozen=True, slots=True)
class CapturePaths:
    """The files of one capture; at least one of them is there."""

    stem: str
    rgb: Path | None
    depth: Path | None


def list_captures(directory: Path) -> list[CapturePaths]:
    """The captures in a directory with ``rgb/`` and/or ``depth/``, in natural order of their numbers.

    Raises:
        DataError: there are none, or an image lacks its partner.
    """
    suffixes = {"rgb": RGB_SUFFIXES, "depth": DEPTH_SUFFIXES}
    return [
        CapturePaths(stem, files.get("rgb"), files.get("depth"))
        for stem, files in paired_files(directory, suffixes).items()
    ]


def read_capture(
    rgb_path: Path | None, depth_path: Path | None, intrinsics: Intrinsics | None, depth_unit_m: float
) -> Frame:
    """One capture as a frame, checked.

    Args:
        rgb_path: 8-bit colour PNG or JPEG; None for a camera without colour.
        depth_path: 16-bit PNG or TIFF in ``depth_unit_m``, or float32 TIFF in metres; None without depth.
        intrinsics: of the camera, None when unknown.
        depth_unit_m: metres per unit of a uint16 image; float32 images are in metres whatever it says.

    Raises:
        DataError: a file is missing, damaged, of another type, has no valid depth, or the sizes differ.
    """
    size_px = None if intrinsics is None else (intrinsics.height_px, intrinsics.width_px)
    rgb = None if rgb_path is None else read_rgb(rgb_path, size_px)
    if rgb is not None:
        size_px = (rgb.shape[0], rgb.shape[1])
    depth = None if depth_path is None else read_depth(depth_path, size_px)
    return Frame(
        rgb=rgb,
        depth=depth,
        depth_unit_m=depth_unit_m if depth is not None and depth.dtype == np.uint16 else 1.0,
        intrinsics=intrinsics,
        source=str(rgb_path or depth_path),
    )


def read_intrinsics(directory: Path) -> tuple[Intrinsics | None, float]:
    """The camera of a recording, from ``intrinsics.json`` in the directory or up to two levels above.

    Returns:
        The intrinsics and the metres per unit of uint16 depth; ``(None, 0.001)`` where there is no file.

    Raises:
        DataError: the file cannot be read, or is not a ``CameraRecord``.
    """
    directory = directory.resolve()
    for folder in (directory, *directory.parents[:2]):
        path = folder / CAMERA_FILE
        if path.is_file():
            record = read_camera_record(path)
            values = record.model_dump(exclude={"depth_unit_m"})
            return Intrinsics(**values), record.depth_unit_m
    return None, MILLIMETRE_M


def read_camera_record(path: Path) -> CameraRecord:
    """The content of an ``intrinsics.json``.

    Raises:
        DataError: it cannot be read, or is not a ``CameraRecord``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read", why=error.strerror or str(error)) from error
    return validated(CameraRecord, content, str(path), DataError)


def is_folder(directory: Path) -> bool:
    """Whether ``directory`` is a data set in this layout or a plain recording."""
    patterns = ("rgb", "depth", *(f"{split}/*/{kind}" for split in SPLITS for kind in ("rgb", "depth")))
    return any(path.is_dir() for pattern in patterns for path in directory.glob(pattern))


def open_folder(directory: Path) -> Dataset:
    """Opens a data set in edge-ad's own layout and checks that every capture is complete.

    Raises:
        DataError: a split is empty, a capture lacks its partner, or the camera's file is damaged.
    """
    intrinsics, depth_unit_m = read_intrinsics(directory)
    if any((directory / kind).is_dir() for kind in ("rgb", "depth")):
        entries = [Entry("train", GOOD, _files(capture)) for capture in list_captures(directory)]
    else:
        entries = list(_split_entries(directory))
    entries = _with_validation(entries)
    kinds = {kind for entry in entries for kind in entry.files if kind != "gt"}
    for entry in entries:
        for kind in kinds - entry.files.keys():
            raise DataError(
                f"{next(iter(entry.files.values()))} has no {kind} image",
                why=f"other captures in {directory} have one",
                remedy="keep captures with and without it in separate data sets",
            )
    category = directory.resolve().name
    read = partial(_read, category=category, intrinsics=intrinsics, depth_unit_m=depth_unit_m)
    return Dataset(directory, category, LAYOUT, tuple(entries), intrinsics, read)


def _files(capture: CapturePaths) -> dict[str, Path]:
    both = {"rgb": capture.rgb, "depth": capture.depth}
    return {kind: path for kind, path in both.items() if path is not None}


def _with_validation(entries: list[Entry]) -> list[Entry]:
    """The entries, with the last fifth of the train split moved to validation where that is empty.

    A block and not every fifth: captures that follow each other often show the same part.
    """
    if any(entry.split == "validation" for entry in entries):
        return entries
    train = [entry for entry in entries if entry.split == "train"]
    kept = len(train) - len(train) // VALIDATION_SHARE
    held_out = [replace(entry, split="validation") for entry in train[kept:]]
    return train[:kept] + held_out + [entry for entry in entries if entry.split == "test"]


def _split_entries(directory: Path) -> Iterator[Entry]:
    for split in SPLITS:
        for defect in subfolders(directory / split) if (directory / split).is_dir() else []:
            if split != "test" and defect.name != GOOD:
                raise DataError(
                    f"{defect} holds defects",
                    why=f"{split} may hold good parts only",
                    remedy=f"move it to {directory / 'test'}",
                )
            captures = {capture.stem: _files(capture) for capture in list_captures(defect)}
            for files in with_masks(defect, captures, MASK_SUFFIXES, required=False).values():
                yield Entry(split, defect.name, files)


def _read(entry: Entry, *, category: str, intrinsics: Intrinsics | None, depth_unit_m: float) -> LabelledFrame:
    frame = read_capture(entry.files.get("rgb"), entry.files.get("depth"), intrinsics, depth_unit_m)
    mask = np.zeros(frame.size_px, np.bool_) if entry.defect == GOOD else None
    if "gt" in entry.files:
        mask = read_mask(entry.files["gt"], frame.size_px)
    return LabelledFrame(frame, category, entry.split, entry.defect, Path(frame.source), mask)
