"""Opens a data set of any known layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_ad.data import eyecandies, folder, mvtec3d
from edge_ad.data.dataset import SPLITS, Dataset, subfolders
from edge_ad.errors import DataError

# The first that recognises a directory opens it: a folder of captures also has rgb/, so it comes last.
LAYOUTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Dataset]]] = {
    mvtec3d.LAYOUT: (mvtec3d.is_mvtec3d, mvtec3d.open_mvtec3d),
    eyecandies.LAYOUT: (eyecandies.is_eyecandies, eyecandies.open_eyecandies),
    folder.LAYOUT: (folder.is_folder, folder.open_folder),
}


def layout_of(directory: Path) -> str | None:
    """The layout of the category in ``directory``, or None where it is no category."""
    return next((name for name, (recognises, _) in LAYOUTS.items() if recognises(directory)), None)


def open_dataset(path: Path, *, layout: str = "auto", category: str | None = None) -> Dataset:
    """Opens one category of a data set.

    Args:
        path: the category's directory, or with ``category`` the directory that holds several.
        layout: ``"mvtec3d"``, ``"eyecandies"``, ``"folder"``, or ``"auto"`` to recognise it.
        category: the name of the category's folder in ``path``.

    Raises:
        DataError: there is no such data set, it holds several categories and none was named, or it
            lacks files.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise DataError(f"layout {layout!r} is unknown", remedy=f"name one of auto, {', '.join(LAYOUTS)}")
    if not path.is_dir():
        raise DataError(f"{path} is not a directory", remedy="check the path of the data set")
    directory = path if category is None else path / category
    found = layout_of(directory)
    if found is None:
        raise _no_category(path, category)
    if layout == "auto":
        layout = found
    recognises, open_layout = LAYOUTS[layout]
    if not recognises(directory):
        raise DataError(
            f"{directory} is not in the {layout} layout",
            why=f"it looks like {found}",
            remedy=f"name the layout {found}, or leave it out",
        )
    return open_layout(directory)


def _no_category(path: Path, category: str | None) -> DataError:
    if category is None and path.name in SPLITS and layout_of(path.absolute().parent) is not None:
        return DataError(
            f"{path} is one split of a data set",
            why="a model learns from train and validation, and is evaluated on test",
            remedy=f"name the whole: {path.absolute().parent}",
        )
    names = [folder.name for folder in subfolders(path) if layout_of(folder) is not None]
    if names and category is None:
        return DataError(
            f"{path} holds several categories: {', '.join(names)}",
            why="a model learns one category",
            remedy=f"name one, e.g. --category {names[0]}",
        )
    if names:
        return DataError(
            f"{path} has no category {category}", why=f"it has {', '.join(names)}", remedy="name one of them"
        )
    return DataError(
        f"{path if category is None else path / category} is not a data set",
        why=f"it has no layout known here ({', '.join(LAYOUTS)})",
        remedy="record one with 'edge-ad capture', or check the path",
    )
