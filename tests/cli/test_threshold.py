from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest
from scipy import stats

from edge_ad.bundle import Threshold, read_bundle
from edge_ad.cli.threshold_scores import GoodScores
from edge_ad.data import Dataset
from edge_ad.data.synthetic import write_synthetic
from edge_ad.engine_build import build_engine
from edge_ad.models.checkpoint import read_checkpoint
from edge_ad.predictor import open_predictor
from tests.cli.command_line import Outcome, edge_ad
from tests.datasets import SIZE_PX
from tests.factories import make_bundle


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames that fit the sample graph: 20 good ones to set the threshold, 4 defective ones."""
    root = tmp_path_factory.mktemp("captures") / "widget"
    write_synthetic(root, train=4, validation=20, test_good=1, test_per_defect=1, size_px=64)
    return root


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many parts as in ``synthetic_root``, and other ones."""
    root = tmp_path_factory.mktemp("fresh") / "housing"
    write_synthetic(root, train=10, validation=5, test_good=1, test_per_defect=1, size_px=SIZE_PX, seed=9)
    return root


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle").directory


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def report_of(done: Outcome, mode: str = "full") -> Any:
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["modes"][mode]


def scores_of(model: Path, root: Path, split: str) -> list[float]:
    from edge_ad.data import open_dataset

    predictor = open_predictor(model)
    return [predictor(item.frame).score for item in open_dataset(root).frames(split)]


def test_without_a_rate_the_largest_good_score_is_set(bundle: Path, captures: Path) -> None:
    before = read_bundle(bundle)
    report = report_of(edge_ad("threshold", bundle, captures, "--json"))
    after = read_bundle(bundle)
    assert after.digest == before.digest
    assert after.thresholds.modes["full"].value == pytest.approx(max(scores_of(bundle, captures, "validation")))
    assert report["old"]["value"] == 4.0
    assert report["new"] == after.thresholds.modes["full"].model_dump()
    assert report["promise"].startswith("at most 140 false rejects in 1,000 at 95 % confidence, from 20 frames")
    assert report["detection"] is None


def test_a_rate_sets_a_lower_threshold_that_people_can_read(bundle: Path, captures: Path) -> None:
    done = edge_ad("threshold", bundle / "model.onnx", captures, "--false-reject-rate", "0.4", "--confidence", "0.9")
    assert done.exit_code == 0, done.stderr
    threshold = read_bundle(bundle).thresholds.modes["full"]
    scores = sorted(scores_of(bundle, captures, "validation"))
    assert threshold.value == pytest.approx(scores[-5])
    assert threshold.false_reject_bound == pytest.approx(stats.beta.ppf(0.9, 5, 16))
    assert f"full: threshold 4.000 → {threshold.value:.3f}" in done.stdout
    assert "at most 361 false rejects in 1,000 at 90 % confidence, from 20 frames" in done.stdout
    assert "edge-ad build-engine" in done.stderr


def test_with_defects_and_a_rate_the_promise_stands_and_the_catch_is_told(bundle: Path, captures: Path) -> None:
    report = report_of(edge_ad("threshold", bundle, captures, "--false-reject-rate", "0.2", "--with-defects", "--json"))
    plain = report_of(edge_ad("threshold", bundle, captures, "--false-reject-rate", "0.2", "--json"))
    assert report["new"] == plain["new"]
    assert report["detection"]["parts"] > 0
    assert 0 <= report["detection"]["rate_bound"] <= report["detection"]["found"] / report["detection"]["parts"]
    values = [candidate["value"] for candidate in report["candidates"]]
    assert values == pytest.approx(sorted(scores_of(bundle, captures, "validation"), reverse=True)[:5])
    found = [candidate["found"] for candidate in report["candidates"]]
    assert found == sorted(found)


def test_with_defects_and_no_rate_they_choose(run: Path, synthetic_root: Path) -> None:
    done = edge_ad("threshold", run, synthetic_root, "--with-defects")
    assert done.exit_code == 0, done.stderr
    assert "best balanced accuracy on 5 good and 7 defective frames" in done.stdout
    assert "of 7 defective parts" in done.stdout
    assert "the largest good scores as thresholds" in done.stdout
    assert "evaluate it on others" in done.stderr


def test_a_run_and_its_own_data_make_a_threshold_of_the_cross_fitted_scores(run: Path, synthetic_root: Path) -> None:
    scores = read_checkpoint(run)[0].validation_scores["full"]
    report = report_of(
        edge_ad("threshold", run, synthetic_root, "--false-reject-rate", "0.6", "--confidence", "0.8", "--json")
    )
    assert report["new"]["value"] == sorted(scores)[-2]
    by_the_final_head = sorted(scores_of(run, synthetic_root, "validation"))[-2]
    assert report["new"]["value"] != pytest.approx(by_the_final_head, abs=1e-3)
    assert report["new"]["assumption"] == ""
    assert open_predictor(run).threshold == report["new"]["value"]
    assert read_checkpoint(run)[0].validation_scores["full"] == scores


def test_other_data_are_judged_by_the_run(run: Path, fresh: Path) -> None:
    report = report_of(edge_ad("threshold", run, fresh, "--json"))
    assert report["new"]["value"] == pytest.approx(max(scores_of(run, fresh, "validation")))
    assert report["new"]["assumption"] == ""


def test_new_frames_join_those_that_the_run_has_scored(
    run: Path, synthetic_root: Path, fresh: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(synthetic_root, tmp_path / "housing"))
    for path in (fresh / "validation").rglob("*.png"):
        shutil.copy(path, data / path.relative_to(fresh).with_stem(f"9{path.stem}"))
    report = report_of(edge_ad("threshold", run, data, "--json"))
    kept = read_checkpoint(run)[0].validation_scores["full"]
    assert report["new"]["frames"] == 10
    assert report["new"]["value"] == pytest.approx(max(*kept, *scores_of(run, fresh, "validation")))


def test_frames_that_were_trained_on_set_no_threshold(run: Path, synthetic_root: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(synthetic_root, tmp_path / "housing"))
    for path in (synthetic_root / "train").rglob("*000001.png"):
        shutil.copy(path, data / "validation" / path.relative_to(synthetic_root / "train").with_stem("900001"))
    done = edge_ad("threshold", run, data)
    assert done.exit_code == 3
    assert "has learned from 1 of the 6 good validation frames" in done.stderr


def test_another_product_is_noticed(run: Path, captures: Path, synthetic_root: Path, tmp_path: Path) -> None:
    assert "mind" not in edge_ad("threshold", run, synthetic_root).stderr
    other = tmp_path / "lid"
    write_synthetic(other, train=2, validation=5, test_good=1, test_per_defect=1, size_px=SIZE_PX, seed=3)
    for path in (other / "validation").rglob("rgb/*.png"):
        image = cv2.imread(str(path))
        assert image is not None
        assert cv2.imwrite(str(path), 255 - image)
    done = edge_ad("threshold", run, other)
    assert done.exit_code == 0, done.stderr
    assert "DATA is lid, the model has learned housing" in done.stderr
    assert "full: 5 of 5 good parts were above the threshold until now" in done.stderr


def test_a_bundle_and_the_data_of_its_training_make_an_assumption(
    bundle_directory: Path, synthetic_root: Path, fresh: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(bundle_directory, tmp_path / "bundle"))
    done = edge_ad("threshold", bundle, synthetic_root)
    assert done.exit_code == 0, done.stderr
    assert "if the validation frames, which also set the scale of the scores, stand for new parts" in done.stdout
    assert "set the threshold on the run before the export" in done.stderr
    assert read_bundle(bundle).thresholds.modes["full"].assumption.startswith("the validation frames")

    done = edge_ad("threshold", bundle, fresh)
    assert done.exit_code == 0, done.stderr
    assert "before the export" not in done.stderr
    assert read_bundle(bundle).thresholds.modes["full"].assumption == ""


def test_an_assumption_joins_the_threshold_s_own() -> None:
    tail = Threshold(value=1, method="tail", frames=9, false_reject_rate=0.1, assumption="it is a tail")
    assert GoodScores({}, "they are fresh").assumed_by(tail).assumption == "they are fresh and it is a tail"
    assert GoodScores({}).assumed_by(tail) == tail


def test_all_modes_of_a_model_are_set_at_once(run: Path, synthetic_root: Path) -> None:
    modes = set(read_checkpoint(run)[0].thresholds.modes)
    done = edge_ad("threshold", run, synthetic_root, "--mode", "all", "--json")
    assert done.exit_code == 0, done.stderr
    assert set(json.loads(done.stdout)["modes"]) == modes


@pytest.mark.slow
def test_folds_add_the_training_frames(run: Path, synthetic_root: Path, dataset: Dataset) -> None:
    report = report_of(edge_ad("threshold", run, synthetic_root, "--folds", "2", "--json"))
    assert report["new"]["frames"] == len(dataset.frames("train")) + len(dataset.frames("validation"))
    assert "without guarantee" in report["new"]["method"]
    assert "if models trained without" in report["promise"]


@pytest.mark.parametrize(
    ("options", "exit_code", "text"),
    [
        (("--with-defects",), 3, "no defective test frames"),
        (("--method", "tail", "--false-reject-rate", "0.01"), 2, "15 good frames are too few for a tail"),
        (("--false-reject-rate", "0.05"), 2, "15 good frames cannot promise"),
    ],
    ids=["no-defects", "tail", "conformal"],
)
def test_what_folds_cannot_mend_is_refused_before_their_training(
    run: Path, synthetic_root: Path, tmp_path: Path, options: tuple[str, ...], exit_code: int, text: str
) -> None:
    data = Path(shutil.copytree(synthetic_root, tmp_path / "housing"))
    for folder in (data / "test").iterdir():
        if folder.name != "good":
            shutil.rmtree(folder)
    done = edge_ad("threshold", run, data, "--folds", "2", *options)
    assert done.exit_code == exit_code, done.stderr
    assert text in done.stderr
    assert not (run / "folds").exists()


def test_an_engine_is_sent_back_to_its_bundle(bundle: Path, captures: Path, tmp_path: Path) -> None:
    build_engine(read_bundle(bundle), tmp_path / "engine", backend="onnxruntime", precision="fp32")
    done = edge_ad("threshold", tmp_path / "engine", captures)
    assert done.exit_code == 4
    assert "set the threshold on the bundle and build the engine again" in done.stderr


@pytest.mark.parametrize(
    ("options", "exit_code", "text"),
    [
        (("--false-reject-rate", "0.05"), 2, "that takes 59"),
        (("--false-reject-rate", "2"), 2, "--false-reject-rate is 2"),
        (("--confidence", "95"), 2, "--confidence is 95"),
        (("--method", "magic"), 2, "magic"),
        (("--method", "tail"), 2, "--false-reject-rate 0.01"),
        (("--method", "tail", "--false-reject-rate", "0.1"), 2, "that takes 100"),
        (("--method", "tail", "--false-reject-rate", "0.0005"), 2, "that takes 667"),
        (("--mode", "sideways"), 2, "sideways"),
        (("--mode", "rgb_only"), 4, "rgb_only"),
        (("--folds", "3"), 2, "name the run instead"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_changes_nothing(
    bundle: Path, captures: Path, options: tuple[str, ...], exit_code: int, text: str
) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    done = edge_ad("threshold", bundle, captures, *options)
    assert done.exit_code == exit_code, done.stderr
    assert text in done.stderr
    assert "remedy" in done.stderr
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
