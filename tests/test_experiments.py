from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import edge_ad
from edge_ad.config import TrainConfig
from edge_ad.data import open_dataset
from edge_ad.errors import CheckpointError, ConfigError
from edge_ad.experiments import (
    Experiment,
    Failure,
    Origin,
    Report,
    ResultTable,
    attempt,
    check_names,
    known_reports,
    read_report,
    run_experiment,
    summaries,
)
from tests.datasets import QUICK
from tests.paper_layouts import write_mvtec3d

CONFIG = QUICK.model_copy(update={"checkpoint_every_s": 30.0})


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "bagel"
    write_mvtec3d(root)
    return root


def experiment(data: Path, config: TrainConfig = CONFIG) -> Experiment:
    return Experiment(name=f"{data.name}-rd", data=data, label="rd", config=config)


@pytest.fixture(scope="module")
def finished(category: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with one finished experiment, which no test may change."""
    output = tmp_path_factory.mktemp("runs")
    run_experiment(experiment(category), output)
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs"))


@dataclass
class Watched:
    """What an experiment told of itself."""

    stages: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.stages.append(stage)
        if stage == "training":
            self.steps.append(done)


def times(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(output.rglob("*")) if path.is_file()}


def test_an_experiment_leaves_checkpoint_and_report(finished: Path, category: Path) -> None:
    report = read_report(finished / "bagel-rd")
    assert report is not None
    assert report.experiment == experiment(category)
    assert report.category == "bagel"
    assert {"image_auroc", "pixel_auroc", "aupro_30", "aupro_1", "aupro_30_100"} <= set(report.metrics)
    assert len(report.evaluation["scores"]) == 6
    assert set(times(finished)) == {"checkpoint.safetensors", "report.json"}


def test_a_finished_experiment_is_taken_from_its_report(output: Path, category: Path) -> None:
    before, watched = times(output), Watched()
    report = run_experiment(experiment(category), output, watch=watched)
    assert watched.stages == []
    assert times(output) == before
    assert report == read_report(output / "bagel-rd")


def test_what_only_suits_a_machine_does_not_undo_a_report(output: Path, category: Path) -> None:
    watched = Watched()
    run_experiment(experiment(category, CONFIG.model_copy(update={"cache_bytes": 0})), output, watch=watched)
    assert watched.stages == []


def test_a_report_of_other_settings_is_not_reused(output: Path, category: Path) -> None:
    with pytest.raises(CheckpointError, match=r"other settings.*name another --output"):
        run_experiment(experiment(category, CONFIG.model_copy(update={"steps": 4})), output)


def add_test_capture(data: Path) -> None:
    for kind, suffix in (("rgb", "png"), ("xyz", "tiff"), ("gt", "png")):
        shutil.copy(data / f"test/good/{kind}/000.{suffix}", data / f"test/good/{kind}/900.{suffix}")


def damage_report(data: Path, output: Path) -> None:
    (output / "bagel-rd/report.json").write_text('{"schema_version": 1')


def make_report_old(data: Path, output: Path) -> None:
    path = output / "bagel-rd/report.json"
    path.write_text(path.read_text().replace(f'"version": "{edge_ad.__version__}"', '"version": "0.0.1"'))


@pytest.mark.parametrize(
    ("change", "frames"),
    [(lambda data, output: add_test_capture(data), 7), (damage_report, 6), (make_report_old, 6)],
    ids=["new-capture", "damaged-report", "other-version"],
)
def test_what_is_not_up_to_date_is_judged_again_but_not_trained_again(
    change: Callable[[Path, Path], None], frames: int, output: Path, category: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(category, tmp_path / "bagel"))
    change(data, output)
    checkpoint = (output / "bagel-rd/checkpoint.safetensors").stat().st_mtime_ns
    watched = Watched()
    report = run_experiment(experiment(data), output, watch=watched)
    assert len(report.evaluation["scores"]) == frames
    assert watched.steps == []
    assert (output / "bagel-rd/checkpoint.safetensors").stat().st_mtime_ns == checkpoint


def test_a_report_counts_for_its_weights_wherever_they_lie(category: Path, tmp_path: Path) -> None:
    def weights_sha256(path: Path | None) -> str:
        one = experiment(category).model_copy(update={"weights": path})
        return Origin.of(one, open_dataset(category)).weights_sha256

    first, moved, other = (tmp_path / name for name in ("first.pth", "moved.pth", "other.pth"))
    first.write_bytes(b"one")
    moved.write_bytes(b"one")
    other.write_bytes(b"two")
    assert weights_sha256(first) == weights_sha256(moved)
    assert len({weights_sha256(path) for path in (None, first, other, tmp_path / "none.pth")}) == 4


def test_results_start_from_the_reports_of_these_settings(output: Path, category: Path) -> None:
    finished = experiment(category)
    absent = finished.model_copy(update={"name": "absent"})
    relabelled = finished.model_copy(update={"label": "another"})
    changed = experiment(category, CONFIG.model_copy(update={"steps": 4}))
    report = read_report(output / "bagel-rd")
    assert known_reports([absent, finished], output) == {"bagel-rd": report}
    assert [x.experiment.label for x in known_reports([relabelled], output).values() if isinstance(x, Report)] == [
        "another"
    ]
    assert known_reports([changed], output) == {}


def test_a_stopped_experiment_goes_on_from_its_checkpoint(category: Path, tmp_path: Path) -> None:
    class Stopped(KeyboardInterrupt):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "training" and done == 3:
            raise Stopped

    config = QUICK.model_copy(update={"steps": 5})  # with a checkpoint after every step
    with pytest.raises(Stopped):
        attempt(experiment(category, config), tmp_path, watch=stop)
    watched = Watched()
    outcome = attempt(experiment(category, config), tmp_path, watch=watched)
    assert isinstance(outcome, Report)
    assert watched.steps == [4, 5]


def test_a_damaged_category_is_a_failure_with_its_remedy(category: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(category, tmp_path / "bagel"))
    path = data / "train/good/rgb/002.png"
    path.write_bytes(path.read_bytes()[:100])
    outcome = attempt(experiment(data), tmp_path / "runs")
    assert isinstance(outcome, Failure)
    assert outcome.name == "bagel-rd"
    assert "002.png" in outcome.what
    assert outcome.remedy
    assert read_report(tmp_path / "runs/bagel-rd") is None


def test_a_category_without_test_frames_is_not_trained_in_vain(category: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(category, tmp_path / "bagel"))
    shutil.rmtree(data / "test")
    watched = Watched()
    outcome = attempt(experiment(data), tmp_path / "runs", watch=watched)
    assert isinstance(outcome, Failure)
    assert "no test frames" in outcome.what
    assert watched.stages == []


def test_a_fault_of_the_program_is_a_failure_that_tells_the_line(category: Path, tmp_path: Path) -> None:
    def broken(stage: str, done: int, total: int) -> None:
        raise ZeroDivisionError("by zero")

    outcome = attempt(experiment(category), tmp_path, watch=broken)
    assert isinstance(outcome, Failure)
    assert "ZeroDivisionError" in outcome.what
    assert "by zero" in outcome.why
    assert "test_experiments.py:" in outcome.why


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "lid v2", "[red]lid", "-lid", "lid\n"])
def test_a_name_that_names_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names a folder"):
        Experiment(name=name, data=tmp_path, label="rd", config=CONFIG)


def test_a_name_of_letters_and_digits_is_taken(tmp_path: Path) -> None:
    assert Experiment(name="gehäuse_2-crd-rgb+depth", data=tmp_path, label="rd", config=CONFIG).name.startswith("g")


def test_two_experiments_with_one_directory_are_refused(tmp_path: Path) -> None:
    check_names([experiment(tmp_path / "a"), experiment(tmp_path / "b")])
    with pytest.raises(ConfigError, match="two experiments are called bagel-rd"):
        check_names([experiment(tmp_path / "one/bagel"), experiment(tmp_path / "two/bagel")])


def test_mean_and_spread_over_seeds() -> None:
    def report(category: str, seed: int, auroc: float) -> Report:
        config = CONFIG.model_copy(update={"seed": seed})
        one = Experiment(name=f"{category}-{seed}", data=Path(category), label="rd", config=config)
        origin = Origin(version="", files_sha256="", weights_sha256="")
        return Report(experiment=one, category=category, origin=origin, evaluation={"metrics": {"image_auroc": auroc}})

    nut, bolt = summaries([report("nut", 0, 0.9), report("bolt", 0, 0.5), report("nut", 1, 0.8), report("nut", 2, 0.7)])
    assert (nut.category, nut.seeds, nut.text("image_auroc")) == ("nut", 3, "80.0 ± 10.0")
    assert (bolt.category, bolt.seeds, bolt.text("image_auroc"), bolt.text("aupro_30")) == ("bolt", 1, "50.0", "–")


def test_a_table_as_markdown() -> None:
    table = ResultTable("Title", ("category", "I-AUROC"), (("nut", "80.0"),))
    assert table.markdown() == "# Title\n\n| category | I-AUROC |\n| --- | ---: |\n| nut | 80.0 |"
