"""Writes captures in edge-ad's own layout, see ``edge_ad.data.folder``."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import tifffile

from edge_ad.data.dataset import GOOD, SPLITS
from edge_ad.data.folder import CAMERA_FILE, MILLIMETRE_M, CameraRecord, read_camera_record
from edge_ad.errors import ConfigError, DataError, OutputError
from edge_ad.files import not_written
from edge_ad.types import AnyArray, BoolArray, Frame


class FolderWriter:
    """Adds captures to one folder of a data set, numbered after those that are there.

    Each file appears whole or not at all, and none is ever overwritten. One writer per folder.

    Args:
        root: the data set; made if absent.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        defect: ``"good"``, or in the test split the kind of defect.

    Raises:
        ConfigError: there is no such split, or the defect's name is not a folder's or not for the split.
        DataError: the camera's file in ``root`` is damaged.
    """

    def __init__(self, root: Path, split: str = "train", defect: str = GOOD) -> None:
        if split not in SPLITS:
            raise ConfigError(f"split {split!r} is unknown", remedy=f"name one of {', '.join(SPLITS)}")
        if split != "test" and defect != GOOD:
            raise ConfigError(
                f"{defect!r} parts cannot go to {split}",
                why="a model learns from good parts only",
                remedy="record them with split test",
            )
        if not defect or defect.startswith(".") or Path(defect).name != defect:
            raise ConfigError(f"defect {defect!r} cannot name a folder", remedy="use letters, digits and _")
        self.root = root
        self.directory = root / split / defect
        # Good parts may or may not come with an empty mask; for defects it is all or none.
        self._pairing = ("rgb", "depth") if defect == GOOD else ("rgb", "depth", "gt")
        self._kinds = {kind for kind in self._pairing if any((self.directory / kind).glob("[!.]*"))}
        taken = [int(path.stem) for path in self.directory.glob("*/*") if path.stem.isdecimal()]
        self._number = max(taken, default=-1) + 1
        camera_path = root / CAMERA_FILE
        self._camera = read_camera_record(camera_path) if camera_path.is_file() else None

    def write(self, frame: Frame, gt_mask: BoolArray | None = None) -> Path:
        """Writes one capture: uint16 depth as 16-bit PNG, float32 depth as TIFF in metres.

        Args:
            frame: the capture.
            gt_mask: bool (H, W), True on the defect; None to write no mask.

        Returns:
            The path of its first image.

        Raises:
            DataError: the frame comes from another camera, or lacks what the captures before it have.
            OutputError: the disk is full, or the folder cannot be written.
        """
        contents = _encoded(frame, gt_mask)
        self._check_kinds(contents.keys() & set(self._pairing), frame)
        self._remember_camera(frame)
        paths = {kind: self.directory / kind / f"{self._number:06d}{suffix}" for kind, (suffix, _) in contents.items()}
        _write_together({path: contents[kind][1] for kind, path in paths.items()})
        self._number += 1
        return next(iter(paths.values()))

    def _check_kinds(self, kinds: set[str], frame: Frame) -> None:
        self._kinds = self._kinds or kinds
        if kinds != self._kinds:
            raise DataError(
                f"frame {frame.sequence} has {' and '.join(sorted(kinds))}",
                why=f"the captures in {self.directory} have {' and '.join(sorted(self._kinds))}",
                remedy="check that the camera delivers both streams, or record to another folder",
            )

    def _remember_camera(self, frame: Frame) -> None:
        camera = _camera_record(frame, MILLIMETRE_M if self._camera is None else self._camera.depth_unit_m)
        path = self.root / CAMERA_FILE
        if camera is not None and self._camera is None:
            text = json.dumps(camera.model_dump(), indent=2) + "\n"
            _write_together({path: text.encode()})
            self._camera = camera
        if camera != self._camera:
            raise DataError(
                f"frame {frame.sequence} comes from another camera than {path} describes",
                why="its intrinsics, size or depth unit differ",
                remedy="record each camera and resolution to its own data set",
            )


def _camera_record(frame: Frame, usual_unit_m: float) -> CameraRecord | None:
    """The camera of a frame; one without uint16 depth says nothing of the unit, so the usual one stays."""
    is_integer = frame.depth is not None and frame.depth.dtype == np.uint16
    depth_unit_m = frame.depth_unit_m if is_integer else usual_unit_m
    camera = frame.intrinsics
    if camera is None:
        if depth_unit_m != MILLIMETRE_M:
            raise DataError(
                f"frame {frame.sequence} has depth in units of {depth_unit_m} m and no intrinsics",
                why=f"the unit is kept with the intrinsics; without them depth counts as {MILLIMETRE_M} m",
                remedy="use a camera driver that gives intrinsics",
            )
        return None
    return CameraRecord(
        fx=camera.fx,
        fy=camera.fy,
        cx=camera.cx,
        cy=camera.cy,
        width_px=camera.width_px,
        height_px=camera.height_px,
        depth_unit_m=depth_unit_m,
    )


def _encoded(frame: Frame, gt_mask: BoolArray | None) -> dict[str, tuple[str, bytes]]:
    """Suffix and content of each file of a capture, by kind."""
    contents = {}
    if frame.rgb is not None:
        contents["rgb"] = (".png", _png(cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR)))
    if frame.depth is not None and frame.depth.dtype == np.uint16:
        contents["depth"] = (".png", _png(frame.depth))
    elif frame.depth is not None:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, frame.depth * np.float32(frame.depth_unit_m), photometric="minisblack")
        contents["depth"] = (".tiff", buffer.getvalue())
    if not contents:
        raise DataError(f"frame {frame.sequence} has neither colour nor depth", remedy="check the camera")
    if gt_mask is not None:
        contents["gt"] = (".png", _png(gt_mask.astype(np.uint8) * 255))
    return contents


def _png(image: AnyArray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _write_together(contents: dict[Path, bytes]) -> None:
    """Writes files so that they appear whole: all content is on disk before any of them has its name."""
    parts = {path: path.with_name(f".{path.name}.part") for path in contents}
    try:
        for path, part in parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(contents[path])
        for path, part in parts.items():
            if path.exists():
                raise OutputError(
                    f"{path} is there already",
                    why="another recording to this folder made it",
                    remedy="record to one folder at a time",
                )
            part.replace(path)
    except OSError as error:
        raise not_written(next(iter(contents)), error) from error
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
