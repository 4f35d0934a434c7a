"""What can be wrong with a camera, on demand: for acceptance tests and long runs of a line."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.random import default_rng
from pydantic import Field, model_validator

from edge_ad.settings import Settings
from edge_ad.types import Frame

JUNK = ("black", "empty", "noise")
"""Colour of zeros; depth without a return; both images of random numbers."""

NANOSECOND_S = 1e-9

JUNK_STREAM = 4
"""Sets these random numbers apart from those that the product is drawn from."""


class FaultOptions(Settings):
    """Faults of the synthetic camera, none by default; the same seed has the same ones.

    Times count from when the camera was opened. What happens every so many seconds has happened first
    after the first such time.

    Attributes:
        seed: of the product and its faults.
        stall_every_s: seconds from the start of one silence to the next; 0 for none.
        stall_s: its length. The frames of that time are lost: their numbers are missing.
        depth_loss_every_s: seconds from one loss of depth to the next; 0 for none.
        depth_loss_s: its length, in which frames have colour only.
        disconnect_every_s: seconds until the camera is lost and must be opened again; 0 for never.
        junk_rate: share of frames that are black, have no depth return, or are noise.
    """

    seed: int = Field(default=0, ge=0)
    stall_every_s: float = Field(default=0, ge=0)
    stall_s: float = Field(default=0, ge=0)
    depth_loss_every_s: float = Field(default=0, ge=0)
    depth_loss_s: float = Field(default=0, ge=0)
    disconnect_every_s: float = Field(default=0, ge=0)
    junk_rate: float = Field(default=0, ge=0, le=1)

    @model_validator(mode="after")
    def _both_times(self) -> FaultOptions:
        for fault in ("stall", "depth_loss"):
            every_s, length_s = getattr(self, f"{fault}_every_s"), getattr(self, f"{fault}_s")
            if bool(every_s) != bool(length_s) or (every_s and length_s >= every_s):
                raise ValueError(
                    f"{fault}_every_s={every_s:g} needs a {fault}_s above 0 and below it, and not {length_s:g}"
                )
        return self

    @property
    def by_the_clock(self) -> bool:
        """Whether any fault comes by time."""
        return bool(self.stall_every_s or self.depth_loss_every_s or self.disconnect_every_s)

    def is_silent(self, time_s: float) -> bool:
        """Whether nothing is delivered of what was taken ``time_s`` after the camera was opened."""
        return _recurs(time_s, self.stall_every_s, self.stall_s)

    def is_disconnected(self, time_s: float) -> bool:
        """Whether the camera is lost ``time_s`` after it was opened."""
        return 0 < self.disconnect_every_s <= time_s

    def applied_to(self, frame: Frame, time_s: float) -> Frame:
        """The frame as a faulty camera delivers it; ``source`` says what is wrong with it.

        Args:
            frame: with colour and depth; its ``sequence`` decides whether it is junk.
            time_s: when it was taken.
        """
        random = default_rng([self.seed, JUNK_STREAM, frame.sequence])
        if self.junk_rate and random.random() < self.junk_rate:
            assert frame.rgb is not None and frame.depth is not None
            kind = str(random.choice(JUNK))
            rgb, depth = frame.rgb, frame.depth
            if kind in ("black", "noise"):
                rgb = random.integers(0, 256 if kind == "noise" else 1, rgb.shape, dtype=np.uint8)
            if kind in ("empty", "noise"):
                depth = random.integers(0, 65_536 if kind == "noise" else 1, depth.shape, dtype=np.uint16)
            frame = replace(frame, rgb=rgb, depth=depth, source=f"{frame.source}/{kind}")
        if _recurs(time_s, self.depth_loss_every_s, self.depth_loss_s):
            frame = replace(frame, depth=None, source=f"{frame.source}/depth lost")
        return frame


def _recurs(time_s: float, every_s: float, length_s: float) -> bool:
    if not 0 < every_s <= time_s:
        return False
    # A nanosecond more, so that the 20th frame of 10 a second is at 2 s whatever binary fractions make of it.
    since_s = time_s - every_s * math.floor((time_s + NANOSECOND_S) / every_s)
    return since_s + NANOSECOND_S < length_s
