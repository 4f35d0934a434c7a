"""Charts as inline SVG. Colours come from the page's style sheet, so they follow light and dark.

Each chart is as wide as its view box says, 360, when its text has the size of the page's small print.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from edge_ad.types import AnyArray

WIDTH, HEIGHT = 360, 300
LEFT, RIGHT, TOP, BOTTOM = 40, 350, 30, 256
BINS = 28
_LOGARITHMIC_FROM = 12.0
"""From this ratio of the largest to the smallest score on, their axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Where a value lies in the picture; linear, or logarithmic for values above 0."""

    low: float
    high: float
    start_px: float
    end_px: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of ``value``, in units of the view box."""
        low, high, at = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return self.start_px + (at - low) / (high - low) * (self.end_px - self.start_px)

    def ticks(self) -> list[float]:
        """At most seven round values inside."""
        if self.logarithmic:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
        else:
            rough = (self.high - self.low) / 6
            step = next(
                factor * 10.0**exponent
                for exponent in (math.floor(math.log10(rough)), math.floor(math.log10(rough)) + 1)
                for factor in (1, 2, 5)
                if factor * 10.0**exponent >= rough
            )
            values = [step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [value for value in values if self.low <= value <= self.high]


def roc_chart(rates: Sequence[float], hits: Sequence[float], threshold_at: tuple[float, float]) -> Markup:
    """Defective parts found over good parts rejected, with the threshold's place marked.

    Args:
        rates: false positive rates, rising from 0 to 1.
        hits: hit rates, the same length.
        threshold_at: false positive rate and hit rate at the threshold.
    """
    x, y = Axis(0, 1, LEFT, RIGHT), Axis(0, 1, BOTTOM, TOP)
    quarters = (0, 0.25, 0.5, 0.75, 1)
    chance = Markup('<line class="chance" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(LEFT, BOTTOM, RIGHT, TOP)
    at = Markup('<circle class="mark" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(x(threshold_at[0]), y(threshold_at[1]))
    return _chart(
        "roc",
        f"ROC curve; at the threshold {threshold_at[1]:.1%} of the defective parts are found "
        f"and {threshold_at[0]:.1%} of the good parts rejected",
        [
            _grid(x, y, quarters, quarters, "good parts rejected, %", "defective parts found, %"),
            chance,
            _curve(x, y, zip(rates, hits, strict=True), filled=True),
            at,
        ],
    )


def pro_chart(points: AnyArray, mark: float = 0.01) -> Markup:
    """Overlap with the defective regions over the share of good pixels marked wrongly.

    Args:
        points: float64 (K, 2), false positive rate, rising from 0, and overlap.
        mark: the false positive rate with a line of its own.
    """
    limit = float(points[-1, 0])
    x, y = Axis(0, limit, LEFT, RIGHT), Axis(0, 1, BOTTOM, TOP)
    rates = [limit * third / 3 for third in range(4)]
    overlap = float(np.interp(mark, points[1:, 0], points[1:, 1]))
    label = Markup('<text class="note" x="{:.1f}" y="{}">{} %: overlap {:.1f} %</text>').format(
        x(mark) + 6, BOTTOM - 8, f"{100 * mark:g}", 100 * overlap
    )
    return _chart(
        "pro",
        f"PRO curve up to a false positive rate of {limit:.0%}; at {mark:.0%} the overlap is {overlap:.1%}",
        [
            _grid(x, y, rates, (0, 0.25, 0.5, 0.75, 1), "good pixels marked, %", "overlap with defects, %"),
            _curve(x, y, ((float(rate), float(value)) for rate, value in points), filled=True),
            _upright("limit", x(mark)),
            label,
        ],
    )


def histogram(good: AnyArray, defective: AnyArray, threshold: float) -> Markup:
    """Scores of good parts upwards, of defective ones downwards, with the threshold between OK and NG.

    Args:
        good: (N,) scores.
        defective: (M,) scores.
        threshold: a score above it is a reject.
    """
    x = _score_axis(np.concatenate([good, defective, [threshold]]))
    spread = np.linspace(*((math.log(x.low), math.log(x.high)) if x.logarithmic else (x.low, x.high)), BINS + 1)
    edges = np.exp(spread) if x.logarithmic else spread
    edges[0], edges[-1] = x.low, x.high
    counts = [np.histogram(scores, edges)[0] for scores in (good, defective)]
    most, middle = max(int(count.max()) for count in counts), (TOP + BOTTOM) / 2
    up, down = Axis(0, most, middle, TOP + 8), Axis(0, most, middle, BOTTOM - 4)
    parts = [_bars("good", x, up, edges, counts[0]), _bars("defective", x, down, edges, counts[1])]
    parts.append(Markup('<line class="axis" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(LEFT, middle, RIGHT, middle))
    for value in x.ticks():
        parts.append(_tick(x(value), f"{value:g}"))
    for axis in (up, down):
        parts.append(Markup('<text class="y" x="{}" y="{:.1f}">{}</text>').format(LEFT - 6, axis(most) + 4, most))
    parts.append(_upright("threshold", x(threshold)))
    side, shift = ("end", -6) if x(threshold) > (LEFT + RIGHT) / 2 else ("start", 6)
    parts.append(
        Markup('<text class="note" text-anchor="{}" x="{:.1f}" y="{}">threshold {:.2f}</text>').format(
            side, x(threshold) + shift, TOP + 2, threshold
        )
    )
    parts += [_titles("score, logarithmic" if x.logarithmic else "score", "parts")]
    return _chart(
        "histogram",
        f"Scores of {good.size} good parts, upwards, and {defective.size} defective parts, downwards; "
        f"threshold {threshold:.2f}",
        parts,
    )


def whisker(value: float, interval: tuple[float, float] | None) -> Markup:
    """A dot for a share, a bar for its interval, on a track from 0 to 1. Numbers stand beside it."""
    x = Axis(0, 1, 4, 96)
    parts = [Markup('<line class="track" x1="4" y1="6" x2="96" y2="6"/>')]
    if interval is not None:
        ends = (x(interval[0]), x(interval[1]))
        parts.append(Markup('<line class="span" x1="{:.1f}" y1="6" x2="{:.1f}" y2="6"/>').format(*ends))
    parts.append(Markup('<circle class="dot" cx="{:.1f}" cy="6" r="3.5"/>').format(x(value)))
    return Markup('<svg class="whisker" viewBox="0 0 100 12" aria-hidden="true">{}</svg>').format(Markup().join(parts))


def _chart(name: str, label: str, parts: Iterable[Markup]) -> Markup:
    return Markup('<svg class="chart {}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        name, WIDTH, HEIGHT, label, Markup().join(parts)
    )


def _grid(x: Axis, y: Axis, x_values: Sequence[float], y_values: Sequence[float], x_title: str, y_title: str) -> Markup:
    """The plot's area, its lines and titles; ticks in per cent."""
    parts = [
        Markup('<rect class="plot" x="{}" y="{}" width="{}" height="{}"/>').format(
            LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP
        )
    ]
    for value in y_values:
        line = Markup('<line class="grid" x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}"/>')
        parts.append(line.format(LEFT, y(value), RIGHT, y(value)))
        text = Markup('<text class="y" x="{}" y="{:.1f}">{:.0f}</text>')
        parts.append(text.format(LEFT - 6, y(value) + 4, 100 * value))
    parts += [_tick(x(value), f"{100 * value:.0f}") for value in x_values]
    return Markup().join([*parts, _titles(x_title, y_title)])


def _tick(x_px: float, text: str) -> Markup:
    return Markup('<text class="x" x="{:.1f}" y="{}">{}</text>').format(x_px, BOTTOM + 16, text)


def _titles(x_title: str, y_title: str) -> Markup:
    below = Markup('<text class="title" text-anchor="end" x="{}" y="{}">{}</text>').format(RIGHT, HEIGHT - 8, x_title)
    return below + Markup('<text class="title" x="4" y="14">{}</text>').format(y_title)


def _curve(x: Axis, y: Axis, points: Iterable[tuple[float, float]], filled: bool) -> Markup:
    places = [(x(horizontal), y(vertical)) for horizontal, vertical in points]
    line = " ".join(f"{left:.2f},{top:.2f}" for left, top in places)
    area = f"{places[0][0]:.2f},{y(0):.2f} {line} {places[-1][0]:.2f},{y(0):.2f}"
    under = Markup('<polygon class="area" points="{}"/>').format(area) if filled else Markup()
    return under + Markup('<polyline class="curve" points="{}"/>').format(line)


def _upright(name: str, x_px: float) -> Markup:
    line = Markup('<line class="{}" x1="{:.1f}" y1="{}" x2="{:.1f}" y2="{}"/>')
    return line.format(name, x_px, TOP - 6, x_px, BOTTOM)


def _bars(name: str, x: Axis, y: Axis, edges: AnyArray, counts: AnyArray) -> Markup:
    bar = Markup('<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    parts = []
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            ends = sorted((y(0), y(int(count))))
            parts.append(bar.format(name, x(left) + 0.5, ends[0], x(right) - x(left) - 1, ends[1] - ends[0]))
    return Markup().join(parts)


def _score_axis(values: AnyArray) -> Axis:
    """Wide enough for all scores and a little more."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low >= _LOGARITHMIC_FROM:
        return Axis(low / 1.1, high * 1.1, LEFT, RIGHT, logarithmic=True)
    room = 0.03 * (high - low) or max(abs(high), 1.0) * 0.1
    return Axis(low - room, high + room, LEFT, RIGHT)
