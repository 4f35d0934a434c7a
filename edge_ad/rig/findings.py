"""What is found out about a rig, and the limits by which it is judged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from pydantic import field_validator

from edge_ad.settings import Settings


class Status(str, Enum):
    """``unknown`` is what could not be measured, such as sharpness on a table without any texture."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure of a rig.

    Attributes:
        name: stable, for programs, such as ``plane_distance``.
        title: what it is, in plain words.
        status: how it is.
        figure: the figure with its unit, in words.
        limit: from where on it warns and fails, in words; empty where there is none.
        remedy: what to do; empty where nothing is to do.
        value: the figure as a number in the unit of ``figure``; None where it is none.
    """

    name: str
    title: str
    status: Status
    figure: str
    limit: str = ""
    remedy: str = ""
    value: float | None = None


class RigLimits(Settings):
    """From where on a check warns and fails, each as (warn, fail); may be edited in ``rig.json``.

    Attributes:
        distance_m: drift of the table's distance in the middle of the ROI. What stands 5 mm above the table
            counts as the part (``foreground_height_m``): a fifth of that moves the part's outline, half of it
            lets the table pass for a part.
        tilt_deg: turn of the table's plane. Half a degree is 1.7 mm over a part of 200 mm.
        shift_px: of the picture. One pixel is what training frames differ by anyhow; after three, the reference
            maps (validity, noise) belong to other places.
        brightness: change, as a share. The teacher hardly notices 10 %; 25 % is a lamp that died.
        sharpness: what is left of the fine contrast where most of it was lost; a focus that is off by its depth of
            field leaves about three quarters.
        fill: share of the ROI's depth that is lost. Stereo varies by a per cent from day to day.
        noise: depth noise, as a multiple of the reference. 1.5 costs a third of the smallest visible step.
        fps: what is left of the frame rate, as a share.
        skew_ms: between colour and depth. A part at 0.2 m/s moves 1 mm in 5 ms.
    """

    distance_m: tuple[float, float] = (0.001, 0.0025)
    tilt_deg: tuple[float, float] = (0.2, 0.5)
    shift_px: tuple[float, float] = (1.0, 3.0)
    brightness: tuple[float, float] = (0.10, 0.25)
    sharpness: tuple[float, float] = (0.75, 0.5)
    fill: tuple[float, float] = (0.02, 0.05)
    noise: tuple[float, float] = (1.5, 2.5)
    fps: tuple[float, float] = (0.9, 0.7)
    skew_ms: tuple[float, float] = (5.0, 20.0)

    @field_validator("*")
    @classmethod
    def _positive(cls, value: tuple[float, float]) -> tuple[float, float]:
        if min(value) <= 0:
            raise ValueError("limits are above 0: (warn, fail)")
        return value


def graded(
    name: str,
    title: str,
    value: float,
    limits: tuple[float, float],
    form: str,
    remedy: str,
    *,
    low_is_bad: bool = False,
) -> Finding:
    """A finding from a number and its two limits.

    Args:
        name: of the finding.
        title: what the number is.
        value: the number, in the unit of ``form``.
        limits: where it begins to warn and to fail; what lies on a limit is still good. An infinite one never fails.
        form: how the number and the limits are written, such as ``"{:.2f} mm"``.
        remedy: said where it is not good.
        low_is_bad: low numbers fail.
    """
    warn, fail = limits
    sign = -1 if low_is_bad else 1
    status = Status.FAIL if sign * value > sign * fail else Status.WARN if sign * value > sign * warn else Status.OK
    side = "below" if low_is_bad else "above"
    limit = f"warns {side} {form.format(warn)}" + (f", fails {side} {form.format(fail)}" if math.isfinite(fail) else "")
    return Finding(name, title, status, form.format(value), limit, remedy if status is not Status.OK else "", value)


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether none of them failed."""
    return all(finding.status is not Status.FAIL for finding in findings)
