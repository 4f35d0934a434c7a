"""What a metric may be asked to measure: checks of labels, scores, masks and maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_ad.errors import DataError
from edge_ad.types import AnyArray, BoolArray

Float64Array = NDArray[np.float64]


def split_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """The scores of the defective parts and those of the good ones.

    Args:
        labels: (N,), true or 1 for a defective part.
        scores: (N,).

    Raises:
        DataError: no part is defective, a score is not finite, or the lengths differ.
    """
    label_array, score_array = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if label_array.ndim != 1 or label_array.shape != score_array.shape:
        raise DataError(
            f"labels are {label_array.shape}, scores {score_array.shape}",
            why="there must be one label for each score, in one dimension",
            remedy="pass two lists of the same length",
        )
    if not np.isin(label_array, (0, 1)).all():
        raise DataError("labels hold other values than 0 and 1", remedy="use 1 for defective, 0 for good")
    if not np.isfinite(score_array).all():
        index = int(np.flatnonzero(~np.isfinite(score_array))[0])
        raise DataError(
            f"score {index} is {score_array[index]}",
            why="a score that is not a number cannot be ranked",
            remedy="find out why the model gave it before measuring",
        )
    anomalous = label_array.astype(bool)
    if not anomalous.any():
        raise DataError(
            "no part is labelled defective",
            why="the metric ranks defective parts against good ones",
            remedy="evaluate a test split that has defects",
        )
    return score_array[anomalous], score_array[~anomalous]


def masks_and_maps(masks: Sequence[AnyArray], maps: Sequence[AnyArray]) -> Iterator[tuple[BoolArray, AnyArray]]:
    """Each image's mask, bool (H, W), and its map (H, W).

    Raises:
        DataError: a map is not finite, or counts or sizes differ.
    """
    if len(masks) != len(maps) or not len(maps):
        raise DataError(
            f"there are {len(masks)} masks for {len(maps)} maps",
            why="each image needs one of both",
            remedy="give a good part a mask of zeros",
        )
    for index, (mask, anomaly_map) in enumerate(zip(masks, maps, strict=True)):
        if mask.ndim != 2 or mask.shape != anomaly_map.shape:
            raise DataError(
                f"mask {index} is {mask.shape}, its map {anomaly_map.shape}",
                why="they must be (H, W) and cover each other pixel by pixel",
                remedy="bring the map to the mask's size, not the mask to the map's",
            )
        if not np.isfinite(anomaly_map).all():
            raise DataError(
                f"map {index} holds NaN or infinity",
                why="a pixel that is not a number cannot be ranked",
                remedy="find out why the model gave it before measuring",
            )
        yield mask != 0, anomaly_map


def require_defects(positives: AnyArray) -> None:
    """Refuses an empty array of defective pixels.

    Raises:
        DataError: it is empty.
    """
    if not positives.size:
        raise DataError(
            "no mask shows a defect",
            why="the metric ranks defective pixels against the others",
            remedy="evaluate a test split that has masks",
        )


def require_negatives(negatives: AnyArray, kind: str) -> None:
    """Refuses an empty array of good parts or pixels, called ``kind`` in the error.

    Raises:
        DataError: it is empty.
    """
    if not negatives.size:
        raise DataError(
            f"there is no {kind}",
            why="a false positive rate needs one",
            remedy="add good parts to the test split",
        )
