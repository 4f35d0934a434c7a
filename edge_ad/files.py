"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_ad.errors import OutputError


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file that appears whole or not at all, even if the power goes; makes its directory.

    Raises:
        OutputError: it cannot be written; what was there before stays.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: OSError) -> OutputError:
    """What to raise when ``path`` cannot be written because of ``error``."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return OutputError(
        f"{path} cannot be written",
        why=error.strerror or str(error),
        remedy="free space on the disk" if full else "check the path and its permissions",
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock file ``path``, which is gone afterwards.

    A process that dies lets go of it.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        with path.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not _is_at(stream.fileno(), path):
                continue  # the one before removed it: others hold a new one, if any
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that ``path`` names."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def replace_directory(new: Path, directory: Path) -> None:
    """Puts ``new`` in the place of ``directory`` by renaming; if that fails, the old one is back.

    The old one is beside ``new`` until it is gone.

    Raises:
        OSError: it cannot be renamed.
    """
    if not directory.exists():
        new.replace(directory)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old-", dir=new.parent))
    directory.replace(old)
    try:
        new.replace(directory)
    except BaseException:
        old.replace(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)
