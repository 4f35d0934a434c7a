from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.cameras import camera_from_uri, opened
from edge_ad.errors import CameraError, ConfigError
from edge_ad.types import Camera, Frame

DRIVER = """
import numpy as np

from edge_ad.cameras.base import CameraDriver
from edge_ad.types import CameraInfo, Frame


class GreyCamera(CameraDriver):
    @classmethod
    def from_uri(cls, uri):
        camera = cls()
        camera.level = int(uri.path)
        return camera

    def open(self):
        self.info = CameraInfo("grey", str(self.level), live=True)
        return self.info

    def read(self, timeout_s):
        return Frame(rgb=np.full((2, 2, 3), self.level, dtype=np.uint8))

    def close(self):
        self.info = None
"""


class Site:
    """A directory of installed packages."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def install(self, package: str, scheme: str, value: str, source: str = DRIVER) -> None:
        """Writes what pip leaves of a package with one module and one entry point."""
        (self.directory / f"{value.partition(':')[0]}.py").write_text(source)
        info = self.directory / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[edge_ad.cameras]\n{scheme} = {value}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path)


def test_another_package_adds_a_driver(site: Site) -> None:
    site.install("grey-camera", "grey", "grey_camera_1:GreyCamera")
    camera = camera_from_uri("grey://42")
    assert isinstance(camera, Camera)
    with opened(camera) as info:
        frame = camera.read(0)
    assert info.name == "grey" and isinstance(frame, Frame)
    assert frame.rgb is not None and (frame.rgb == 42).all()
    with pytest.raises(ConfigError, match="'gray' is unknown.*folder, genicam, grey"):
        camera_from_uri("gray://42")


def test_a_built_in_driver_is_not_replaced(site: Site) -> None:
    site.install("bad-folder", "folder", "grey_camera_2:GreyCamera")
    assert type(camera_from_uri("folder://parts")).__module__ == "edge_ad.cameras.folder"


@pytest.mark.parametrize(
    ("value", "source", "says"),
    [
        ("broken_camera_1:Any", "import a_module_that_is_not_there", "ModuleNotFoundError.*a_module_that_is_not_there"),
        ("broken_camera_2:Any", "1 / 0", "ZeroDivisionError"),
        ("broken_camera_3:Camera", "Other = 1", "AttributeError.*Camera"),
        ("broken_camera_4:Camera", "Camera = int", "no from_uri"),
    ],
    ids=["import", "crash", "name", "class"],
)
def test_a_broken_driver_is_one_error_that_names_its_package(site: Site, value: str, source: str, says: str) -> None:
    site.install("broken-camera", "broken", value, source)
    with pytest.raises(CameraError, match=f"package broken-camera cannot be loaded.*{says}"):
        camera_from_uri("broken://")


def test_two_packages_with_one_scheme_are_refused(site: Site) -> None:
    site.install("one-camera", "twin", "twin_camera_1:GreyCamera")
    site.install("two-camera", "twin", "twin_camera_2:GreyCamera")
    with pytest.raises(ConfigError, match="one-camera and two-camera"):
        camera_from_uri("twin://1")
