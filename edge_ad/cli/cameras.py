"""What the commands that need a camera share: opening it, saying what it is, and that it is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.markup import escape

from edge_ad.cameras import opened
from edge_ad.cli.console import notes
from edge_ad.errors import CameraError
from edge_ad.types import Camera, CameraInfo


@contextmanager
def opened_camera(camera: Camera) -> Iterator[CameraInfo]:
    """Opens a camera for the length of a ``with`` block; names it and its warnings on standard error.

    Raises:
        CameraError: the device is absent, busy or cannot stream as asked.
    """
    with ExitStack() as stack:
        with notes.status("opening the camera"):
            info = stack.enter_context(opened(camera))
        details = ", ".join(f"{name} {value}" for name, value in info.details.items())
        notes.print(f"[green]camera[/] {escape(info.name)} {escape(info.serial)}  [dim]{escape(details)}[/]")
        for warning in info.warnings:
            notes.print(f"[yellow]warning[/] {escape(warning)}", soft_wrap=True)
        yield info


def lost_camera(camera: str, why: str) -> CameraError:
    """The error for a camera that was lost and could not be opened again.

    Args:
        camera: its URI.
        why: what the last attempt failed with.
    """
    return CameraError(
        f"camera {camera} was lost and did not come back",
        why=why,
        remedy="check its cable and power, then: edge-ad doctor",
    )
