"""Every method from frames to a bundle: its graphs, its modes, and the same answers as its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.torch import save_file

from edge_ad.bundle import Bundle, model_name, read_bundle
from edge_ad.config import TrainConfig
from edge_ad.data import Dataset
from edge_ad.errors import ConfigError
from edge_ad.export import export_bundle
from edge_ad.predictor import open_predictor
from edge_ad.training import train
from edge_ad.types import Frame
from tests.datasets import listed
from tests.models.test_weights import folded, resnet18

SCALES = ("stride4", "stride8", "stride16")
MODES = {"model", "model_rgb_only", "model_3d_only"}


def names(*kinds: str) -> list[str]:
    return [f"{kind}_{scale}" for kind in kinds for scale in SCALES]


@dataclass(frozen=True)
class Case:
    """A method, the graphs of its bundle, and inputs and outputs of those that tell it from others."""

    model: str
    graphs: set[str]
    sides: dict[str, tuple[list[str], list[str]]]
    choices: dict[str, Any] = field(default_factory=dict)


PAIRED = {"student_rgb", "student_depth"}
CASES = {
    "crd without filter": Case(
        "crd",
        MODES | PAIRED | {"teacher", "tuner_rgb", "tuner_depth"},
        {
            "tuner_rgb": (names("other"), names("amplified")),
            "student_rgb": (names("own", "amplified"), names("restored")),
        },
        {"crd": {"filter": False}},
    ),
    "fd": Case("fd", MODES | PAIRED | {"teacher"}, {"student_rgb": (["image"], names("restored"))}),
    "mmrd": Case(
        "mmrd",
        {"model", "teacher_rgb", "teacher_depth", "student"},
        {"student": (names("rgb", "depth"), names("target", "restored"))},
        {"mmrd": {"adaptation_passes": 1}},
    ),
}


def settings(model: str, **choices: Any) -> TrainConfig:
    preprocess = {"modalities": ("rgb", "depth"), "image_size_px": 64}
    return TrainConfig.model_validate(
        {"model": model, "preprocess": preprocess, "steps": 3, "batch_size": 4, **choices}
    )


@dataclass(frozen=True)
class Exported:
    case: Case
    run: Path
    bundle: Bundle


@pytest.fixture(scope="module", params=list(CASES))
def exported(request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    case, root = CASES[request.param], tmp_path_factory.mktemp("method")
    train(listed(dataset, 4, 4), settings(case.model, **case.choices), root / "run")
    return Exported(case, root / "run", export_bundle(root / "run", root / "bundle"))


def test_a_bundle_has_the_methods_graphs(exported: Exported) -> None:
    bundle, case = exported.bundle, exported.case
    graphs = case.graphs | {"embedding"}
    assert {path.stem for path in bundle.directory.glob("*.onnx")} == graphs == set(bundle.manifest.parity)
    assert max(bundle.manifest.parity.values()) <= 1e-4
    assert {model_name(mode).removesuffix(".onnx") for mode in bundle.manifest.modes} == MODES & case.graphs
    for name, sides in case.sides.items():
        graph = onnx.load(bundle.directory / f"{name}.onnx", load_external_data=False).graph
        assert ([x.name for x in graph.input], [x.name for x in graph.output]) == sides, name


def without(mode: str, frame: Frame) -> Frame:
    if mode == "rgb_only":
        return replace(frame, depth=None, intrinsics=None)
    return replace(frame, rgb=None) if mode == "3d_only" else frame


def test_bundle_and_checkpoint_agree_in_every_mode(exported: Exported, dataset: Dataset) -> None:
    """On frames that neither training nor the golden samples had."""
    record = read_bundle(exported.bundle.directory).thresholds
    for mode, info in exported.bundle.manifest.modes.items():
        ours, theirs = (open_predictor(path, mode) for path in (exported.bundle.directory, exported.run))
        assert ours.threshold == theirs.threshold == record.modes[mode].value
        for item in dataset.frames("test")[::5]:
            frame = without(mode, item.frame)
            given, expected = ours(frame), theirs(frame)
            assert given.score == pytest.approx(expected.score, abs=1e-3)
            np.testing.assert_allclose(given.anomaly_map, expected.anomaly_map, atol=1e-3)
            wanted = ("fused",) if exported.case.model == "mmrd" else info.modalities
            assert tuple(given.modality_maps) == tuple(expected.modality_maps) == wanted


def test_mmrd_refuses_a_teacher_without_batch_norm_before_it_writes(dataset: Dataset, tmp_path: Path) -> None:
    weights = tmp_path / "folded.safetensors"
    save_file(folded(resnet18()), weights)
    config = settings("mmrd", backbone="resnet18")
    with pytest.raises(ConfigError, match=r"cannot adapt this teacher.*folded.*Remedy: .*--weights"):
        train(listed(dataset, 4, 3), config, tmp_path / "run", weights_path=weights)
    assert list((tmp_path / "run").iterdir()) == []
