"""The acceptance report of a rig: what was measured of the empty fixture, and whether it will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import jinja2
import numpy as np

from edge_ad.report.pictures import Picture, jpeg_uri
from edge_ad.rig.findings import Finding, Status
from edge_ad.rig.record import Rig, RigRecord
from edge_ad.rig.surface import heights_m
from edge_ad.types import Float32Array, Roi, UInt8Array
from edge_ad.visualization import heat_map, outlined

WIDTH_PX = 640
WORDS = {Status.OK: "pass", Status.WARN: "warn", Status.FAIL: "fail", Status.UNKNOWN: "not measured"}
_EMPTY = (16, 20, 34)


def rig_html(rig: Rig, findings: Sequence[Finding], name: str) -> str:
    """The report as one page of HTML that loads nothing.

    Args:
        rig: what was measured.
        findings: as ``edge_ad.rig.calibration.acceptance`` gives them.
        name: of the rig.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edge_ad.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ramp: Float32Array = np.linspace(0, 1, 128, dtype=np.float32)[None]
    return environment.get_template("rig.html.j2").render(
        name=name,
        record=rig.record,
        findings=findings,
        words=WORDS,
        troubles=[finding for status in (Status.FAIL, Status.WARN) for finding in findings if finding.status is status],
        headlines=list(_headlines(rig.record)),
        pictures=list(_pictures(rig)),
        scale_bar=jpeg_uri(np.repeat(heat_map(ramp, 0, 1), 4, axis=0)),
    )


def _headlines(record: RigRecord) -> Iterator[tuple[str, str, str, str]]:
    """Name, figure, unit and what it is, of the figures that matter most."""
    field_mm = (record.roi.width_px * record.mm_per_px, record.roi.height_px * record.mm_per_px)
    yield "Distance", f"{1000 * record.distance_m:.1f}", "mm", f"to the table, which tilts by {record.tilt_deg:.1f}°"
    yield "Resolution", f"{record.mm_per_px:.2f}", "mm/px", f"ROI of {field_mm[0]:.0f} × {field_mm[1]:.0f} mm"
    yield "Smallest step", f"{1000 * record.step_m:.2f}", "mm", f"{record.step_sigmas:g} σ of one pixel, one frame"
    yield "Depth", f"{100 * record.fill:.1f}", "%", "of the ROI returns depth"


def _pictures(rig: Rig) -> Iterator[Picture]:
    record, maps = rig.record, rig.maps
    if maps.rgb is not None:
        yield Picture(
            "Colour, with the ROI", "mean colour image", jpeg_uri(_framed(_shown(maps.rgb), maps.rgb, record.roi))
        )
    height_mm = 1000 * heights_m(maps.depth_m, record.plane, record.camera.intrinsics)
    low, high = _ends(height_mm)
    title = f"Height above the plane, {low:.2f} to {high:.2f} mm".replace("-", "−")
    yield Picture(title, "height of the empty fixture", jpeg_uri(_heat(height_mm, low, high)))
    noise_mm = np.where(maps.noise_m > 0, 1000 * maps.noise_m, np.nan).astype(np.float32)
    _, most = _ends(noise_mm)
    title = f"Noise of depth, σ of 0 to {most:.2f} mm"
    yield Picture(title, "noise of depth, pixel by pixel", jpeg_uri(_heat(noise_mm, 0.0, most)))
    valid = _framed(_heat(maps.valid, 0.0, 1.0), maps.valid, record.roi)
    yield Picture("Share of frames with depth, 0 to 100 %, with the ROI", "share of frames with depth", jpeg_uri(valid))


def _ends(values: Float32Array) -> tuple[float, float]:
    """Both ends of a colour scale that no stray pixel stretches."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(known, (1, 99)))
    return low, max(high, low + 0.01)


def _heat(values: Float32Array, low: float, high: float) -> UInt8Array:
    """Values in the report's colours, what is not finite in blue-black; at the page's size."""
    known = np.isfinite(values)
    heat = heat_map(np.where(known, values, low).astype(np.float32), low, high)
    heat[~known] = _EMPTY
    return _shown(heat)


def _shown(image: UInt8Array) -> UInt8Array:
    size = (WIDTH_PX, max(1, round(WIDTH_PX * image.shape[0] / image.shape[1])))
    method = cv2.INTER_AREA if image.shape[1] > WIDTH_PX else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def _framed(picture: UInt8Array, image: UInt8Array | Float32Array, roi: Roi) -> UInt8Array:
    """The picture with a line around the ROI of the image that it shows."""
    mask = np.zeros(image.shape[:2], np.uint8)
    roi.crop(mask)[:] = 255
    mask = np.asarray(cv2.resize(mask, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    # Its line would run along the picture's own edge, half of it outside.
    for edge in (np.s_[:3], np.s_[-3:], np.s_[:, :3], np.s_[:, -3:]):
        mask[edge] = 0
    return outlined(picture, mask, line_px=3)
