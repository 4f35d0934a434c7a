"""One interface for every data set on disk: splits of labelled frames that are read when asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from edge_ad.errors import DataError
from edge_ad.types import Intrinsics, LabelledFrame

SPLITS = ("train", "validation", "test")
GOOD = "good"


@dataclass(frozen=True, slots=True)
class Entry:
    """One capture on disk, not read yet.

    Attributes:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        defect: ``"good"`` or the kind of defect.
        files: by kind: ``"rgb"``, ``"depth"``, ``"xyz"``, ``"normals"``, ``"gt"``.
    """

    split: str
    defect: str
    files: Mapping[str, Path]


class Frames(Sequence[LabelledFrame]):
    """The frames of one split, each read from disk on access; a slice is again lazy."""

    def __init__(self, entries: Sequence[Entry], read: Callable[[Entry], LabelledFrame]) -> None:
        self.entries = tuple(entries)
        self._read = read

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> LabelledFrame: ...
    @overload
    def __getitem__(self, index: slice) -> Frames: ...
    def __getitem__(self, index: int | slice) -> LabelledFrame | Frames:
        if isinstance(index, slice):
            return Frames(self.entries[index], self._read)
        return self._read(self.entries[index])

    def __iter__(self) -> Iterator[LabelledFrame]:
        return map(self._read, self.entries)


@dataclass(frozen=True, slots=True)
class Dataset:
    """One category of a data set.

    Attributes:
        root: the category's directory.
        category: the product's name.
        layout: ``"mvtec3d"``, ``"eyecandies"`` or ``"folder"``.
        entries: every capture, in a fixed order.
        intrinsics: of the one camera that took them; None when unknown.
        read: reads one entry.
    """

    root: Path
    category: str
    layout: str
    entries: tuple[Entry, ...]
    intrinsics: Intrinsics | None
    read: Callable[[Entry], LabelledFrame]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are there, in the order train, validation, test."""
        present = {entry.split for entry in self.entries}
        return tuple(split for split in SPLITS if split in present)

    def frames(self, split: str) -> Frames:
        """The frames of a split, read on access.

        Raises:
            DataError: the data set has no such split. Reading a frame raises it for a bad file.
        """
        entries = [entry for entry in self.entries if entry.split == split]
        if not entries:
            raise DataError(
                f"{self.root} has no {split} frames",
                why=f"it has {', '.join(self.splits)}",
                remedy=f"record some with 'edge-ad capture --split {split}'"
                if split in SPLITS
                else f"name one of {', '.join(SPLITS)}",
            )
        return Frames(entries, self.read)


def natural_key(name: str) -> list[str | int]:
    """Sorts ``9`` before ``10``, as people number files."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def subfolders(directory: Path) -> list[Path]:
    """The visible folders in ``directory`` in natural order.

    Raises:
        DataError: it is not a readable directory.
    """
    try:
        found = [path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"{directory} cannot be listed", why=error.strerror or str(error), remedy="check the path"
        ) from error
    return sorted(found, key=lambda path: natural_key(path.name))


def files_by_stem(directory: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The visible files in ``directory`` with one of ``suffixes``, by stem, in natural order.

    Raises:
        DataError: two files share a stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir(), key=lambda path: natural_key(path.name)):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(
                f"{path} and {found[path.stem].name} have the same number",
                why="a capture has one image of each kind",
                remedy="remove or rename one of them",
            )
        found[path.stem] = path
    return found


def paired_files(directory: Path, suffixes: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Path]]:
    """Captures kept as one folder per kind, e.g. ``rgb/000.png`` with ``xyz/000.tiff``.

    Args:
        directory: holds the folders; a kind whose folder is absent is left out.
        suffixes: file suffixes by kind.

    Returns:
        ``{stem: {kind: path}}`` in natural order.

    Raises:
        DataError: there is no capture, or a capture lacks one of the kinds.
    """
    kinds = {
        kind: files_by_stem(directory / kind, endings)
        for kind, endings in suffixes.items()
        if (directory / kind).is_dir()
    }
    stems = sorted({stem for files in kinds.values() for stem in files}, key=natural_key)
    if not stems:
        raise DataError(
            f"{directory} holds no captures",
            why=f"it has no images in {' or '.join(f'{kind}/' for kind in suffixes)}",
            remedy="check the path, or record captures with 'edge-ad capture'",
        )
    for stem in stems:
        for kind, files in kinds.items():
            if stem not in files:
                other = next(files[stem] for files in kinds.values() if stem in files)
                raise DataError(
                    f"{other} has no partner in {directory / kind}",
                    why="every capture needs one file of each kind",
                    remedy=f"restore {kind}/{stem}{suffixes[kind][0]}, or remove the capture",
                )
    return {stem: {kind: files[stem] for kind, files in kinds.items()} for stem in stems}


def with_masks(
    directory: Path, captures: dict[str, dict[str, Path]], suffixes: Sequence[str], *, required: bool
) -> dict[str, dict[str, Path]]:
    """Adds ``gt/STEM`` masks to the captures of one defect folder.

    Args:
        directory: the defect's folder; good parts need no ``gt/``.
        captures: as ``paired_files`` gives them.
        suffixes: of mask files.
        required: whether every capture must have its mask; otherwise all may lack theirs, but not some.

    Raises:
        DataError: a mask has no capture, or a capture that needs a mask has none.
    """
    folder = directory / "gt"
    masks = files_by_stem(folder, suffixes) if folder.is_dir() else {}
    for stem, path in masks.items():
        if stem not in captures:
            raise DataError(
                f"{path} has no capture",
                why="its image is missing",
                remedy="restore the image or remove the mask",
            )
    needed = directory.name != GOOD and (required or bool(masks))
    lacking = next((stem for stem in captures if needed and stem not in masks), None)
    if lacking is not None:
        raise DataError(
            f"{next(iter(captures[lacking].values()))} has no mask",
            why=f"{folder} must mark the defect of every capture in {directory.name}",
            remedy=f"add {folder / lacking}{suffixes[0]}",
        )
    return {stem: files | ({"gt": masks[stem]} if stem in masks else {}) for stem, files in captures.items()}
