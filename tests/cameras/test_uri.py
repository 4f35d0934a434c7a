from __future__ import annotations

import re

import pytest
from pydantic import Field

from edge_ad.cameras import CAMERAS, CameraUri, camera_from_uri
from edge_ad.errors import ConfigError
from edge_ad.settings import Settings
from edge_ad.types import Camera

FORMS = {
    "bare": ("realsense", CameraUri("realsense")),
    "serial": (
        "realsense://0123?depth=848x480@30&align=depth",
        CameraUri("realsense", "0123", {"depth": "848x480@30", "align": "depth"}),
    ),
    "absolute": ("realsense:///data/a.db3", CameraUri("realsense", "/data/a.db3")),
    "relative": ("folder://parts/today?loop=1", CameraUri("folder", "parts/today", {"loop": "1"})),
    "no-path": ("synthetic://?fps=30", CameraUri("synthetic", "", {"fps": "30"})),
    "escaped": ("folder:///why%3F/50%25 ä", CameraUri("folder", "/why?/50% ä")),
    "colon": ("replay://C:/parts", CameraUri("replay", "C:/parts")),
}


class Options(Settings):
    fps: float = Field(default=30, gt=0)
    loop: bool = False


@pytest.mark.parametrize(("text", "uri"), FORMS.values(), ids=FORMS)
def test_a_uri_is_taken_apart_and_put_together(text: str, uri: CameraUri) -> None:
    assert CameraUri.parse(text) == uri
    assert CameraUri.parse(str(uri)) == uri


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no driver"),
        ("/data/a.db3", "names no driver"),
        ("folder://a?loop", "'loop' is given no value"),
        ("folder://a?fps=1&fps=2", "'fps' is given twice"),
    ],
    ids=["empty", "path", "no-value", "twice"],
)
def test_what_is_no_uri_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        CameraUri.parse(text)


def test_options_become_settings() -> None:
    assert CameraUri.parse("x://?fps=12.5&loop=1").options_as(Options) == Options(fps=12.5, loop=True)
    assert CameraUri.parse("x").options_as(Options) == Options()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("speed=1", r"option 'speed' is unknown\. Remedy: use fps, loop"),
        ("fps=fast", r"fps is not valid.*number.*'fast'"),
        ("fps=0", r"fps is not valid.*greater than 0"),
        ("fps=nan", r"fps is not valid"),
        ("loop=perhaps", r"loop is not valid.*boolean"),
    ],
    ids=["unknown", "no-number", "out-of-range", "nan", "no-boolean"],
)
def test_a_wrong_option_is_named_with_what_is_right(query: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        CameraUri.parse(f"x://y?{query}").options_as(Options)
    assert f"x://y?{query}" in str(caught.value)


def test_an_unknown_driver_is_told_which_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"'webcam' is unknown.*folder, genicam, oak, orbbec, realsense, replay, synthetic, v4l2"
    ):
        camera_from_uri("webcam://0")


@pytest.mark.parametrize("scheme", CAMERAS)
def test_every_driver_makes_itself_and_knows_its_options(scheme: str) -> None:
    assert isinstance(camera_from_uri(f"{scheme}://anything"), Camera)
    with pytest.raises(ConfigError, match=re.compile("bogus.*is (unknown|not valid)")):
        camera_from_uri(f"{scheme}://anything?bogus=1")
