"""The report as a browser shows it: Chromium opens the page, is let at nothing else, and is asked what it sees."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from edge_ad.data import Dataset
from edge_ad.evaluation import Evaluation, evaluate
from edge_ad.metrics import pro_curve
from edge_ad.report.charts import Axis, histogram, whisker
from edge_ad.report.page import report_html
from edge_ad.types import AnomalyResult, AnyArray, Frame, LabelledFrame

Frames = Sequence[LabelledFrame]
WHEN = datetime(2026, 3, 4, 5, 6, tzinfo=timezone.utc)
NASTY = '<script>alert(1)</script> & "lid" ' + "long" * 40


@dataclass
class Opened:
    """A page, and what it asked for and complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def count(self, selector: str) -> int:
        return self.page.locator(selector).count()

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "the report's tests need Chromium; remedy: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a page from a file, in a window of its own that reaches no network."""
    contexts = []

    def opened(html: str, width_px: int = 1280, **settings: Any) -> Opened:
        path = tmp_path / "report.html"
        path.write_text(html, encoding="utf-8")
        context = browser.new_context(viewport={"width": width_px, "height": 900}, offline=True, **settings)
        contexts.append(context)
        result = Opened(context.new_page())
        result.page.on("request", lambda request: result.requests.append(request.url))
        result.page.on("console", lambda message: result.complaints.append(message.text))
        result.page.on("pageerror", lambda error: result.complaints.append(str(error)))
        result.page.goto(path.as_uri(), wait_until="load")
        return result

    yield opened
    for context in contexts:
        context.close()


def predict_scores(frames: Frames, scores: Sequence[float]) -> Callable[[Frame], AnomalyResult]:
    """Gives each frame its score; its map is noise with the defect a little higher."""
    place = {item.frame.source: index for index, item in enumerate(frames)}

    def predict(frame: Frame) -> AnomalyResult:
        index = place[frame.source]
        noise = np.random.default_rng(index).normal(size=frame.size_px).astype(np.float32)
        mask = frames[index].gt_mask
        anomaly_map = noise if mask is None else noise + mask.astype(np.float32)
        return AnomalyResult(anomaly_map, scores[index], {"rgb": noise[::2, ::2], "depth": anomaly_map[::2, ::2]})

    return predict


@pytest.fixture(scope="module")
def four(dataset: Dataset) -> Frames:
    """Two good parts, then two with different defects."""
    frames = list(dataset.frames("test"))
    return [item for item in frames if not item.is_anomalous][:2] + [item for item in frames if item.is_anomalous][:2]


def evaluated(frames: Frames, scores: Sequence[float], threshold: float) -> Evaluation:
    return evaluate(predict_scores(frames, scores), frames, threshold)


def report(evaluation: Evaluation, category: str = "lid", description: str = "crd rgb+depth, onnx") -> str:
    return report_html(evaluation, category=category, description=description, when=WHEN)


@pytest.fixture(scope="module")
def mixed(four: Frames) -> Evaluation:
    """One part of each class is judged wrongly."""
    return evaluated(four, (0.1, 0.4, 0.35, 0.8), 0.375)


def attributes(locator: Locator, *names: str) -> list[float]:
    return [float(str(locator.get_attribute(name))) for name in names]


def shares(page: Opened, chart: str, points: AnyArray) -> AnyArray:
    """Places in a chart as shares of its plot: (0, 0) is below left, (1, 1) above right."""
    left, top, width, height = attributes(page.page.locator(f".{chart} .plot"), "x", "y", "width", "height")
    return np.column_stack([(points[:, 0] - left) / width, (top + height - points[:, 1]) / height])


def curve(page: Opened, chart: str) -> AnyArray:
    given = str(page.page.locator(f".{chart} .curve").get_attribute("points"))
    return shares(page, chart, np.array([[float(x) for x in pair.split(",")] for pair in given.split()]))


def test_it_asks_for_nothing_and_complains_of_nothing(show: Open, mixed: Evaluation) -> None:
    page = show(report(mixed))
    assert [url for url in page.requests if not url.startswith("data:")] == [page.page.url]
    assert page.complaints == []


def test_its_policy_forbids_what_it_does_not_need(show: Open, mixed: Evaluation) -> None:
    """Even a page that was tampered with would load nothing: the picture is refused, and the browser says so."""
    page = show(report(mixed).replace("<main>", '<main><img src="https://example.com/spy.png" alt="">'))
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


def test_its_title_says_what_was_evaluated(show: Open, mixed: Evaluation) -> None:
    page = show(report(mixed))
    assert page.page.title() == "lid – evaluation"
    assert page.text("h1") == "lid"
    facts = page.text(".facts")
    assert "crd rgb+depth, onnx" in facts
    assert "2026-03-04 05:06 UTC" in facts
    assert "4 parts: 2 good, 2 defective" in facts
    assert "found 1 of 2 defective parts and rejected 1 of 2 good ones" in page.text(".verdict")


def test_the_roc_curve_has_its_corners(show: Open, mixed: Evaluation) -> None:
    page = show(report(mixed))
    corners = list(dict.fromkeys(map(tuple, np.round(curve(page, "roc"), 3).tolist())))
    assert corners == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    mark = np.array([attributes(page.page.locator(".roc .mark"), "cx", "cy")])
    assert shares(page, "roc", mark)[0] == pytest.approx((0.5, 0.5), abs=1e-3)
    box, plot = (page.page.locator(f".roc .{name}").bounding_box() for name in ("mark", "plot"))
    assert box is not None and plot is not None
    assert box["x"] + box["width"] / 2 == pytest.approx(plot["x"] + plot["width"] / 2, abs=1)


def test_the_pro_curve_passes_where_the_metric_says(show: Open, mixed: Evaluation, four: Frames) -> None:
    masks = [np.zeros(item.frame.size_px, np.bool_) if item.gt_mask is None else item.gt_mask for item in four]
    predict = predict_scores(four, (0, 0, 0, 0))
    rates, overlaps = pro_curve(masks, [predict(item.frame).anomaly_map for item in four])
    page = show(report(mixed))
    drawn = curve(page, "pro")
    for rate in (0.002, 0.01, 0.1, 0.25):
        place = np.interp(rate / 0.3, drawn[1:, 0], drawn[1:, 1])
        assert place == pytest.approx(np.interp(rate, rates, overlaps), abs=0.01), rate
    mark = np.array([attributes(page.page.locator(".pro .limit"), "x1", "y1")])
    assert shares(page, "pro", mark)[0, 0] == pytest.approx(0.01 / 0.3, abs=1e-3)
    assert f"1 %: overlap {100 * np.interp(0.01, rates, overlaps):.1f} %" in page.page.locator(".pro").inner_html()


def test_the_histogram_counts_every_part(show: Open) -> None:
    good, defective = np.array([1.0, 1.01, 1.02, 2.0]), np.array([1.9, 5.0, 9.0])
    page = show(f"<!doctype html><title>chart</title>{histogram(good, defective, 1.5)}")
    bars = page.page.locator
    (middle,) = attributes(bars(".axis"), "y1")
    (threshold,) = attributes(bars(".threshold"), "x1")
    tallest = max(attributes(bar, "height")[0] for bar in bars(".bar.good").all())
    counted = {}
    for kind in ("good", "defective"):
        rows = np.array([attributes(bar, "x", "y", "width", "height") for bar in bars(f".bar.{kind}").all()])
        counts = rows[:, 3] * (3 / tallest)
        counted[kind] = (rows[:, 0] + rows[:, 2] < threshold, counts)
        assert (rows[:, 1] + rows[:, 3] <= middle + 0.1).all() if kind == "good" else (rows[:, 1] >= middle - 0.1).all()
    # The halves have slightly different heights, so counts of the lower one are within a few per cent.
    assert counted["good"][1].sum() == pytest.approx(4, rel=0.01)
    assert counted["good"][1][counted["good"][0]].sum() == pytest.approx(3, rel=0.01)
    assert counted["defective"][1].sum() == pytest.approx(3, rel=0.06)
    assert not counted["defective"][0].any()


def test_scores_far_apart_get_a_logarithmic_axis() -> None:
    chart = histogram(np.array([1.0, 2.0]), np.array([30.0, 400.0]), 3.0)
    assert "score, logarithmic" in chart
    assert [f">{tick}<" in chart for tick in (1, 10, 100)] == [True] * 3
    assert "logarithmic" not in histogram(np.array([-1.0, 2.0]), np.array([400.0]), 3.0)
    assert "nan" not in histogram(np.array([2.0]), np.array([2.0]), 2.0)


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        pytest.param(Axis(0, 1, 0, 100), [0, 0.2, 0.4, 0.6, 0.8, 1], id="shares"),
        pytest.param(Axis(9.3, 53, 0, 100), [10, 20, 30, 40, 50], id="scores"),
        pytest.param(Axis(3, 60, 0, 100, logarithmic=True), [5, 10, 20, 50], id="logarithmic"),
    ],
)
def test_ticks_are_round(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)


def test_an_axis_puts_values_in_their_place() -> None:
    assert Axis(10, 20, 0, 100)(12.5) == 25
    assert Axis(1, 100, 0, 50, logarithmic=True)(10) == pytest.approx(25)
    assert 'cx="50.0"' in whisker(0.5, (0.25, 0.75))
    assert 'x1="27.0" y1="6" x2="73.0"' in whisker(0.5, (0.25, 0.75))


def test_every_picture_is_there_and_described(show: Open, mixed: Evaluation) -> None:
    page = show(report(mixed))
    images = page.page.locator("img").all()
    assert len(images) == 2 * 5 + 1  # one miss, one false reject, the colour scale
    for image in images:
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
        assert image.get_attribute("alt")
    titles = ["Colour", "Depth", "Anomaly map, defect outlined", "Map of colour", "Map of depth"]
    assert page.page.locator("article").first.locator("figcaption").all_inner_texts() == titles
    assert page.page.locator("article .badge").all_inner_texts() == ["missed", "false reject"]
    assert all(chart.get_attribute("aria-label") for chart in page.page.locator("svg.chart").all())


def test_tables_have_the_figures_with_their_intervals(show: Open, mixed: Evaluation) -> None:
    page = show(report(mixed))
    rows = page.page.locator("section[aria-labelledby=metrics] tbody tr")
    assert rows.count() == 6
    assert page.page.locator("section[aria-labelledby=metrics] thead th").all_inner_texts() == [
        "Metric",
        "Whole model",
        "Colour alone",
        "Depth alone",
    ]
    low, high = mixed.intervals.metrics["pixel_auroc"]
    cell = rows.filter(has_text="P-AUROC").locator("td").first.inner_text()
    assert cell.split() == [f"{100 * mixed.metrics['pixel_auroc']:.1f}", f"{100 * low:.1f}–{100 * high:.1f}"]
    hindsight = page.page.locator(".others tbody tr").all_inner_texts()
    assert [row.split("\t")[2:] for row in hindsight] == [
        ["1 of 2", "0 of 2"],
        ["2 of 2", "1 of 2"],
        ["2 of 2", "1 of 2"],
    ]
    assert page.count("section[aria-labelledby=defects] tbody tr") == 2
    assert page.page.locator("section[aria-labelledby=threshold] .wrong").all_inner_texts() == ["1", "1"]
    assert page.page.locator("th:not([scope])").count() == 0


def test_without_mistakes_the_closest_calls_are_shown(show: Open, four: Frames) -> None:
    page = show(report(evaluated(four, (0.1, 0.2, 0.8, 0.9), 0.5)))
    assert page.page.locator(".calm").all_inner_texts() == [
        "Every defective part was found. These came closest to the threshold.",
        "No good part was rejected. These came closest to the threshold.",
    ]
    assert page.page.locator("article .badge").all_inner_texts() == ["found", "found", "accepted", "accepted"]
    assert "score 0.80" in page.text("article h3")
    assert page.count(".wrong") == 0


def test_what_users_name_is_text(show: Open, four: Frames) -> None:
    named = [replace(item, defect="<b>dent</b>") if item.is_anomalous else item for item in four]
    page = show(report(evaluated(named, (0.1, 0.4, 0.35, 0.8), 0.375), category=NASTY, description="<i>crd</i>"))
    assert page.text("h1") == NASTY
    assert page.count("script") == page.count("b") == page.count("i") == 0
    assert "<b>dent</b>" in page.text("section[aria-labelledby=defects] tbody")
    assert "<b>dent</b>/" in page.text("article h3")
    assert page.complaints == []


@pytest.mark.parametrize("width_px", [390, 1280])
def test_nothing_sticks_out(show: Open, four: Frames, width_px: int) -> None:
    named = [replace(item, defect="a_long_name_for_a_defect" * 3) if item.is_anomalous else item for item in four]
    page = show(report(evaluated(named, (0.1, 0.4, 0.35, 0.8), 0.375), category=NASTY), width_px)
    assert page.page.evaluate("document.documentElement.scrollWidth") == width_px


def test_it_has_a_light_and_a_dark_face(show: Open, mixed: Evaluation) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        page = show(report(mixed), color_scheme=scheme)
        colours = page.page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        brightness[scheme] = [sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(","))) for colour in colours]
    assert brightness["light"][0] > 700 > 100 > brightness["light"][1]
    assert brightness["dark"][0] < 100 < 600 < brightness["dark"][1]


def test_it_prints_light(show: Open, mixed: Evaluation) -> None:
    page = show(report(mixed), color_scheme="dark")
    page.page.emulate_media(media="print", color_scheme="dark")
    ink = page.page.evaluate("getComputedStyle(document.body).color")
    assert ink == "rgb(27, 32, 38)"
    assert page.page.pdf(format="A4").startswith(b"%PDF")


def test_without_masks_there_is_no_pro_curve(show: Open, four: Frames) -> None:
    unmarked = [replace(item, gt_mask=None) for item in four]
    page = show(report(evaluated(unmarked, (0.1, 0.4, 0.35, 0.8), 0.375)))
    assert page.count(".roc") == 1
    assert page.count(".pro") == 0
    assert page.page.locator(".headlines .name").all_inner_texts() == ["I-AUROC"]
    assert page.complaints == []


def test_one_modality_is_not_compared_with_itself(show: Open, four: Frames) -> None:
    predict = predict_scores(four, (0.1, 0.4, 0.35, 0.8))
    evaluation = evaluate(lambda frame: replace(predict(frame), modality_maps={}), four, 0.375)
    page = show(report(evaluation))
    assert page.text("#metrics") == "All metrics"
    assert page.page.locator("article").first.locator("img").count() == 3


def test_it_stays_small(mixed: Evaluation) -> None:
    assert len(report(mixed).encode()) < 1_000_000
