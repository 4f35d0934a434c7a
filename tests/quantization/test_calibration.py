"""Calibration sets: which frames are in them, and what is refused."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tomli_w
from scipy.spatial.distance import cdist

from edge_ad.backends.onnxruntime import OnnxRuntimeBackend
from edge_ad.bundle import EMBEDDING, Bundle, file_digest, read_bundle
from edge_ad.data import Dataset
from edge_ad.data.digest import frame_digest
from edge_ad.errors import ConfigError, DataError
from edge_ad.feeds import feeds_from_frame
from edge_ad.quantization.calibration import (
    FRAMES,
    RECIPE,
    CalibrationSet,
    FrameRecord,
    Part,
    k_center,
    make_calibration_set,
    read_calibration_set,
)
from edge_ad.settings import read_toml
from edge_ad.types import AnyArray, Roi
from tests.factories import make_bundle

NAMES = ("rgb", "depth")


@pytest.fixture(scope="module")
def bundle(bundle_directory: Path) -> Bundle:
    return read_bundle(bundle_directory)


@pytest.fixture
def copy(calibration_set: CalibrationSet, tmp_path: Path) -> Path:
    """A set that the test may damage."""
    return Path(shutil.copytree(calibration_set.directory, tmp_path / "set"))


def radius(vectors: AnyArray, chosen: list[int]) -> float:
    """The largest distance of any row to the nearest chosen one."""
    return float(cdist(vectors, vectors[chosen]).min(1).max())


def test_every_cluster_is_represented() -> None:
    generator = np.random.default_rng(0)
    cluster = np.repeat(np.arange(6), [40, 30, 20, 5, 2, 1])
    vectors = 100 * generator.normal(size=(6, 8))[cluster] + generator.normal(size=(len(cluster), 8))
    chosen = k_center(vectors, 6, seed=1)
    assert sorted(cluster[chosen]) == [0, 1, 2, 3, 4, 5]


def test_the_choice_follows_the_seed() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4))
    assert k_center(vectors, 10, seed=3) == k_center(vectors, 10, seed=3)
    assert len({k_center(vectors, 10, seed)[0] for seed in range(20)}) > 5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3, 4])
def test_no_row_is_farther_than_twice_the_best_possible(seed: int, count: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(10, 2))
    best = min(radius(vectors, list(some)) for some in combinations(range(10), count))
    assert radius(vectors, k_center(vectors, count, seed)) <= 2 * best


def test_frames_that_are_alike_are_not_chosen_twice() -> None:
    vectors = np.zeros((6, 3))
    vectors[4] = 1
    chosen = k_center(vectors, 5, seed=0)
    assert len(set(chosen)) == 5
    assert 4 in chosen[:2]


def test_the_set_holds_what_the_graph_is_fed(calibration_set: CalibrationSet, bundle: Bundle, dataset: Dataset) -> None:
    recipe = calibration_set.recipe
    assert (len(recipe.calibration), len(recipe.gate), recipe.considered) == (5, 10, 10)
    by_digest = {frame_digest(item): item for split in ("train", "validation") for item in dataset.frames(split)}
    parts: dict[Part, tuple[FrameRecord, ...]] = {"calibration": recipe.calibration, "gate": recipe.gate}
    for part, records in parts.items():
        stored = list(calibration_set.feeds(part, NAMES))
        assert len(stored) == len(records)
        for feeds, record in zip(stored, records, strict=True):
            item = by_digest[record.digest]
            assert str(item.path).endswith(record.source)
            expected = feeds_from_frame(item.frame, bundle.manifest.input, NAMES)
            assert set(feeds) == set(NAMES)
            for name in NAMES:
                assert feeds[name].dtype == expected[name].dtype
                np.testing.assert_array_equal(feeds[name], expected[name])


def test_what_calibrates_does_not_judge_and_test_frames_do_neither(
    calibration_set: CalibrationSet, dataset: Dataset
) -> None:
    recipe = calibration_set.recipe
    calibration, gate = ({record.digest for record in part} for part in (recipe.calibration, recipe.gate))
    tests = {frame_digest(item) for item in dataset.frames("test")}
    assert not calibration & gate
    assert not (calibration | gate) & tests
    assert {frame_digest(item) for item in dataset.frames("validation")} <= gate
    assert calibration <= {frame_digest(item) for item in dataset.frames("train")}


def test_the_frames_are_the_ones_that_the_teacher_finds_least_alike(
    calibration_set: CalibrationSet, bundle: Bundle, dataset: Dataset
) -> None:
    items = list(dataset.frames("train"))
    teacher = OnnxRuntimeBackend(bundle.graph(EMBEDDING))
    seen = [teacher.run(feeds_from_frame(item.frame, bundle.manifest.input, NAMES))["embedding"][0] for item in items]
    vectors = np.stack(seen).astype(np.float64)
    vectors = (vectors - vectors.mean(0)) / vectors.std(0)
    expected = [frame_digest(items[index]) for index in k_center(vectors, 5, seed=0)]
    assert [record.digest for record in calibration_set.recipe.calibration] == expected


def test_a_set_made_again_is_the_same(
    calibration_set: CalibrationSet, bundle: Bundle, dataset: Dataset, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    again = make_calibration_set(
        bundle, dataset, tmp_path / "again", progress=lambda done, total: told.append((done, total))
    )
    assert again.recipe == calibration_set.recipe
    assert again.digest == calibration_set.digest == file_digest(again.directory / FRAMES).sha256
    assert told == [(done, 15) for done in range(1, 16)]
    other = make_calibration_set(bundle, dataset, tmp_path / "again", frames=4, gate_frames=8, seed=1)
    assert (len(other.recipe.calibration), len(other.recipe.gate)) == (4, 8)
    assert read_calibration_set(tmp_path / "again") == other


def test_feeds_are_read_one_at_a_time(calibration_set: CalibrationSet) -> None:
    alive: list[weakref.ref[AnyArray]] = []
    for feeds in calibration_set.feeds("gate", NAMES):
        assert feeds["rgb"].base is None or feeds["rgb"].base.nbytes < 2 * feeds["rgb"].nbytes
        alive.append(weakref.ref(feeds["rgb"]))
        assert sum(reference() is not None for reference in alive) <= 2
    assert len(alive) == 10


def with_entries(dataset: Dataset, keep: Callable[[str, int], bool]) -> Dataset:
    """Some of a data set's entries, by split and number within it."""
    seen: dict[str, int] = {}
    entries = []
    for entry in dataset.entries:
        number = seen[entry.split] = seen.get(entry.split, -1) + 1
        if keep(entry.split, number):
            entries.append(entry)
    return replace(dataset, entries=tuple(entries))


def with_test_frame_in(dataset: Dataset, split: str, *, good: bool) -> Dataset:
    found = next(entry for entry in dataset.entries if entry.split == "test" and (entry.defect == "good") == good)
    return replace(dataset, entries=(*dataset.entries, replace(found, split=split)))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_defects_are_refused(bundle: Bundle, dataset: Dataset, tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match=f"shows a defect.*remove it from the {split} split"):
        make_calibration_set(bundle, with_test_frame_in(dataset, split, good=False), tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_test_frames_are_refused_wherever_they_were_copied_to(
    bundle: Bundle, dataset: Dataset, tmp_path: Path, split: str
) -> None:
    with pytest.raises(DataError, match="is a test frame too"):
        make_calibration_set(bundle, with_test_frame_in(dataset, split, good=True), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_data_set_without_a_test_split_will_do(bundle: Bundle, dataset: Dataset, tmp_path: Path) -> None:
    made = make_calibration_set(bundle, with_entries(dataset, lambda split, _: split != "test"), tmp_path / "set")
    assert len(made.recipe.calibration) == 5


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(lambda split, number: split == "validation" or number < 7, id="7 to choose from"),
        pytest.param(lambda split, number: split == "train" or number < 2, id="5 + 2 to judge by"),
    ],
)
def test_too_few_good_frames_are_refused(
    bundle: Bundle, dataset: Dataset, tmp_path: Path, keep: Callable[[str, int], bool]
) -> None:
    with pytest.raises(DataError, match="good training and .* validation frames.*capture more good parts"):
        make_calibration_set(bundle, with_entries(dataset, keep), tmp_path / "set")


@pytest.mark.parametrize(("frames", "gate_frames"), [(3, 64), (64, 7)])
def test_too_small_a_wish_is_refused(
    bundle: Bundle, dataset: Dataset, tmp_path: Path, frames: int, gate_frames: int
) -> None:
    with pytest.raises(ConfigError, match="too few. Remedy: take at least 4 and 8"):
        make_calibration_set(bundle, dataset, tmp_path / "set", frames=frames, gate_frames=gate_frames)


def test_other_files_are_not_replaced(bundle: Bundle, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"mine")
    for place in (tmp_path, tmp_path / "one.png"):
        with pytest.raises(ConfigError, match="is not a calibration set. something else is there"):
            make_calibration_set(bundle, dataset, place)
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]
    assert (tmp_path / "one.png").read_bytes() == b"mine"


def flip(directory: Path) -> None:
    content = bytearray((directory / FRAMES).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / FRAMES).write_bytes(content)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edited(directory: Path) -> None:
        values = read_toml(directory / RECIPE)
        change(values)
        (directory / RECIPE).write_bytes(tomli_w.dumps(values).encode())

    return edited


def other_frames(directory: Path) -> None:
    tensors = {"calibration.rgb": np.zeros((5, 96, 96, 3), np.uint8)}
    safetensors.numpy.save_file(tensors, directory / FRAMES)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda d: (d / RECIPE).unlink(), "not a calibration set. it has no recipe.toml", id="no recipe"),
        pytest.param(lambda d: (d / FRAMES).unlink(), "it has no frames.safetensors", id="no frames"),
        pytest.param(flip, "frames.safetensors is not what recipe.toml describes", id="changed pixel"),
        pytest.param(other_frames, "frames.safetensors is not what", id="other frames"),
        pytest.param(edit(lambda v: v.update(seed="x")), "seed", id="seed of letters"),
        pytest.param(edit(lambda v: v.update(surprise=1)), "surprise", id="unknown field"),
        pytest.param(edit(lambda v: v.update(files={})), "is not what", id="no digest"),
        pytest.param(edit(lambda v: v["calibration"].pop()), "recipe.toml was edited. 4 frames are listed, 5", id="-1"),
        pytest.param(edit(lambda v: v["gate"].append(v["gate"][0])), "11 frames are listed, 10 are there", id="+1"),
        pytest.param(lambda d: (d / RECIPE).write_text("= ="), "recipe.toml", id="no TOML"),
    ],
)
def test_damaged_and_edited_sets_are_refused(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    read_calibration_set(copy)
    damage(copy)
    with pytest.raises(DataError, match=message) as caught:
        read_calibration_set(copy)
    assert "edge-ad calibrate" in caught.value.remedy


def test_it_fits_its_bundle_alone(calibration_set: CalibrationSet, bundle: Bundle, tmp_path: Path) -> None:
    calibration_set.check_fits(bundle)
    moved = bundle.manifest.input.model_copy(update={"roi": Roi(x_px=1, y_px=0, width_px=95, height_px=96)})
    other_region = replace(bundle, manifest=bundle.manifest.model_copy(update={"input": moved}))
    other_product = replace(bundle, manifest=bundle.manifest.model_copy(update={"name": "lid"}))
    for other in (other_region, other_product, make_bundle(tmp_path / "widget")):
        with pytest.raises(DataError, match=r"is not for .*edge-ad calibrate"):
            calibration_set.check_fits(other)


def test_an_input_that_it_lacks_is_named(calibration_set: CalibrationSet) -> None:
    with pytest.raises(DataError, match="has no normals"):
        next(calibration_set.feeds("gate", ["rgb", "normals"]))


def test_a_frame_of_another_size_is_an_error_and_leaves_nothing(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="trained on"):
        make_calibration_set(make_bundle(tmp_path / "widget"), dataset, tmp_path / "set")
    assert not (tmp_path / "set").exists()
