"""A camera that needs no device: the synthetic product passing by, some of it with defects."""

from __future__ import annotations

import queue
import time
from dataclasses import replace

from numpy.random import default_rng
from pydantic import Field, model_validator

from edge_ad.cameras.base import CameraDriver
from edge_ad.cameras.image_memory import own_image
from edge_ad.cameras.synthetic_faults import FaultOptions
from edge_ad.cameras.uri import CameraUri
from edge_ad.data.defects import DEFECTS
from edge_ad.data.synthetic import SyntheticProduct
from edge_ad.errors import CameraError
from edge_ad.types import CameraCaps, CameraInfo, Frame, ReadStatus

NANOSECONDS = 1_000_000_000
# Far from the parts of a data set: the line shows parts that no model of this product was trained on.
FIRST_PART = 1_000_000


class SyntheticOptions(FaultOptions):
    """What may follow ``synthetic://NAME?``, together with the faults.

    Attributes:
        fps: frames per second, produced whether or not anyone reads; 0 for a frame with every read.
        trigger: a frame for every call of ``trigger``, and no other; ``fps`` is without effect.
        defect_rate: share of the parts with a defect.
        frames: the stream ends after as many; 0 for no end.
        seed: of the product; data sets of the same seed show the same product.
        size: side of the images in pixels.
        width: of the images in pixels, where they are not square; the belt goes on beside the part.
        height: of the images in pixels, where they are not square.
        pool: parts rendered when the camera is first opened, then shown over and over.
        empty: no part is there, only the table.
    """

    fps: float = Field(default=30, ge=0, le=1000)
    trigger: bool = False
    defect_rate: float = Field(default=0.2, ge=0, le=1)
    frames: int = Field(default=0, ge=0)
    size: int = Field(default=256, ge=64, le=2048)
    width: int | None = Field(default=None, ge=64, le=2048)
    height: int | None = Field(default=None, ge=64, le=2048)
    pool: int = Field(default=32, ge=1, le=10_000)
    empty: bool = False

    @model_validator(mode="after")
    def _clock(self) -> SyntheticOptions:
        if self.by_the_clock and not (self.fps or self.trigger):
            raise ValueError("faults that come by time need a clock: give an fps above 0, or trigger=1")
        return self


class SyntheticCamera(CameraDriver):
    """Shows rendered parts at a steady rate; ``Frame.source`` says which, e.g. ``synthetic://0007/dent``.

    With ``fps`` above 0 the newest frame is read, as from a real camera, and a gap in ``sequence`` shows
    what a slow reader has missed. With ``trigger`` each call of ``trigger`` makes the next part appear.

    Attributes:
        dropped: ``stall`` counts triggers that a silent camera did not answer.
    """

    def __init__(self, options: SyntheticOptions, name: str = "") -> None:
        super().__init__()
        live = options.fps > 0 or options.trigger
        self.caps = CameraCaps(
            live=live, paced=options.fps > 0 and not options.trigger, software_trigger=options.trigger
        )
        self._options = options
        self._name = name
        self._pool: list[Frame] = []
        self._triggers: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
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
        """Renders the pool, which takes a few seconds the first time, and starts the clock."""
        options = self._options
        random = default_rng([options.seed, FIRST_PART, 3])
        rate = 0 if options.empty else options.defect_rate
        defective = set(random.permutation(options.pool)[: round(options.pool * rate)].tolist())
        if not self._pool:
            size_px = (options.height or options.size, options.width or options.size)
            product = SyntheticProduct(size_px, options.seed)
            for index in range(options.pool):
                if options.empty:
                    self._pool.append(product.render_empty(index))
                    continue
                defect = str(random.choice(list(DEFECTS))) if index in defective else None
                frame = product.render(FIRST_PART + index, defect).frame
                self._pool.append(replace(frame, source=f"synthetic://{index:04d}/{defect or 'good'}"))
        self._start_ns, self._next = time.monotonic_ns(), 0
        self._triggers = queue.SimpleQueue()
        pace = "on trigger" if options.trigger else f"{options.fps:g}"
        self.info = CameraInfo(
            name="synthetic product",
            serial=self._name or f"seed {options.seed}",
            live=self.caps.live,
            details={"frames per second": pace, "defective": f"{len(defective)} of {options.pool}"},
        )
        return self.info

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The newest frame not yet read, or the oldest triggered one, waiting for it up to ``timeout_s``.

        After DISCONNECTED it says the same again until the camera is opened anew.

        Raises:
            CameraError: the camera is not open.
        """
        if self.info is None:
            raise CameraError("the synthetic camera is not open", remedy="open it before reading")
        frames, fps = self._options.frames, self._options.fps
        if frames and self._next >= frames:
            return ReadStatus.END_OF_STREAM
        if self._options.is_disconnected((time.monotonic_ns() - self._start_ns) / NANOSECONDS):
            return ReadStatus.DISCONNECTED
        if self._options.trigger:
            return self._triggered(timeout_s)
        if fps == 0:
            return self._frame(self._next, time.monotonic_ns())
        return self._paced(timeout_s)

    def _paced(self, timeout_s: float) -> Frame | ReadStatus:
        frames, fps, is_silent = self._options.frames, self._options.fps, self._options.is_silent
        lowest = self._next
        while is_silent(lowest / fps):
            lowest += 1
        if frames and lowest >= frames:
            self._next = lowest
            return ReadStatus.END_OF_STREAM
        due_s = (self._produced_ns(lowest) - time.monotonic_ns()) / NANOSECONDS
        if due_s > timeout_s:
            time.sleep(timeout_s)
            return ReadStatus.TIMEOUT
        time.sleep(max(due_s, 0))
        newest = int((time.monotonic_ns() - self._start_ns) * fps / NANOSECONDS)
        newest = max(newest, lowest)
        newest = min(newest, frames - 1) if frames else newest
        while is_silent(newest / fps):
            newest -= 1
        return self._frame(newest, self._produced_ns(newest), newest / fps)

    def _triggered(self, timeout_s: float) -> Frame | ReadStatus:
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                part_id, triggered_ns = self._triggers.get(timeout=max(deadline_s - time.monotonic(), 0))
            except queue.Empty:
                return ReadStatus.TIMEOUT
            taken_s = (triggered_ns - self._start_ns) / NANOSECONDS
            if not self._options.is_silent(taken_s):
                return replace(self._frame(self._next, triggered_ns, taken_s), part_id=part_id or None)
            self.dropped["stall"] += 1

    def trigger(self, part_id: str = "") -> None:
        """Takes one capture of the next part, whose frame then carries ``part_id``; from any thread.

        Raises:
            ConfigError: the camera was not made with ``trigger=1``.
            CameraError: the camera is not open.
        """
        if not self._options.trigger:
            super().trigger(part_id)
        if self.info is None:
            raise CameraError("the synthetic camera is not open", remedy="open it before a trigger")
        self._triggers.put((part_id, time.monotonic_ns()))

    def _produced_ns(self, sequence: int) -> int:
        return self._start_ns + round(sequence * NANOSECONDS / self._options.fps)

    def _frame(self, sequence: int, timestamp_ns: int, taken_s: float = 0.0) -> Frame:
        self._next = sequence + 1
        shown = self._pool[sequence % len(self._pool)]
        rgb, depth = (image if image is None else own_image(image, image.dtype) for image in (shown.rgb, shown.depth))
        frame = replace(shown, rgb=rgb, depth=depth, sequence=sequence, timestamp_ns=timestamp_ns)
        return self._options.applied_to(frame, taken_s)

    def close(self) -> None:
        """Ends the stream; may be called twice. The parts stay rendered, so that it opens again at once."""
        self.info = None
