"""The memory that a driver's images are made in.

A driver takes it here, in the thread that reads: in the capture process it is shared memory, and the images reach
the line without another copy. Images from elsewhere are copied once more. Once ``read`` has returned an image it is
not the driver's to write to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike

from edge_ad.types import AnyArray, UInt8Array

NewImage = Callable[[tuple[int, ...], DTypeLike], AnyArray]


def _on_heap(shape: tuple[int, ...], dtype: DTypeLike) -> AnyArray:
    return np.empty(shape, dtype)


class _Memory(threading.local):
    """Of each thread, as an SDK may call back in threads of its own."""

    def __init__(self) -> None:
        self.new_image: NewImage = _on_heap


_memory = _Memory()


def new_image(shape: tuple[int, ...], dtype: DTypeLike) -> AnyArray:
    """An image with nothing in it yet, to be filled by the driver."""
    return _memory.new_image(shape, dtype)


def own_image(image: Any, dtype: DTypeLike) -> AnyArray:
    """A copy of an image that belongs to the SDK; its numbers must fit into ``dtype``."""
    pixels = np.asarray(image)
    own = new_image(pixels.shape, dtype)
    np.copyto(own, pixels)
    return own


def own_rgb(image: Any, conversion: int | None = None) -> UInt8Array:
    """RGB, uint8 (H, W, 3), of an image that belongs to the SDK.

    Args:
        image: uint8, (H, W, 3) or what is to be converted.
        conversion: OpenCV's code of what makes it RGB; None where it is.
    """
    pixels = np.asarray(image)
    if conversion is None:
        return own_image(pixels, np.uint8)
    own = new_image((*pixels.shape[:2], 3), np.uint8)
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), conversion, dst=own), dtype=np.uint8)


@contextmanager
def images_made_by(allocate: NewImage) -> Iterator[None]:
    """Has the images of this thread made in other memory, for the length of a ``with`` block."""
    before, _memory.new_image = _memory.new_image, allocate
    try:
        yield
    finally:
        _memory.new_image = before
