"""The secret of this box, which signs the engines that were built here.

A TensorRT plan is native code, so it is loaded only where it was made. The key never leaves
``~/.local/share/edge-ad/box.key`` (or ``$EDGE_AD_HOME/box.key``), readable by its owner alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from edge_ad.errors import EngineError

_KEY_BYTES = 32


def home_directory() -> Path:
    """Where edge-ad keeps what belongs to this box: ``$EDGE_AD_HOME`` or ``~/.local/share/edge-ad``."""
    return Path(os.environ.get("EDGE_AD_HOME") or Path.home() / ".local/share/edge-ad")


def has_key() -> bool:
    """Whether this box has signed anything yet, as this user."""
    return (home_directory() / "box.key").exists()


def sign(message: bytes) -> str:
    """HMAC-SHA256 (hex) of ``message`` under this box's key, which is made on first use.

    Raises:
        EngineError: the key cannot be made or read, or others may read it.
    """
    path = home_directory() / "box.key"
    if not path.exists():
        _make_key(path)
    return hmac.new(_read_key(path), message, hashlib.sha256).hexdigest()


def is_signed(message: bytes, signature: str) -> bool:
    """True if ``signature`` is this box's for ``message``; False too if this box has no key yet.

    Raises:
        EngineError: the key cannot be read, or others may read it.
    """
    path = home_directory() / "box.key"
    if not path.exists():
        return False
    expected = hmac.new(_read_key(path), message, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode())


def _make_key(path: Path) -> None:
    """Writes the key aside and links it into place, so that two first builds agree on one whole key."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent)  # mode 0600
        aside = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(_KEY_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            path.hardlink_to(aside)
        except FileExistsError:
            pass  # another build was first; its key counts
        finally:
            aside.unlink()
    except OSError as error:
        raise EngineError(
            f"{path} cannot be made", why=str(error), remedy="set EDGE_AD_HOME to a directory of yours"
        ) from error


def _read_key(path: Path) -> bytes:
    try:
        mode, key = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read", why=str(error), remedy="check its owner") from error
    if os.name == "posix" and mode & 0o077:
        raise EngineError(
            f"{path} can be read by others",
            why="whoever has it can make engines that this box runs",
            remedy=f"rm {path} and build the engines again",
        )
    if len(key) != _KEY_BYTES:
        raise EngineError(
            f"{path} is damaged", why=f"it has {len(key)} bytes", remedy=f"rm {path} and build the engines again"
        )
    return key
