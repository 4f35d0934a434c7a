"""What is kept of a judged test frame, and which parts are worth a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_ad.feeds import map_on_frame
from edge_ad.scoring import judge
from edge_ad.types import AnomalyResult, AnyArray, BoolArray, Float32Array, Frame, LabelledFrame, Roi, UInt8Array
from edge_ad.visualization import SheetRow, depth_to_rgb

EXAMPLES = 4
"""How many parts of each class are kept to look at."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What is kept of a frame; its images are dropped.

    Attributes:
        path: defect and number, e.g. ``"scratch/003"``.
        defect: the folder's name.
        is_anomalous: by the folder.
        gt_mask: bool (H, W), all False for a good part; None for a defective one without a mask.
        score: of the whole part.
        anomaly_map: float32 (H, W).
        modality_maps: float32 (H, W), by modality.
    """

    path: str
    defect: str
    is_anomalous: bool
    gt_mask: BoolArray | None
    score: float
    anomaly_map: Float32Array
    modality_maps: dict[str, Float32Array]

    @classmethod
    def of(cls, item: LabelledFrame, result: AnomalyResult, roi: Roi | None) -> Judged:
        """Keeps the result; a good part without a mask gets an empty one, modality maps the frame's size.

        Args:
            item: the part.
            result: what the model said of it.
            roi: where in the frame the modality maps are; None for all of it.
        """
        height, width = item.frame.size_px
        mask = item.gt_mask if item.gt_mask is not None or item.is_anomalous else np.zeros((height, width), bool)
        place = roi or Roi(0, 0, width, height)
        maps = {name: map_on_frame(array, place, (height, width)) for name, array in result.modality_maps.items()}
        path = f"{item.defect}/{item.path.stem}"
        return cls(path, item.defect, item.is_anomalous, mask, result.score, result.anomaly_map, maps)


@dataclass(frozen=True, slots=True)
class Example:
    """One part with its pictures.

    Attributes:
        judged: what the model made of it.
        views: what the sensor saw, uint8 (H, W, 3) by name: Colour, Depth. Heat is laid over the first.
    """

    judged: Judged
    views: dict[str, UInt8Array]


def examples(chosen: AnyArray, items: Sequence[Judged], frames: Sequence[LabelledFrame]) -> tuple[Example, ...]:
    """The first `EXAMPLES` of the chosen parts, their frames read again.

    Args:
        chosen: int (K,), indices of parts.
        items: all parts.
        frames: their frames.
    """
    return tuple(Example(items[index], _views(frames[index].frame)) for index in chosen[:EXAMPLES])


def _views(frame: Frame) -> dict[str, UInt8Array]:
    """What the sensor saw, by name; colour, where there is any, comes first."""
    views = {} if frame.rgb is None else {"Colour": frame.rgb}
    if frame.depth is not None:
        views["Depth"] = depth_to_rgb(frame.depth_m())
    return views


def sheet_rows(
    items: Sequence[Judged], frames: Sequence[LabelledFrame], threshold: float
) -> tuple[tuple[SheetRow, ...], tuple[str, ...]]:
    """The median part of each kind of defect, the median good one and the worst good one.

    Args:
        items: all parts.
        frames: their frames; those chosen are read again.
        threshold: which decides what is written beside each.

    Returns:
        The rows, and the titles of their pictures beside colour and map.
    """
    chosen = []
    for kind in ["good", *sorted({item.defect for item in items} - {"good"})]:
        ranked = sorted((i for i, item in enumerate(items) if item.defect == kind), key=lambda i: items[i].score)
        chosen += [ranked[len(ranked) // 2]] + ([ranked[-1]] if kind == "good" and len(ranked) > 1 else [])
    rows = []
    for index in chosen:
        item = items[index]
        views = _views(frames[index].frame)
        result = AnomalyResult(item.anomaly_map, item.score)
        rows.append(
            SheetRow(
                rgb=next(iter(views.values())),
                geometry=(views["Depth"],) if "Depth" in views else (),
                anomaly_map=item.anomaly_map,
                gt_mask=item.gt_mask,
                caption=f"{item.path}   score {item.score:.2f}",
                decision=judge(result, threshold).decision,
            )
        )
    return tuple(rows), ("Depth",) if rows[0].geometry else ()
