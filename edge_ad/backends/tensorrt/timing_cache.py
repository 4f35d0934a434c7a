"""What TensorRT measured of this GPU's kernels, kept so that the next build need not measure it again.

One file for each GPU, driver and TensorRT version, below edge-ad's home directory. TensorRT parses it in native
code, so it is signed with this box's key as plans are. It is a help, never a need: one that is damaged, foreign
or cannot be written is named in the log and the build goes on without. Of two builds at once the last one's
file stays, and what the other measured is measured again some day.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from pathlib import Path
from typing import Any

from edge_ad.backends.base import BoxFacts
from edge_ad.backends.box_key import home_directory, is_signed, sign
from edge_ad.errors import EngineError, OutputError
from edge_ad.files import write_bytes

_MAC_CHARACTERS = 64
_LOG = logging.getLogger("edge_ad.tensorrt")
_WRITING = threading.Lock()  # write_bytes tells processes apart, not threads


def cache_path(facts: BoxFacts) -> Path:
    """The file for this TensorRT on this GPU."""
    identity = "\n".join((facts.backend_version, facts.gpu, facts.compute_capability, facts.driver))
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", f"{facts.backend_version} {facts.gpu}")
    return home_directory() / "timing" / f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.cache"


def attach(config: Any, facts: BoxFacts) -> Any:
    """Gives a build what was measured before; TensorRT's ``ITimingCache``, which must live as long as the build."""
    content = _read(cache_path(facts))
    for known in (content, b"") if content else (b"",):
        try:
            cache = config.create_timing_cache(known)
            if cache is not None and config.set_timing_cache(cache, False):
                return cache
        except (RuntimeError, TypeError, ValueError) as error:
            _LOG.warning("TensorRT cannot use its timing cache (%s)", error)
        if known:
            _LOG.warning("%s is not for this TensorRT and GPU; starting anew", cache_path(facts))
    return None


def keep(cache: Any, facts: BoxFacts) -> None:
    """Stores what a build has measured."""
    path = cache_path(facts)
    if cache is None:
        return
    content = bytes(cache.serialize())
    try:
        with _WRITING:
            write_bytes(path, sign(_signed(path, content)).encode() + content)
    except (EngineError, OutputError) as error:
        _LOG.warning("the timing cache is not kept: %s", error)


def _read(path: Path) -> bytes:
    try:
        stored = path.read_bytes()
        mac, content = stored[:_MAC_CHARACTERS].decode("ascii", "replace"), stored[_MAC_CHARACTERS:]
        if is_signed(_signed(path, content), mac):
            return content
        _LOG.warning("%s is damaged or from another box; starting anew", path)
    except FileNotFoundError:
        pass
    except (OSError, EngineError) as error:
        _LOG.warning("%s cannot be read; starting anew: %s", path, error)
    return b""


def _signed(path: Path, content: bytes) -> bytes:
    """What the MAC covers: the name too, so that no file can stand in for another or for an engine's manifest."""
    return b"timing cache " + path.name.encode() + b"\n" + content
