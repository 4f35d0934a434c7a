from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_ad.config import TrainConfig
from edge_ad.errors import ConfigError, DataError
from edge_ad.experiments import Experiment, Failure, Origin, Report
from edge_ad.published import CATEGORIES
from edge_ad.reproduction import Request, comparison, document, markdown, plan
from tests.paper_layouts import SETTINGS, write_eyecandies, write_mvtec3d


@pytest.fixture(scope="module")
def mvtec3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mvtec3d")
    write_mvtec3d(root / "cookie")
    write_mvtec3d(root / "bagel", seed=1)
    return root


def report(category: str, seed: int = 0, **metrics: float) -> Report:
    experiment = Experiment(
        name=f"{category}-{seed}", data=Path(category), label="crd-rgb+normals", config=TrainConfig(seed=seed)
    )
    origin = Origin(version="", files_sha256="", weights_sha256="")
    return Report(experiment=experiment, category=category, origin=origin, evaluation={"metrics": metrics})


def test_the_papers_settings_for_mvtec(mvtec3d: Path) -> None:
    planned = plan(Request(mvtec3d, "mvtec3d"))
    assert planned.categories == ("bagel", "cookie")
    assert planned.missing == tuple(name for name in CATEGORIES["mvtec3d"] if name not in ("bagel", "cookie"))
    first = planned.experiments[0]
    config = first.config
    assert first.name == "bagel-crd-rgb+normals-seed0"
    assert (config.model, config.backbone, config.batch_size) == ("crd", "wide_resnet50_2", 16)
    assert (config.preprocess.modalities, config.preprocess.image_size_px) == (("rgb", "normals"), 256)
    assert (config.preprocess.background, config.preprocess.normals_source) == ("keep", "depth")
    assert (config.head.standardize, config.head.energy_floor, config.head.sigma_px) == ("modality", 0, 4)
    assert (config.learning_rate, config.betas) == (5e-3, (0.5, 0.999))
    assert config.final_learning_rate == pytest.approx(0.95**200)
    assert config.crd.modality_dropout == 0
    assert config.steps == 200


@pytest.mark.parametrize(
    ("model", "modalities", "learning_rate", "epochs", "final"),
    [("crd", 2, 5e-3, 100, 0.95**100), ("mmrd", 2, 1e-3, 400, 1.0), ("rd", 1, 5e-3, 200, 1.0)],
    ids=["crd", "mmrd", "rd"],
)
def test_the_papers_settings_for_eyecandies(
    model: str, modalities: int, learning_rate: float, epochs: int, final: float, tmp_path: Path
) -> None:
    write_eyecandies(tmp_path / "Lollipop")
    (experiment,) = plan(Request(tmp_path, "eyecandies", model)).experiments
    config = experiment.config
    assert len(config.preprocess.modalities) == modalities
    assert config.preprocess.normals_source == "frame"
    assert config.learning_rate == learning_rate
    assert config.final_learning_rate == pytest.approx(final)
    assert config.steps == epochs


def test_epochs_become_steps_of_whole_batches(mvtec3d: Path) -> None:
    request = Request(mvtec3d, "mvtec3d", epochs=7, settings={"batch_size": 2, "preprocess": {"image_size_px": 64}})
    config = plan(request).experiments[0].config
    assert config.steps == 7 * 2  # 4 frames to train with
    assert config.preprocess.image_size_px == 64
    assert config.preprocess.background == "keep"


def test_seeds_are_runs_of_their_own(mvtec3d: Path) -> None:
    experiments = plan(Request(mvtec3d, "mvtec3d", categories=("cookie",), seeds=2)).experiments
    assert [(x.name, x.config.seed) for x in experiments] == [
        ("cookie-crd-rgb+normals-seed0", 0),
        ("cookie-crd-rgb+normals-seed1", 1),
    ]


def test_a_category_that_cannot_be_opened_is_a_failure_and_the_others_are_planned(tmp_path: Path) -> None:
    write_mvtec3d(tmp_path / "rope")
    write_mvtec3d(tmp_path / "tire")
    (tmp_path / "rope/test/dent/gt/003.png").unlink()
    planned = plan(Request(tmp_path, "mvtec3d"))
    assert [experiment.data.name for experiment in planned.experiments] == ["tire"]
    assert [failure.name for failure in planned.failures] == ["rope"]
    assert "003.png has no mask" in planned.failures[0].what


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"dataset": "mvtec"}, ConfigError, "'mvtec' is unknown"),
        ({"model": "cmdiad"}, ConfigError, "no protocol for model 'cmdiad'"),
        ({"categories": ("Bagel",)}, ConfigError, "no category 'Bagel'"),
        ({"categories": ("bagel", "tire")}, DataError, "lacks tire"),
        ({"modalities": ("rgb", "sound")}, ConfigError, "modalities"),
        ({"settings": {"stepz": 5}}, ConfigError, "stepz"),
        ({"dataset": "eyecandies"}, DataError, "lacks CandyCane"),
    ],
    ids=["dataset", "model", "category", "absent", "modality", "setting", "none-there"],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], text: str, mvtec3d: Path) -> None:
    with pytest.raises(error, match=text):
        plan(Request(**{"data": mvtec3d, "dataset": "mvtec3d", **options}))


def test_the_table_puts_ours_beside_the_papers(mvtec3d: Path) -> None:
    planned = plan(Request(mvtec3d, "mvtec3d", seeds=2))
    reports = [
        report("bagel", 0, image_auroc=0.90, pixel_auroc=0.95, aupro_30=0.80, aupro_30_100=0.79),
        report("bagel", 1, image_auroc=0.94, pixel_auroc=0.95, aupro_30=0.90, aupro_30_100=0.89),
    ]
    table = comparison(planned, reports)
    assert table.headings[:3] == ("category", "I-AUROC", "TRD RGB+N")
    assert table.headings[-1].startswith("secondary")
    bagel, cookie, mean = table.rows
    assert bagel == ("bagel", "92.0 ± 2.8", "98.9", "95.0 ± 0.0", "99.3", "85.0 ± 7.1", "97.5", "84.0 ± 7.1")
    assert cookie == ("cookie", "–", "97.0", "–", "99.2", "–", "97.1", "–")
    assert mean == ("mean of 1", "92.0", "98.9", "95.0", "99.3", "85.0", "97.5", "84.0")


def test_with_all_categories_the_papers_mean_is_the_printed_one(tmp_path: Path) -> None:
    for name in CATEGORIES["eyecandies"]:
        (tmp_path / name).mkdir()
    planned = plan(Request(tmp_path, "eyecandies", "mmrd"))
    reports = [report(name, image_auroc=0.9, pixel_auroc=0.9, aupro_30=0.9) for name in CATEGORIES["eyecandies"]]
    assert comparison(planned, reports).rows[-1] == ("mean of 10", "90.0", "94.0", "90.0", "98.3", "90.0", "93.6", "–")


def test_results_tell_where_numbers_come_from_and_what_differs(mvtec3d: Path) -> None:
    request = Request(mvtec3d, "mvtec3d", backbone="resnet18", epochs=3, settings=SETTINGS)
    planned = plan(request)
    failure = Failure(name="cookie", what="it broke")
    text = markdown(planned, comparison(planned, [report("bagel", image_auroc=0.9)]), [failure])
    assert "README figure" in text
    assert "Not in the data set's directory: cable_gland, carrot" in text
    assert "Failed: cookie: it broke." in text
    assert "- Asked for: teacher resnet18 instead of wide_resnet50_2." in text
    assert "- Asked for: 3 epochs instead of 200." in text
    assert '"image_size_px": 64' in text
    content = document(planned, [report("bagel", image_auroc=0.9)], [failure])
    assert content["paper"]["means"]["image_auroc"] == 98.4
    assert content["categories"]["bagel"]["paper"]["pixel_auroc"] == 99.3
    assert content["mean"] == {"image_auroc": 90.0}
    assert content["failures"][0]["what"] == "it broke"
    assert len(content["differences"]) == 3 + len(Request(mvtec3d, "mvtec3d").differences)
