"""What drift monitoring promises and costs: false alarms in simulation, delays, microseconds a part.

    scripts/bench drift [--runs 2000] [--seed 0]

Everything is drawn from the seed, but for the times; the tables go to docs/drift.md.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge_ad.alarms import Alarms
from edge_ad.drift.exchangeability import PROMISE_PARTS, ExchangeabilityTest
from edge_ad.drift.image_statistics import image_statistics
from edge_ad.drift.monitor import FALSE_ALARM_RATE, DriftMonitor
from edge_ad.drift.reference import Reference, measured_images
from edge_ad.thresholding import binomial_bound
from edge_ad.types import AnomalyResult, AnyArray, Decision, Frame, Inspection, Roi, Verdict

Draw = Callable[[np.random.Generator, int], AnyArray]

LAWS: dict[str, Draw] = {
    "normal": lambda random, count: random.standard_normal(count),
    "lognormal": lambda random, count: random.lognormal(size=count),
    "Cauchy": lambda random, count: random.standard_cauchy(count),
    "3 values": lambda random, count: random.integers(0, 3, count).astype(float),
    "constant": lambda random, count: np.ones(count),
}
RATES = (0.2, 0.05, 0.01)
SHARE = FALSE_ALARM_RATE / 10
"""Of the rate that one quantity has on a line with colour, depth and one operating mode."""


def main(runs: int = 2000, parts: int = 1000, delays: int = 100, seed: int = 0) -> None:
    """Prints the tables."""
    console = Console()
    first, second, third, fourth, fifth, sixth = (np.random.default_rng([seed, place]) for place in range(6))
    console.print(_false_alarms(first, runs, parts))
    console.print(_long_false_alarms(second, max(1, runs // 20)))
    console.print(_delays(third, delays))
    console.print(_beside_the_jumper(fourth, delays))
    console.print(_costs(fifth))
    console.print(_gradual(sixth, max(1, delays // 5)))


def _stop(test: ExchangeabilityTest, values: AnyArray) -> int | None:
    """The part at which it rejects."""
    for count, value in enumerate(values.tolist(), start=1):
        test.add(value)
        if test.change is not None:
            return count
    return None


def _false_alarms(random: np.random.Generator, runs: int, parts: int) -> Table:
    table = Table("scores", *(f"promised {rate:.0%}" for rate in RATES), title=f"{runs} lines of {parts} parts")
    for name, draw in track(LAWS.items(), "false alarms"):
        highest = []
        for run in range(runs):
            test = ExchangeabilityTest(draw(random, 40).tolist(), false_alarm_rate=1e-9, seed=run)
            capitals = []
            for value in draw(random, parts).tolist():
                test.add(value)
                capitals.append(test.capital)
            highest.append(max(capitals))
        counts = [sum(capital >= 1 / rate for capital in highest) for rate in RATES]
        bounds = [binomial_bound(runs, count, 0.95) for count in counts]
        row = (f"{count / runs:.2%} (below {bound:.2%})" for count, bound in zip(counts, bounds, strict=True))
        table.add_row(name, *row)
    return table


def _long_false_alarms(random: np.random.Generator, runs: int) -> Table:
    table = Table("scores", "promised 20%", title=f"{runs} lines of {PROMISE_PARTS} parts")
    for name in track(("normal", "Cauchy"), "whole games"):
        found = [
            _stop(
                ExchangeabilityTest(LAWS[name](random, 40).tolist(), false_alarm_rate=0.2, seed=run),
                LAWS[name](random, PROMISE_PARTS),
            )
            for run in range(runs)
        ]
        alarms = sum(one is not None for one in found)
        table.add_row(name, f"{alarms / runs:.1%} (below {binomial_bound(runs, alarms, 0.95):.1%})")
    return table


def _delays(random: np.random.Generator, runs: int) -> Table:
    shifts = (0.5, 1.0, 2.0, 3.0, 100.0)
    table = Table("reference", "parts before", *(f"{shift:g} σ" for shift in shifts), title=f"delay at {SHARE:g}")
    settings = [(12, 0), (20, 0), (60, 0), (200, 0), (12, 1000), (60, 1000), (60, 5000)]
    for frames, before in track(settings, "delays"):
        cells = []
        for shift in shifts:
            found: list[float] = []
            for run in range(runs if before < 5000 else runs // 5):
                test = ExchangeabilityTest(random.standard_normal(frames).tolist(), false_alarm_rate=SHARE, seed=run)
                if _stop(test, random.standard_normal(before)) is None:
                    found.append(_stop(test, random.standard_normal(1000) + shift) or np.inf)
            middle, late = np.quantile(found, (0.5, 0.9), method="higher")
            seen = np.mean(np.isfinite(found))
            cells.append(f"{middle:.0f} ({late:.0f})" if np.isfinite(late) else f"{seen:.0%} seen")
        table.add_row(str(frames), str(before), *cells)
    return table


def _gradual(random: np.random.Generator, runs: int) -> Table:
    table = Table("1 σ in", "seen after", "at a shift of", title=f"gradual from the first part on, at {SHARE:g}")
    for pace in track((1000, 10_000, 30_000), "gradual changes"):
        found = []
        for run in range(runs):
            test = ExchangeabilityTest(random.standard_normal(60).tolist(), false_alarm_rate=SHARE, seed=run)
            values = random.standard_normal(2 * pace) + np.arange(2 * pace) / pace
            found.append(_stop(test, values) or np.inf)
        middle = np.quantile(found, 0.5, method="higher")
        table.add_row(f"{pace} parts", f"{middle:.0f} parts", f"{middle / pace:.2f} σ")
    return table


def _jumper(reference: AnyArray, values: AnyArray, seed: int) -> int | None:
    """The part at which the Composite Jumper rejects (Vovk et al., COPA 2021), on the same p-values."""
    uniform, bag = np.random.default_rng(seed), sorted(reference.tolist())
    rates, bets = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])[:, None], np.array([-1.0, 0.0, 1.0])
    capital = np.full((5, 3), 1 / 15)
    for count, value in enumerate(values.tolist(), start=1):
        below, up_to = bisect_left(bag, value), bisect_right(bag, value)
        p = (len(bag) - up_to + uniform.random() * (up_to - below + 1)) / (len(bag) + 1)
        bag.insert(up_to, value)
        capital = (1 - rates) * capital + rates / 3 * capital.sum(axis=1, keepdims=True)
        capital *= 1 + bets * (p - 0.5)
        if capital.sum() >= 1 / SHARE:
            return count
    return None


def _beside_the_jumper(random: np.random.Generator, runs: int) -> Table:
    shifts = (0.5, 1.0, 2.0)
    title = f"parts until the change is seen, 60 reference frames and 1,000 parts before, at {SHARE:g}"
    table = Table("bets", *(f"{shift:g} σ" for shift in shifts), title=title)
    rows: dict[str, list[str]] = {"ours": [], "Composite Jumper": []}
    for shift in track(shifts, "Composite Jumper"):
        found: dict[str, list[float]] = {name: [] for name in rows}
        for run in range(runs):
            reference, values = random.standard_normal(60), random.standard_normal(2000)
            values[1000:] += shift
            ours = _stop(ExchangeabilityTest(reference.tolist(), false_alarm_rate=SHARE, seed=run), values)
            for name, part in (("ours", ours), ("Composite Jumper", _jumper(reference, values, run))):
                if part is None or part > 1000:
                    found[name].append(np.inf if part is None else part - 1000)
        for name, some in found.items():
            rows[name].append(f"{np.quantile(some, 0.5, method='higher'):.0f}")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _costs(random: np.random.Generator) -> Table:
    table = Table("frame", "image statistics, µs", "everything, µs", title="median of 300 frames")
    for height, width in ((256, 256), (480, 640), (720, 1280), (1080, 1920)):
        roi = Roi(0, 0, width, height)
        frames = [
            Frame(
                rgb=random.integers(0, 256, (height, width, 3), dtype=np.uint8),
                depth=random.integers(400, 500, (height, width), dtype=np.uint16),
                depth_unit_m=0.001,
            )
            for _ in range(3)
        ]
        scores = {"full": tuple(random.standard_normal(60))}
        reference = Reference(roi=roi, scores=scores, images=measured_images(frames * 20, roi))
        monitor = DriftMonitor(reference, Alarms())
        result = AnomalyResult(np.zeros((1, 1), np.float32), 0.0)
        alone, whole = [], []
        for index in range(300):
            frame = frames[index % 3]
            inspection = Inspection(frame, Verdict(Decision.OK, 9.0, mode="full"), result, triggered_ns=1)
            started = time.perf_counter()
            image_statistics(frame, roi)
            between = time.perf_counter()
            monitor.write(inspection)
            alone.append(between - started)
            whole.append(time.perf_counter() - between)
        table.add_row(f"{width}×{height}", *(f"{1e6 * statistics.median(some):.0f}" for some in (alone, whole)))
    return table


if __name__ == "__main__":
    typer.run(main)
