from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.bundle import Bundle, Threshold, Thresholds, read_bundle, write_thresholds
from edge_ad.errors import OutputError
from edge_ad.files import write_bytes
from tests.factories import make_bundle

NEW = Threshold(
    value=9.0, method="test", frames=60, false_reject_rate=0.02, confidence=0.95, false_reject_bound=0.05, assumption=""
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


def test_new_thresholds_leave_the_bundle_what_it_was(bundle: Bundle) -> None:
    files = {path.name for path in bundle.directory.iterdir()}
    written = write_thresholds(bundle, Thresholds(modes={"full": NEW}))
    assert written == read_bundle(bundle.directory)
    assert written.thresholds.modes["full"] == NEW
    assert written.digest == bundle.digest
    assert written.manifest.files["model.onnx"] == bundle.manifest.files["model.onnx"]
    assert {path.name for path in bundle.directory.iterdir()} == files


def test_other_modes_keep_their_thresholds(bundle: Bundle) -> None:
    written = write_thresholds(bundle, Thresholds(modes={"rgb_only": NEW}))
    assert written.thresholds.modes == {**bundle.thresholds.modes, "rgb_only": NEW}


class KilledError(Exception):
    """Stands for the power cut."""


@pytest.mark.parametrize(("writes", "expected"), [(0, 4.0), (1, 4.0), (2, 9.0)], ids=["at once", "between", "after"])
def test_a_kill_between_any_two_writes_leaves_an_openable_bundle(
    bundle: Bundle, writes: int, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is atomic, so a kill is one of these: before, between, or after the two writes."""
    done: list[str] = []

    def killed_in_time(path: Path, content: bytes) -> None:
        if len(done) == writes:
            raise KilledError
        write_bytes(path, content)
        done.append(path.name)

    def killed_before_reading(directory: Path) -> Bundle:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("edge_ad.bundle.write_bytes", killed_in_time)
        patch.setattr("edge_ad.bundle.read_bundle", killed_before_reading)
        with pytest.raises(KilledError):
            write_thresholds(bundle, Thresholds(modes={"full": NEW}))
    for _ in range(2):  # the first reader puts things in order
        assert read_bundle(bundle.directory).thresholds.modes["full"].value == expected
    again = write_thresholds(read_bundle(bundle.directory), Thresholds(modes={"full": NEW}))
    assert again.thresholds.modes["full"] == NEW


def test_thresholds_that_cannot_be_written_leave_the_old_ones(bundle: Bundle) -> None:
    (bundle.directory / "thresholds.next.json").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_thresholds(bundle, Thresholds(modes={"full": NEW}))
    assert read_bundle(bundle.directory).thresholds == bundle.thresholds
