"""The side of a ring that frames are made on: their images lie in a slot from the start."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from edge_ad.cameras.ring import Layout, Ring, view
from edge_ad.errors import DataError
from edge_ad.types import AnyArray, UInt8Array

ALIGNMENT = 64

PINNED = 2
"""Slots that a driver may hold images in, beside the one of the next frame: more would leave none to send with."""


class Outbox:
    """Makes images, and puts frames of them where the other side sees them.

    A slot is free again when the other side has given it back and no image in it is in use on this side, so that
    nothing is overwritten that somebody still looks at. For use by one thread; the images by any.

    Args:
        ring: all of its slots are this side's at first.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._free = list(range(ring.slots))
        self._holders = [0] * ring.slots
        self._made: dict[int, weakref.ref[UInt8Array]] = {}
        self._let_go: deque[int] = deque()
        self._page: _Page | None = None

    def new_image(self, shape: tuple[int, ...], dtype: DTypeLike) -> AnyArray:
        """An image of the next frame, in its slot; elsewhere where no slot is free or the image does not fit."""
        if self._page is None and sum(made() is not None for made in self._made.values()) < PINNED:
            self._page = self._turn()
        image = None if self._page is None else self._page.new_image(shape, dtype)
        return np.empty(shape, dtype) if image is None else image

    def forget(self) -> None:
        """The images made since the last `put` are of no frame."""
        self._page = None

    def put(self, images: Mapping[str, AnyArray]) -> tuple[int, Layout] | None:
        """Gives a frame's images to the other side; those that are not in its slot are copied there.

        Returns:
            The slot and where they are in it, for `Ring.take`; None where no slot is free.

        Raises:
            DataError: they do not fit into a slot.
        """
        page, self._page = self._page or self._turn(), None
        layout = None if page is None else page.layout(images)
        if page is not None and layout is None:  # perhaps images that came to nothing have taken the room
            self._check_size(images)
            page = self._turn()
            layout = None if page is None else page.layout(images)
        if page is None or layout is None:
            return None
        self._holders[page.slot] += 1
        return page.slot, layout

    def give_back(self, slot: int) -> None:
        """The other side needs a slot no more."""
        self._holders[slot] -= 1
        if not self._holders[slot]:
            self._free.append(slot)

    def _check_size(self, images: Mapping[str, AnyArray]) -> None:
        if sum(_aligned(image.nbytes) for image in images.values()) > self._ring.slot_bytes:
            height_px, width_px = next(iter(images.values())).shape[:2]
            raise DataError(
                f"a frame of {width_px}×{height_px} px is too large to hand over",
                why=f"there are {self._ring.slot_bytes >> 20} MiB for one",
                remedy="choose a smaller mode of the camera, or read it in this process (--in-process)",
            )

    def _turn(self) -> _Page | None:
        self._collect()
        if not self._free:
            return None
        slot = self._free.pop()  # the one used last, which the processor's caches may still hold
        self._holders[slot] += 1
        whole = self._ring.whole(slot)
        let_go = self._let_go
        self._made[slot] = weakref.ref(whole, lambda _: let_go.append(slot))
        return _Page(slot, whole)

    def _collect(self) -> None:
        while self._let_go:
            self.give_back(self._let_go.popleft())


class _Page:
    """A slot while a frame is made in it; ``whole`` lives as long as this and all images in it."""

    def __init__(self, slot: int, whole: UInt8Array) -> None:
        self.slot, self._whole, self._used = slot, whole, 0
        self._address: int = whole.__array_interface__["data"][0]

    def new_image(self, shape: tuple[int, ...], dtype: DTypeLike) -> AnyArray | None:
        kind, offset = np.dtype(dtype), self._used
        end = offset + math.prod(shape) * kind.itemsize
        if end > self._whole.nbytes:
            return None
        self._used = _aligned(end)
        return view(self._whole, kind.str, shape, offset)

    def layout(self, images: Mapping[str, AnyArray]) -> Layout | None:
        """Where images are in the slot, copied there if they are not; None where there is no room for that."""
        layout = []
        for name, image in images.items():
            offset = image.__array_interface__["data"][0] - self._address
            if not (0 <= offset <= self._whole.nbytes - image.nbytes and image.flags.c_contiguous):
                offset, copy = self._used, self.new_image(image.shape, image.dtype)
                if copy is None:
                    return None
                np.copyto(copy, image)
            layout.append((name, image.dtype.str, list(image.shape), offset))
        return layout


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
