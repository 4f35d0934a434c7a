"""What has changed since the rig was measured, by another look at the empty fixture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from edge_ad.rig.calibration import delivery_findings, roi_distance_m, usb_2
from edge_ad.rig.findings import Finding, Status, graded
from edge_ad.rig.identity import identity_findings
from edge_ad.rig.observation import Observation
from edge_ad.rig.picture import Shift, detail, image_shift, overlapping, sharpness_left
from edge_ad.rig.record import Rig
from edge_ad.rig.surface import heights_m, table_plane, tilt_deg

FASTENED = "fasten the camera and put it back as it was; then measure again: edge-ad rig calibrate"
STRANGE_PERCENT = (0.2, 1.0)
"""Share of the ROI whose height changed."""
STILL = Shift(0.0, 0.0, 1.0)
HALF = 0.5
"""A pixel counts as one that returns depth if this share of the frames did."""


def check(rig: Rig, seen: Observation) -> list[Finding]:
    """Compares the fixture as it is with the fixture as it was.

    Args:
        rig: the reference.
        seen: the empty fixture now.

    Returns:
        One finding for each figure; of another camera or mode only that, as nothing else can be compared.
    """
    findings = identity_findings(rig.record.camera, seen)
    if all(finding.status is Status.OK for finding in findings if finding.name != "serial"):
        shift = STILL
        if rig.maps.grey is not None and seen.maps.grey is not None:
            shift = image_shift(rig.maps.grey, seen.maps.grey)
        findings += _plane_findings(rig, seen)
        strange = _strange_finding(rig, seen, shift if shift.is_certain else STILL)
        findings.append(strange)
        if strange.status is not Status.FAIL:  # else what differs is the thing in the way
            findings += _picture_findings(rig, seen, shift)
            findings += _depth_findings(rig, seen, shift if shift.is_certain else STILL)
    return [*findings, *_delivery_findings(rig, seen)]


def _plane_findings(rig: Rig, seen: Observation) -> Iterator[Finding]:
    record, limits = rig.record, rig.record.limits
    plane = table_plane(seen.maps.depth_m, seen.intrinsics, rig.tolerance_m, rig.table())
    if plane is None:
        remedy = "clear the fixture; if it is clear, the camera or its depth failed: edge-ad doctor"
        yield Finding("plane_distance", "distance of the table", Status.FAIL, "no table is seen", remedy=remedy)
        return
    drift_m = roi_distance_m(plane, record.roi, seen) - record.distance_m
    yield graded(
        "plane_distance",
        f"table {'farther' if drift_m > 0 else 'nearer'} than at calibration",
        1000 * abs(drift_m),
        (1000 * limits.distance_m[0], 1000 * limits.distance_m[1]),
        "{:.2f} mm",
        f"the camera or the table moved: {FASTENED}",
    )
    yield graded(
        "plane_tilt",
        "table turned since calibration",
        tilt_deg(plane, record.plane),
        limits.tilt_deg,
        "{:.2f}°",
        f"the camera or the table turned: {FASTENED}",
    )


def _strange_finding(rig: Rig, seen: Observation, shift: Shift) -> Finding:
    """Does something stand where nothing stood, or is something gone?"""
    record, intrinsics = rig.record, seen.intrinsics
    plane = table_plane(seen.maps.depth_m, intrinsics, rig.tolerance_m, rig.table()) or record.plane
    there, here = overlapping(record.roi, shift, record.camera.frame_size_px)
    before_m = there.crop(heights_m(rig.maps.depth_m, record.plane, intrinsics))
    now_m = here.crop(heights_m(seen.maps.depth_m, plane, intrinsics))
    # A few pixels are the edges of what belongs to the fixture.
    changed = (np.abs(now_m - before_m) > rig.tolerance_m).astype(np.uint8)
    share = float(cv2.morphologyEx(changed, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)).mean())
    return graded(
        "empty",
        "ROI whose height is another",
        100 * share,
        STRANGE_PERCENT,
        "{:.1f} %",
        "empty the fixture and put back what belongs to it, then check again",
    )


def _picture_findings(rig: Rig, seen: Observation, shift: Shift) -> Iterator[Finding]:
    before, now = rig.maps.grey, seen.maps.grey
    if before is None or now is None:
        return
    record, limits = rig.record, rig.record.limits
    title = "picture shifted since calibration"
    if shift.is_certain:
        yield graded(
            "image_shift", title, shift.length_px, limits.shift_px, "{:.1f} px", f"the camera moved: {FASTENED}"
        )
    else:
        yield Finding("image_shift", title, Status.UNKNOWN, "the picture shows too little that it knows again")
    there, here = overlapping(record.roi, shift if shift.is_certain else STILL, before.shape)
    one, other = there.crop(before), here.crop(now)
    change = float(other.mean()) / max(float(one.mean()), 1.0) - 1
    yield graded(
        "brightness",
        f"picture {'brighter' if change > 0 else 'darker'} than at calibration",
        100 * abs(change),
        (100 * limits.brightness[0], 100 * limits.brightness[1]),
        "{:.1f} %",
        "look at the lamp, at other light and at the exposure (is it fixed?)",
    )
    yield from _exposure_findings(rig, seen)
    details = (
        detail(one, record.grey_noise**2 / record.frames),
        detail(other, seen.grey_noise**2 / seen.frames),
    )
    left = sharpness_left(*details)
    title = "fine contrast that is left where least is"
    if left is None:
        yield Finding("sharpness", title, Status.UNKNOWN, "the fixture has too little structure to tell")
        return
    remedy = "clean the lens and its window; if that does not help, the focus or the lens moved"
    percent = (100 * limits.sharpness[0], 100 * limits.sharpness[1])
    yield graded("sharpness", title, 100 * left, percent, "{:.0f} %", remedy, low_is_bad=True)


def _exposure_findings(rig: Rig, seen: Observation) -> Iterator[Finding]:
    """By what the sensor tells, where it does: automatic exposure hides a dying lamp from the picture."""
    before, now = rig.record.camera.sensor, seen.sensor
    if not ("exposure_us" in before and "exposure_us" in now):
        return
    one, other = (values["exposure_us"] * values.get("gain", 1.0) for values in (before, now))
    change = abs(other / one - 1) if one > 0 else 0.0
    limits = rig.record.limits.brightness
    yield graded(
        "exposure",
        "exposure × gain changed since calibration",
        100 * change,
        (100 * limits[0], 100 * limits[1]),
        "{:.1f} %",
        "fix the exposure, and look whether the lamp is as bright as it was",
    )


def _depth_findings(rig: Rig, seen: Observation, shift: Shift) -> Iterator[Finding]:
    record, limits = rig.record, rig.record.limits
    there, here = overlapping(record.roi, shift, record.camera.frame_size_px)
    before, now = there.crop(rig.maps.valid), here.crop(seen.maps.valid)
    # Where there was none before, none can be lost, and what is gained there makes up for nothing.
    used = before > HALF
    lost = 100 * max(float((before[used] - now[used]).mean()), 0.0) if used.any() else 0.0
    yield graded(
        "depth_fill",
        "depth lost in the ROI since calibration",
        lost,
        (100 * limits.fill[0], 100 * limits.fill[1]),
        "{:.1f} %",
        "clean the lenses and the projector's window, look for sunlight and glare, and whether the fixture is empty",
    )
    both = (before > 0) & (now > 0)
    noises_m = (there.crop(rig.maps.noise_m)[both], here.crop(seen.maps.noise_m)[both])
    before_m, now_m = (float(np.median(values)) if values.size else 0.0 for values in noises_m)
    # Of a sensor in whole millimetres most pixels may not vary at all: a hundredth of one stands for that.
    floor_m = max(before_m, 1e-5)
    yield graded(
        "depth_noise",
        "depth noise in the ROI, times that at calibration",
        max(now_m, floor_m) / floor_m,
        limits.noise,
        "{:.2f}",
        "look at the emitter and the light, clean the lenses, let the camera warm up; does something shake?",
    )


def _delivery_findings(rig: Rig, seen: Observation) -> Iterator[Finding]:
    before = rig.record.camera
    usb = before.details.get("usb", "")
    for finding in delivery_findings(seen, rig.record.limits):
        if finding.name == "usb" and usb_2(seen.info) and usb.startswith("3"):
            yield replace(finding, status=Status.FAIL, limit=f"{usb} as at calibration")
        elif finding.name == "fps" and seen.fps is not None and before.fps:
            share = (before.fps * rig.record.limits.fps[0], before.fps * rig.record.limits.fps[1])
            remedy = "look at the USB link and cable, at automatic exposure in the dark, and at other load on the bus"
            yield graded("fps", finding.title, seen.fps, share, "{:.1f}", remedy, low_is_bad=True)
        else:
            yield finding
