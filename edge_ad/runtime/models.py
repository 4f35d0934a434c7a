"""What judges one product's parts: its model in every operating mode that there is an engine for."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_ad.bundle import FULL, MANIFEST, read_bundle
from edge_ad.engine import ENGINE
from edge_ad.errors import ConfigError
from edge_ad.predictor import Predictor, bundle_predictors, is_uri, open_predictor
from edge_ad.runtime.judging import Inspector, Judge
from edge_ad.types import Roi


def open_inspector(
    model: str,
    *,
    mode: str | None = None,
    threshold: float | None = None,
    fallback: Sequence[str] = (),
    recipe: str = "",
    roi: Roi | None = None,
    max_skew_ms: float = math.inf,
) -> tuple[Inspector, Predictor]:
    """Opens a model for the line, and what takes over when a sensor fails.

    Of a bundle every mode with a threshold is opened; of an engine those of ``fallback``. Each is run once on
    nothing, so that the first frame is not late. They are freed with the inspector.

    Args:
        model: as for `edge_ad.predictor.open_predictor`.
        mode: the operating mode; one with fewer sensors has no fallback.
        threshold: of that mode; by default the model's.
        fallback: engines of the same bundle for modes with fewer sensors.
        recipe: of the product, for the record.
        roi: the part of the frame that is inspected, of the size that the model was trained on; by default where it
            was then.
        max_skew_ms: colour and depth of a frame may have been exposed so far apart.

    Returns:
        What judges, and the model of the mode that was asked for.

    Raises:
        ConfigError: an engine of ``fallback`` is of another model, or the ROI of another size.
        DataError, ModelError, MissingExtraError: as `open_predictor`.
    """
    predictors = [_moved(predictor, roi) for predictor in _opened(model, mode, fallback)]
    main = predictors[0]
    limit = main.threshold if threshold is None else threshold
    for predictor, path in zip(predictors[1:], fallback, strict=False):
        _check_fallback(predictor, path, main)
    judges = {predictor.mode: Judge(predictor, predictor.threshold, predictor.mode) for predictor in predictors[1:]}
    judges[main.mode] = Judge(main, limit, main.mode)
    for predictor in predictors:
        _warm_up(predictor)
    inspector = Inspector(
        judges,
        main.mode,
        model_id=main.model_id,
        recipe=recipe,
        needs=[spec.name for spec in main.backend.inputs],
        max_skew_ms=max_skew_ms,
        roi=main.spec.roi,
        depth_fill=_depth_fill(main),
    )
    weakref.finalize(inspector, _close, predictors)
    return inspector, main


def _opened(model: str, mode: str | None, fallback: Sequence[str]) -> list[Predictor]:
    """The model in its mode, and then what takes over from it."""
    if mode in (None, FULL) and not fallback and not is_uri(model) and _is_bundle(Path(model)):
        bundle = read_bundle(Path(model))
        return bundle_predictors(bundle, [FULL, *(name for name in bundle.thresholds.modes if name != FULL)])
    main = open_predictor(model, mode)
    return [main, *map(open_predictor, fallback if main.mode == FULL else ())]


def _depth_fill(predictor: Predictor) -> float | None:
    """Share of the ROI that had depth in most good frames."""
    shares = () if predictor.reference is None else predictor.reference.images.get("depth_fill", ())
    return float(np.median(shares)) if shares else None


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file() and not (path / ENGINE).is_file()


def _moved(predictor: Predictor, roi: Roi | None) -> Predictor:
    if roi is None:
        return predictor
    spec, (height_px, width_px) = predictor.spec, predictor.spec.frame_size_px
    inside = roi.x_px + roi.width_px <= width_px and roi.y_px + roi.height_px <= height_px
    if (roi.width_px, roi.height_px) != (spec.roi.width_px, spec.roi.height_px) or not inside:
        raise ConfigError(
            f"the ROI {roi.width_px}×{roi.height_px} px at {roi.x_px}, {roi.y_px} does not fit {predictor.description}",
            why=f"it was trained on {spec.roi.width_px}×{spec.roi.height_px} px of frames of {width_px}×{height_px} px",
            remedy="move the ROI only, or train again",
        )
    return replace(predictor, spec=spec.model_copy(update={"roi": roi}))


def _check_fallback(predictor: Predictor, path: str, main: Predictor) -> None:
    if predictor.model_id != main.model_id or predictor.mode == FULL:
        why = "it needs all sensors" if predictor.mode == FULL else "it is of another bundle"
        raise ConfigError(
            f"{path} cannot take over from {main.description}",
            why=why,
            remedy="build one of the same bundle: edge-ad build-engine BUNDLE --mode rgb_only",
        )


def _warm_up(predictor: Predictor) -> None:
    inputs = predictor.backend.inputs
    shapes = {spec.name: tuple(1 if size is None else size for size in spec.shape) for spec in inputs}
    predictor.backend.run({spec.name: np.ones(shapes[spec.name], spec.dtype) for spec in inputs})


def _close(predictors: Sequence[Predictor]) -> None:
    for predictor in predictors:
        predictor.close()
