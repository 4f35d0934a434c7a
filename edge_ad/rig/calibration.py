"""From an observation of the empty fixture to a rig, and whether that rig is good enough to inspect with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timezone

import numpy as np

import edge_ad
from edge_ad.bundle import bytes_digest
from edge_ad.errors import ConfigError, DataError
from edge_ad.geometry import Plane
from edge_ad.rig.findings import Finding, RigLimits, Status, graded
from edge_ad.rig.observation import Maps, Observation
from edge_ad.rig.picture import detail
from edge_ad.rig.record import CameraRecord, Rig, RigRecord, maps_content
from edge_ad.rig.surface import (
    found_roi,
    heights_m,
    largest_plane,
    plane_depth_m,
    table_plane,
    table_tolerance_m,
    tilt_deg,
)
from edge_ad.types import CameraInfo, Roi

STEP_SIGMAS = 6.0
"""Noise passes 6 σ once in 500 million pixels: a frame of a million shows such a step by chance in one of 500."""

FILL_LIMITS = (0.98, 0.90)
NOISE_LIMITS_PERCENT = (0.2, 1.0)
TILT_LIMITS_DEG = (10.0, math.inf)
FLATNESS_LIMITS_MM = (5.0, math.inf)
CLIPPED_LIMITS_PERCENT = (1.0, 10.0)
CLIPPED_LEVEL = 250


def calibrated(seen: Observation, uri: str, roi: Roi | None = None, when: datetime | None = None) -> Rig:
    """Makes a rig of what the camera saw of the empty fixture.

    Args:
        seen: the observation.
        uri: that the camera was opened with.
        roi: the part of the frame to inspect; by default the largest rectangle that returns depth.
        when: of the measurement; by default now.

    Raises:
        DataError: there is no table in the picture.
        ConfigError: ``roi`` leaves the frames.
    """
    maps = seen.maps
    plane, chosen = _table(seen, roi)
    height_m = chosen.crop(heights_m(maps.depth_m, plane, seen.intrinsics))
    noise_m = _median(chosen.crop(maps.noise_m)[chosen.crop(maps.valid) > 0])
    near_m = np.abs(height_m[np.isfinite(height_m)])
    distance_m = roi_distance_m(plane, chosen, seen)
    record = RigRecord(
        edge_ad_version=edge_ad.__version__,
        measured_utc=(when or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
        camera=camera_record(seen, uri),
        frames=seen.frames,
        plane=plane,
        distance_m=distance_m,
        tilt_deg=tilt_deg(plane),
        roi=chosen,
        roi_given=roi is not None,
        mm_per_px=1000 * distance_m / seen.intrinsics.fx,
        fill=float(chosen.crop(maps.valid).mean()),
        noise_m=noise_m,
        flatness_m=float(np.quantile(near_m, 0.95)) if near_m.size else 0.0,
        step_m=STEP_SIGMAS * noise_m,
        step_sigmas=STEP_SIGMAS,
        brightness=None if maps.grey is None else float(chosen.crop(maps.grey).mean()),
        grey_noise=seen.grey_noise,
        maps=bytes_digest(maps_content(maps)),
    )
    return Rig(record.model_copy(update={"sha256": record.content_digest()}), maps)


def _table(seen: Observation, roi: Roi | None) -> tuple[Plane, Roi]:
    """The plane of the table, and the ROI on it."""
    maps, covered = seen.maps, f"depth covers {seen.maps.valid.mean():.0%} of the picture"
    tolerance_m = table_tolerance_m(_median(maps.noise_m[maps.valid > 0]))
    if roi is None:
        plane = largest_plane(maps.depth_m, seen.intrinsics, tolerance_m)
    else:
        inside = np.zeros(maps.valid.shape, np.bool_)
        _checked(roi, maps).crop(inside)[:] = True
        plane = table_plane(maps.depth_m, seen.intrinsics, tolerance_m, inside)
    if plane is None:
        raise DataError(
            "the camera sees no table",
            why=f"{covered}, and no plane fills enough of it",
            remedy="take every part away, and point the camera at the surface that the parts will lie on",
        )
    if roi is not None:
        return plane, roi
    found = found_roi(maps.valid, heights_m(maps.depth_m, plane, seen.intrinsics), tolerance_m)
    if found is None:
        raise DataError(
            "no part of the picture returns depth well enough to inspect it",
            why=covered,
            remedy="bring the camera into its range, avoid glare and sunlight, or choose the ROI with --roi",
        )
    return plane, found


def camera_record(seen: Observation, uri: str) -> CameraRecord:
    """The camera as it was."""
    return CameraRecord(
        uri=uri,
        name=seen.info.name,
        serial=seen.info.serial,
        live=seen.info.live,
        details=dict(seen.info.details),
        frame_size_px=(seen.maps.depth_m.shape[0], seen.maps.depth_m.shape[1]),
        intrinsics=seen.intrinsics,
        depth_unit_m=seen.depth_unit_m,
        sensor=seen.sensor,
        locked=seen.locked,
        fps=seen.fps,
        skew_ms=seen.skew_ms,
    )


def roi_distance_m(plane: Plane, roi: Roi, seen: Observation) -> float:
    """Distance of the plane in the middle of the ROI, where a turn of the camera changes it least."""
    u, v = roi.x_px + (roi.width_px - 1) / 2, roi.y_px + (roi.height_px - 1) / 2
    return plane_depth_m(plane, seen.intrinsics, u, v)


def acceptance(rig: Rig, seen: Observation) -> list[Finding]:
    """Whether the rig is good enough to inspect with: each figure with what to do about it."""
    return [*_depth_findings(rig.record), *_picture_findings(rig, seen), *delivery_findings(seen, rig.record.limits)]


def _depth_findings(record: RigRecord) -> Iterator[Finding]:
    fill = 100 * record.fill
    yield graded(
        "depth_fill",
        "depth returned in the ROI",
        fill,
        (100 * FILL_LIMITS[0], 100 * FILL_LIMITS[1]),
        "{:.1f} %",
        "avoid glare, sunlight and mirrors; bring the table into the sensor's range; or choose another ROI",
        low_is_bad=True,
    )
    yield graded(
        "depth_noise",
        "depth noise in the ROI, as a share of the distance",
        100 * record.noise_m / record.distance_m,
        NOISE_LIMITS_PERCENT,
        "{:.3f} %",
        "bring the camera nearer (noise grows with the square of the distance), give it more light or texture",
    )
    step = f"{1000 * record.step_m:.2f} mm = {record.step_sigmas:g} σ, with σ {1000 * record.noise_m:.3f} mm"
    yield Finding("step", "smallest step of height, in one pixel of one frame", Status.OK, step, value=record.step_m)
    yield graded(
        "tilt",
        "tilt of the table",
        record.tilt_deg,
        TILT_LIMITS_DEG,
        "{:.2f}°",
        "mount the camera square above the table, unless the tilt keeps glare away",
    )
    yield graded(
        "flatness",
        "flatness: 95 % of the ROI are so near to the plane",
        1000 * record.flatness_m,
        FLATNESS_LIMITS_MM,
        "{:.2f} mm",
        "take away what stands on the table; what belongs to the fixture may stay",
    )


def _picture_findings(rig: Rig, seen: Observation) -> Iterator[Finding]:
    maps, roi = rig.maps, rig.record.roi
    if maps.grey is None or maps.rgb is None:
        yield Finding("brightness", "colour", Status.UNKNOWN, "the camera has no colour")
        return
    clipped = 100 * float((roi.crop(maps.rgb).max(axis=2) >= CLIPPED_LEVEL).mean())
    remedy = "shorten the exposure, or dim the lamp"
    yield graded("clipped", "overexposed share of the ROI", clipped, CLIPPED_LIMITS_PERCENT, "{:.1f} %", remedy)
    telling = int((detail(maps.grey, seen.grey_noise**2 / seen.frames) > 0).sum())
    few = telling < 4
    yield Finding(
        "texture",
        "fields with structure, of 16, to tell sharpness by",
        Status.WARN if few else Status.OK,
        str(telling),
        "warns below 4",
        "put something still into the picture: a printed mark, a screw; else a dirty lens goes unseen" if few else "",
        telling,
    )
    if seen.info.live:
        fixed = ", ".join(f"{name} {value:g}" for name, value in seen.locked.items())
        yield Finding(
            "exposure",
            "exposure",
            Status.WARN if seen.lock_remark or not seen.settled else Status.OK,
            f"{'fixed at ' + fixed if fixed else 'not fixed'}{'' if seen.settled else ', had not settled'}",
            remedy=seen.lock_remark if seen.settled else "keep light and scene still, then calibrate again",
        )


def delivery_findings(seen: Observation, limits: RigLimits) -> Iterator[Finding]:
    """How the camera delivers: pairing, USB, rate."""
    yield graded(
        "skew",
        "time between colour and depth",
        seen.skew_ms,
        limits.skew_ms,
        "{:.1f} ms",
        "choose the same frame rate for both, switch their synchronisation on, or stop the part for the capture",
    )
    slow = usb_2(seen.info)
    if slow or "usb" in seen.info.details:
        yield Finding(
            "usb",
            "USB link",
            Status.WARN if slow else Status.OK,
            seen.info.details.get("usb", "2"),
            "3 or better",
            "use a USB 3 port and a USB 3 cable, and turn the plug" if slow else "",
        )
    if seen.fps is not None:
        yield Finding("fps", "frames per second", Status.OK, f"{seen.fps:.1f}", value=seen.fps)


def usb_2(info: CameraInfo) -> bool:
    """Whether the camera hangs on a USB 2 link, as far as it tells."""
    return info.details.get("usb", "").startswith("2") or any("USB 2" in warning for warning in info.warnings)


def _checked(roi: Roi, maps: Maps) -> Roi:
    height, width = maps.depth_m.shape
    if roi.x_px + roi.width_px > width or roi.y_px + roi.height_px > height:
        corner = f"{roi.x_px},{roi.y_px},{roi.width_px},{roi.height_px}"
        raise ConfigError(f"the ROI {corner} leaves the frames of {width}×{height} px", remedy="choose it inside")
    return roi


def _median(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    return float(np.median(values)) if values.size else 0.0
