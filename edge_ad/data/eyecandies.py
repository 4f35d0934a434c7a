"""The Eyecandies layout: rendered sweets with depth and normals.

    CATEGORY/{train,val,test_public}/data/NNN_image_4.png      uint8 (H, W, 3), lit from the left
                                         /NNN_depth.png        uint16, scaled to the range in …
                                         /NNN_info_depth.yaml  normalization: {min, max} in metres
                                         /NNN_normals.png      uint8 (H, W, 3), unit vector * 0.5 + 0.5
    and in test_public                   /NNN_metadata.yaml    anomalous: 0 or 1
                                         /NNN_mask.png         defect mask, the union of …
                                         /NNN_{bumps,dents,colors,normals}_mask.png

Of the six lightings ``image_4`` is the one that published methods use. ``test_private`` has no labels
and is left out. Bonfiglioli et al., "The Eyecandies Dataset for Unsupervised Multimodal Anomaly
Detection and Localization", ACCV 2022; the format is that of https://eyecan-ai.github.io/eyecandies.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from edge_ad.data.dataset import GOOD, Dataset, Entry, natural_key
from edge_ad.data.images import read_depth, read_mask, read_rgb
from edge_ad.errors import DataError
from edge_ad.types import Frame, Intrinsics, LabelledFrame

LAYOUT = "eyecandies"
SPLIT_FOLDERS = {"train": "train", "validation": "val", "test": "test_public"}
FRAME_FILES = {
    "rgb": "image_4.png",
    "depth": "depth.png",
    "depth_range": "info_depth.yaml",
    "normals": "normals.png",
}
DEFECTS = ("bumps", "dents", "colors", "normals")
COMBINED, ANOMALOUS = "combined", "anomalous"
FOCAL_LENGTH_PX = 711.11


def is_eyecandies(directory: Path) -> bool:
    """Whether ``directory`` is a category in this layout."""
    return any((directory / folder / "data").is_dir() for folder in SPLIT_FOLDERS.values())


def open_eyecandies(directory: Path) -> Dataset:
    """Opens one category and checks that every capture is complete.

    A defect's kind is the one whose mask is marked, ``"combined"`` where several are, and
    ``"anomalous"`` where the data set has no masks by kind.

    Raises:
        DataError: a split is empty, a file of a capture is missing, or a label cannot be read.
    """
    entries = tuple(
        Entry(split, _defect(stem) if split == "test" else GOOD, _files(stem, split))
        for split, folder in SPLIT_FOLDERS.items()
        if (directory / folder / "data").is_dir()
        for stem in _stems(directory / folder / "data")
    )
    first = read_rgb(entries[0].files["rgb"])
    height, width = first.shape[:2]
    # The authors' own projection puts the principal point at half the width, not half a pixel before.
    intrinsics = Intrinsics(FOCAL_LENGTH_PX, FOCAL_LENGTH_PX, width / 2, height / 2, width, height)
    category = directory.resolve().name
    read = partial(_read, category=category, intrinsics=intrinsics)
    return Dataset(directory, category, LAYOUT, entries, intrinsics, read)


def _stems(directory: Path) -> list[Path]:
    suffix = f"_{FRAME_FILES['rgb']}"
    names = sorted((path.name for path in directory.glob(f"*{suffix}")), key=natural_key)
    if not names:
        raise DataError(
            f"{directory} is empty",
            why=f"it has no NNN{suffix}",
            remedy="unpack the category's archive again",
        )
    return [directory / name.removesuffix(suffix) for name in names]


def _files(stem: Path, split: str) -> dict[str, Path]:
    wanted = FRAME_FILES | ({"gt": "mask.png"} if split == "test" else {})
    files = {kind: _file(stem, ending) for kind, ending in wanted.items()}
    for path in files.values():
        if not path.is_file():
            raise DataError(
                f"{path} is missing",
                why="a capture needs its colour, depth, depth range and normals, and a mask for tests",
                remedy="unpack the category's archive again",
            )
    return files


def _file(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}_{ending}")


def _defect(stem: Path) -> str:
    if _yaml_number(_file(stem, "metadata.yaml"), "anomalous") == 0:
        return GOOD
    masks = {defect: _file(stem, f"{defect}_mask.png") for defect in DEFECTS}
    marked = [defect for defect, path in masks.items() if path.is_file() and read_mask(path).any()]
    return marked[0] if len(marked) == 1 else COMBINED if marked else ANOMALOUS


def _yaml_number(path: Path, key: str) -> float:
    """The one number under ``key`` anywhere in a file of a few lines; not worth a YAML parser."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read", why=str(error), remedy="unpack the category's archive again"
        ) from error
    found = re.search(rf"\b{key}\s*:\s*([-+.\deE]+)", content)
    try:
        return float(found[1] if found else "")
    except ValueError as error:
        raise DataError(
            f"{path} gives no number for {key}",
            why="the label or the depth range is read from there",
            remedy="unpack the category's archive again",
        ) from error


def _read(entry: Entry, *, category: str, intrinsics: Intrinsics) -> LabelledFrame:
    files = entry.files
    size_px = (intrinsics.height_px, intrinsics.width_px)
    near_m, far_m = (_yaml_number(files["depth_range"], key) for key in ("min", "max"))
    if not 0 <= near_m < far_m < float("inf"):
        raise DataError(
            f"{files['depth_range']} gives the depth range {near_m} to {far_m} m",
            why="it must be 0 <= min < max",
            remedy="unpack the category's archive again",
        )
    stored = read_depth(files["depth"], size_px)
    if stored.dtype != np.uint16:
        raise DataError(f"{files['depth']} is {stored.dtype}", why="this layout stores uint16")
    frame = Frame(
        rgb=read_rgb(files["rgb"], size_px),
        depth=stored.astype(np.float32) * np.float32((far_m - near_m) / 65535) + np.float32(near_m),
        normals=read_rgb(files["normals"], size_px),
        intrinsics=intrinsics,
        source=str(files["rgb"]),
    )
    mask = read_mask(files["gt"], size_px) if "gt" in files else np.zeros(size_px, np.bool_)
    return LabelledFrame(frame, category, entry.split, entry.defect, files["rgb"], mask)
