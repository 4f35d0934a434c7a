"""How large a change of what the picture looks like matters, and what to say of it and do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from edge_ad.drift.watch import Effect, Finding, absolute_change, relative_change

AGAIN = "if it is meant to be so, capture and train again"


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the pixels.

    Attributes:
        smallest: the change that matters, as a share of all pixels.
        label: its name.
        remedy: what to do.
    """

    smallest: float
    label: str
    remedy: str

    @property
    def effect(self) -> Effect:
        """How a change is measured."""
        return absolute_change

    def text(self, finding: Finding) -> str:
        """What changed and what to do."""
        before, now = (100 * float(np.median(values)) for values in (finding.before, finding.recent))
        went = "rose" if finding.effect > 0 else "fell"
        return f"{self.label} {went} from {before:.1f} % in training to {now:.1f} %: {self.remedy}; {AGAIN}"


@dataclass(frozen=True, slots=True)
class Level:
    """A quantity above 0 whose relative change counts.

    Attributes:
        smallest: the change that matters, as a share of the value in training.
        subject: what has it.
        up: what the subject is where it rose,
        down: and where it fell.
        label: the quantity's name and unit, for the figures.
        remedy: what to do.
        factor: from the value to what is printed,
        digits: and its decimals.
    """

    smallest: float
    subject: str
    up: str
    down: str
    label: str
    remedy: str
    factor: float = 1.0
    digits: int = 0

    @property
    def effect(self) -> Effect:
        """How a change is measured."""
        return relative_change

    def text(self, finding: Finding) -> str:
        """What changed and what to do."""
        before, now = (self.factor * float(np.median(values)) for values in (finding.before, finding.recent))
        deviation = self.factor * float(np.std(finding.before))
        percent = 100 * abs(finding.effect)
        shown = f"{percent:.0f}" if percent >= 10 else f"{percent:.1f}"
        return (
            f"{self.subject} is {shown} % {self.up if finding.effect > 0 else self.down} than in training "
            f"({self.label} {now:.{self.digits}f}, training {before:.{self.digits}f} ± {deviation:.{self.digits}f}): "
            f"{self.remedy}; {AGAIN}"
        )


QUANTITIES: Mapping[str, Level | Share] = MappingProxyType(
    {
        "brightness": Level(
            0.10, "the picture", "brighter", "darker", "brightness", "check the lamp, the exposure and stray light"
        ),
        "overexposed": Share(0.02, "overexposed pixels", "check the exposure, look for glare and stray light"),
        "underexposed": Share(0.02, "black pixels", "check the lamp, the exposure and that nothing covers the lens"),
        "red_green": Level(
            0.05,
            "the picture",
            "redder",
            "less red",
            "red to green",
            "check the lamp's colour and fix the white balance",
            digits=2,
        ),
        "blue_green": Level(
            0.05,
            "the picture",
            "bluer",
            "less blue",
            "blue to green",
            "check the lamp's colour and fix the white balance",
            digits=2,
        ),
        "sharpness": Level(
            0.25,
            "the picture",
            "sharper or noisier",
            "less sharp",
            "contrast of neighbours in %",
            "check the focus and the gain, clean the lens, look for vibration",
            factor=100,
            digits=2,
        ),
        "depth_fill": Share(0.05, "depth fill", "clean the lens, look for sunlight and reflections"),
        "distance_m": Level(
            0.02, "the scene", "farther away", "nearer", "distance in mm", "check the camera's mount", factor=1000
        ),
    }
)
"""By the names of ``edge_ad.drift.image_statistics``."""
