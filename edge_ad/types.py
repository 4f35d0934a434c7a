"""The data that flows through edge-ad, and the three seams: camera, backend, sink.

camera ─ Frame ─► backend ─ AnomalyResult ─► scoring ─ Verdict ─► Inspection ─► sinks

All records are frozen, their arrays read-only by convention and checked once, at construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import DataError

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
AnyArray = NDArray[Any]

MODALITIES = ("rgb", "depth", "normals")
"""What a model may look at: colour, depth (or height above the rig's plane), surface normals."""


def _check(array: AnyArray, name: str, dtypes: Sequence[Any], channels: int | None) -> None:
    allowed = [np.dtype(dtype) for dtype in dtypes]
    shape = "(H, W)" if channels is None else f"(H, W, {channels})"
    good = array.ndim == 2 if channels is None else array.ndim == 3 and array.shape[2] == channels
    if not good or array.dtype not in allowed or 0 in array.shape:
        raise DataError(
            f"{name} is {array.dtype}{array.shape}",
            why=f"it must be {' or '.join(str(dtype) for dtype in allowed)} {shape} and not empty",
            remedy="check the camera or loader that made this frame",
        )


@dataclass(frozen=True, slots=True)
class Roi:
    """A rectangle in pixels: columns [x_px, x_px + width_px), rows [y_px, y_px + height_px)."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int

    def crop(self, image: AnyArray) -> AnyArray:
        """The view of ``image`` (H, W, …) inside the rectangle."""
        return image[self.y_px : self.y_px + self.height_px, self.x_px : self.x_px + self.width_px]


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """Pinhole camera: pixel u = fx * x / z + cx, with pixel centres at whole numbers; all in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float
    width_px: int
    height_px: int

    def cropped(self, roi: Roi) -> Intrinsics:
        """The intrinsics of the image inside ``roi``."""
        return Intrinsics(self.fx, self.fy, self.cx - roi.x_px, self.cy - roi.y_px, roi.width_px, roi.height_px)


@dataclass(frozen=True, slots=True)
class Frame:
    """One capture: colour and depth of the same instant, registered pixel to pixel.

    Attributes:
        rgb: uint8 (H, W, 3), RGB order; None when the sensor has no colour.
        depth: uint16 or float32 (H, W), distance along the optical axis in units of
            ``depth_unit_m``; 0 (or NaN) where there was no return; None when there is no depth.
        depth_unit_m: metres per unit of ``depth``.
        normals: uint8 (H, W, 3), unit vector * 0.5 + 0.5, only where the data set supplies it.
        intrinsics: of this image; None when unknown.
        timestamp_ns: arrival on the host's monotonic clock.
        sequence: the camera's frame number; a gap means lost frames.
        source: where it came from: a file path or a camera URI.
        part_id: the part in view, where a trigger named it.
    """

    rgb: UInt8Array | None = None
    depth: NDArray[np.uint16] | Float32Array | None = None
    depth_unit_m: float = 1.0
    normals: UInt8Array | None = None
    intrinsics: Intrinsics | None = None
    timestamp_ns: int = 0
    sequence: int = 0
    source: str = ""
    part_id: str | None = None

    def __post_init__(self) -> None:
        shapes = set()
        for name, dtypes, channels in (
            ("rgb", (np.uint8,), 3),
            ("depth", (np.uint16, np.float32), None),
            ("normals", (np.uint8,), 3),
        ):
            array = getattr(self, name)
            if array is not None:
                _check(array, f"{name} of {self.source or 'frame'}", dtypes, channels)
                shapes.add(array.shape[:2])
        if len(shapes) != 1:
            raise DataError(
                f"frame {self.source or self.sequence} has images of sizes {sorted(shapes)}",
                why="colour, depth and normals must share one size, and one of them must be there",
                remedy="register depth to colour before making the frame",
            )
        if not (np.isfinite(self.depth_unit_m) and self.depth_unit_m > 0):
            raise DataError(
                f"depth_unit_m of {self.source or 'frame'} is {self.depth_unit_m}",
                why="metres per depth unit must be positive",
                remedy="give the sensor's scale, 0.001 for millimetres",
            )

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width)."""
        array = next(a for a in (self.rgb, self.depth, self.normals) if a is not None)
        return array.shape[0], array.shape[1]

    def depth_m(self) -> Float32Array:
        """Depth in metres, float32 (H, W), 0 where there was no return.

        Raises:
            DataError: the frame has no depth.
        """
        if self.depth is None:
            raise DataError(f"frame {self.source or self.sequence} has no depth", remedy="use a depth camera")
        metres: Float32Array = self.depth.astype(np.float32) * np.float32(self.depth_unit_m)
        metres[~(np.isfinite(metres) & (metres > 0))] = 0
        return metres


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """A frame of a data set.

    Attributes:
        frame: the capture.
        category: the product, e.g. ``"bagel"``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        defect: the folder's name; ``"good"`` for a good part. The label comes from here, never
            from a mask.
        gt_mask: bool (H, W), True on the defect; None where the data set has no mask.
        path: the file that the frame was read from.
    """

    frame: Frame
    category: str
    split: str
    defect: str
    path: Path
    gt_mask: BoolArray | None = None

    def __post_init__(self) -> None:
        if self.gt_mask is not None and self.gt_mask.shape != self.frame.size_px:
            raise DataError(
                f"mask of {self.path} is {self.gt_mask.shape}, its frame {self.frame.size_px}",
                why="the mask must cover the frame pixel by pixel",
                remedy="restore the original mask file",
            )

    @property
    def is_anomalous(self) -> bool:
        """True for a part from a defect folder."""
        return self.defect != "good"


@dataclass(frozen=True, slots=True)
class AnomalyResult:
    """What a model says of one frame.

    Attributes:
        anomaly_map: float32 (H, W) at the frame's own size; larger is more anomalous.
        score: the largest value of the model's map.
        modality_maps: per-modality maps, float32 (h, w) at the network's size.
        latency_ms: milliseconds by stage.
        model_id: digest of the model that judged.
    """

    anomaly_map: Float32Array
    score: float
    modality_maps: Mapping[str, Float32Array] = field(default_factory=dict)
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    model_id: str = ""

    def __post_init__(self) -> None:
        _check(self.anomaly_map, "anomaly_map", (np.float32,), None)


class Decision(str, Enum):
    """The answer for one part. A part that could not be judged is ERROR, never OK."""

    OK = "OK"
    NG = "NG"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Region:
    """One connected anomalous region, in pixels of the frame."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int
    area_px: int
    peak: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one frame, the threshold it was made with, and where the defects are."""

    decision: Decision
    threshold: float
    regions: tuple[Region, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Frame, result and verdict together: the only thing that sinks receive.

    ``result`` is None when the frame could not be judged (decision ERROR).
    """

    frame: Frame
    verdict: Verdict
    result: AnomalyResult | None = None


@dataclass(frozen=True, slots=True)
class CameraInfo:
    """What an opened camera is.

    Attributes:
        name: model name.
        serial: serial number or file path.
        live: True when frames keep coming whether or not anyone reads them.
        warnings: findings at start-up that the user should see (USB 2 link, …).
        details: further facts, printed by ``doctor``.
    """

    name: str
    serial: str
    live: bool
    warnings: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)


class ReadStatus(Enum):
    """Why a read returned no frame. These are ordinary events, not errors."""

    TIMEOUT = "timeout"
    END_OF_STREAM = "end of stream"
    DISCONNECTED = "disconnected"


@runtime_checkable
class Camera(Protocol):
    """A source of frames. ``open`` before ``read``; ``close`` may be called twice."""

    def open(self) -> CameraInfo:
        """Starts the stream.

        Raises:
            CameraError: the device is absent, busy or cannot stream as asked.
        """

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The next frame, which owns its memory, or why there is none within ``timeout_s``."""

    def close(self) -> None:
        """Stops the stream and frees the device."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a graph; ``None`` in the shape is the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@runtime_checkable
class Backend(Protocol):
    """Runs a graph: named arrays in, named arrays out. Not thread-safe; one per thread."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Runs the graph once.

        Args:
            feeds: every input by name, C-contiguous, with the batch first.

        Returns:
            Every output by name; the arrays belong to the caller.

        Raises:
            EngineError: an input is missing or of the wrong dtype or shape, or the device failed.
        """

    def close(self) -> None:
        """Frees the device's memory; may be called twice."""


@runtime_checkable
class Sink(Protocol):
    """Takes inspections somewhere. A sink that fails is counted; judging goes on."""

    def write(self, inspection: Inspection) -> None:
        """Takes one inspection.

        Raises:
            OutputError: it could not be written.
        """

    def close(self) -> None:
        """Flushes and closes; may be called twice."""
