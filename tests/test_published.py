from __future__ import annotations

import statistics

import pytest

from edge_ad.config import MODALITY_COUNTS
from edge_ad.published import CATEGORIES, PROTOCOLS, PUBLISHED, Published, published


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.method}-{row.dataset}")
def test_printed_means_are_those_of_the_categories(row: Published) -> None:
    for metric, values in row.by_category.items():
        assert len(values) == len(CATEGORIES[row.dataset]) == 10
        assert all(50 < value <= 100 for value in values)
        assert statistics.mean(values) == pytest.approx(row.means[metric], abs=0.051)
    assert row.source
    assert row.status


def test_a_row_is_found_whatever_the_order_of_its_modalities() -> None:
    row = published("mvtec3d", "crd", ("normals", "rgb"))
    assert row is not None
    assert (row.method, row.value("tire", "image_auroc")) == ("TRD RGB+N", 91.7)
    mmrd = published("eyecandies", "mmrd", ("rgb", "normals"))
    assert mmrd is not None
    assert (mmrd.value("HazelnutTruffle", "aupro_30"), mmrd.value("Lollipop", "pixel_auroc")) == (68.0, None)


def test_what_no_paper_was_found_for_has_no_row() -> None:
    assert published("eyecandies", "crd", ("rgb", "normals")) is None
    assert published("mvtec3d", "crd", ("depth", "normals")) is None


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_are_of_models_and_data_sets_that_exist(name: str) -> None:
    protocol = PROTOCOLS[name]
    counts = {model: range(fewest, most + 1) for model, (fewest, most) in MODALITY_COUNTS.items()}
    assert set(protocol.epochs) == set(protocol.modalities) == set(CATEGORIES)
    for modalities in protocol.modalities.values():
        assert len(modalities) in {str(model): lengths for model, lengths in counts.items()}[name]
