"""Optional packages, imported on use, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from edge_ad.errors import MissingExtraError


def require(module: str, *, extra: str, remedy: str = "") -> ModuleType:
    """Imports an optional module.

    Args:
        module: dotted module name, e.g. ``"pyrealsense2"``.
        extra: the extra of edge-ad that brings it, e.g. ``"realsense"``.
        remedy: what to do instead of installing the extra, where pip alone does not do.

    Raises:
        MissingExtraError: the module is not installed, or a system library that it needs is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} cannot be imported",
            why=str(error),
            remedy=remedy or f"pip install 'edge-ad[{extra}]'",
        ) from error
