"""A rig on disk: what was measured of an empty fixture, whole or not at all, and provably unchanged.

rig.json           the camera, plane, ROI, figures, limits; the sha256 of the maps and its own
maps.safetensors   mean depth, noise and validity, mean colour
report.html        the acceptance report, for people
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.numpy
from pydantic import Field

from edge_ad.bundle import FileDigest, RigReference, bytes_digest
from edge_ad.errors import DataError, OutputError
from edge_ad.files import not_written, replace_directory
from edge_ad.rig.findings import RigLimits
from edge_ad.rig.observation import Maps
from edge_ad.rig.surface import on_plane, table_tolerance_m
from edge_ad.settings import Settings, validated
from edge_ad.types import AnyArray, BoolArray, Intrinsics, Roi

RIG, MAPS, REPORT = "rig.json", "maps.safetensors", "report.html"
ALWAYS = 0.75
"""A pixel returns depth if this share of the frames did."""
AGAIN = "measure the rig again with: edge-ad rig calibrate RIG --camera URI"


class CameraRecord(Settings):
    """The camera as it was, factory calibration included.

    Attributes:
        uri: it was opened with.
        name: model name.
        serial: serial number, or the path of a recording.
        live: False for a recording.
        details: firmware, USB version, modes, as far as the driver tells.
        frame_size_px: (height, width).
        intrinsics: of the frames.
        depth_unit_m: metres per unit of their depth.
        sensor: median of each figure of the frames' metadata, such as ``exposure_us``.
        locked: what was fixed, by option, and is to be set again before a check or a run.
        fps: frames per second that arrived; None for a recording.
        skew_ms: median time between colour and depth.
    """

    uri: str
    name: str
    serial: str
    live: bool
    details: dict[str, str]
    frame_size_px: tuple[int, int]
    intrinsics: Intrinsics
    depth_unit_m: float = Field(gt=0)
    sensor: dict[str, float]
    locked: dict[str, float]
    fps: float | None
    skew_ms: float


class RigRecord(Settings):
    """The content of ``rig.json``.

    Attributes:
        schema_version: of this record.
        edge_ad_version: that measured it.
        measured_utc: when, ISO 8601.
        camera: which, and how it was set.
        frames: averaged.
        plane: (α, β, γ) of the table in 1/m, see ``edge_ad.geometry.fit_plane``.
        distance_m: of the table along the optical axis, in the middle of the ROI.
        tilt_deg: between the table and the picture's plane.
        roi: the part of the frame to inspect.
        roi_given: whether the user chose it; else it is the largest rectangle that returns depth.
        mm_per_px: at the table, in the middle of the ROI.
        fill: share of the ROI's depth that returned.
        noise_m: depth noise of a pixel from frame to frame, median over the ROI.
        flatness_m: 95 % of the ROI's table lie within this of the plane.
        step_m: smallest step of height that a single pixel of a single frame shows, ``step_sigmas`` × noise_m.
        step_sigmas: see ``edge_ad.rig.calibration.STEP_SIGMAS``.
        brightness: mean luma of the ROI, 0 to 255; None without colour.
        grey_noise: luma noise of a pixel from frame to frame.
        limits: of a check; may be edited, the rig stays the same.
        maps: size and sha256 of the arrays.
        sha256: over all of this but itself and the limits: the rig's identity.
    """

    schema_version: Literal[1] = 1
    edge_ad_version: str
    measured_utc: str
    camera: CameraRecord
    frames: int
    plane: tuple[float, float, float]
    distance_m: float = Field(gt=0)
    tilt_deg: float
    roi: Roi
    roi_given: bool
    mm_per_px: float
    fill: float
    noise_m: float
    flatness_m: float
    step_m: float
    step_sigmas: float
    brightness: float | None
    grey_noise: float
    limits: RigLimits = RigLimits()
    maps: FileDigest
    sha256: str = ""

    def content_digest(self) -> str:
        """sha256 (hex) over all but ``sha256`` itself and the limits."""
        content = self.model_dump(mode="json", exclude={"sha256", "limits"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Rig:
    """A measured rig: its record and its maps."""

    record: RigRecord
    maps: Maps

    @property
    def tolerance_m(self) -> float:
        """How far from its plane the table's surface may be seen."""
        return table_tolerance_m(self.record.noise_m)

    def table(self) -> BoolArray:
        """Where the bare table showed and always returned depth, bool (H, W)."""
        record, maps = self.record, self.maps
        near = on_plane(maps.depth_m, record.plane, record.camera.intrinsics, self.tolerance_m)
        return near & (maps.valid >= ALWAYS)

    @property
    def reference(self) -> RigReference:
        """What a model that was trained for this rig keeps of it."""
        record = self.record
        return RigReference(
            sha256=record.sha256,
            serial=record.camera.serial,
            frame_size_px=record.camera.frame_size_px,
            intrinsics=record.camera.intrinsics,
            plane=record.plane,
        )


def maps_content(maps: Maps) -> bytes:
    """The maps as they are stored."""
    named: Mapping[str, AnyArray | None] = {name: getattr(maps, name) for name in Maps.__slots__}
    return safetensors.numpy.save({name: array for name, array in named.items() if array is not None})


def write_rig(directory: Path, rig: Rig, report: str) -> None:
    """Writes a rig; the directory appears whole or not at all, in the place of a rig that was there.

    Args:
        directory: where to.
        rig: as ``edge_ad.rig.calibration.calibrated`` gives it.
        report: the acceptance report, HTML.

    Raises:
        OutputError: it cannot be written, or ``directory`` holds something else; what was there stays.
    """
    strange = directory.is_dir() and not (directory / RIG).is_file() and any(directory.iterdir())
    if strange or (directory.exists() and not directory.is_dir()):
        raise OutputError(
            f"{directory} is not empty and no rig", why="it would be replaced", remedy="name another directory"
        )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
            fresh = Path(temporary) / "rig"
            fresh.mkdir()
            (fresh / MAPS).write_bytes(maps_content(rig.maps))
            (fresh / REPORT).write_text(report, encoding="utf-8")
            (fresh / RIG).write_text(rig.record.model_dump_json(indent=1), encoding="utf-8")
            replace_directory(fresh, directory)
    except OSError as error:
        raise not_written(directory, error) from error


def read_rig(directory: Path) -> Rig:
    """Opens a rig and checks that it is what was measured.

    Raises:
        DataError: the directory is no rig, or a file is missing, damaged or edited.
    """
    path = directory / RIG
    if not path.is_file():
        raise DataError(f"{directory} is not a rig", why=f"it has no {RIG}", remedy=AGAIN)
    record = validated(RigRecord, _content(path), str(path), DataError, AGAIN)
    if record.sha256 != record.content_digest():
        raise DataError(f"{path} was edited", why="only its limits may be changed", remedy=f"undo that, or {AGAIN}")
    content = _content(directory / MAPS)
    if bytes_digest(content) != record.maps:
        raise DataError(
            f"{directory / MAPS} is not what was measured",
            why="its sha256 is another",
            remedy=f"copy the rig again, or {AGAIN}",
        )
    try:
        return Rig(record, Maps(**safetensors.numpy.load(content)))
    except (safetensors.SafetensorError, TypeError) as error:
        raise DataError(f"{directory / MAPS} cannot be used", why=str(error), remedy=AGAIN) from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read", why=error.strerror or str(error), remedy=AGAIN) from error
