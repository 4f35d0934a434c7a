from __future__ import annotations

import copy
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from edge_ad.errors import OutputError
from edge_ad.sinks import inspection_record
from edge_ad.sinks.images import MapSink, OverlaySink
from edge_ad.sinks.jsonl import JsonLinesSink
from edge_ad.sinks.memory import MemorySink
from edge_ad.sinks.sqlite import SqliteSink
from edge_ad.types import AnomalyResult, Decision, Frame, Inspection, Region, Sink, Verdict
from edge_ad.visualization import DECISION_COLOURS

SINKS: dict[str, Callable[[Path], Sink]] = {
    "memory": lambda directory: MemorySink(),
    "jsonl": lambda directory: JsonLinesSink(directory / "made" / "results.jsonl"),
    "maps": lambda directory: MapSink(directory / "maps"),
    "overlays": lambda directory: OverlaySink(directory / "overlays"),
    "sqlite": lambda directory: SqliteSink(directory / "made" / "results.sqlite"),
}
ON_DISK = {"jsonl", "maps", "overlays", "sqlite"}


def make_inspection(
    decision: Decision = Decision.NG, sequence: int = 7, score: float = 2.5, rgb: bool = True
) -> Inspection:
    depth = np.linspace(0.5, 0.6, 24 * 32, dtype=np.float32).reshape(24, 32)
    colour = np.full((24, 32, 3), 90, dtype=np.uint8) if rgb else None
    frame = Frame(colour, depth, timestamp_ns=12345, sequence=sequence, source="é://x", part_id="p-1")
    if decision is Decision.ERROR:
        return Inspection(frame, Verdict(decision, 1.0, reason="no depth"))
    anomaly_map = np.zeros((24, 32), dtype=np.float32)
    anomaly_map[4:8, 10:20] = score
    regions = (Region(10, 4, 10, 4, 40, score),) if decision is Decision.NG else ()
    result = AnomalyResult(anomaly_map, score, latency_ms={"infer": 3.5}, model_id="abc")
    return Inspection(frame, Verdict(decision, 1.0, regions), result)


@contextmanager
def full_disk(room_bytes: int) -> Iterator[None]:
    """No file may grow beyond ``room_bytes``: a write that crosses it is cut short by the kernel."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rows(path: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM inspections ORDER BY id")]


@pytest.mark.parametrize("name", SINKS)
def test_every_sink_takes_every_decision_and_closes_twice(name: str, tmp_path: Path) -> None:
    sink = SINKS[name](tmp_path)
    assert isinstance(sink, Sink)
    for decision in Decision:
        sink.write(make_inspection(decision))
    sink.write(make_inspection(rgb=False))
    sink.close()
    sink.close()


@pytest.mark.parametrize("name", sorted(ON_DISK))
def test_an_unusable_directory_is_one_clear_error(name: str, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        SINKS[name](blocked).write(make_inspection())


@pytest.mark.parametrize("name", sorted(ON_DISK))
def test_a_full_disk_is_an_error_and_writing_goes_on_afterwards(name: str, tmp_path: Path) -> None:
    sink = SINKS[name](tmp_path)
    sink.write(make_inspection(sequence=1))
    with full_disk(room_bytes=10), pytest.raises(OutputError, match="cannot be written"):
        sink.write(make_inspection(sequence=2))
    sink.write(make_inspection(sequence=3))
    sink.close()
    assert not [path for path in tmp_path.rglob(".*")], "an unfinished file was left behind"


def test_record_is_plain_json_with_every_field() -> None:
    record = inspection_record(make_inspection())
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record.pop("recorded_utc").endswith("+00:00")
    assert record == {
        "timestamp_ns": 12345,
        "sequence": 7,
        "source": "é://x",
        "part_id": "p-1",
        "decision": "NG",
        "score": 2.5,
        "threshold": 1.0,
        "reason": "",
        "regions": [{"x_px": 10, "y_px": 4, "width_px": 10, "height_px": 4, "area_px": 40, "peak": 2.5}],
        "latency_ms": {"infer": 3.5},
        "model_id": "abc",
        "mode": "",
        "recipe": "",
    }


def test_record_of_a_part_that_could_not_be_judged() -> None:
    record = inspection_record(make_inspection(Decision.ERROR))
    assert (record["decision"], record["score"], record["reason"]) == ("ERROR", None, "no depth")
    assert (record["regions"], record["latency_ms"], record["model_id"]) == ([], {}, "")


def test_record_has_null_for_numbers_that_are_not_finite() -> None:
    assert inspection_record(make_inspection(score=float("nan")))["score"] is None


def test_memory_keeps_the_inspections_themselves() -> None:
    sink, inspection = MemorySink(), make_inspection()
    sink.write(inspection)
    sink.close()
    assert sink.inspections == [inspection]
    assert sink.closed


def test_json_lines_are_appended_and_readable_at_once(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for sequence in (1, 2):
        sink = JsonLinesSink(path)
        sink.write(make_inspection(sequence=sequence))
        assert [json.loads(line)["sequence"] for line in path.read_text().splitlines()][-1] == sequence
        sink.close()
    assert len(path.read_text().splitlines()) == 2


def test_json_lines_leave_a_foreign_stream_open() -> None:
    stream = io.StringIO()
    sink = JsonLinesSink(stream)
    sink.write(make_inspection())
    sink.close()
    assert json.loads(stream.getvalue())["source"] == "é://x"


def test_json_lines_to_a_closed_stream() -> None:
    stream = io.StringIO()
    stream.close()
    with pytest.raises(OutputError, match="the stream cannot be written"):
        JsonLinesSink(stream).write(make_inspection())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_json_lines_to_a_device_without_room() -> None:
    sink = JsonLinesSink(Path("/dev/full"))
    with pytest.raises(OutputError, match="No space left"):
        sink.write(make_inspection())
    sink.close()


def test_a_torn_line_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    sink = JsonLinesSink(path)
    sink.write(make_inspection(sequence=1))
    with full_disk(room_bytes=path.stat().st_size + 20), pytest.raises(OutputError):
        sink.write(make_inspection(sequence=2))
    sink.write(make_inspection(sequence=3))
    sink.close()
    path.write_bytes(path.read_bytes() + b'{"sequence": 4, "torn by a power loss')
    sink = JsonLinesSink(path)
    sink.write(make_inspection(sequence=5))
    sink.close()
    lines = path.read_text().splitlines()
    assert len(lines) == 5
    assert [json.loads(lines[index])["sequence"] for index in (0, 2, 4)] == [1, 3, 5]


def test_maps_are_read_back_exactly_and_named_for_joining(tmp_path: Path) -> None:
    sink, inspection = MapSink(tmp_path), make_inspection()
    sink.write(inspection)
    sink.write(make_inspection(Decision.ERROR, sequence=8))
    assert [path.name for path in tmp_path.iterdir()] == ["00000007-12345-NG.tiff"]
    stored = tifffile.imread(tmp_path / "00000007-12345-NG.tiff")
    assert inspection.result is not None
    assert stored.dtype == np.float32
    assert np.array_equal(stored, inspection.result.anomaly_map)


@pytest.mark.parametrize("rgb", [True, False], ids=["colour", "depth only"])
@pytest.mark.parametrize("decision", list(Decision))
def test_overlays_show_the_decision_and_leave_the_frame_alone(decision: Decision, rgb: bool, tmp_path: Path) -> None:
    inspection = make_inspection(decision, rgb=rgb)
    before = copy.deepcopy(inspection.frame)
    OverlaySink(tmp_path).write(inspection)
    picture = cv2.imread(str(tmp_path / f"00000007-12345-{decision.value}.png"))
    assert picture is not None
    assert picture.shape == (24 + 12, 32 + 12, 3)
    assert tuple(picture[0, 0, ::-1]) == DECISION_COLOURS[decision]
    np.testing.assert_array_equal(before.rgb, inspection.frame.rgb)
    np.testing.assert_array_equal(before.depth, inspection.frame.depth)


def test_overlays_of_a_result_without_numbers(tmp_path: Path) -> None:
    inspection = make_inspection(score=float("nan"))
    broken = Inspection(inspection.frame, Verdict(Decision.ERROR, float("nan")), inspection.result)
    OverlaySink(tmp_path).write(broken)
    assert len(list(tmp_path.iterdir())) == 1


def test_sqlite_keeps_the_record_across_runs(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    for decision in (Decision.NG, Decision.ERROR):
        sink = SqliteSink(path)
        sink.write(make_inspection(decision))
        sink.close()
    first, second = rows(path)
    expected = inspection_record(make_inspection())
    assert (first.pop("id"), second["id"]) == (1, 2)
    assert first.pop("recorded_utc") <= second["recorded_utc"]
    first |= {name: json.loads(first[name]) for name in ("regions", "latency_ms")}
    assert first == {name: value for name, value in expected.items() if name != "recorded_utc"}
    assert (second["decision"], second["score"], second["reason"]) == ("ERROR", None, "no depth")


def test_sqlite_is_durable_and_indexed(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "results.sqlite")
    sink.write(make_inspection())
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        plan = reader.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM inspections WHERE decision = 'NG' AND recorded_utc > '2026'"
        ).fetchall()
        assert "inspections_by_decision" in str(plan)
        # A reader that holds a transaction open does not stop the line.
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM inspections").fetchone() == (1,)
        sink.write(make_inspection())
    sink.close()
    with pytest.raises(OutputError, match="cannot be written"):
        sink.write(make_inspection())


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        pytest.param("CREATE TABLE parts (id)", "not an archive of edge-ad", id="foreign table"),
        pytest.param("PRAGMA application_id = 77", "not an archive of edge-ad", id="foreign application"),
        pytest.param("PRAGMA user_version = 3", "not an archive of edge-ad", id="foreign version"),
    ],
)
def test_sqlite_leaves_foreign_databases_as_they_are(statement: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=message):
        SqliteSink(path)
    assert path.read_bytes() == before


def test_sqlite_brings_an_archive_of_schema_1_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    SqliteSink(path).close()
    with closing(sqlite3.connect(path)) as database:
        for column in ("mode", "recipe"):
            database.execute(f"ALTER TABLE inspections DROP COLUMN {column}")
        database.execute("PRAGMA user_version = 1")
    sink = SqliteSink(path)
    sink.write(make_inspection())
    sink.close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT mode, recipe, decision FROM inspections").fetchall() == [("", "", "NG")]


def test_sqlite_refuses_a_newer_schema(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    SqliteSink(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 3")
    with pytest.raises(OutputError, match="has schema 3"):
        SqliteSink(path)


def test_sqlite_refuses_what_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, and long enough to be taken for one " * 100)
    with pytest.raises(OutputError, match="file is not a database"):
        SqliteSink(path)


_WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/sinks")
from test_sinks import make_inspection
from edge_ad.sinks.sqlite import SqliteSink
sink = SqliteSink(Path(sys.argv[1]))
for sequence in range(100_000):
    sink.write(make_inspection(sequence=sequence))
    print(sequence, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_sqlite_loses_no_acknowledged_inspection_to_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    ) as writer:
        assert writer.stdout is not None
        acknowledged = [int(next(writer.stdout)) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    stored = [row["sequence"] for row in rows(path)]
    assert stored[: len(acknowledged)] == acknowledged
    assert len(stored) <= len(acknowledged) + 1
    sink = SqliteSink(path)
    sink.write(make_inspection())
    sink.close()
    assert len(rows(path)) == len(stored) + 1
