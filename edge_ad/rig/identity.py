"""Is this the camera, and the model, that belong to the rig?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple
from statistics import median

from edge_ad.bundle import InputSpec, RigReference
from edge_ad.errors import CameraError, DataError
from edge_ad.rig.findings import Finding, Status
from edge_ad.rig.monitor import look
from edge_ad.rig.observation import Observation
from edge_ad.rig.record import CameraRecord, Rig
from edge_ad.rig.surface import tilt_deg
from edge_ad.types import CameraInfo, Frame, Intrinsics

SAME_INTRINSICS = 1e-3
"""Relative difference that is none: 0.3 px at the edge of a picture of 640."""


def identity_findings(camera: CameraRecord, seen: Observation) -> list[Finding]:
    """Serial number, frame size and intrinsics against those of the rig."""
    height, width = seen.maps.depth_m.shape
    return _identity(camera, seen.info.serial, (height, width), seen.intrinsics)


def check_camera(rig: Rig, info: CameraInfo, frame: Frame) -> None:
    """Refuses a camera that is not the rig's, or not in its mode; for the start of a run and after a reconnect.

    Args:
        rig: the rig.
        info: what ``camera.open()`` returned.
        frame: any of its frames.

    Raises:
        CameraError: another serial number, frame size or factory calibration.
    """
    for finding in _identity(rig.record.camera, info.serial, frame.size_px, frame.intrinsics):
        if finding.status is Status.FAIL:
            raise CameraError(
                f"camera {info.name} {info.serial} does not belong to this rig",
                why=f"{finding.title}: {finding.figure}, the rig has {finding.limit}",
                remedy=finding.remedy,
            )


def check_frames(rig: Rig, frames: Sequence[Frame]) -> None:
    """Refuses training frames that were captured while the table was elsewhere than when the rig was measured.

    Args:
        rig: the rig.
        frames: some of them, with parts in view; those of another size are left to training, which refuses them.

    Raises:
        DataError: in the median, their table is nearer, farther or turned by more than a check allows.
    """
    looks = [look(rig, frame) for frame in frames if frame.size_px == rig.record.camera.frame_size_px]
    distances_m = [seen.distance_m for seen in looks if seen.distance_m is not None]
    turns_deg = [seen.turn_deg for seen in looks if seen.turn_deg is not None]
    if not distances_m or not turns_deg:
        return
    drift_m, turn_deg, limits = median(distances_m), median(turns_deg), rig.record.limits
    if abs(drift_m) > limits.distance_m[1] or turn_deg > limits.tilt_deg[1]:
        raise DataError(
            "the training frames do not show the rig's table where it was measured",
            why=f"in them it is {1000 * abs(drift_m):.1f} mm {'farther' if drift_m > 0 else 'nearer'} and turned by "
            f"{turn_deg:.2f}°",
            remedy="measure the rig again as it was for the captures, or capture again",
        )


def fits(rig: Rig, wanted: InputSpec, trained: RigReference | None) -> str:
    """Why a model does not belong to a rig; empty where it does.

    One that was trained without a rig does if its frames have the rig's size and intrinsics; one that was
    trained with another measurement of the same rig does while the table is where it was.

    Args:
        rig: the rig.
        wanted: what the model takes.
        trained: the rig that it was trained for; None for none.
    """
    camera, limits = rig.record.camera, rig.record.limits
    if wanted.frame_size_px != camera.frame_size_px:
        return f"it wants frames of {_size(wanted.frame_size_px)}, the rig's have {_size(camera.frame_size_px)}"
    if wanted.intrinsics is not None and not same_intrinsics(wanted.intrinsics, camera.intrinsics):
        return "it was trained with a camera of other intrinsics"
    if trained is None or trained.sha256 == rig.record.sha256:
        return ""
    if trained.serial != camera.serial:
        return f"it was trained on the rig of camera {trained.serial}, this one has {camera.serial}"
    turn = tilt_deg(trained.plane, rig.record.plane)
    if turn > limits.tilt_deg[1]:
        return f"the table has turned by {turn:.2f}° since it was trained"
    drift_m = abs(1 / math.hypot(*trained.plane) - 1 / math.hypot(*rig.record.plane))
    if drift_m > limits.distance_m[1]:
        return f"the table's distance is another by {1000 * drift_m:.1f} mm since it was trained"
    return ""


def same_intrinsics(one: Intrinsics, other: Intrinsics) -> bool:
    """Whether two cameras see alike."""
    return all(
        math.isclose(a, b, rel_tol=SAME_INTRINSICS, abs_tol=0.05)
        for a, b in zip(astuple(one), astuple(other), strict=True)
    )


def _identity(
    camera: CameraRecord, serial: str, size_px: tuple[int, int], intrinsics: Intrinsics | None
) -> list[Finding]:
    own = "attach the rig's own camera, or measure the rig anew with this one: edge-ad rig calibrate"
    mode = f"open it as at calibration: --camera {camera.uri}"
    sizes = _size(size_px), _size(camera.frame_size_px)
    findings = [
        _same("serial", "serial number", serial == camera.serial, serial, camera.serial, own),
        _same("size", "frame size", size_px == camera.frame_size_px, *sizes, mode),
    ]
    if size_px == camera.frame_size_px:
        alike = intrinsics is not None and same_intrinsics(intrinsics, camera.intrinsics)
        remedy = "open it in the mode and alignment of the calibration; if it is, measure the rig anew"
        figure, limit = _focal(intrinsics), _focal(camera.intrinsics)
        findings.append(_same("intrinsics", "factory calibration", alike, figure, limit, remedy))
    return findings


def _same(name: str, title: str, same: bool, figure: str, wanted: str, remedy: str) -> Finding:
    return Finding(name, title, Status.OK if same else Status.FAIL, figure, wanted, "" if same else remedy)


def _size(size_px: tuple[int, int]) -> str:
    return f"{size_px[1]}×{size_px[0]} px"


def _focal(intrinsics: Intrinsics | None) -> str:
    if intrinsics is None:
        return "none"
    return f"fx {intrinsics.fx:.1f}, fy {intrinsics.fy:.1f}, cx {intrinsics.cx:.1f}, cy {intrinsics.cy:.1f} px"
