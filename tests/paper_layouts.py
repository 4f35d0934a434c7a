"""Small categories of the synthetic product, in the layouts that the papers' data sets have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile

from edge_ad.data.synthetic import RenderedPart, SyntheticProduct
from edge_ad.types import AnyArray, BoolArray

SIZE_PX = 64
COUNTS = (("train", None, 4), ("validation", None, 5), ("test", None, 3), ("test", "dent", 2), ("test", "stain", 1))
"""Split, defect and number of parts."""

SETTINGS = {"preprocess": {"image_size_px": 64}, "batch_size": 4}
"""What makes a paper's settings quick."""


def parts(seed: int) -> Iterator[tuple[str, int, RenderedPart]]:
    """Every part of a category: its split, its number there, the part."""
    product = SyntheticProduct(SIZE_PX, seed)
    numbers = dict.fromkeys(("train", "validation", "test"), 0)
    for index, (split, defect) in enumerate((split, defect) for split, defect, n in COUNTS for _ in range(n)):
        yield split, numbers[split], product.render(index, defect)
        numbers[split] += 1


def write_mvtec3d(root: Path, seed: int = 0) -> None:
    """One category in the layout of MVTec 3D-AD."""
    for split, number, part in parts(seed):
        folder = root / split / part.defect
        rgb, intrinsics = part.frame.rgb, part.frame.intrinsics
        assert rgb is not None
        assert intrinsics is not None
        z = part.frame.depth_m()
        rows, columns = np.mgrid[:SIZE_PX, :SIZE_PX]
        x, y = (columns - intrinsics.cx) * z / intrinsics.fx, (rows - intrinsics.cy) * z / intrinsics.fy
        for kind in ("rgb", "xyz", "gt"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        write_image(folder / f"rgb/{number:03d}.png", rgb[..., ::-1])
        xyz = np.stack([x, y, z], axis=2).astype(np.float32)
        tifffile.imwrite(folder / f"xyz/{number:03d}.tiff", xyz, photometric="minisblack")
        write_mask(folder / f"gt/{number:03d}.png", part.gt_mask)


def write_eyecandies(root: Path, seed: int = 0) -> None:
    """One category in the layout of Eyecandies."""
    folders = {"train": "train", "validation": "val", "test": "test_public"}
    for split, number, part in parts(seed):
        data = root / folders[split] / "data"
        data.mkdir(parents=True, exist_ok=True)
        stem = f"{number:03d}"
        rgb, z = part.frame.rgb, part.frame.depth_m()
        assert rgb is not None
        near, far = float(z[z > 0].min()), float(z.max())
        stored = (np.clip((z - near) / (far - near), 0, 1) * 65535).astype(np.uint16)
        down, right = np.gradient(z * 1000)
        normals = np.stack([-right, -down, np.ones_like(z)], axis=2)
        normals /= np.linalg.norm(normals, axis=2, keepdims=True)
        write_image(data / f"{stem}_image_4.png", rgb[..., ::-1])
        write_image(data / f"{stem}_depth.png", stored)
        write_image(data / f"{stem}_normals.png", ((normals[..., ::-1] * 0.5 + 0.5) * 255).astype(np.uint8))
        (data / f"{stem}_info_depth.yaml").write_text(f"normalization:\n  min: {near}\n  max: {far}\n")
        if split == "test":
            (data / f"{stem}_metadata.yaml").write_text(f"anomalous: {int(part.gt_mask.any())}\n")
            write_mask(data / f"{stem}_mask.png", part.gt_mask)


def write_mask(path: Path, mask: BoolArray) -> None:
    write_image(path, mask.astype(np.uint8) * 255)


def write_image(path: Path, image: AnyArray) -> None:
    assert cv2.imwrite(str(path), np.ascontiguousarray(image))
