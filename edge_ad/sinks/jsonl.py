"""One JSON object per line and inspection, to a file or to a stream such as standard output."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TextIO

from edge_ad.errors import OutputError
from edge_ad.sinks import inspection_record
from edge_ad.types import Inspection


class JsonLinesSink:
    """Writes each inspection as one line that is out of this process when ``write`` returns.

    Args:
        target: a file to append to, made with its directory where needed, or an open text stream,
            which stays open on ``close``.

    Raises:
        OutputError: the file cannot be opened.
    """

    def __init__(self, target: Path | TextIO) -> None:
        self._name = str(target) if isinstance(target, Path) else getattr(target, "name", "the stream")
        try:
            self._stream = _WholeLines(target) if isinstance(target, Path) else target
        except OSError as error:
            raise self._error(error) from error
        self._owned = isinstance(target, Path)

    def write(self, inspection: Inspection) -> None:
        """Writes one line.

        Raises:
            OutputError: the disk is full, or the stream is closed or broken.
        """
        line = json.dumps(inspection_record(inspection), ensure_ascii=False, allow_nan=False)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            raise self._error(error) from error

    def close(self) -> None:
        """Closes the file; a stream that was passed in stays open."""
        if self._owned:
            self._stream.close()

    def _error(self, error: Exception) -> OutputError:
        return OutputError(
            f"{self._name} cannot be written",
            why=str(error),
            remedy="check the disk's space and permissions, and that the reader is still there",
        )


class _WholeLines:
    """A file appended to without a buffer, so that a failed line is neither kept nor sent later.

    A line that a full disk or a power loss cut short gets its line end before the next one is
    written: one torn line never takes a second one with it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._torn = _ends_inside_a_line(path)

    def write(self, line: str) -> None:
        content = (("\n" if self._torn else "") + line).encode()
        written = self._file.write(content)
        self._torn = written < len(content)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._file.close()


def _ends_inside_a_line(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"
