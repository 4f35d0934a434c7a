"""A camera that needs no device: the synthetic product passing by, some of it with defects."""

from __future__ import annotations

import time
from dataclasses import replace

from numpy.random import default_rng
from pydantic import Field

from edge_ad.cameras.base import CameraDriver
from edge_ad.cameras.uri import CameraUri
from edge_ad.data.defects import DEFECTS
from edge_ad.data.synthetic import SyntheticProduct
from edge_ad.errors import CameraError
from edge_ad.settings import Settings
from edge_ad.types import CameraCaps, CameraInfo, Frame, ReadStatus

NANOSECONDS = 1_000_000_000
# Far from the parts of a data set: the line shows parts that no model of this product was trained on.
FIRST_PART = 1_000_000


class SyntheticOptions(Settings):
    """What may follow ``synthetic://NAME?``.

    Attributes:
        fps: frames per second, produced whether or not anyone reads; 0 for a frame with every read.
        defect_rate: share of the parts with a defect.
        frames: the stream ends after as many; 0 for no end.
        seed: of the product; data sets of the same seed show the same product.
        size: side of the images in pixels.
        pool: parts rendered when the camera opens, then shown over and over.
        empty: no part is there, only the table.
    """

    fps: float = Field(default=30, ge=0, le=1000)
    defect_rate: float = Field(default=0.2, ge=0, le=1)
    frames: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    size: int = Field(default=256, ge=64, le=2048)
    pool: int = Field(default=32, ge=1, le=10_000)
    empty: bool = False


class SyntheticCamera(CameraDriver):
    """Shows rendered parts at a steady rate; ``Frame.source`` says which, e.g. ``synthetic://0007/dent``.

    With ``fps`` above 0 the newest frame is read, as from a real camera, and a gap in ``sequence`` shows
    what a slow reader has missed.
    """

    def __init__(self, options: SyntheticOptions, name: str = "") -> None:
        super().__init__()
        self.caps = CameraCaps(live=options.fps > 0, paced=options.fps > 0)
        self._options = options
        self._name = name
        self._pool: list[Frame] = []
        self._start_ns = 0
        self._next = 0

    @classmethod
    def from_uri(cls, uri: CameraUri) -> SyntheticCamera:
        """Makes the camera of ``synthetic://NAME?fps=30&defect_rate=0.2&…``; the name is free.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        return cls(uri.options_as(SyntheticOptions), uri.path)

    def open(self) -> CameraInfo:
        """Renders the pool and starts the clock; takes a few seconds for the default pool."""
        options = self._options
        product = SyntheticProduct(options.size, options.seed)
        random = default_rng([options.seed, FIRST_PART, 3])
        rate = 0 if options.empty else options.defect_rate
        defective = set(random.permutation(options.pool)[: round(options.pool * rate)].tolist())
        self._pool = []
        for index in range(options.pool):
            if options.empty:
                self._pool.append(product.render_empty(index))
                continue
            defect = str(random.choice(list(DEFECTS))) if index in defective else None
            frame = product.render(FIRST_PART + index, defect).frame
            self._pool.append(replace(frame, source=f"synthetic://{index:04d}/{defect or 'good'}"))
        self._start_ns, self._next = time.monotonic_ns(), 0
        self.info = CameraInfo(
            name="synthetic product",
            serial=self._name or f"seed {options.seed}",
            live=options.fps > 0,
            details={"frames per second": f"{options.fps:g}", "defective": f"{len(defective)} of {options.pool}"},
        )
        return self.info

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The newest frame not yet read, waiting for it up to ``timeout_s``.

        Raises:
            CameraError: the camera is not open.
        """
        if not self._pool:
            raise CameraError("the synthetic camera is not open", remedy="open it before reading")
        frames, fps = self._options.frames, self._options.fps
        if frames and self._next >= frames:
            return ReadStatus.END_OF_STREAM
        if fps == 0:
            return self._frame(self._next, time.monotonic_ns())
        due_s = (self._produced_ns(self._next) - time.monotonic_ns()) / NANOSECONDS
        if due_s > timeout_s:
            time.sleep(timeout_s)
            return ReadStatus.TIMEOUT
        time.sleep(max(due_s, 0))
        newest = int((time.monotonic_ns() - self._start_ns) * fps / NANOSECONDS)
        newest = max(newest, self._next)
        newest = min(newest, frames - 1) if frames else newest
        return self._frame(newest, self._produced_ns(newest))

    def _produced_ns(self, sequence: int) -> int:
        return self._start_ns + round(sequence * NANOSECONDS / self._options.fps)

    def _frame(self, sequence: int, timestamp_ns: int) -> Frame:
        self._next = sequence + 1
        shown = self._pool[sequence % len(self._pool)]
        copies = {"rgb": shown.rgb, "depth": shown.depth}
        arrays = {name: array.copy() for name, array in copies.items() if array is not None}
        return replace(shown, **arrays, sequence=sequence, timestamp_ns=timestamp_ns)

    def close(self) -> None:
        """Frees the pool; may be called twice."""
        self._pool, self.info = [], None
