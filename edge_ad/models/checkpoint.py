"""Checkpoints: one safetensors file with its settings as JSON in the header, replaced atomically.

Weights and settings are one file, so a kill at any moment leaves either the old or the new pair, and
no pickle is involved.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, allclose, nn

import edge_ad
from edge_ad.bundle import Thresholds, TrainingData
from edge_ad.config import TrainConfig
from edge_ad.drift.reference import Reference
from edge_ad.errors import CheckpointError
from edge_ad.files import write_bytes
from edge_ad.models.detector import Detector, DetectorConfig
from edge_ad.settings import Settings, validated

CHECKPOINT = "checkpoint.safetensors"
SCHEMA_VERSION = 2
GOLDEN_PREFIX = "golden."


class CheckpointRecord(Settings):
    """What a checkpoint says of itself.

    Attributes:
        schema_version: of this record.
        version: of the edge-ad that trains it.
        detector: the graph's settings, with what was learned from the training frames.
        training: the run's settings.
        data: the frames it was trained on.
        step: optimiser steps done.
        finished: False while training goes on; then the optimiser's state is in the file too.
        validation_scores: by operating mode, scores of the good validation frames.
        images: what all good frames look like, see :class:`edge_ad.drift.reference.Reference`.
        thresholds: by operating mode.
    """

    schema_version: int = Field(default=SCHEMA_VERSION, ge=SCHEMA_VERSION, le=SCHEMA_VERSION)
    version: str = Field(default_factory=lambda: edge_ad.__version__)
    detector: DetectorConfig
    training: TrainConfig
    data: TrainingData
    step: int
    finished: bool
    validation_scores: dict[str, tuple[float, ...]] = {}
    images: dict[str, tuple[float, ...]] = {}
    thresholds: Thresholds = Thresholds(modes={})

    def reference(self) -> Reference | None:
        """What a line that runs the model is compared with; None for a run of a version that did not measure it."""
        if not self.images:
            return None
        return Reference(roi=self.detector.input.roi, scores=self.validation_scores, images=self.images)


def checkpoint_path(path: Path) -> Path:
    """The checkpoint file of a run's directory, or the file itself."""
    return path / CHECKPOINT if path.is_dir() else path


def write_checkpoint(path: Path, record: CheckpointRecord, tensors: dict[str, Tensor]) -> None:
    """Writes a checkpoint; until it is whole, the one before stays.

    Raises:
        OutputError: it cannot be written, for instance because the disk is full.
    """
    content = save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        metadata={"edge_ad": record.model_dump_json()},
    )
    write_bytes(path, content)


def replace_thresholds(path: Path, thresholds: Thresholds) -> None:
    """Gives a finished run other thresholds; a kill leaves the old ones or the new.

    Args:
        path: the file, or the run's directory.
        thresholds: replace those of the same modes.

    Raises:
        CheckpointError: as ``read_checkpoint``.
        OutputError: it cannot be written.
    """
    record, tensors = read_checkpoint(path)
    modes = Thresholds(modes={**record.thresholds.modes, **thresholds.modes})
    write_checkpoint(checkpoint_path(path), record.model_copy(update={"thresholds": modes}), tensors)


def read_checkpoint(path: Path) -> tuple[CheckpointRecord, dict[str, Tensor]]:
    """Reads a checkpoint.

    Args:
        path: the file, or the run's directory.

    Raises:
        CheckpointError: it is missing, damaged, or not a checkpoint of this version.
    """
    path = checkpoint_path(path)
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint at {path}", remedy="train one with: edge-ad train DATA --output RUN"
        )
    try:
        with safe_open(path, "pt") as stream:
            text = (stream.metadata() or {}).get("edge_ad")
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged", why=str(error), remedy=f"delete {path} and train again") from error
    if text is None:
        raise CheckpointError(
            f"{path} is not a checkpoint of edge-ad", why="its header lacks the settings", remedy="train one"
        )
    return validated(CheckpointRecord, text, str(path), CheckpointError, "train again with this version"), tensors


def load_detector(path: Path) -> tuple[Detector, CheckpointRecord]:
    """The trained detector of a finished run, in eval mode on the CPU.

    Raises:
        CheckpointError: as ``read_checkpoint``; or the training is not finished, or the weights do not
            fit the settings.
    """
    record, tensors = read_checkpoint(path)
    if not record.finished:
        raise CheckpointError(
            f"{checkpoint_path(path)} is not finished",
            why=f"it stopped at step {record.step} of {record.training.steps}",
            remedy="go on with: edge-ad train … --resume",
        )
    detector = Detector(record.detector)
    try:
        detector.load_state_dict({name: x for name, x in tensors.items() if not name.startswith(GOLDEN_PREFIX)})
    except RuntimeError as error:
        why = " ".join(str(error).split())  # PyTorch lists every tensor on a line of its own
        raise CheckpointError(
            f"{checkpoint_path(path)} does not fit its own settings", why=why[:300], remedy="train again"
        ) from error
    return detector.eval(), record


def has_teacher(tensors: dict[str, Tensor], teacher: nn.Module) -> bool:
    """Whether a checkpoint's tensors hold this teacher, apart from BatchNorm statistics, which a method may adapt."""
    state = {name.removeprefix("detector."): x for name, x in tensors.items()}
    wanted = {f"teacher.{name}": x.cpu() for name, x in teacher.named_parameters()}
    return all(name in state and allclose(x, state[name]) for name, x in wanted.items())


def read_golden(path: Path) -> dict[str, Tensor]:
    """The golden inputs of a finished run by name, samples first.

    Raises:
        CheckpointError: as ``read_checkpoint``; or it holds none.
    """
    tensors = read_checkpoint(path)[1]
    golden = {name.removeprefix(GOLDEN_PREFIX): x for name, x in tensors.items() if name.startswith(GOLDEN_PREFIX)}
    if not golden:
        raise CheckpointError(f"{checkpoint_path(path)} holds no golden samples", remedy="finish the training")
    return golden
