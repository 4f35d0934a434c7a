"""What every backend class offers beyond running: building its payload, and facts about this box."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from edge_ad.errors import EngineError
from edge_ad.types import AnyArray, Backend, TensorSpec

Precision = Literal["fp32", "bf16", "fp16", "int8", "int8_fp16"]
"""Of the arithmetic: ``int8`` computes what is not quantised in float32, ``int8_fp16`` in float16."""

QUANTIZED: tuple[Precision, ...] = ("int8", "int8_fp16")
"""Those whose graphs have QuantizeLinear and DequantizeLinear nodes, made with a calibration set."""

QuantizationStyle = Literal["cpu", "tensorrt"]
"""``cpu``: u8 asymmetric activations; ``tensorrt``: s8 symmetric, at the inputs of convolutions only."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BoxFacts:
    """What a prepared engine depends on; empty where the backend uses no GPU.

    Attributes:
        backend_version: package and version, e.g. ``"tensorrt 10.3.0"``.
        gpu: the GPU's name.
        compute_capability: e.g. ``"8.7"``.
        driver: driver and CUDA version.
    """

    backend_version: str
    gpu: str = ""
    compute_capability: str = ""
    driver: str = ""


class EngineBackend(Backend, Protocol):
    """A backend that engines are built for.

    Attributes:
        payload_name: the file that ``build`` fills and ``open`` reads.
        precisions: what it can compute in.
        quantization: where a quantised graph for it has its QuantizeLinear nodes, and of which kind.
        options: build options that are always the same; part of an engine's identity.
    """

    payload_name: ClassVar[str]
    precisions: ClassVar[tuple[Precision, ...]]
    quantization: ClassVar[QuantizationStyle]
    options: ClassVar[Mapping[str, str]]

    @classmethod
    def box_facts(cls) -> BoxFacts:
        """What engines of this backend depend on here.

        Raises:
            EngineError: the hardware or driver is not there.
            MissingExtraError: the runtime is not installed.
        """

    @classmethod
    def build(
        cls, model: bytes, *, source: str, precision: Precision, max_batch: int, progress: Progress | None
    ) -> bytes:
        """Prepares an ONNX model for this box.

        Args:
            model: the ONNX file's content; for a quantised precision already quantised, in float32 otherwise.
            source: its name, for errors.
            precision: of the arithmetic; inputs and outputs keep their types.
            max_batch: the largest batch that will be run.
            progress: called with short messages while the build goes on.

        Returns:
            The content of ``payload_name``.

        Raises:
            EngineError: this backend cannot build the model or the precision.
            MissingExtraError: a package that it needs is not installed.
        """

    @classmethod
    def open(cls, payload: bytes, *, source: str, precision: Precision) -> Backend:
        """Makes a payload, prepared for this precision, ready to run; ``source`` names it in errors.

        Raises:
            EngineError: the payload is damaged or cannot run here.
            MissingExtraError: the runtime is not installed.
        """


def check_feeds(feeds: Mapping[str, AnyArray], inputs: Sequence[TensorSpec], max_batch: int | None = None) -> int:
    """Checks the arrays given to ``run`` and returns their batch size.

    Args:
        feeds: the arrays by input name.
        inputs: what the graph takes.
        max_batch: the largest batch allowed; None for any.

    Raises:
        EngineError: an input is missing, unknown, or of the wrong dtype, shape or batch; it is named.
    """
    names = [spec.name for spec in inputs]
    for name in sorted(set(names).symmetric_difference(feeds)):
        problem = "is missing" if name in names else "is not an input of this model"
        raise EngineError(f"input {name!r} {problem}", why=f"the model takes {', '.join(names)}")
    batch = 0
    for spec in inputs:
        array = feeds[spec.name]
        if array.dtype != np.dtype(spec.dtype):
            raise EngineError(f"input {spec.name!r} is {array.dtype}", why=f"the model takes {spec.dtype}")
        fits = len(array.shape) == len(spec.shape) and all(
            wanted in (None, given) for wanted, given in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or 0 in array.shape or (batch and array.shape[0] != batch):
            shape = ", ".join(str(batch or "batch") if size is None else str(size) for size in spec.shape)
            raise EngineError(f"input {spec.name!r} has shape {array.shape}", why=f"it must be ({shape})")
        batch = array.shape[0]
    if max_batch is not None and batch > max_batch:
        raise EngineError(
            f"the batch is {batch}",
            why=f"this engine was built for at most {max_batch}",
            remedy="feed smaller batches, or build the engine for a larger one",
        )
    return batch
