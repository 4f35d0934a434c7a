"""The MVTec 3D-AD layout: colour images with organised point clouds.

    CATEGORY/{train,validation,test}/DEFECT/rgb/NNN.png    uint8 (H, W, 3)
                                           /xyz/NNN.tiff   float32 (H, W, 3), (0, 0, 0) = no return
                                           /gt/NNN.png     defect mask; good parts may lack it

Bergmann et al., "The MVTec 3D-AD Dataset for Unsupervised 3D Anomaly Detection and Localization", 2022.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from edge_ad.data.dataset import (
    GOOD,
    SPLITS,
    Dataset,
    Entry,
    files_by_stem,
    paired_files,
    subfolders,
    with_masks,
)
from edge_ad.data.images import MASK_SUFFIXES, RGB_SUFFIXES, XYZ_SUFFIXES, read_mask, read_rgb, read_xyz
from edge_ad.errors import DataError
from edge_ad.types import Float32Array, Frame, Intrinsics, LabelledFrame

LAYOUT = "mvtec3d"
FRAMES_FOR_INTRINSICS = 5
PINHOLE_TOLERANCE_PX = 2.0


def is_mvtec3d(directory: Path) -> bool:
    """Whether ``directory`` is a category in this layout."""
    return any(directory.glob("train/*/xyz")) or any(directory.glob("test/*/xyz"))


def open_mvtec3d(directory: Path) -> Dataset:
    """Opens one category and checks that every capture is complete; images are not read yet.

    Frames get ``depth`` = z in the file's own unit, taken as metres (MVTec's is), and one camera for
    all of them: the median of the pinhole fits of the first point clouds.

    Raises:
        DataError: a split is empty, or a capture lacks its partner or its mask.
    """
    entries = tuple(
        Entry(split, defect.name, files)
        for split in SPLITS
        if (directory / split).is_dir()
        for defect in _defects(directory / split)
        for files in _captures(defect)
    )
    sample = sorted(entries, key=lambda entry: SPLITS.index(entry.split))[:FRAMES_FOR_INTRINSICS]
    intrinsics = _median_intrinsics([read_xyz(entry.files["xyz"]) for entry in sample])
    category = directory.resolve().name
    return Dataset(
        directory,
        category,
        LAYOUT,
        entries,
        intrinsics,
        partial(_read, category=category, intrinsics=intrinsics),
    )


def read_xyz_capture(rgb_path: Path | None, xyz_path: Path, intrinsics: Intrinsics | None) -> Frame:
    """One capture as a frame, with ``depth`` = z, float32 in metres, 0 where there was no return.

    Args:
        rgb_path: 8-bit colour; None for a camera without colour.
        xyz_path: the organised point cloud.
        intrinsics: of the camera, None when unknown.

    Raises:
        DataError: a file is missing, damaged, of another type, has no valid point, or the sizes differ.
    """
    rgb = None if rgb_path is None else read_rgb(rgb_path)
    depth = np.ascontiguousarray(read_xyz(xyz_path, None if rgb is None else (rgb.shape[0], rgb.shape[1]))[..., 2])
    return Frame(rgb=rgb, depth=depth, intrinsics=intrinsics, source=str(rgb_path or xyz_path))


def camera_of_captures(directory: Path) -> Intrinsics | None:
    """The camera of ``CATEGORY/SPLIT/DEFECT``, the same that ``open_mvtec3d`` gives all frames of the category.

    Args:
        directory: holds ``xyz/``. Where it is no part of a category, its own first point clouds tell.

    Raises:
        DataError: a point cloud cannot be read.
    """
    train = directory.resolve().parent.parent / "train" / GOOD
    folder = train if (train / "xyz").is_dir() else directory
    clouds = list(files_by_stem(folder / "xyz", XYZ_SUFFIXES).values())
    return _median_intrinsics([read_xyz(path) for path in clouds[:FRAMES_FOR_INTRINSICS]])


def intrinsics_from_xyz(xyz: Float32Array) -> Intrinsics | None:
    """The pinhole camera that saw an organised point cloud, by least squares of u = fx * x / z + cx.

    The signs are the data's: fx or fy is negative where x points left or y points up. Such intrinsics
    stay consistent with the points, so nothing downstream needs to know.

    Args:
        xyz: float32 (H, W, 3) in camera coordinates; z <= 0 means no return.

    Returns:
        The intrinsics, or None where the points do not follow a pinhole camera within 2 px (RMS), or
        are too few to tell.
    """
    height, width = xyz.shape[:2]
    rows, columns = np.nonzero(xyz[..., 2] > 0)
    points = xyz[rows, columns].astype(np.float64)
    fits = []
    for pixels, coordinate in ((columns, points[:, 0]), (rows, points[:, 1])):
        slope = coordinate / points[:, 2]
        if len(slope) < 100 or np.ptp(slope) == 0:
            return None
        design = np.stack([slope, np.ones_like(slope)], axis=1)
        (focal, centre), *_ = np.linalg.lstsq(design, pixels.astype(np.float64), rcond=None)
        error_px = np.sqrt(np.mean((design @ (focal, centre) - pixels) ** 2))
        if error_px > PINHOLE_TOLERANCE_PX:
            return None
        fits.append((float(focal), float(centre)))
    (fx, cx), (fy, cy) = fits
    return Intrinsics(fx, fy, cx, cy, width, height)


def _median_intrinsics(clouds: list[Float32Array]) -> Intrinsics | None:
    fits = [fit for fit in map(intrinsics_from_xyz, clouds) if fit is not None]
    fits = [fit for fit in fits if (fit.width_px, fit.height_px) == (fits[0].width_px, fits[0].height_px)]
    if not fits:
        return None
    fx, fy, cx, cy = np.median([(fit.fx, fit.fy, fit.cx, fit.cy) for fit in fits], axis=0)
    return Intrinsics(float(fx), float(fy), float(cx), float(cy), fits[0].width_px, fits[0].height_px)


def _defects(split: Path) -> list[Path]:
    defects = subfolders(split)
    if not defects:
        raise DataError(
            f"{split} is empty",
            why=f"it must hold one folder for each kind of part, such as {GOOD}/",
            remedy="restore the data set",
        )
    return defects


def _captures(defect: Path) -> list[dict[str, Path]]:
    captures = paired_files(defect, {"rgb": RGB_SUFFIXES, "xyz": XYZ_SUFFIXES})
    for kind in ("rgb", "xyz"):
        if not (defect / kind).is_dir():
            raise DataError(f"{defect} has no {kind}/", why="this layout needs it", remedy="restore the folder")
    return list(with_masks(defect, captures, MASK_SUFFIXES, required=True).values())


def _read(entry: Entry, *, category: str, intrinsics: Intrinsics | None) -> LabelledFrame:
    frame = read_xyz_capture(entry.files["rgb"], entry.files["xyz"], intrinsics)
    gt_path = entry.files.get("gt")
    mask = np.zeros(frame.size_px, np.bool_) if gt_path is None else read_mask(gt_path, frame.size_px)
    return LabelledFrame(frame, category, entry.split, entry.defect, entry.files["rgb"], mask)
