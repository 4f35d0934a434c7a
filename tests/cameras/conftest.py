from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from edge_ad.data.writer import FolderWriter
from edge_ad.types import Float32Array, Frame, Intrinsics

RECORDED_FRAMES = 30
CAPTURES = 4
CAMERA = Intrinsics(fx=50.0, fy=51.0, cx=15.5, cy=11.5, width_px=32, height_px=24)


def make_capture(number: int) -> Frame:
    random = np.random.default_rng(number)
    return Frame(
        rgb=random.integers(0, 256, (24, 32, 3), dtype=np.uint8),
        depth=random.integers(1, 4000, (24, 32), dtype=np.uint16),
        depth_unit_m=0.0001,
        intrinsics=CAMERA,
    )


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of the software device."""
    from tests.cameras.software_realsense import SoftwareRealSense

    path = tmp_path_factory.mktemp("recording") / "parts.db3"
    return SoftwareRealSense().record(path, RECORDED_FRAMES)


@pytest.fixture(scope="session")
def producer() -> Path:
    """The virtual 3D cameras that come with the genicam package: 0, 1 and 2."""
    genicam = pytest.importorskip("genicam")
    return Path(genicam.__file__).with_name("viky.cti")


@pytest.fixture(scope="session")
def orbbec_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of an Orbbec camera."""
    pytest.importorskip("pyorbbecsdk")
    from tests.cameras.orbbec_bag import write_bag

    return write_bag(tmp_path_factory.mktemp("orbbec") / "parts.bag", RECORDED_FRAMES)


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    """A folder of captures as ``edge-ad capture`` writes it."""
    writer = FolderWriter(tmp_path / "parts")
    for number in range(CAPTURES):
        writer.write(make_capture(number))
    return writer.directory


def write_clouds(folder: Path, captures: int) -> list[Float32Array]:
    """MVTec 3D-AD's layout: a wavy surface with a hole, as ``CAMERA`` sees it."""
    rows, columns = np.mgrid[: CAMERA.height_px, : CAMERA.width_px]
    clouds = []
    for kind in ("rgb", "xyz"):
        (folder / kind).mkdir(parents=True)
    for number in range(captures):
        z = 0.5 + 0.02 * np.sin(columns / 5 + number)
        cloud = np.dstack([(columns - CAMERA.cx) * z / CAMERA.fx, (rows - CAMERA.cy) * z / CAMERA.fy, z])
        cloud[3:6, 4:9] = 0
        clouds.append(cloud.astype(np.float32))
        tifffile.imwrite(folder / f"xyz/{number:03d}.tiff", clouds[-1], photometric="minisblack")
        cv2.imwrite(str(folder / f"rgb/{number:03d}.png"), np.asarray(make_capture(number).rgb))
    return clouds


@pytest.fixture
def clouds(tmp_path: Path) -> Path:
    """A folder of captures of MVTec 3D-AD."""
    write_clouds(tmp_path / "scans", CAPTURES)
    return tmp_path / "scans"
