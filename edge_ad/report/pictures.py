"""Pictures of parts for the report, as data URIs that a browser shows without asking anyone."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from edge_ad.evaluation import Evaluation
from edge_ad.judged import Example
from edge_ad.types import BoolArray, Float32Array, UInt8Array
from edge_ad.visualization import display_range, heat_map, heat_overlay, outlined

WIDTH_PX = 320
_JPEG: Sequence[int] = (cv2.IMWRITE_JPEG_QUALITY, 82, cv2.IMWRITE_JPEG_OPTIMIZE, 1)
MODALITIES = {
    "rgb": "colour",
    "depth": "depth",
    "normals": "normals",
    "fused": "all together",
    "hallucinated_rgb": "hallucinated colour",
    "hallucinated_depth": "hallucinated depth",
    "hallucinated_normals": "hallucinated normals",
}
"""What a modality is called in the report."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image: its title, what a screen reader says, and its data."""

    title: str
    alt: str
    uri: str


@dataclass(frozen=True, slots=True)
class Card:
    """One part in the report.

    Attributes:
        path: defect and number.
        score: of the whole part.
        verdict: in a word what its judgement was: found or missed, accepted or false reject.
        wrong: whether that was a mistake.
        pictures: what to show.
    """

    path: str
    score: float
    verdict: str
    wrong: bool
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Scales:
    """The ends of the colour scales, which all parts share: of the whole map and of each modality's.

    A modality has no threshold; in the middle of its scale is the score that separates it best.
    """

    whole: tuple[float, float]
    modalities: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, evaluation: Evaluation) -> Scales:
        """The scales that suit the parts that the report shows."""
        shown = [example.judged for example in (*evaluation.lowest_defective, *evaluation.highest_good)]
        modalities = {
            name: display_range([part.modality_maps[name] for part in shown], threshold)
            for name, threshold in evaluation.modality_thresholds.items()
        }
        return cls(display_range([part.anomaly_map for part in shown], evaluation.threshold), modalities)


def card(example: Example, threshold: float, scales: Scales) -> Card:
    """What the sensor saw of the part, the map over it with the true defect outlined, each modality's map."""
    part = example.judged
    first = next(iter(example.views.values()))
    size = (WIDTH_PX, max(1, round(WIDTH_PX * first.shape[0] / first.shape[1])))
    pictures = [
        Picture(name, f"{part.path}: {name.lower()} image", jpeg_uri(_sized(image, size)))
        for name, image in example.views.items()
    ]
    overlay, title = heat_overlay(_sized(first, size), part.anomaly_map, *scales.whole), "Anomaly map"
    if part.gt_mask is not None and part.gt_mask.any():
        overlay, title = outlined(overlay, _around(part.gt_mask, size), line_px=2), "Anomaly map, defect outlined"
    pictures.append(Picture(title, f"{part.path}: anomaly map over the image", jpeg_uri(overlay)))
    for name, scale in scales.modalities.items():
        called = MODALITIES.get(name, name)
        heat = _sized(heat_map(part.modality_maps[name], *scale), size)
        pictures.append(Picture(f"Map of {called}", f"{part.path}: anomaly map of {called} alone", jpeg_uri(heat)))
    rejected = part.score > threshold
    verdict = ("found" if rejected else "missed") if part.is_anomalous else ("false reject" if rejected else "accepted")
    return Card(part.path, part.score, verdict, rejected is not part.is_anomalous, tuple(pictures))


def scale_bar() -> str:
    """The colour scale from low to high, as a data URI."""
    ramp: Float32Array = np.linspace(0, 1, 128, dtype=np.float32)[None]
    return jpeg_uri(np.repeat(heat_map(ramp, 0, 1), 4, axis=0))


def _around(mask: BoolArray, size: tuple[int, int]) -> UInt8Array:
    """The mask at the picture's size and a little wider, so that its outline does not hide a fine defect."""
    return np.asarray(cv2.dilate(_sized(mask.astype(np.uint8) * 255, size), np.ones((7, 7), np.uint8)), np.uint8)


def _sized(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    method = cv2.INTER_AREA if image.shape[1] > size[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def jpeg_uri(rgb: UInt8Array) -> str:
    """The picture as a data URI, JPEG."""
    _, content = cv2.imencode(".jpg", rgb[..., ::-1], _JPEG)
    return f"data:image/jpeg;base64,{base64.b64encode(content.tobytes()).decode()}"
