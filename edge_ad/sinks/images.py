"""Pictures of inspections: the anomaly map as float32 TIFF, and an overlay as PNG."""

from __future__ import annotations

import io
import math
from pathlib import Path

import cv2
import numpy as np
import tifffile

from edge_ad.files import write_bytes
from edge_ad.types import Frame, Inspection, UInt8Array
from edge_ad.visualization import (
    DECISION_COLOURS,
    depth_to_rgb,
    display_range,
    heat_overlay,
    write_png,
)

_BORDER_PX = 6


class MapSink:
    """Writes each anomaly map, float32 (H, W), as ``SEQUENCE-TIMESTAMP_NS-DECISION.tiff``.

    An inspection without a result has no map and leaves no file.

    Args:
        directory: made with the first map.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, inspection: Inspection) -> None:
        """Writes the map.

        Raises:
            OutputError: the disk is full or the directory cannot be written.
        """
        if inspection.result is not None:
            content = io.BytesIO()
            tifffile.imwrite(content, inspection.result.anomaly_map, metadata=None)
            write_bytes(self._directory / f"{_stem(inspection)}.tiff", content.getvalue())

    def close(self) -> None:
        """Nothing is held open."""


class OverlaySink:
    """Writes each frame with heat and regions drawn in, as ``SEQUENCE-TIMESTAMP_NS-DECISION.png``.

    The border has the decision's colour. A frame without colour shows its depth or normals, and one
    that could not be judged only itself.

    Args:
        directory: made with the first picture.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, inspection: Inspection) -> None:
        """Writes the picture.

        Raises:
            OutputError: the disk is full or the directory cannot be written.
        """
        write_png(self._directory / f"{_stem(inspection)}.png", _picture(inspection))

    def close(self) -> None:
        """Nothing is held open."""


def _stem(inspection: Inspection) -> str:
    frame = inspection.frame
    return f"{frame.sequence:08d}-{frame.timestamp_ns}-{inspection.verdict.decision.value}"


def _picture(inspection: Inspection) -> UInt8Array:
    verdict, result = inspection.verdict, inspection.result
    picture = _seen(inspection.frame)
    if result is not None and math.isfinite(verdict.threshold):
        low, high = display_range([result.anomaly_map], verdict.threshold)
        picture = heat_overlay(picture, result.anomaly_map, low, high)
    colour, sides = DECISION_COLOURS[verdict.decision], (_BORDER_PX,) * 4
    framed = np.asarray(cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=colour), dtype=np.uint8)
    for region in verdict.regions:
        x, y = region.x_px + _BORDER_PX, region.y_px + _BORDER_PX
        cv2.rectangle(framed, (x - 2, y - 2), (x + region.width_px + 1, y + region.height_px + 1), colour, 1)
    return framed


def _seen(frame: Frame) -> UInt8Array:
    if frame.rgb is not None:
        return frame.rgb
    return depth_to_rgb(frame.depth_m()) if frame.normals is None else frame.normals
