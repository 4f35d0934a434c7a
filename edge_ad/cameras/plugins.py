"""Camera drivers of other packages, which name them in their own ``pyproject.toml``.

    [project.entry-points."edge_ad.cameras"]
    zivid = "edge_ad_zivid:ZividCamera"

The name is the scheme of the URI, the value a class that makes itself with ``from_uri(CameraUri)`` and keeps
the ``Camera`` protocol; ``edge_ad.cameras.base.CameraDriver`` has what most drivers share. One that makes its images
with ``edge_ad.cameras.image_memory`` saves a copy of each.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from edge_ad.errors import CameraError, ConfigError

GROUP = "edge_ad.cameras"


def plugin_driver(scheme: str, known: Collection[str]) -> Any:
    """The class that an installed package names for ``scheme``.

    Args:
        scheme: of the camera's URI.
        known: the schemes of the built-in drivers, for the error.

    Raises:
        ConfigError: no installed package has such a driver, or two have.
        CameraError: the package is broken.
    """
    added = entry_points(group=GROUP)
    found = [point for point in added if point.name == scheme]
    if not found:
        raise ConfigError(
            f"camera driver {scheme!r} is unknown",
            remedy=f"use one of {', '.join(sorted({*known, *(point.name for point in added)}))}",
        )
    owners = sorted({_owner(point) for point in found})
    if len(owners) > 1:
        raise ConfigError(
            f"camera driver {scheme!r} comes from more than one package",
            why=f"{' and '.join(owners)} have one",
            remedy=f"pip uninstall {owners[-1]}",
        )
    try:
        driver = found[0].load()
        if not callable(getattr(driver, "from_uri", None)):
            raise TypeError(f"{found[0].value} has no from_uri")
    except Exception as error:
        raise CameraError(
            f"camera driver {scheme!r} of the package {owners[0]} cannot be loaded",
            why=f"{type(error).__name__}: {error}",
            remedy=f"pip install --upgrade {owners[0]}, or ask its authors",
        ) from error
    return driver


def _owner(point: EntryPoint) -> str:
    """The name of the package that has this entry point."""
    return "?" if point.dist is None else str(point.dist.metadata["Name"])
