"""The reference's way from the training frames to the line: checkpoint, bundle, engine, predictor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_ad.alarms import Alarms
from edge_ad.bundle import REFERENCE, read_bundle
from edge_ad.data import Dataset
from edge_ad.drift.image_statistics import COLOUR, DEPTH, image_statistics
from edge_ad.drift.monitor import DriftMonitor
from edge_ad.engine import read_engine
from edge_ad.engine_build import build_engine
from edge_ad.errors import BundleError, EngineError
from edge_ad.models.checkpoint import read_checkpoint
from edge_ad.predictor import open_predictor
from edge_ad.scoring import judge
from edge_ad.types import Frame, Inspection, Verdict
from tests.factories import make_bundle


def replace_rgb(frame: Frame, light: float) -> Frame:
    assert frame.rgb is not None
    rgb = (frame.rgb * light).astype(np.uint8)
    return Frame(rgb=rgb, depth=frame.depth, depth_unit_m=frame.depth_unit_m, intrinsics=frame.intrinsics)


@pytest.fixture
def engine(bundle_directory: Path, tmp_path: Path) -> Path:
    bundle = read_bundle(bundle_directory)
    return build_engine(bundle, tmp_path / "engine", backend="onnxruntime", precision="fp32").directory


def test_training_measures_every_good_frame(trained_run: Path, dataset: Dataset) -> None:
    record, _ = read_checkpoint(trained_run)
    reference = record.reference()
    assert reference is not None
    assert reference.scores == record.validation_scores
    assert reference.images.keys() == {*COLOUR, *DEPTH}
    frames = [*dataset.frames("train"), *dataset.frames("validation")]
    measured = [image_statistics(item.frame, reference.roi)["brightness"] for item in frames if not item.is_anomalous]
    assert reference.images["brightness"] == pytest.approx(measured, rel=1e-5)


def test_run_bundle_and_engine_know_the_same(trained_run: Path, bundle_directory: Path, engine: Path) -> None:
    expected = read_checkpoint(trained_run)[0].reference()
    assert expected is not None
    for model in (trained_run, bundle_directory, engine):
        predictor = open_predictor(model)
        predictor.close()
        assert predictor.reference == expected


def test_an_older_run_has_none(trained_run: Path) -> None:
    record = read_checkpoint(trained_run)[0].model_copy(update={"images": {}})
    assert record.reference() is None


def test_an_older_bundle_and_its_engine_have_none(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    assert bundle.reference() is None
    engine = build_engine(bundle, tmp_path / "engine", backend="onnxruntime", precision="fp32")
    assert engine.reference is None
    assert open_predictor(tmp_path / "engine").reference is None


def test_an_edited_reference_is_refused(bundle_directory: Path, engine: Path) -> None:
    bundle = read_bundle(bundle_directory)
    assert read_engine(engine).reference == bundle.reference()
    path = engine / REFERENCE
    path.write_bytes(path.read_bytes().replace(b"brightness", b"brightening"))
    with pytest.raises(EngineError, match="reference.json is not the file that was built"):
        read_engine(engine)
    path.unlink()
    with pytest.raises(EngineError, match="incomplete. reference.json is missing"):
        read_engine(engine)


def test_a_bundle_whose_reference_changes_is_refused(bundle_directory: Path, tmp_path: Path) -> None:
    copied = tmp_path / "bundle"
    copied.mkdir()
    for path in bundle_directory.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    bundle = read_bundle(copied)
    (copied / REFERENCE).write_text("{}")
    with pytest.raises(BundleError, match="has changed since it was opened"):
        bundle.reference()
    with pytest.raises(BundleError, match="not the file that was exported"):
        read_bundle(copied)


def test_a_trained_model_notices_that_the_lamp_fades(bundle_directory: Path, dataset: Dataset) -> None:
    """Real frames and scores: parts of the training under two thirds of the light."""
    predictor, alarms = open_predictor(bundle_directory), Alarms()
    assert predictor.reference is not None
    monitor = DriftMonitor(predictor.reference, alarms)
    frames = [item.frame for item in dataset.frames("train")] * 2
    for light in (1.0, 0.66):
        assert alarms.raised() == {}
        for index, frame in enumerate(frames):
            shown = replace_rgb(frame, light)
            result = predictor(shown)
            verdict = judge(result, predictor.threshold)
            verdict = Verdict(verdict.decision, verdict.threshold, mode=predictor.mode)
            monitor.write(Inspection(shown, verdict, result, triggered_ns=index + 1))
    predictor.close()
    assert "darker than in training" in next(a.text for a in alarms.active() if a.name == "drift.brightness")
