"""What several tests share: one small product, trained once and exported once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.bundle import read_bundle
from edge_ad.data import Dataset, open_dataset
from edge_ad.data.synthetic import write_synthetic
from edge_ad.quantization.calibration import CalibrationSet, make_calibration_set
from tests.datasets import CRD, RD, SIZE_PX, float_listed
from tests.factories import make_bundle


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A box of the tests' own, so that no test signs with the user's key."""
    path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_AD_HOME", str(path))
        yield path


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set on disk: RGB and uint16 depth, 10 frames to train with, 5 to validate, 4 + 8 to test."""
    root = tmp_path_factory.mktemp("data") / "housing"
    write_synthetic(root, train=10, validation=5, test_good=4, test_per_defect=1, size_px=SIZE_PX)
    return root


@pytest.fixture(scope="session")
def dataset(synthetic_root: Path) -> Dataset:
    return open_dataset(synthetic_root)


@pytest.fixture(scope="session")
def trained_run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of CRD on colour and normals."""
    from edge_ad.training import train

    run = tmp_path_factory.mktemp("run") / "crd"
    train(dataset, CRD, run)
    return run


@pytest.fixture(scope="session")
def bundle_directory(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``trained_run``, which no test may change."""
    from edge_ad.export import export_bundle

    return export_bundle(trained_run, tmp_path_factory.mktemp("bundle") / "crd").directory


@pytest.fixture(scope="session")
def calibration_set(
    bundle_directory: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> CalibrationSet:
    """Of ``bundle_directory``: 5 frames to calibrate with and 10 to judge by; no test may change it."""
    return make_calibration_set(read_bundle(bundle_directory), dataset, tmp_path_factory.mktemp("set") / "housing")


@pytest.fixture(scope="session")
def rd_run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of RD on float32 depth in a region of interest."""
    from edge_ad.training import train

    run = tmp_path_factory.mktemp("run") / "rd"
    train(float_listed(dataset), RD, run)
    return run


@pytest.fixture(scope="session")
def rd_bundle_directory(rd_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``rd_run``, which no test may change; it took the place of another one."""
    from edge_ad.export import export_bundle

    old = make_bundle(tmp_path_factory.mktemp("bundle") / "rd")
    return export_bundle(rd_run, old.directory).directory
