"""The data that flows through edge-ad, and the three seams: camera, backend, sink.

camera ─ Frame ─► backend ─ AnomalyResult ─► scoring ─ Verdict ─► Inspection ─► sinks

All records are frozen, their arrays read-only by convention and checked once, at construction.
"""

from __future__ import annotations

import math
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


UINT8, UINT16, FLOAT32 = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)


def _is_image(array: AnyArray, dtypes: Sequence[Any], channels: int | None) -> bool:
    good = array.ndim == 2 if channels is None else array.ndim == 3 and array.shape[2] == channels
    return good and array.dtype in dtypes and 0 not in array.shape


def _no_image(array: AnyArray, name: str, dtypes: Sequence[Any], channels: int | None) -> DataError:
    shape = "(H, W)" if channels is None else f"(H, W, {channels})"
    return DataError(
        f"{name} is {array.dtype}{array.shape}",
        why=f"it must be {' or '.join(map(str, dtypes))} {shape} and not empty",
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
        skew_ms: time between the exposures of colour and depth, by the camera's own clock.
        metadata: what the sensor tells of this capture, such as ``exposure_us``, ``gain``,
            ``temperature_c``; what it does not tell is absent.
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
    skew_ms: float = 0.0
    metadata: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = set()
        for name, array, dtypes, channels in (
            ("rgb", self.rgb, (UINT8,), 3),
            ("depth", self.depth, (UINT16, FLOAT32), None),
            ("normals", self.normals, (UINT8,), 3),
        ):
            if array is None:
                continue
            if not _is_image(array, dtypes, channels):
                raise _no_image(array, f"{name} of {self.source or 'frame'}", dtypes, channels)
            shapes.add(array.shape[:2])
        if len(shapes) != 1:
            raise DataError(
                f"frame {self.source or self.sequence} has images of sizes {sorted(shapes)}",
                why="colour, depth and normals must share one size, and one of them must be there",
                remedy="register depth to colour before making the frame",
            )
        if not (math.isfinite(self.depth_unit_m) and self.depth_unit_m > 0):
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
        if not _is_image(self.anomaly_map, (FLOAT32,), None):
            raise _no_image(self.anomaly_map, "anomaly_map", (FLOAT32,), None)


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
    """The decision on one frame, the threshold it was made with, and where the defects are.

    Attributes:
        decision: the answer.
        threshold: a score above it is NG.
        regions: where, for NG.
        reason: why it is ERROR, or why it was judged with fewer sensors than there should be.
        mode: the operating mode that judged: ``full``, ``rgb_only`` or ``3d_only``; empty where none did.
    """

    decision: Decision
    threshold: float
    regions: tuple[Region, ...] = ()
    reason: str = ""
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Frame, result and verdict together: the only thing that sinks receive.

    Attributes:
        frame: the capture; where there was none, a black pixel that carries the part's name.
        verdict: the decision.
        result: None when the frame could not be judged (decision ERROR).
        model_id: digest of the model that judged or would have.
        recipe: the product's recipe; empty where there is none.
        triggered_ns: when the part was triggered, on the host's monotonic clock; 0 without a trigger.
        deadline_ns: when its verdict had to be out, on the same clock; 0 without a deadline.
    """

    frame: Frame
    verdict: Verdict
    result: AnomalyResult | None = None
    model_id: str = ""
    recipe: str = ""
    triggered_ns: int = 0
    deadline_ns: int = 0


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


@dataclass(frozen=True, slots=True)
class CameraCaps:
    """What a camera can do, known before it is opened.

    Attributes:
        live: frames keep coming, or can be had, for as long as it is open; False for files, which end.
        images: what its frames hold, of ``rgb``, ``depth`` and ``normals``.
        paced: frames come at a steady rate, so that silence means trouble; False where a trigger makes
            them, and for files.
        software_trigger: ``trigger`` makes it take one capture.
        hardware_trigger: it waits for a signal on its own input line.
        can_reset: ``reset`` makes the device boot.
        options: names that ``set`` takes.
    """

    live: bool = True
    images: tuple[str, ...] = ("rgb", "depth")
    paced: bool = True
    software_trigger: bool = False
    hardware_trigger: bool = False
    can_reset: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CameraHealth:
    """How an open camera is.

    Attributes:
        temperature_c: of its hottest sensor; None where it does not tell.
        dropped: captures that were not delivered, by cause, over the camera's life.
        details: further figures by name, with their units in the names.
    """

    temperature_c: float | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, float] = field(default_factory=dict)


class ReadStatus(Enum):
    """Why a read returned no frame. These are ordinary events, not errors."""

    TIMEOUT = "timeout"
    END_OF_STREAM = "end of stream"
    DISCONNECTED = "disconnected"


@runtime_checkable
class Camera(Protocol):
    """A source of frames. ``open`` before ``read``; ``close`` may be called twice.

    Used from one thread; ``edge_ad.cameras.base.CameraDriver`` has what most drivers share.
    """

    @property
    def caps(self) -> CameraCaps:
        """What it can do, also before it is opened."""

    @property
    def info(self) -> CameraInfo | None:
        """What the open camera is; None while it is closed."""

    def open(self) -> CameraInfo:
        """Starts the stream; afresh where it is open.

        Raises:
            CameraError: the device is absent, busy or cannot stream as asked.
        """

    def read(self, timeout_s: float) -> Frame | ReadStatus:
        """The next frame, which owns its memory, or why there is none within ``timeout_s``.

        Raises:
            CameraError: the camera is not open, or has failed and must be opened again.
            DataError: this capture is lost; the next read may be good.
        """

    def trigger(self, part_id: str = "") -> None:
        """Takes one capture, which ``read`` then delivers, with ``part_id`` where the camera can tell it apart.

        Raises:
            ConfigError: it has no software trigger.
            CameraError: the camera is not open, or refuses.
        """

    def set(self, **options: float | str) -> None:
        """Changes settings while it is open; ``caps.options`` names them.

        Raises:
            ConfigError: an option is unknown or out of range.
            CameraError: the camera is not open, or refuses.
        """

    def health(self) -> CameraHealth:
        """How it is; quick, and possible while it is closed."""

    def restart(self) -> None:
        """Stops and starts the stream of the open device: the mildest cure for one that is silent.

        Raises:
            CameraError: it does not start.
        """

    def reset(self) -> None:
        """Makes the device boot; it is closed afterwards, and may take seconds before it can be opened.

        Raises:
            CameraError: it is not attached, or cannot be reset by software.
        """

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
