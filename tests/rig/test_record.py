from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_ad.errors import DataError, OutputError
from edge_ad.rig.record import MAPS, REPORT, RIG, Rig, read_rig, write_rig
from tests.rig.scenes import Scene


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    write_rig(tmp_path / "rigs" / "lid", Scene().rig(), "<html>")
    return tmp_path / "rigs" / "lid"


@pytest.mark.parametrize("scene", [Scene(), Scene(has_colour=False)], ids=["colour", "no colour"])
def test_what_is_written_is_read_bit_by_bit(tmp_path: Path, scene: Scene) -> None:
    rig = scene.rig()
    write_rig(tmp_path / "lid", rig, "<html>")
    again = read_rig(tmp_path / "lid")
    assert again.record == rig.record
    for name in type(rig.maps).__slots__:
        ours, theirs = getattr(rig.maps, name), getattr(again.maps, name)
        assert ours is theirs is None or (ours.dtype == theirs.dtype and np.array_equal(ours, theirs))
    assert (tmp_path / "lid" / REPORT).read_text() == "<html>"
    assert again.reference.sha256 == rig.record.sha256 == rig.record.content_digest()


def test_a_rig_is_replaced_whole_and_nothing_is_left_beside_it(stored: Path) -> None:
    other = Scene(seed=1).rig()
    write_rig(stored, other, "<p>")
    assert read_rig(stored).record == other.record
    assert [path.name for path in stored.parent.iterdir()] == ["lid"]
    assert sorted(path.name for path in stored.iterdir()) == sorted([RIG, MAPS, REPORT])


def test_what_is_no_rig_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(OutputError, match="is not empty and no rig"):
        write_rig(tmp_path, Scene().rig(), "")
    with pytest.raises(OutputError, match="is not empty and no rig"):
        write_rig(tmp_path / "notes.txt", Scene().rig(), "")
    assert (tmp_path / "notes.txt").read_text() == "keep me"
    (tmp_path / "empty").mkdir()
    write_rig(tmp_path / "empty", Scene().rig(), "")
    assert isinstance(read_rig(tmp_path / "empty"), Rig)


def test_limits_may_be_edited_and_the_rig_stays_the_same(stored: Path) -> None:
    before = read_rig(stored).record
    content = json.loads((stored / RIG).read_text())
    content["limits"]["tilt_deg"] = [1.0, 2.0]
    (stored / RIG).write_text(json.dumps(content))
    after = read_rig(stored).record
    assert after.limits.tilt_deg == (1.0, 2.0)
    assert after.sha256 == before.sha256


def edit(stored: Path, field: str, value: object) -> None:
    content = json.loads((stored / RIG).read_text())
    content[field] = value
    (stored / RIG).write_text(json.dumps(content))


def cut(stored: Path, name: str) -> None:
    path = stored / name
    path.write_bytes(path.read_bytes()[:-100])


def test_what_is_damaged_edited_or_missing_is_named(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a rig\. it has no rig\.json\. Remedy: .*rig calibrate"):
        read_rig(tmp_path)
    whole = (stored / RIG).read_text()
    edit(stored, "plane", [0.0, 0.0, 2.0])
    with pytest.raises(DataError, match=r"rig\.json was edited\. only its limits may be changed"):
        read_rig(stored)
    (stored / RIG).write_text(whole)
    edit(stored, "schema_version", 2)
    with pytest.raises(DataError, match="schema_version is not valid"):
        read_rig(stored)
    (stored / RIG).write_text(whole)
    edit(stored, "limits", {"tilt_deg": [0.0, 1.0]})
    with pytest.raises(DataError, match=r"limits\.tilt_deg is not valid.*above 0"):
        read_rig(stored)
    cut(stored, RIG)
    with pytest.raises(DataError, match=r"rig\.json"):
        read_rig(stored)
    (stored / RIG).write_text(whole)
    maps = (stored / MAPS).read_bytes()
    cut(stored, MAPS)
    with pytest.raises(DataError, match=r"maps\.safetensors is not what was measured"):
        read_rig(stored)
    (stored / MAPS).write_bytes(maps)
    read_rig(stored)
    (stored / MAPS).unlink()
    with pytest.raises(DataError, match=r"maps\.safetensors cannot be read"):
        read_rig(stored)
