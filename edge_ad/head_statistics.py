"""What good validation frames teach a head: the statistics of its map, and the scores that set its threshold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edge_ad.models.anomaly_map import AnomalyHead
from edge_ad.models.detector import Detector
from edge_ad.models.layers import Features

FOLDS = 10
"""Groups of validation frames; each is scored by a head that learned from the others."""


@torch.no_grad()
def learn_head(detector: Detector, mode: str, validation: Mapping[str, Tensor]) -> tuple[float, ...]:
    """Fits the head of an operating mode.

    A frame that took part in setting the scale of the map would score a little lower than one that comes
    later, and the threshold would promise too much. So the scores are cross-fitted: each comes from a head that
    learned from other frames (cross-conformal prediction, Vovk 2015). The head that is kept learns from all.

    Args:
        detector: in eval mode.
        mode: its operating mode.
        validation: the graph's inputs of the good frames, frames first.

    Returns:
        The frames' scores, in order.
    """
    distances, region = _distances(detector, mode, validation)
    head = detector.heads[mode]
    assert isinstance(head, AnomalyHead)
    count = len(next(iter(distances.values()))[0])
    groups = min(FOLDS, count)
    scores = torch.zeros(count, dtype=torch.float64)
    for group in range(groups):
        out = torch.arange(count) % groups == group
        head.learn(*_rows(distances, region, ~out))
        scores[out] = head(*_rows(distances, region, out))[1].double().cpu()
    head.learn(distances, region)
    return tuple(float(score) for score in scores)


def _distances(
    detector: Detector, mode: str, validation: Mapping[str, Tensor]
) -> tuple[dict[str, Features], Tensor | None]:
    """Of all frames, one at a time as on the line, and the region of each."""
    graph = detector.operating(mode)
    device = next(detector.buffers()).device
    found: dict[str, list[Features]] = {}
    regions = []
    for row in range(len(next(iter(validation.values())))):
        one = {name: validation[name][row : row + 1].to(device) for name in graph.input_names}
        batch, region = detector.batch(one, graph.modalities)
        for name, maps in detector.method.distances(batch, mode).items():
            found.setdefault(name, []).append(maps)
        regions += [] if region is None else [region]
    distances = {name: [torch.cat(x) for x in zip(*parts, strict=True)] for name, parts in found.items()}
    return distances, torch.cat(regions) if regions else None


def _rows(
    distances: Mapping[str, Features], region: Tensor | None, chosen: Tensor
) -> tuple[dict[str, Features], Tensor | None]:
    some = {name: [x[chosen] for x in maps] for name, maps in distances.items()}
    return some, None if region is None else region[chosen]
