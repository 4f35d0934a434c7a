"""Optional packages, imported on use, with an error that names the extra to install."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType

from edge_ad.errors import MissingExtraError


def require(module: str, *, extra: str, remedy: str = "", chatty: bool = False) -> ModuleType:
    """Imports an optional module.

    Args:
        module: dotted module name, e.g. ``"pyrealsense2"``.
        extra: the extra of edge-ad that brings it, e.g. ``"realsense"``.
        remedy: what to do instead of installing the extra, where pip alone does not do.
        chatty: it prints while it is imported: that goes to standard error, as standard output is for results.

    Raises:
        MissingExtraError: the module is not installed, or a system library that it needs is missing.
    """
    try:
        with _stdout_kept() if chatty else contextlib.nullcontext():
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} cannot be imported",
            why=str(error),
            remedy=remedy or f"pip install 'edge-ad[{extra}]'",
        ) from error


@contextlib.contextmanager
def _stdout_kept() -> Iterator[None]:
    """Sends to standard error what native code prints meanwhile."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
