"""An archive of inspections in one SQLite file that survives a power cut at any moment."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from edge_ad.errors import OutputError
from edge_ad.sinks import inspection_record
from edge_ad.types import Inspection

APPLICATION_ID = 0x45644164
"""Marks a file as ours, in SQLite's header field for that; ASCII "EdAd"."""

SCHEMA_VERSION = 2

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS inspections (
    id INTEGER PRIMARY KEY,
    recorded_utc TEXT NOT NULL,
    timestamp_ns INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    source TEXT NOT NULL,
    part_id TEXT,
    decision TEXT NOT NULL CHECK (decision IN ('OK', 'NG', 'ERROR')),
    score REAL,
    threshold REAL,
    reason TEXT NOT NULL,
    regions TEXT NOT NULL,
    latency_ms TEXT NOT NULL,
    model_id TEXT NOT NULL,
    mode TEXT NOT NULL DEFAULT '',
    recipe TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS inspections_by_time ON inspections (recorded_utc);
CREATE INDEX IF NOT EXISTS inspections_by_decision ON inspections (decision, recorded_utc);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_FROM_SCHEMA_1 = f"""
BEGIN IMMEDIATE;
ALTER TABLE inspections ADD COLUMN mode TEXT NOT NULL DEFAULT '';
ALTER TABLE inspections ADD COLUMN recipe TEXT NOT NULL DEFAULT '';
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_INSERT = """
INSERT INTO inspections (recorded_utc, timestamp_ns, sequence, source, part_id, decision, score,
                         threshold, reason, regions, latency_ms, model_id, mode, recipe)
VALUES (:recorded_utc, :timestamp_ns, :sequence, :source, :part_id, :decision, :score,
        :threshold, :reason, :regions, :latency_ms, :model_id, :mode, :recipe)
"""


class SqliteSink:
    """Writes each inspection as one row, on the disk when ``write`` returns.

    The columns are those of `edge_ad.sinks.inspection_record`; ``regions`` and ``latency_ms`` are
    JSON. Others may read the file while the line runs (write-ahead log).

    Args:
        path: the database; made with its directory where needed.

    Raises:
        OutputError: the file cannot be opened, is not an archive of ours, or is one of a newer
            edge-ad.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The line may be driven from another thread than the one that opened the sink.
            self._database = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error
        try:
            self._prepare()
        except (sqlite3.Error, OutputError) as error:
            self._database.close()
            raise error if isinstance(error, OutputError) else self._error(error) from error

    def write(self, inspection: Inspection) -> None:
        """Writes one row and waits until the disk has it.

        Raises:
            OutputError: the disk is full, the file is locked, or the sink is closed.
        """
        record = inspection_record(inspection)
        record |= {name: json.dumps(record[name], allow_nan=False) for name in ("regions", "latency_ms")}
        try:
            self._database.execute(_INSERT, record)
        except sqlite3.Error as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def _prepare(self) -> None:
        """Checks whose file it is before changing anything in it, then makes what is missing."""
        application, version, objects = (
            self._database.execute(query).fetchone()[0]
            for query in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "SELECT count(*) FROM sqlite_master",
            )
        )
        if application == APPLICATION_ID and not 1 <= version <= SCHEMA_VERSION:
            raise OutputError(
                f"{self._path} has schema {version}",
                why=f"this edge-ad writes schema {SCHEMA_VERSION}",
                remedy="name a new file, or install the edge-ad that wrote this one",
            )
        if application != APPLICATION_ID and (application or version or objects):
            raise OutputError(
                f"{self._path} is not an archive of edge-ad",
                why="it is another program's database",
                remedy="name a new file",
            )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        if application != APPLICATION_ID:
            self._database.executescript(_SCHEMA)
        elif version < SCHEMA_VERSION:
            self._database.executescript(_FROM_SCHEMA_1)

    def _error(self, error: Exception) -> OutputError:
        return OutputError(
            f"{self._path} cannot be written",
            why=str(error),
            remedy="check the disk's space and permissions, and that the file is a database",
        )
