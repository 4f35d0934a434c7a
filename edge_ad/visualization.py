"""Pictures of results: heat overlays, depth images, contact sheets, and files that appear whole.

Every picture taken or returned here is RGB, uint8 (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_ad.errors import DataError
from edge_ad.files import write_bytes
from edge_ad.types import AnyArray, BoolArray, Decision, Float32Array, UInt8Array

Colour = tuple[int, int, int]

DECISION_COLOURS: dict[Decision, Colour] = {
    Decision.OK: (102, 187, 122),
    Decision.NG: (240, 98, 88),
    Decision.ERROR: (245, 180, 75),
}
_BACKGROUND: Colour = (20, 22, 25)
_CARD: Colour = (31, 34, 39)
_TILE: Colour = (12, 13, 15)
_TEXT: Colour = (232, 234, 237)
_MUTED: Colour = (146, 152, 161)
_OUTLINE: Colour = (0, 176, 255)

_MARGIN_PX, _GAP_PX, _PADDING_PX = 28, 10, 14
_HEADER_PX, _CAPTION_PX = 104, 38
_LEGEND_PX, _MIN_WIDTH_PX = (180, 10), 480


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One part on a contact sheet.

    Attributes:
        rgb: uint8 (H, W, 3), the picture that heat is laid over.
        geometry: further pictures of the part, uint8 (h, w, 3): depth, normals.
        anomaly_map: float32 (H, W).
        gt_mask: bool (H, W), outlined where it is true; None for a part without a mask.
        caption: the line above the pictures, e.g. ``"scratch/003   score 1.72"``.
        decision: its colour and name precede the caption.
    """

    rgb: UInt8Array
    geometry: tuple[UInt8Array, ...]
    anomaly_map: Float32Array
    gt_mask: BoolArray | None
    caption: str
    decision: Decision


def display_range(maps: Sequence[Float32Array], threshold: float) -> tuple[float, float]:
    """The scores at both ends of the colour scale, with the threshold in its middle.

    The lower end is the median pixel, which is good; where that is not below the threshold, the
    range is as wide as the largest value asks for.

    Args:
        maps: float32 (H, W) each, shown on one scale.
        threshold: the decision threshold.
    """
    pixels = np.concatenate([anomaly_map[::2, ::2].ravel() for anomaly_map in maps])
    pixels = pixels[np.isfinite(pixels)]
    if not pixels.size:
        return threshold - 1.0, threshold + 1.0
    reach = max(threshold - float(np.median(pixels)), 0.0) or abs(float(pixels.max()) - threshold) or 1.0
    return threshold - reach, threshold + reach


def heat_map(anomaly_map: Float32Array, low: float, high: float) -> UInt8Array:
    """The map in the perceptually uniform colours *inferno*: black at ``low``, pale yellow at ``high``.

    Args:
        anomaly_map: float32 (H, W); a value that is not finite is drawn as ``high``.
        low: the score drawn black.
        high: the score drawn brightest.

    Raises:
        DataError: ``high`` is not above ``low``.
    """
    levels = np.round(255 * _scaled(anomaly_map, low, high)).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1], dtype=np.uint8)


def heat_overlay(rgb: UInt8Array, anomaly_map: Float32Array, low: float, high: float) -> UInt8Array:
    """The picture with heat laid over it, thin enough at ``high`` to see the defect through it.

    The lowest quarter of the scale leaves the picture untouched.

    Args:
        rgb: uint8 (H, W, 3).
        anomaly_map: float32 (h, w), resized to the picture; not finite is drawn as ``high``.
        low: the lower end of the colour scale.
        high: its upper end.

    Raises:
        DataError: ``high`` is not above ``low``.
    """
    size = (rgb.shape[1], rgb.shape[0])
    share = cv2.resize(_scaled(anomaly_map, low, high), size, interpolation=cv2.INTER_LINEAR)
    heat = heat_map(np.asarray(share, dtype=np.float32), 0.0, 1.0)
    opacity = (0.8 * np.clip(3 * (share - 0.25), 0, 1))[..., None]
    blend: AnyArray = np.round(rgb * (1 - opacity) + heat * opacity)
    return blend.astype(np.uint8)


def outlined(picture: UInt8Array, mask: UInt8Array, line_px: int = 1) -> UInt8Array:
    """A copy of the picture with a line around the mask.

    Args:
        picture: uint8 (H, W, 3).
        mask: uint8 (H, W), 255 on the defect, between 0 and 255 where it was resized.
        line_px: width of the line; from 2 on it has dark sides, to show on any ground.
    """
    shape = (mask > 32).astype(np.uint8)  # low, so that a hairline scratch survives the resizing
    contours, _ = cv2.findContours(shape, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    drawn: UInt8Array = picture.copy()
    if line_px > 1:
        cv2.drawContours(drawn, contours, -1, _TILE, line_px + 2, cv2.LINE_AA)
    cv2.drawContours(drawn, contours, -1, _OUTLINE, line_px, cv2.LINE_AA)
    return drawn


def depth_to_rgb(depth_m: Float32Array) -> UInt8Array:
    """Depth as a grey relief: near is bright, far is dark, no return is blue-black.

    The scale runs from the 2nd to the 98th percentile, so that one stray pixel does not flatten it.

    Args:
        depth_m: float32 (H, W), metres; 0 or not finite where there was no return.
    """
    valid = np.isfinite(depth_m) & (depth_m > 0)
    picture = np.full((*depth_m.shape, 3), (16, 20, 34), dtype=np.uint8)
    if valid.any():
        near, far = (float(value) for value in np.percentile(depth_m[valid], (2, 98)))
        share = np.clip((far - depth_m[valid]) / max(far - near, 1e-6), 0, 1)
        picture[valid] = np.round(55 + 190 * share).astype(np.uint8)[:, None]
    return picture


def contact_sheet(
    rows: Sequence[SheetRow],
    *,
    title: str,
    threshold: float,
    geometry_titles: tuple[str, ...] = (),
    tile_px: int = 224,
) -> UInt8Array:
    """One picture of many results: a card for each part, all on one colour scale.

    Each card shows the colour image, the geometry, the anomaly map, and the map laid over the
    colour image with the true defect outlined.

    Args:
        rows: the parts, top to bottom; all with the same number of geometry pictures.
        title: the headline.
        threshold: the decision threshold, the middle of the colour scale.
        geometry_titles: names of the geometry columns.
        tile_px: height of a tile; its width follows the first picture.

    Raises:
        DataError: there is no row, or a row has another number of geometry pictures.
    """
    if not rows or any(len(row.geometry) != len(geometry_titles) for row in rows):
        raise DataError(
            f"{len(rows)} rows do not make a contact sheet",
            why=f"there must be one, each with {len(geometry_titles)} geometry pictures",
            remedy="give each geometry picture a title",
        )
    low, high = display_range([row.anomaly_map for row in rows], threshold)
    titles = ("Colour", *geometry_titles, "Anomaly map", "Overlay, defect outlined")
    height, width = rows[0].rgb.shape[:2]
    tile_size = (tile_px, max(1, round(tile_px * width / height)))
    cards = [_card(row, low, high, tile_size) for row in rows]
    card_height, card_width = cards[0].shape[:2]
    sheet_height = _HEADER_PX + len(cards) * (card_height + _GAP_PX) - _GAP_PX + _MARGIN_PX
    sheet_width = max(card_width + 2 * _MARGIN_PX, _MIN_WIDTH_PX)
    sheet = np.full((sheet_height, sheet_width, 3), _BACKGROUND, dtype=np.uint8)
    _header(sheet, title, titles, tile_size[1], (low, threshold, high))
    for index, card in enumerate(cards):
        top = _HEADER_PX + index * (card_height + _GAP_PX)
        sheet[top : top + card_height, _MARGIN_PX : _MARGIN_PX + card_width] = card
    return sheet


def write_png(path: Path, rgb: UInt8Array) -> None:
    """Writes a PNG that appears whole or not at all.

    Args:
        path: the file; its directory is made where needed.
        rgb: uint8 (H, W, 3), RGB order.

    Raises:
        OutputError: it cannot be written.
    """
    _, content = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    write_bytes(path, content.tobytes())


def _card(row: SheetRow, low: float, high: float, tile_size: tuple[int, int]) -> UInt8Array:
    tile_height, tile_width = tile_size
    tiles = [_fitted(image, tile_size) for image in (row.rgb, *row.geometry)]
    tiles.append(_fitted(heat_map(row.anomaly_map, low, high), tile_size))
    tiles.append(_fitted(heat_overlay(row.rgb, row.anomaly_map, low, high), tile_size))
    if row.gt_mask is not None:
        # Drawn at the tile's size: a line drawn on the picture would blur with it.
        mask = _fitted(np.repeat(row.gt_mask[..., None], 3, axis=2).astype(np.uint8) * 255, tile_size)
        tiles[-1] = outlined(tiles[-1], mask[..., 0])
    width = len(tiles) * (tile_width + _GAP_PX) - _GAP_PX + 2 * _PADDING_PX
    card = np.full((_CAPTION_PX + tile_height + _PADDING_PX, width, 3), _CARD, dtype=np.uint8)
    left = _badge(card, row.decision) + 12
    caption = _shortened(row.caption, 0.48, width - left - _PADDING_PX)
    _text(card, caption, (left, _CAPTION_PX // 2 + 5), 0.48, _TEXT)
    for index, tile in enumerate(tiles):
        left = _PADDING_PX + index * (tile_width + _GAP_PX)
        card[_CAPTION_PX : _CAPTION_PX + tile_height, left : left + tile_width] = tile
    return card


def _badge(card: UInt8Array, decision: Decision) -> int:
    """Draws the decision's name on its colour; gives the column where the badge ends."""
    colour, name, radius, middle = DECISION_COLOURS[decision], decision.value, 10, _CAPTION_PX // 2
    left, right = _PADDING_PX + radius, _PADDING_PX + radius + _text_width(Decision.ERROR.value, 0.45)
    for x in (left, right):
        cv2.circle(card, (x, middle), radius, colour, -1, cv2.LINE_AA)
    cv2.rectangle(card, (left, middle - radius), (right, middle + radius), colour, -1)
    origin = ((left + right - _text_width(name, 0.45)) // 2, middle + 5)
    cv2.putText(card, name, origin, cv2.FONT_HERSHEY_DUPLEX, 0.45, _BACKGROUND, 1, cv2.LINE_AA)
    return right + radius


def _header(
    sheet: UInt8Array, title: str, titles: Sequence[str], tile_width: int, scale: tuple[float, float, float]
) -> None:
    legend_width, legend_height = _LEGEND_PX
    left, top = sheet.shape[1] - _MARGIN_PX - legend_width, 34
    bar = heat_map(np.linspace(0, 1, legend_width, dtype=np.float32)[None], 0, 1)
    sheet[top : top + legend_height, left : left + legend_width] = bar
    names = (f"{scale[0]:.3g}", f"threshold {scale[1]:.3g}", f"{scale[2]:.3g}")
    for share, name in zip((0.0, 0.5, 1.0), names, strict=True):
        x = round(left + share * (legend_width - _text_width(name, 0.38)))
        _text(sheet, name, (x, top + legend_height + 16), 0.38, _MUTED)
    middle = left + legend_width // 2
    cv2.line(sheet, (middle, top - 3), (middle, top + legend_height + 2), _TEXT, 1)
    _text(sheet, _shortened(title, 0.85, left - 2 * _MARGIN_PX), (_MARGIN_PX, 52), 0.85, _TEXT)
    for index, name in enumerate(titles):
        x = _MARGIN_PX + _PADDING_PX + index * (tile_width + _GAP_PX)
        _text(sheet, _shortened(name, 0.42, tile_width), (x, _HEADER_PX - 12), 0.42, _MUTED)


def _fitted(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """The picture, whole, in the middle of a tile of ``size`` (height, width)."""
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, round(scale * length)) for length in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    tile = np.full((*size, 3), _TILE, dtype=np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    tile[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=method)
    return tile


def _scaled(anomaly_map: AnyArray, low: float, high: float) -> Float32Array:
    if not high > low:
        raise DataError(
            f"a colour scale from {low} to {high} is empty",
            why="its upper end must be above its lower",
            remedy="use edge_ad.visualization.display_range",
        )
    share = np.nan_to_num((anomaly_map - low) / (high - low), nan=1.0, posinf=1.0, neginf=1.0)
    return np.clip(share, 0, 1).astype(np.float32)


def _text(image: UInt8Array, text: str, origin: tuple[int, int], scale: float, colour: Colour) -> None:
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def _text_width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale, 1)[0][0])


def _shortened(text: str, scale: float, width_px: int) -> str:
    if _text_width(text, scale) <= width_px:
        return text
    while text and _text_width(text + "...", scale) > width_px:
        text = text[:-1]
    return text + "..."
