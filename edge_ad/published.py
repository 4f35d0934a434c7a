"""What the papers did and report, as data: settings, and numbers by category with source and how far they were checked.

All numbers are percent. ``aupro_30`` is the papers' own, with their own thresholds: TRD's code takes 100 of them,
MMRD does not say; the metric of that name in ``edge_ad.metrics`` is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CATEGORIES: dict[str, tuple[str, ...]] = {
    "mvtec3d": (
        "bagel",
        "cable_gland",
        "carrot",
        "cookie",
        "dowel",
        "foam",
        "peach",
        "potato",
        "rope",
        "tire",
    ),
    "eyecandies": (
        "CandyCane",
        "ChocolateCookie",
        "ChocolatePraline",
        "Confetto",
        "GummyBear",
        "HazelnutTruffle",
        "LicoriceSandwich",
        "Lollipop",
        "Marshmallow",
        "PeppermintCandy",
    ),
}
"""Each data set's categories, named as their folders are, in the order of the papers' tables."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a paper trains one model for each category: at 256², 16 frames a step, Adam with betas 0.5 and 0.999.

    Attributes:
        epochs: by data set.
        modalities: by data set, those of the paper's best table.
        learning_rate: of Adam at the start.
        decay: factor on it after each epoch.
        settings: what else differs from edge-ad's defaults.
    """

    epochs: Mapping[str, int]
    modalities: Mapping[str, tuple[str, ...]]
    learning_rate: float
    decay: float
    settings: Mapping[str, Any]


PROTOCOLS: dict[str, Protocol] = {
    "crd": Protocol(
        epochs={"mvtec3d": 200, "eyecandies": 100},
        modalities={"mvtec3d": ("rgb", "normals"), "eyecandies": ("rgb", "normals")},
        learning_rate=5e-3,
        decay=0.95,
        settings={"crd": {"modality_dropout": 0.0}},
    ),
    "mmrd": Protocol(
        epochs={"mvtec3d": 400, "eyecandies": 400},
        modalities={"mvtec3d": ("rgb", "depth"), "eyecandies": ("rgb", "normals")},
        learning_rate=1e-3,
        decay=1.0,
        settings={},
    ),
    "rd": Protocol(
        epochs={"mvtec3d": 200, "eyecandies": 200},
        modalities={"mvtec3d": ("rgb",), "eyecandies": ("rgb",)},
        learning_rate=5e-3,
        decay=1.0,
        settings={},
    ),
}
"""CRD as TRD's public code has it, RD as RD4AD's, which keeps its learning rate. MMRD has no public code; its paper
says neither betas nor a decay, which are RD's here."""


@dataclass(frozen=True, slots=True)
class Published:
    """One row of a paper's table.

    Attributes:
        method: as the paper calls it.
        model: as ``edge_ad.config.TrainConfig.model`` calls it.
        dataset: a key of ``CATEGORIES``.
        modalities: what the method sees.
        by_category: values by metric, one for each of the data set's categories in their order, in %.
        means: by metric, as printed, in %.
        source: where the numbers were read.
        status: how far they were checked.
    """

    method: str
    model: str
    dataset: str
    modalities: tuple[str, ...]
    by_category: dict[str, tuple[float, ...]]
    means: dict[str, float]
    source: str
    status: str

    def value(self, category: str, metric: str) -> float | None:
        """The paper's number in %, None where it gives none."""
        values = self.by_category.get(metric)
        return None if values is None else values[CATEGORIES[self.dataset].index(category)]


_TRD_SOURCE = "TRD (arXiv 2412.08949), results table shown in the README of the authors' code hito2448/TRD"
_TRD_STATUS = "README figure; the paper's own table was not compared"
_MMRD_SOURCE = "MMRD (AAAI 2024), tables of the paper"
_MMRD_STATUS = "paper's text"

PUBLISHED = (
    Published(
        method="TRD RGB+D",
        model="crd",
        dataset="mvtec3d",
        modalities=("rgb", "depth"),
        by_category={
            "image_auroc": (99.6, 96.1, 98.2, 98.5, 99.7, 90.1, 99.2, 97.6, 100.0, 83.3),
            "pixel_auroc": (99.3, 99.3, 99.8, 99.3, 99.7, 97.4, 99.8, 99.9, 99.7, 99.5),
            "aupro_30": (97.5, 97.4, 98.1, 97.3, 97.9, 90.2, 98.2, 98.3, 97.6, 96.8),
        },
        means={"image_auroc": 96.2, "pixel_auroc": 99.4, "aupro_30": 96.9},
        source=_TRD_SOURCE,
        status=_TRD_STATUS,
    ),
    Published(
        method="TRD RGB+N",
        model="crd",
        dataset="mvtec3d",
        modalities=("rgb", "normals"),
        by_category={
            "image_auroc": (98.9, 99.5, 99.7, 97.0, 100.0, 98.8, 99.6, 98.3, 100.0, 91.7),
            "pixel_auroc": (99.3, 99.6, 99.8, 99.2, 99.7, 99.8, 99.8, 99.8, 99.7, 99.7),
            "aupro_30": (97.5, 98.0, 98.2, 97.1, 98.1, 98.2, 98.2, 98.3, 97.8, 97.9),
        },
        means={"image_auroc": 98.4, "pixel_auroc": 99.6, "aupro_30": 97.9},
        source=_TRD_SOURCE,
        status=_TRD_STATUS,
    ),
    Published(
        method="MMRD RGB+D",
        model="mmrd",
        dataset="mvtec3d",
        modalities=("rgb", "depth"),
        by_category={
            "image_auroc": (99.9, 94.3, 96.4, 94.3, 99.2, 91.2, 94.9, 90.1, 99.4, 90.1),
            "aupro_30": (98.6, 99.0, 99.1, 95.1, 99.0, 90.1, 99.0, 99.0, 98.7, 98.2),
        },
        means={"image_auroc": 95.0, "pixel_auroc": 99.2, "aupro_30": 97.6},
        source=_MMRD_SOURCE,
        status=_MMRD_STATUS,
    ),
    Published(
        method="MMRD RGB+N",
        model="mmrd",
        dataset="eyecandies",
        modalities=("rgb", "normals"),
        by_category={
            "image_auroc": (85.4, 100.0, 94.6, 99.8, 90.8, 74.7, 96.6, 98.4, 100.0, 100.0),
            "aupro_30": (97.5, 97.0, 94.2, 98.5, 91.7, 68.0, 97.0, 94.1, 99.0, 99.2),
        },
        means={"image_auroc": 94.0, "pixel_auroc": 98.3, "aupro_30": 93.6},
        source=_MMRD_SOURCE,
        status=_MMRD_STATUS,
    ),
    Published(
        method="RD RGB",
        model="rd",
        dataset="eyecandies",
        modalities=("rgb",),
        by_category={},
        means={"image_auroc": 84.0, "pixel_auroc": 96.7, "aupro_30": 88.9},
        source="MMRD (AAAI 2024), first row of its ablation",
        status=_MMRD_STATUS,
    ),
)
"""What was found. TRD's Eyecandies table was not."""


def published(dataset: str, model: str, modalities: tuple[str, ...]) -> Published | None:
    """The paper's row for this setting; None where none was found."""
    wanted = (dataset, model, frozenset(modalities))
    return next((row for row in PUBLISHED if (row.dataset, row.model, frozenset(row.modalities)) == wanted), None)
