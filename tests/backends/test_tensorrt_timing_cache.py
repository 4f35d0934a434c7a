"""The file that keeps TensorRT's measurements; TensorRT itself stands in, as it measures only where a GPU is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from edge_ad.backends.base import BoxFacts
from edge_ad.backends.tensorrt import timing_cache

FACTS = BoxFacts("tensorrt 10.3.0", "Orin (nvgpu)", "8.7", "540.4.0 (CUDA 12.6)")


@dataclass
class Cache:
    content: bytes

    def serialize(self) -> bytes:
        return self.content


@dataclass
class Config:
    """Takes a cache if TensorRT would: it is empty or begins as its own do."""

    given: list[bytes] = field(default_factory=list)
    raises: bool = False

    def create_timing_cache(self, content: bytes) -> Cache | None:
        self.given.append(content)
        if self.raises and content:
            raise RuntimeError("cannot deserialize")
        return Cache(content) if content.startswith(b"measured") or not content else None

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return True


@pytest.fixture(autouse=True)
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_AD_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def warnings_logged() -> Iterator[list[str]]:
    messages: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("edge_ad.tensorrt"), Kept(logging.WARNING)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def given() -> list[bytes]:
    """What TensorRT is given when a build begins."""
    config = Config()
    assert timing_cache.attach(config, FACTS) is not None
    return config.given


def test_what_one_build_measured_the_next_one_gets(warnings_logged: list[str]) -> None:
    assert given() == [b""]
    timing_cache.keep(Cache(b"measured 1"), FACTS)
    assert given() == [b"measured 1"]
    timing_cache.keep(Cache(b"measured 1 and 2"), FACTS)
    assert given() == [b"measured 1 and 2"]
    assert warnings_logged == []


@pytest.mark.parametrize("field_name", ["backend_version", "gpu", "compute_capability", "driver"])
def test_each_gpu_driver_and_version_has_its_own(field_name: str) -> None:
    timing_cache.keep(Cache(b"measured 1"), replace(FACTS, **{field_name: "another"}))
    assert given() == [b""]


def _edit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _forget_key(path: Path) -> None:
    (path.parents[1] / "box.key").unlink()


def _show_key(path: Path) -> None:
    (path.parents[1] / "box.key").chmod(0o644)


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _take_anothers(path: Path) -> None:
    """A file that this box has signed too, for another GPU."""
    other = replace(FACTS, gpu="another")
    timing_cache.keep(Cache(b"measured elsewhere"), other)
    path.write_bytes(timing_cache.cache_path(other).read_bytes())


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_edit, id="edited"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:70]), id="truncated"),
        pytest.param(lambda path: path.write_bytes(bytes(range(256))), id="garbage"),
        pytest.param(_forget_key, id="another box"),
        pytest.param(_show_key, id="key seen by others"),
        pytest.param(_take_anothers, id="another GPU's"),
        pytest.param(_make_directory, id="a directory"),
    ],
)
def test_a_bad_file_is_named_and_passed_over(damage: Callable[[Path], object], warnings_logged: list[str]) -> None:
    timing_cache.keep(Cache(b"measured 1"), FACTS)
    path = timing_cache.cache_path(FACTS)
    damage(path)
    assert given() == [b""]
    assert len(warnings_logged) == 1 and str(path) in warnings_logged[0]


@pytest.mark.parametrize("raises", [True, False], ids=["raises", "returns None"])
def test_one_that_tensorrt_refuses_is_passed_over(raises: bool, warnings_logged: list[str]) -> None:
    timing_cache.keep(Cache(b"of another day"), FACTS)
    config = Config(raises=raises)
    cache = timing_cache.attach(config, FACTS)
    assert cache == Cache(b"")
    assert config.given == [b"of another day", b""]
    assert "not for this TensorRT and GPU" in warnings_logged[-1]


def test_a_disk_that_takes_nothing_is_no_error(box: Path, warnings_logged: list[str]) -> None:
    (box / "timing").write_text("in the way")
    timing_cache.keep(Cache(b"measured 1"), FACTS)
    assert warnings_logged[0].startswith("the timing cache is not kept: ")


def test_builds_at_once_leave_a_whole_file(warnings_logged: list[str]) -> None:
    contents = [b"measured " + bytes([65 + index]) * 200_000 for index in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: timing_cache.keep(Cache(content), FACTS), contents))
    assert given()[0] in contents
    assert warnings_logged == []
