"""Every error a user can cause, as one tree.

    EdgeAdError
    ├── ConfigError          a setting that is out of range, unknown or contradicts another   (exit 2)
    ├── MissingExtraError    an optional package is not installed                             (exit 2)
    ├── DataError            a data set, image, mask or recording that cannot be read         (exit 3)
    ├── ModelError                                                                            (exit 4)
    │   ├── WeightsError     teacher weights that cannot be had or do not fit
    │   ├── CheckpointError  a training checkpoint that is incomplete or damaged
    │   ├── BundleError      an exported bundle that is incomplete, edited or foreign
    │   └── EngineError      an engine that cannot be built, loaded or run on this box
    ├── CameraError          a camera that is absent, busy or misbehaves                      (exit 5)
    └── OutputError          a result that cannot be written                                  (exit 6)

Each one says what happened, why, and what to do about it; the command line prints the three parts
and leaves with the exit code above.
"""

from __future__ import annotations


class EdgeAdError(Exception):
    """Base of all errors that a user can cause and mend.

    Args:
        what: what happened, naming the file, field or device.
        why: the cause, as far as it is known.
        remedy: the command or change that mends it.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        self.what, self.why, self.remedy = what, why, remedy
        parts = [what.rstrip(".")]
        if why:
            parts.append(why.rstrip("."))
        if remedy:
            parts.append(f"Remedy: {remedy.rstrip('.')}")
        super().__init__(". ".join(parts) + ".")


class ConfigError(EdgeAdError):
    """A setting is out of range, unknown, or contradicts another."""

    exit_code = 2


class MissingExtraError(EdgeAdError, ImportError):
    """An optional package is needed and not installed."""

    exit_code = 2


class DataError(EdgeAdError):
    """A data set, image, mask or recording cannot be read."""

    exit_code = 3


class ModelError(EdgeAdError):
    """Base of errors about weights, checkpoints, bundles and engines."""

    exit_code = 4


class WeightsError(ModelError):
    """Teacher weights cannot be had or do not fit the network."""


class CheckpointError(ModelError):
    """A training checkpoint is incomplete or damaged."""


class BundleError(ModelError):
    """An exported bundle is incomplete, edited or foreign."""


class EngineError(ModelError):
    """An engine cannot be built, loaded or run on this box."""


class CameraError(EdgeAdError):
    """A camera is absent, busy or misbehaves."""

    exit_code = 5


class OutputError(EdgeAdError):
    """A result cannot be written."""

    exit_code = 6
