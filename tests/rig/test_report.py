"""The acceptance report as Chromium shows it, from a file and with no network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from edge_ad.report.rig_page import rig_html
from edge_ad.rig.calibration import acceptance, calibrated
from edge_ad.types import CameraInfo, Roi
from tests.rig.scenes import Scene

GOOD = Scene()
BAD = Scene(
    hole_share=0.15,
    blind=Roi(0, 0, 40, 120),
    skew_ms=16,
    info=CameraInfo("<b>camera</b>", "B42", live=True, details={"usb": "2.1"}),
)
WITHOUT_COLOUR = replace(GOOD, has_colour=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "the report's tests need Chromium; remedy: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


def shown(browser: Browser, scene: Scene, directory: Path, width_px: int) -> tuple[Page, list[str]]:
    """The open page, and what it asked for and complained of."""
    seen = scene.observed()
    rig = calibrated(seen, "bench://")
    path = directory / "report.html"
    path.write_text(rig_html(rig, acceptance(rig, seen), "lid <1>"), encoding="utf-8")
    page = browser.new_context(viewport={"width": width_px, "height": 900}, offline=True).new_page()
    events: list[str] = []
    page.on("console", lambda message: events.append(message.text))
    page.on("request", lambda request: events.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri(), wait_until="load")
    return page, events


@pytest.mark.parametrize(
    ("scene", "width_px", "badges", "verdict", "pictures"),
    [
        pytest.param(GOOD, 1280, {"pass"}, "fit to inspect with", 4, id="good"),
        pytest.param(BAD, 390, {"pass", "warn", "fail"}, "3 of 11 figures ask for a look: depth returned", 4, id="bad"),
        pytest.param(WITHOUT_COLOUR, 800, {"pass", "not measured"}, "fit to inspect with", 3, id="no colour"),
    ],
)
def test_the_report_shows_figures_and_pictures(
    browser: Browser, tmp_path: Path, scene: Scene, width_px: int, badges: set[str], verdict: str, pictures: int
) -> None:
    page, events = shown(browser, scene, tmp_path, width_px)
    assert events == []
    assert page.locator("h1").inner_text() == "lid <1>"
    assert verdict in page.locator(".verdict").inner_text()
    assert set(page.locator(".badge").all_inner_texts()) == badges
    widths = page.locator(".pictures img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert widths == [640] * pictures
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    page.context.close()
