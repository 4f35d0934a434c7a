"""What the threads of a line do about an error that should not be: count it, log the first, go on."""

from __future__ import annotations

import logging

from edge_ad.errors import EdgeAdError
from edge_ad.runtime.stats import Statistics

_log = logging.getLogger(__name__)


def survived(error: Exception, doing: str, statistics: Statistics) -> None:
    """Notes an error; one that no user can mend is a bug, and the first of them is logged with its traceback."""
    if not isinstance(error, EdgeAdError) and statistics.event("bugs") == 1:
        _log.error("%s failed", doing, exc_info=error)
