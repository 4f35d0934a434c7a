"""Sources of frames, chosen by URI; a driver, and the SDK it needs, is imported when it is first used.

realsense                          the first camera, in its own default modes
realsense://SERIAL?depth=848x480@30&color=848x480@30&align=color&preset=high_accuracy&ae=lock
realsense://FILE.db3?repeat=0      a recording, every frame of it; .bag too
genicam://SERIAL?cti=/path/x.cti   any GenICam camera; trigger=software or line1 for one capture per part
orbbec://SERIAL?depth=640x576@30   an Orbbec camera; orbbec://FILE.bag: a recording
oak://MXID?size=640x400&fps=30     a Luxonis OAK-D; depth is computed in the camera
v4l2:///dev/video0?size=640x480    a webcam or any other Linux video device: colour alone
folder://DIRECTORY?fps=0&loop=0    captures from disk, as fast as they are read
replay://DIRECTORY?fps=30&loop=1   the same at the pace of a live camera
synthetic://?defect_rate=0.2       rendered parts: no device, no files; faults on demand, see synthetic_faults.py

Other packages add drivers of their own, see ``edge_ad.cameras.plugins``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from edge_ad.cameras.plugins import plugin_driver
from edge_ad.cameras.uri import CameraUri
from edge_ad.types import Camera, CameraInfo

CAMERAS = {
    "realsense": "edge_ad.cameras.realsense:RealSenseCamera",
    "genicam": "edge_ad.cameras.genicam:GenicamCamera",
    "orbbec": "edge_ad.cameras.orbbec:OrbbecCamera",
    "oak": "edge_ad.cameras.oak:OakCamera",
    "v4l2": "edge_ad.cameras.v4l2:V4l2Camera",
    "folder": "edge_ad.cameras.folder:FolderCamera",
    "replay": "edge_ad.cameras.folder:FolderCamera",
    "synthetic": "edge_ad.cameras.synthetic:SyntheticCamera",
}
"""Scheme to ``module:Class``; each class makes itself with ``from_uri(CameraUri)``."""

__all__ = ["CAMERAS", "CameraUri", "camera_from_uri", "opened"]


def camera_from_uri(text: str) -> Camera:
    """Makes the camera that ``text`` names, without opening it.

    Raises:
        ConfigError: there is no such driver, or an option is unknown or out of range.
        CameraError: the driver comes from another package and cannot be loaded.
    """
    uri = CameraUri.parse(text)
    if uri.scheme in CAMERAS:
        module, _, name = CAMERAS[uri.scheme].partition(":")
        driver = getattr(importlib.import_module(module), name)
    else:
        driver = plugin_driver(uri.scheme, known=CAMERAS)
    camera: Camera = driver.from_uri(uri)
    return camera


@contextmanager
def opened(camera: Camera) -> Iterator[CameraInfo]:
    """Opens a camera for the length of a ``with`` block and closes it whatever happens.

    Raises:
        CameraError: the device is absent, busy or cannot stream as asked.
    """
    try:
        yield camera.open()
    finally:
        camera.close()
