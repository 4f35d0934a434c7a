"""Frames from one process to another: slots of shared memory, and a socket that hands them over.

Each slot belongs to one side at any time, and it changes hands by a message, so no side ever sees a
slot that the other one writes, on any processor: sending and receiving order the memory. The memory
has no name and lives as long as a process has it open, so nothing is left behind, whoever is killed.
"""

from __future__ import annotations

import math
import mmap
import os
import select
import socket
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgpack
import numpy as np

from edge_ad.types import AnyArray, UInt8Array

SLOTS = 6
"""Frames that may be on their way: some for the reader to be late, few enough to stay fresh."""

LENT = 3
"""So many of them may be frames in use, uncopied; the others stay for the camera to go on."""

SPARES = 2
"""Memory of so many copies is kept for the next ones, as new pages take longer than copying; the rest goes back."""

SLOT_BYTES = 64 << 20
"""Room for colour and depth of 8 megapixels; memory is taken only where a frame is written."""

MESSAGE_BYTES = 1 << 16

Layout = Sequence[tuple[str, str, list[int], int]]
"""Of each array in a slot: name, dtype, shape and offset in bytes."""

Message = dict[str, Any]


class Ring:
    """Slots of anonymous shared memory.

    Args:
        descriptor: of the memory; stays open until ``close``.
        slots: how many.
        slot_bytes: room in each.
    """

    def __init__(self, descriptor: int, slots: int = SLOTS, slot_bytes: int = SLOT_BYTES) -> None:
        self.descriptor, self.slots, self.slot_bytes = descriptor, slots, slot_bytes
        self._memory = mmap.mmap(descriptor, slots * slot_bytes)
        self._lent: dict[int, weakref.ref[UInt8Array]] = {}
        self._freed: deque[int] = deque()
        self._spares: deque[mmap.mmap] = deque(maxlen=SPARES)

    @classmethod
    def create(cls, slots: int = SLOTS, slot_bytes: int = SLOT_BYTES) -> Ring:
        """Makes the memory; pages are taken from the system when they are first written."""
        descriptor = os.memfd_create("edge-ad frames")
        os.ftruncate(descriptor, slots * slot_bytes)
        return cls(descriptor, slots, slot_bytes)

    def read(self, slot: int, layout: Layout) -> dict[str, AnyArray]:
        """Copies of the arrays in a slot that this side owns."""
        used = max((offset + _size(dtype, shape) for _, dtype, shape, offset in layout), default=0)
        copy = self._spare(used)
        np.copyto(copy, self.whole(slot)[:used])
        return self._images(copy, layout)

    def take(self, slot: int, layout: Layout) -> dict[str, AnyArray]:
        """The arrays in a slot that this side owns: as they lie there, or copies where `LENT` are in use already.

        `freed` tells when the slot may go back. Used from one thread; the arrays from any.
        """
        if len(self._lent) >= LENT:
            self._freed.append(slot)
            return self.read(slot, layout)
        whole = self.whole(slot)
        # All views of the images, also those that others make of them, keep this array alive, and nothing else does.
        freed = self._freed
        self._lent[slot] = weakref.ref(whole, lambda _: freed.append(slot))
        return self._images(whole, layout)

    def freed(self) -> Iterator[int]:
        """Slots that were taken and are in use no more, each once."""
        while self._freed:
            slot = self._freed.popleft()
            self._lent.pop(slot, None)
            yield slot

    def close(self) -> None:
        """Frees this side's hold, the memory when no image of it is in use any more; may be called twice."""
        if self.descriptor >= 0:
            del self._memory
            os.close(self.descriptor)
            self.descriptor = -1

    def whole(self, slot: int) -> UInt8Array:
        """All bytes of a slot, uint8 (slot_bytes,)."""
        return np.frombuffer(self._memory, np.uint8, self.slot_bytes, slot * self.slot_bytes)

    def _spare(self, size: int) -> UInt8Array:
        """Memory of its own for a copy: the heap would stay as large as the most copies that ever waited made it."""
        pages = next((kept for kept in iter(self._kept_pages, None) if len(kept) >= size), None)
        if pages is None:
            pages = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        spare = np.frombuffer(pages, np.uint8, size)
        weakref.finalize(spare, self._spares.append, pages).atexit = False
        return spare

    def _kept_pages(self) -> mmap.mmap | None:
        try:
            return self._spares.pop()
        except IndexError:
            return None

    @staticmethod
    def _images(whole: UInt8Array, layout: Layout) -> dict[str, AnyArray]:
        return {name: view(whole, dtype, shape, offset) for name, dtype, shape, offset in layout}


class Channel:
    """Messages to the other process, whole and in order, in MessagePack, which is quicker than JSON.

    Args:
        end: one end of ``Channel.pair``.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Both ends."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def send(self, kind: str, **content: Any) -> None:
        """Sends a message.

        Raises:
            EOFError: the other process is gone.
        """
        try:
            self._socket.send(msgpack.packb({"kind": kind, **content}, unicode_errors="surrogatepass"))
        except OSError as error:
            raise EOFError(str(error)) from error

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None when none comes in time.

        Raises:
            EOFError: the other process is gone, and all that it sent has been received.
        """
        try:
            if not self._poll.poll(max(0.0, 1000 * timeout_s)):
                return None
            content = self._socket.recv(MESSAGE_BYTES)
        except OSError as error:
            raise EOFError(str(error)) from error
        if not content:
            raise EOFError("the channel is closed")
        message: Message = msgpack.unpackb(content, unicode_errors="surrogatepass", strict_map_key=False)
        return message

    def close(self) -> None:
        """Closes this end; may be called twice."""
        self._socket.close()


def view(whole: UInt8Array, dtype: str, shape: Sequence[int], offset: int) -> AnyArray:
    """The image that begins so many bytes into a slot."""
    image: AnyArray = np.ndarray(shape, dtype, whole, offset)
    return image


def _size(dtype: str, shape: Sequence[int]) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize
