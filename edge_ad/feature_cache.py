"""The teacher's features of all training frames, computed once: in memory, or in a file, or each time anew.

The teacher is frozen and the frames are not augmented, so what it says of a frame never changes. One record per
frame holds all its maps in a row.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Maps = dict[str, list[Tensor]]
"""Named lists of maps, each (N, C, h, w)."""


class FeatureCache:
    """Gives the maps of chosen frames.

    Args:
        compute: gives the maps of the frames in ``rows`` (a slice or indices).
        count: frames in all.
        memory_bytes: what may be held in memory.
        disk_bytes: what may be held in a file instead.
        directory: where that file goes; it has no name there and is gone when the process ends.
        progress: called with the frames done.
    """

    BATCH = 8

    def __init__(
        self,
        compute: Callable[[slice | Tensor], Maps],
        count: int,
        *,
        memory_bytes: int,
        disk_bytes: int,
        directory: Path,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._compute = compute
        example = compute(slice(0, 1))
        self._shapes = {name: [tuple(x.shape[1:]) for x in maps] for name, maps in example.items()}
        numbers = sum(math.prod(shape) for shapes in self._shapes.values() for shape in shapes)
        size = 4 * numbers * count
        self.records: Tensor | None = None
        self.place = "nowhere"
        if size <= memory_bytes:
            self.place = "memory"
            self.records = torch.empty(count, numbers)
            for start, block in self._blocks(count, progress):
                self.records[start : start + len(block)] = block
        elif size <= disk_bytes:
            self.records = self._on_disk(count, numbers, directory, progress)
            self.place = "nowhere" if self.records is None else "disk"

    def __getitem__(self, rows: slice | Tensor) -> Maps:
        """The maps of the frames in ``rows``, in this order."""
        if self.records is None:
            return self._compute(rows)
        records, place = self.records[rows], 0
        result: Maps = {}
        for name, shapes in self._shapes.items():
            result[name] = []
            for shape in shapes:
                numbers = math.prod(shape)
                result[name].append(records[:, place : place + numbers].reshape(-1, *shape))
                place += numbers
        return result

    def _blocks(self, count: int, progress: Callable[[int], None]) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, count, self.BATCH):
            maps = self._compute(slice(start, start + self.BATCH))
            yield start, torch.cat([x.flatten(1).cpu() for group in maps.values() for x in group], 1)
            progress(min(start + self.BATCH, count))

    def _on_disk(self, count: int, numbers: int, directory: Path, progress: Callable[[int], None]) -> Tensor | None:
        """Written, not mapped, until it is whole: a disk that fills up is then an error and not a crash."""
        try:
            with tempfile.TemporaryFile(dir=directory) as stream:
                for _, block in self._blocks(count, progress):
                    stream.write(block.numpy().data)
                stream.flush()
                return torch.from_numpy(np.memmap(stream, np.float32, "c", shape=(count, numbers)))
        except OSError:
            return None
