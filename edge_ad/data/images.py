"""Image files, checked: what is missing, cut short or of the wrong kind is an error that names the file.

OpenCV returns None for some broken files and half an image for others, so completeness is checked on
the bytes before they are decoded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from edge_ad.errors import DataError
from edge_ad.types import AnyArray, BoolArray, Float32Array, UInt8Array

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

RGB_SUFFIXES = (".png", ".jpg", ".jpeg")
DEPTH_SUFFIXES = (".png", ".tiff", ".tif")
XYZ_SUFFIXES = (".tiff", ".tif")
MASK_SUFFIXES = (".png",)


def read_rgb(path: Path, size_px: tuple[int, int] | None = None) -> UInt8Array:
    """A colour image.

    Args:
        path: PNG or JPEG with three channels of 8 bits.
        size_px: (height, width) that the image must have; None accepts any.

    Returns:
        uint8 (H, W, 3) in RGB order.

    Raises:
        DataError: the file is missing, damaged, not 8-bit colour, or of another size.
    """
    image = _decoded(path)
    _require(path, image, ("uint8",), 3, size_px)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def read_depth(path: Path, size_px: tuple[int, int] | None = None) -> NDArray[np.uint16] | Float32Array:
    """A depth image, with 0 where there was no return.

    Args:
        path: PNG of 16 bits, or TIFF of uint16 or float32.
        size_px: (height, width) that the image must have; None accepts any.

    Returns:
        uint16 or float32 (H, W) as stored; NaN and infinity have become 0.

    Raises:
        DataError: the file is missing, damaged, of another type or size, or has no valid depth at all.
    """
    image = _decoded(path)
    _require(path, image, ("uint16", "float32"), None, size_px)
    if image.dtype == np.float32:
        image = np.where(np.isfinite(image), image, np.float32(0))
    _require_returns(path, image > 0)
    return image


def read_xyz(path: Path, size_px: tuple[int, int] | None = None) -> Float32Array:
    """An organised point cloud, with (0, 0, 0) where there was no return.

    Args:
        path: TIFF of three float32 channels.
        size_px: (height, width) that the image must have; None accepts any.

    Returns:
        float32 (H, W, 3), camera coordinates as stored; points with a NaN or infinity have become 0.

    Raises:
        DataError: the file is missing, damaged, of another type or size, or has no valid point at all.
    """
    image = _decoded(path)
    _require(path, image, ("float32",), 3, size_px)
    finite = np.isfinite(image).all(axis=2, keepdims=True)
    if not finite.all():
        image = np.where(finite, image, np.float32(0))
    _require_returns(path, image[..., 2] > 0)
    return image


def read_mask(path: Path, size_px: tuple[int, int] | None = None) -> BoolArray:
    """A defect mask.

    Args:
        path: PNG of 8 bits; a colour image counts as marked where any channel is.
        size_px: (height, width) that the image must have; None accepts any.

    Returns:
        bool (H, W), True where the file is not 0.

    Raises:
        DataError: the file is missing, damaged, of another type or size.
    """
    image = _decoded(path)
    if image.ndim == 3:
        image = image[..., :3].max(axis=2)
    _require(path, image, ("uint8",), None, size_px)
    return np.asarray(image > 0)


def _decoded(path: Path) -> AnyArray:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read", why=error.strerror or str(error), remedy="check the path") from error
    if content.startswith(PNG_SIGNATURE):
        _check_png(path, content)
        return _decode(path, content, _decode_with_opencv)
    if content.startswith(JPEG_START):
        # Padding after the end marker is allowed; a file cut short has no marker near its end.
        if JPEG_END not in content[-64:]:
            raise _damaged(path, "the JPEG stops before its end marker")
        return _decode(path, content, _decode_with_opencv)
    if content.startswith(TIFF_SIGNATURES):
        return _decode(path, content, lambda _: _decode_tiff(path, len(content)))
    why = "the file is empty" if not content else "the content is neither PNG, JPEG nor TIFF"
    raise _damaged(path, why)


def _decode(path: Path, content: bytes, decoder: Callable[[bytes], AnyArray]) -> AnyArray:
    try:
        return decoder(content)
    except DataError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever they stumble on
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _decode_with_opencv(content: bytes) -> AnyArray:
    image: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("the image data cannot be decoded")
    return np.asarray(image)


def _decode_tiff(path: Path, size_bytes: int) -> AnyArray:
    with tifffile.TiffFile(path) as tiff:
        # A series, not a page: tifffile writes (H, W, 3) floats as H pages unless told otherwise.
        series = tiff.series[0]
        if series.dataoffset is not None:
            segments = [(series.dataoffset, series.size * series.dtype.itemsize)]
        else:
            pages = [page for page in series.pages if page is not None]
            segments = [
                segment for page in pages for segment in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
        # tifffile fills absent strips with zeros, which would pass for "no return".
        if not all(count and offset + count <= size_bytes for offset, count in segments):
            raise _damaged(path, "the TIFF is shorter than its header says")
        return np.asarray(series.asarray())


def _check_png(path: Path, content: bytes) -> None:
    """Walks the chunks (PNG specification, section 5) and checks each CRC up to IEND."""
    view, start = memoryview(content), len(PNG_SIGNATURE)
    while start + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        end = start + 12 + length
        if end > len(content):
            break
        (checksum,) = struct.unpack_from(">I", content, end - 4)
        if zlib.crc32(view[start + 4 : end - 4]) != checksum:
            raise _damaged(path, "a checksum in the PNG is wrong")
        if content[start + 4 : start + 8] == b"IEND":
            return
        start = end
    raise _damaged(path, "the PNG stops before its end marker")


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged or cut short", why=why, remedy="copy the file again from its source")


def _require(
    path: Path,
    image: AnyArray,
    dtypes: tuple[str, ...],
    channels: int | None,
    size_px: tuple[int, int] | None,
) -> None:
    found = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if found != (channels or 1) or image.dtype.name not in dtypes:
        plural = "" if channels is None else "s"
        raise DataError(
            f"{path} has {found} channel(s) of {image.dtype}",
            why=f"{channels or 1} channel{plural} of {' or '.join(dtypes)} must be there",
            remedy="export the image again in that format",
        )
    if size_px is not None and image.shape[:2] != size_px:
        raise DataError(
            f"{path} is {image.shape[1]}x{image.shape[0]} pixels",
            why=f"the other images of this capture are {size_px[1]}x{size_px[0]}",
            remedy="register depth to colour, so that both have one size",
        )


def _require_returns(path: Path, valid: BoolArray) -> None:
    if not valid.any():
        raise DataError(
            f"{path} has no valid depth",
            why="every pixel is 0 or NaN",
            remedy="check the distance and the depth stream, and capture it again",
        )
