from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edge_ad.feature_cache import FeatureCache, Maps

COUNT = 19
FRAMES = {
    "rgb": [torch.randn(COUNT, 4, 6, 6), torch.randn(COUNT, 8, 3, 3)],
    "image rgb": [torch.randn(COUNT, 3, 12, 12)],
}
RECORD_BYTES = 4 * (4 * 36 + 8 * 9 + 3 * 144)
"""Of one frame."""


class Teacher:
    """Gives the frames' maps and counts what it was asked for."""

    def __init__(self) -> None:
        self.frames = 0

    def __call__(self, rows: slice | Tensor) -> Maps:
        maps = {name: [x[rows] for x in group] for name, group in FRAMES.items()}
        self.frames += len(maps["rgb"][0])
        return maps


def make_cache(place: str, directory: Path, teacher: Teacher) -> FeatureCache:
    room = {"memory": (COUNT * RECORD_BYTES, 0), "disk": (0, COUNT * RECORD_BYTES), "nowhere": (0, 0)}
    memory_bytes, disk_bytes = room[place]
    return FeatureCache(teacher, COUNT, memory_bytes=memory_bytes, disk_bytes=disk_bytes, directory=directory)


PLACES = pytest.mark.parametrize("place", ["memory", "disk", "nowhere"])


@PLACES
@pytest.mark.parametrize(
    "rows",
    [slice(0, 8), slice(16, 24), torch.tensor([18, 0, 7, 7])],
    ids=["slice", "end", "indices"],
)
def test_every_place_gives_the_same_maps(place: str, rows: slice | Tensor, tmp_path: Path) -> None:
    cache = make_cache(place, tmp_path, Teacher())
    assert cache.place == place
    given = cache[rows]
    assert list(given) == list(FRAMES)
    for name, maps in FRAMES.items():
        assert [torch.equal(x, y[rows]) for x, y in zip(given[name], maps, strict=True)] == [True] * len(maps)


@PLACES
def test_the_teacher_sees_each_frame_once_where_there_is_room(place: str, tmp_path: Path) -> None:
    teacher = Teacher()
    cache = make_cache(place, tmp_path, teacher)
    asked = teacher.frames
    for _ in range(3):
        cache[slice(0, COUNT)]
    assert asked == (1 if place == "nowhere" else 1 + COUNT)
    assert teacher.frames - asked == (3 * COUNT if place == "nowhere" else 0)


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_byte_too_little_is_too_little(place: str, tmp_path: Path) -> None:
    memory_bytes, disk_bytes = (COUNT * RECORD_BYTES - 1 if place == name else 0 for name in ("memory", "disk"))
    cache = FeatureCache(Teacher(), COUNT, memory_bytes=memory_bytes, disk_bytes=disk_bytes, directory=tmp_path)
    assert cache.place == "nowhere"


def test_the_file_leaves_no_trace(tmp_path: Path) -> None:
    """It has no name from the start, so that a kill frees its room too."""
    cache = make_cache("disk", tmp_path, Teacher())
    assert cache.place == "disk"
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(cache[slice(3, 4)]["rgb"][0], FRAMES["rgb"][0][3:4])


def test_what_is_done_to_the_maps_does_not_reach_the_file(tmp_path: Path) -> None:
    cache = make_cache("disk", tmp_path, Teacher())
    cache[torch.tensor([2])]["rgb"][0].zero_()
    assert torch.equal(cache[torch.tensor([2])]["rgb"][0], FRAMES["rgb"][0][2:3])


def test_without_a_place_for_the_file_features_are_computed_each_time(tmp_path: Path) -> None:
    cache = make_cache("disk", tmp_path / "absent", Teacher())
    assert cache.place == "nowhere"
    assert torch.equal(cache[slice(3, 5)]["rgb"][1], FRAMES["rgb"][1][3:5])


def test_a_disk_that_fills_up_is_left_clean(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * RECORD_BYTES, limits[1]))
    try:
        cache = make_cache("disk", tmp_path, Teacher())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cache.place == "nowhere"
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_in_frames(tmp_path: Path) -> None:
    told: list[int] = []
    FeatureCache(Teacher(), COUNT, memory_bytes=1 << 30, disk_bytes=0, directory=tmp_path, progress=told.append)
    assert told == [8, 16, 19]
