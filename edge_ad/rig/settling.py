"""Bringing a camera to rest: its frames one by one, exposure that has settled and stays as it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np

from edge_ad.errors import CameraError, DataError, EdgeAdError
from edge_ad.types import Camera, CameraInfo, Frame, ReadStatus

READ_TIMEOUT_S = 0.5
PATIENCE = 20
"""Reads in a row without a frame after which the camera is given up: about ten seconds."""
SETTLED_FRAMES, SETTLED_SHARE, SETTLING_FRAMES = 8, 0.01, 150
"""Exposure has settled when the brightness of so many frames stays within this share; given up after the last."""
LOCKABLE = ("exposure_us", "gain", "white_balance_k", "depth_exposure_us", "depth_gain")
"""What is held still, by the names of frame metadata and camera options."""


def settle(camera: Camera) -> tuple[bool, dict[str, float]]:
    """Reads until brightness stands still, or for ``SETTLING_FRAMES``; whether it does, and the last metadata.

    Raises:
        CameraError: the camera was lost or is silent.
    """
    levels: deque[float] = deque(maxlen=SETTLED_FRAMES)
    sensor: dict[str, float] = {}
    source = frames_of(camera)
    for _ in range(SETTLING_FRAMES):
        frame = next(source, None)
        if frame is None:
            return False, sensor
        levels.append(0.0 if frame.rgb is None else float(frame.rgb[::4, ::4].mean()))
        sensor = dict(frame.metadata)
        if len(levels) == SETTLED_FRAMES and np.ptp(levels) <= max(1.0, SETTLED_SHARE * levels[-1]):
            return True, sensor
    return False, sensor


def lock_exposure(camera: Camera, values: Mapping[str, float]) -> tuple[dict[str, float], str]:
    """Fixes exposure, gain and white balance for as long as the camera stays open.

    Args:
        camera: an opened camera; setting its exposure ends its automatic one.
        values: by the names of ``LOCKABLE``; others are left out.

    Returns:
        What was fixed, and why the exposure or some of these values were not; empty where all were.
    """
    can, fixed, refused = camera.caps.options, dict[str, float](), []
    for name in LOCKABLE:
        if name in values and name in can:
            try:
                camera.set(**{name: values[name]})
                fixed[name] = values[name]
            except EdgeAdError as error:
                refused.append(str(error))
    if refused or "exposure_us" in fixed:
        return fixed, " ".join(refused)
    if "exposure_us" in can:
        return (
            fixed,
            "its frames do not tell the exposure: name it with the camera, such as ?ae=lock or ?exposure_us=8000",
        )
    return fixed, "its driver cannot set the exposure: switch automatic exposure off in the camera itself"


def already_locked(info: CameraInfo) -> dict[str, float]:
    """What the driver fixed when it opened the camera, as its details tell: ``8000 (locked)``."""
    fixed = {name: text.removesuffix(" (locked)") for name, text in info.details.items() if name in LOCKABLE}
    return {name: float(text) for name, text in fixed.items() if text != info.details[name]}


def frames_of(camera: Camera) -> Iterator[Frame]:
    """The camera's frames until a recording ends; damaged ones are skipped.

    Raises:
        CameraError: it is disconnected, or nothing usable comes for ``PATIENCE`` reads.
    """
    failures, why = 0, "no frame arrives"
    while failures < PATIENCE:
        try:
            outcome = camera.read(READ_TIMEOUT_S)
        except DataError as error:
            failures, why = failures + 1, str(error)
            continue
        if outcome is ReadStatus.END_OF_STREAM:
            return
        if isinstance(outcome, Frame):
            failures = 0
            yield outcome
        elif outcome is ReadStatus.DISCONNECTED:
            raise CameraError("the camera was lost", why="it is disconnected", remedy="check its cable and power")
        else:
            failures += 1
    raise CameraError("the camera sends nothing", why=why, remedy="check its cable and power, then: edge-ad doctor")
