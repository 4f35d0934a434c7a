"""How well a model tells bad parts from good ones: metrics, a table of defects, a contact sheet.

Protocol: labels come from the folder, maps are compared at the frames' original size, the image score
is the largest value of the network's map, and AUPRO is exact (every distinct value is a threshold).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_ad.errors import DataError
from edge_ad.feeds import map_on_frame
from edge_ad.metrics import average_precision, f1_max, image_auroc, partial_area, pixel_auroc, pro_curve
from edge_ad.scoring import judge
from edge_ad.types import AnomalyResult, AnyArray, BoolArray, Float32Array, Frame, LabelledFrame, Roi, UInt8Array
from edge_ad.visualization import SheetRow, contact_sheet, depth_to_rgb

Predict = Callable[[Frame], AnomalyResult]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results over a test split.

    Attributes:
        metrics: by name, each in [0, 1].
        modalities: the same metrics by modality, from each modality's map alone.
        defects: per kind of defect: its image AUROC against the good parts, and how many were found.
        threshold: with which parts were judged.
        confusion: good and defective parts, each rejected and all.
        scores: per frame its path, defect and score.
        sheet_rows: a few parts to look at.
    """

    metrics: dict[str, float]
    modalities: dict[str, dict[str, float]]
    defects: dict[str, dict[str, float]]
    threshold: float
    confusion: dict[str, int]
    scores: tuple[dict[str, Any], ...]
    sheet_rows: tuple[SheetRow, ...]
    geometry_titles: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """Everything but the pictures, JSON-able."""
        return {
            "metrics": self.metrics,
            "modalities": self.modalities,
            "defects": self.defects,
            "threshold": self.threshold,
            "confusion": self.confusion,
            "scores": list(self.scores),
        }

    def sheet(self, title: str) -> UInt8Array:
        """The contact sheet, RGB."""
        return contact_sheet(
            self.sheet_rows, title=title, threshold=self.threshold, geometry_titles=self.geometry_titles
        )


def evaluate(
    predict: Predict,
    frames: Sequence[LabelledFrame],
    threshold: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
    roi: Roi | None = None,
) -> Evaluation:
    """Judges every frame of a test split.

    Args:
        predict: the model.
        frames: good and defective parts; read one at a time.
        threshold: a score above it is a reject.
        progress: called with the frames done and all.
        roi: where in the frames the modalities' maps are; None for all of them.

    Raises:
        DataError: a frame cannot be read or does not fit the model, or one of the two classes is missing.
    """
    items: list[_Judged] = []
    for index, item in enumerate(frames):
        items.append(_Judged.of(item, predict(item.frame), roi))
        progress(index + 1, len(frames))
    labels = np.array([item.is_anomalous for item in items], np.bool_)
    if not labels.any() or labels.all():
        raise DataError(
            "the test split cannot be evaluated",
            why=f"it has {int((~labels).sum())} good and {int(labels.sum())} defective parts",
            remedy="it needs both",
        )
    scores = np.array([item.score for item in items])
    names = items[0].modality_maps
    modalities = (
        {name: _metrics(items, labels, [item.modality_maps[name] for item in items], None) for name in names}
        if len(names) > 1
        else {}
    )
    rejected = scores > threshold
    rows, titles = _sheet_rows(items, frames, threshold)
    return Evaluation(
        metrics=_metrics(items, labels, [item.anomaly_map for item in items], scores),
        modalities=modalities,
        defects=_per_defect(items, scores, rejected),
        threshold=threshold,
        confusion={
            "good": int((~labels).sum()),
            "good_rejected": int((rejected & ~labels).sum()),
            "defective": int(labels.sum()),
            "defective_rejected": int((rejected & labels).sum()),
        },
        scores=tuple({"path": item.path, "defect": item.defect, "score": item.score} for item in items),
        sheet_rows=rows,
        geometry_titles=titles,
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is kept of a frame; its images are dropped."""

    path: str
    defect: str
    is_anomalous: bool
    gt_mask: BoolArray | None
    score: float
    anomaly_map: Float32Array
    modality_maps: dict[str, Float32Array]

    @classmethod
    def of(cls, item: LabelledFrame, result: AnomalyResult, roi: Roi | None) -> _Judged:
        height, width = item.frame.size_px
        mask = item.gt_mask if item.gt_mask is not None or item.is_anomalous else np.zeros((height, width), bool)
        place = roi or Roi(0, 0, width, height)
        maps = {name: map_on_frame(array, place, (height, width)) for name, array in result.modality_maps.items()}
        path = f"{item.defect}/{item.path.stem}"
        return cls(path, item.defect, item.is_anomalous, mask, result.score, result.anomaly_map, maps)


def _metrics(
    items: Sequence[_Judged], labels: BoolArray, maps: Sequence[Float32Array], scores: Any
) -> dict[str, float]:
    """All metrics; ``scores`` None takes each map's maximum. Pixel metrics need a mask for every defect."""
    if scores is None:
        scores = np.array([anomaly_map.max() for anomaly_map in maps])
    f1, f1_threshold = f1_max(labels, scores)
    result: dict[str, float] = {
        "image_auroc": image_auroc(labels, scores),
        "average_precision": average_precision(labels, scores),
        "f1_max": f1,
        "f1_max_threshold": f1_threshold,
    }
    masks: list[BoolArray] = [item.gt_mask for item in items if item.gt_mask is not None]
    if len(masks) == len(items) and any(mask.any() for mask in masks):
        rates, overlaps = pro_curve(masks, maps)
        result["pixel_auroc"] = pixel_auroc(masks, maps)
        result["aupro_30"] = partial_area(rates, overlaps, 0.3)
        result["aupro_1"] = partial_area(rates, overlaps, 0.01)
    return result


def _per_defect(items: Sequence[_Judged], scores: Any, rejected: Any) -> dict[str, dict[str, float]]:
    """Each kind of defect against all good parts."""
    kinds: AnyArray = np.array([item.defect for item in items])
    result = {}
    for kind in sorted(set(kinds) - {"good"}):
        pair = np.flatnonzero(np.isin(kinds, (kind, "good")))
        result[str(kind)] = {
            "image_auroc": image_auroc(kinds[pair] == kind, scores[pair]),
            "parts": float((kinds == kind).sum()),
            "found": float(rejected[kinds == kind].sum()),
        }
    return result


def _sheet_rows(
    items: Sequence[_Judged], frames: Sequence[LabelledFrame], threshold: float
) -> tuple[tuple[SheetRow, ...], tuple[str, ...]]:
    """The median part of each kind of defect, the median good one and the worst good one."""
    chosen = []
    for kind in ["good", *sorted({item.defect for item in items} - {"good"})]:
        ranked = sorted((i for i, item in enumerate(items) if item.defect == kind), key=lambda i: items[i].score)
        chosen += [ranked[len(ranked) // 2]] + ([ranked[-1]] if kind == "good" and len(ranked) > 1 else [])
    rows = []
    for index in chosen:
        labelled = frames[index]
        frame, item = labelled.frame, items[index]
        depth = [depth_to_rgb(frame.depth_m())] if frame.depth is not None else []
        rgb = frame.rgb if frame.rgb is not None else depth[0]
        result = AnomalyResult(item.anomaly_map, item.score)
        rows.append(
            SheetRow(
                rgb=rgb,
                geometry=tuple(depth),
                anomaly_map=item.anomaly_map,
                gt_mask=item.gt_mask,
                caption=f"{item.path}   score {item.score:.2f}",
                decision=judge(result, threshold).decision,
            )
        )
    return tuple(rows), ("Depth",) if rows[0].geometry else ()
