"""Watches the rig while the line runs: around the part, where the table shows."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from statistics import median

import cv2
import numpy as np

from edge_ad.alarms import Alarms
from edge_ad.errors import EdgeAdError
from edge_ad.geometry import border_of
from edge_ad.rig.observation import grey_of
from edge_ad.rig.picture import image_shift
from edge_ad.rig.record import ALWAYS, Rig
from edge_ad.rig.surface import heights_m, plane_depth_m, table_plane, tilt_deg
from edge_ad.types import BoolArray, Float32Array, Frame, Inspection

PERIOD_S = 1.0
"""A rig does not change faster than a person can walk up to it: one look a second costs the line nothing."""
LOOKS = 5
"""An alarm goes by the median of so many looks: a hand in the picture is none."""
CLEARED_AT = 0.7
"""It ends when that has fallen to this share of the limit, so that it does not flicker."""
SURROUNDINGS_PX = 9
"""So near to a part its shadow falls, and stereo smears its edge."""
MIN_TABLE = 0.02
"""Share of the frame that must show the table for its plane or its brightness to be told."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """What one frame tells of the rig; None is what it cannot tell.

    Attributes:
        distance_m: how much farther the table is than at calibration, in the middle of the ROI.
        turn_deg: how far its plane has turned.
        shift_px: how far the picture has moved.
        brightness: change of the table's brightness, as a share.
        fill: share of the border's depth that is lost.
    """

    distance_m: float | None = None
    turn_deg: float | None = None
    shift_px: float | None = None
    brightness: float | None = None
    fill: float | None = None


def look(rig: Rig, frame: Frame) -> Look:
    """Compares what a frame shows of the table with the rig; there may be a part on it.

    The table's plane is fitted anew, to the pixels that showed the bare table at calibration and lie at the
    frame's border, where no part is; of a camera that moved, nothing lies on the rig's own.

    Args:
        rig: the reference.
        frame: of the rig's size, with depth, colour, or both.
    """
    record, maps = rig.record, rig.maps
    intrinsics, roi = record.camera.intrinsics, record.roi
    clear = np.ones(frame.size_px, np.bool_)
    distance_m, turn_deg, fill = None, None, None
    if frame.depth is not None:
        depth_m = frame.depth_m()
        wanted = border_of(frame.size_px) & (maps.valid >= ALWAYS)
        # What flickered at calibration flickers still; more depth than then is no loss.
        fill = max(float((maps.valid[wanted] - (depth_m[wanted] > 0)).mean()), 0.0) if wanted.any() else None
        plane = table_plane(depth_m, intrinsics, rig.tolerance_m, _bare_table(rig))
        if plane is not None:
            u, v = roi.x_px + (roi.width_px - 1) / 2, roi.y_px + (roi.height_px - 1) / 2
            distance_m = plane_depth_m(plane, intrinsics, u, v) - record.distance_m
            turn_deg = tilt_deg(plane, record.plane)
            clear = _clear_of_parts(heights_m(depth_m, plane, intrinsics), rig.tolerance_m)
    if frame.rgb is None or maps.grey is None or (frame.depth is not None and distance_m is None):
        return Look(distance_m, turn_deg, None, None, fill)
    grey = grey_of(frame.rgb)
    shift = image_shift(maps.grey, grey, clear) if frame.depth is not None else None
    shift_px = shift.length_px if shift is not None and shift.is_certain else None
    return Look(distance_m, turn_deg, shift_px, _brightness(maps.grey, grey, clear, frame), fill)


def _bare_table(rig: Rig) -> BoolArray:
    """Where the table shows whatever part is on it, bool (H, W): the border, or all of it where that shows none."""
    table = rig.table()
    outer = table & border_of(table.shape)
    return outer if outer.mean() > MIN_TABLE else table


def _brightness(before: Float32Array, now: Float32Array, clear: BoolArray, frame: Frame) -> float | None:
    """Change of the table's brightness; without depth of the frame's border, where no part is."""
    table = clear if frame.depth is not None else border_of(frame.size_px)
    if table.mean() < MIN_TABLE:
        return None
    return float(now[table].mean()) / max(float(before[table].mean()), 1.0) - 1


def _clear_of_parts(height_m: Float32Array, tolerance_m: float) -> BoolArray:
    """Where the table shows with no part near, bool (H, W); a pixel without depth may be anything."""
    on_table = (np.abs(np.nan_to_num(height_m, nan=0.0)) < tolerance_m).astype(np.uint8)
    size = 2 * SURROUNDINGS_PX + 1
    closed = cv2.morphologyEx(on_table, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return np.asarray(cv2.erode(closed, np.ones((size, size), np.uint8)) > 0) & np.isfinite(height_m)


class RigWatch:
    """Turns looks into alarms: ``rig.moved``, ``rig.exposure``, ``rig.depth_fill``.

    They ring at the limits at which ``edge-ad rig check`` fails. ``look`` and this class have no thread.
    """

    def __init__(self, rig: Rig, alarms: Alarms) -> None:
        self._rig, self._alarms = rig, alarms
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=LOOKS) for name in Look.__slots__}
        self._on: set[str] = set()

    def take(self, seen: Look) -> None:
        """Goes by one look more."""
        for name, values in self._recent.items():
            value = getattr(seen, name)
            if value is not None:
                values.append(value)
        limits, words = self._rig.record.limits, self._words()
        ends = {"distance_m": limits.distance_m[1], "turn_deg": limits.tilt_deg[1], "shift_px": limits.shift_px[1]}
        moved = ", ".join(words[name] for name, limit in ends.items() if self._told(name, limit))
        cure = "Fasten it, then run edge-ad rig check on the empty fixture."
        self._ring("rig.moved", f"The camera or the table has moved: {moved}. {cure}", on=bool(moved))
        dark = self._told("brightness", limits.brightness[1])
        self._ring("rig.exposure", f"{words['brightness']}. Look at the lamp, at daylight, at the exposure.", on=dark)
        blind = self._told("fill", limits.fill[1])
        self._ring("rig.depth_fill", f"{words['fill']}. Clean the lenses, look for sunlight and glare.", on=blind)

    def _told(self, name: str, limit: float) -> bool:
        """Whether a figure is over its limit, or was and has not come back far enough."""
        values = self._recent[name]
        if len(values) == LOOKS:
            size = abs(median(values))
            if size > limit:
                self._on.add(name)
            elif size < CLEARED_AT * limit:
                self._on.discard(name)
        return name in self._on

    def _words(self) -> dict[str, str]:
        now = {name: median(values) if values else 0.0 for name, values in self._recent.items()}
        return {
            "distance_m": f"it is {abs(1000 * now['distance_m']):.1f} mm "
            f"{'farther' if now['distance_m'] > 0 else 'nearer'} than when the rig was measured",
            "turn_deg": f"it has turned by {now['turn_deg']:.1f}°",
            "shift_px": f"the picture has shifted by {now['shift_px']:.0f} px",
            "brightness": f"The picture is {abs(100 * now['brightness']):.0f} % "
            f"{'brighter' if now['brightness'] > 0 else 'darker'} than when the rig was measured",
            "fill": f"Around the part {100 * now['fill']:.0f} % of the depth is missing that was there "
            "when the rig was measured",
        }

    def _ring(self, name: str, text: str, *, on: bool) -> None:
        if on:
            self._alarms.alert(name, text)
        else:
            self._alarms.clear(name)


class RigMonitor:
    """A sink that looks at one frame a second in a thread of its own, and never keeps the line waiting.

    Args:
        rig: the reference.
        alarms: raised and cleared, see ``RigWatch``.
        period_s: least time between two looks.

    Attributes:
        skipped: frames that could not be looked at, by cause.
    """

    def __init__(self, rig: Rig, alarms: Alarms, period_s: float = PERIOD_S) -> None:
        self.skipped: Counter[str] = Counter()
        self._rig, self._period_s = rig, period_s
        self._watch = RigWatch(rig, alarms)
        self._due_s = 0.0
        # One place: what comes while a look is under way is not worth waiting for.
        self._frames: queue.Queue[Frame | None] = queue.Queue(1)
        self._thread = threading.Thread(target=self._work, name="rig monitor", daemon=True)
        self._thread.start()

    def write(self, inspection: Inspection) -> None:
        """Takes the frame if a look is due; returns at once."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        try:
            self._frames.put_nowait(inspection.frame)
        except queue.Full:
            return
        self._due_s = now_s + self._period_s

    def close(self) -> None:
        """Ends the thread after the look under way; may be called twice."""
        if self._thread.is_alive():
            self._frames.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (frame := self._frames.get()) is not None:
            if frame.size_px != self._rig.record.camera.frame_size_px:
                self.skipped["other size"] += 1
                continue
            try:
                self._watch.take(look(self._rig, frame))
            except Exception as error:  # whatever a frame is like, the next one is looked at
                self.skipped["failed"] += 1
                if self.skipped["failed"] == 1:
                    _log.error("the rig monitor failed: %s", error, exc_info=not isinstance(error, EdgeAdError))
