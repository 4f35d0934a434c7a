"""Golden samples: inputs that travel with a model, and what PyTorch answered for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from edge_ad.backends.base import Precision
from edge_ad.errors import EngineError
from edge_ad.types import AnyArray, Backend

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1, "int8_fp16": 2e-1}
"""Largest difference allowed, as a share of the largest golden value of the same output. For two briefly
trained models in ONNX Runtime on a CPU, fp32 differed from PyTorch by up to 5e-4, fp16 from fp32 by up to 1e-2."""

NEIGHBOURS = 4
"""So many different frames share the batches of :func:`batch_differences`."""

Arrays = dict[str, AnyArray]


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """How far one output is from what it should be.

    Attributes:
        output: its name.
        difference: the largest absolute difference, in the output's own unit; infinite where it is missing, of
            another shape or not a number.
        allowed: the largest difference that passes.
    """

    output: str
    difference: float
    allowed: float

    @property
    def passes(self) -> bool:
        """True within the tolerance."""
        return bool(np.isfinite(self.difference)) and self.difference <= self.allowed


def check_golden(backend: Backend, golden_path: Path, precision: Precision, max_batch: int = 1) -> float:
    """Runs the golden inputs and compares every output; above a batch of one also alone against in a batch.

    Args:
        backend: what to try.
        golden_path: safetensors file with ``input.<name>`` and ``output.<name>``, batch first.
        precision: of the backend's arithmetic; it sets the tolerance.
        max_batch: samples to feed at once.

    Returns:
        The largest absolute difference from the golden outputs, over all of them and all samples.

    Raises:
        EngineError: the file cannot be read, the backend fails, or an output differs by more than the
            tolerance, is missing, of another shape, or not a number.
    """
    found = golden_differences(backend, golden_path, precision, max_batch)
    _require(
        found,
        f"{backend.name} in {precision} does not give the answers in {golden_path.name}",
        "remove the engine and build it again, with --precision fp32 if it was not; if that does not help, export "
        "the bundle again",
    )
    if max_batch > 1:
        _require(
            batch_differences(backend, golden_path, precision, max_batch),
            f"{backend.name} in {precision} answers otherwise for a frame in a batch than for the frame alone",
            "build the engine with --max-batch 1",
        )
    return max(item.difference for item in found)


def golden_differences(
    backend: Backend, golden_path: Path, precision: Precision, max_batch: int = 1
) -> tuple[OutputDifference, ...]:
    """How far each output is from the golden one, at most, over all samples; arguments as :func:`check_golden`.

    Raises:
        EngineError: the file cannot be read, or the backend fails.
    """
    inputs, expected = _read(golden_path)
    samples = next(iter(inputs.values())).shape[0]
    differences = dict.fromkeys(expected, 0.0)
    for start in range(0, samples, max_batch):
        part = slice(start, start + max_batch)
        outputs = backend.run({name: array[part] for name, array in inputs.items()})
        for name, array in expected.items():
            differences[name] = max(differences[name], _difference(outputs.get(name), array[part]))
    return _judged(differences, expected, precision)


def batch_differences(
    backend: Backend, golden_path: Path, precision: Precision, max_batch: int
) -> tuple[OutputDifference, ...]:
    """How far each output of a frame in a full batch is from that of the same frame alone, at most.

    The batch is fed in two orders, so that different frames are seen in every place of it.
    Arguments and errors as :func:`check_golden`, but ``max_batch`` is at least 2.
    """
    inputs, expected = _read(golden_path)
    frames = [{name: array[index : index + 1] for name, array in inputs.items()} for index in range(NEIGHBOURS)]
    frames = [frame for frame in frames if all(array.shape[0] for array in frame.values())]
    if len(frames) == 1:  # without another one beside it, a frame would only meet itself
        frames.append({name: np.ascontiguousarray(array[:, ::-1]) for name, array in frames[0].items()})
    alone = [backend.run(frame) for frame in frames]
    differences = dict.fromkeys(expected, 0.0)
    for shift in (0, 1):
        order = [(place - shift) % len(frames) for place in range(max_batch)]
        outputs = backend.run(_stacked(frames, order))
        for name in expected:
            single = [alone[index].get(name) for index in order]
            if any(array is None for array in single):
                differences[name] = float("inf")
                continue
            wanted = np.concatenate([array for array in single if array is not None])
            differences[name] = max(differences[name], _difference(outputs.get(name), wanted))
    return _judged(differences, expected, precision)


def read_golden_inputs(golden_path: Path) -> Arrays:
    """The inputs of golden samples by name, batch first.

    Raises:
        EngineError: the file cannot be read or is no set of golden samples.
    """
    return _read(golden_path)[0]


def _stacked(frames: Sequence[Arrays], order: Sequence[int]) -> Arrays:
    return {name: np.concatenate([frames[index][name] for index in order]) for name in frames[0]}


def _judged(differences: Mapping[str, float], expected: Arrays, precision: Precision) -> tuple[OutputDifference, ...]:
    return tuple(
        OutputDifference(name, difference, TOLERANCES[precision] * float(np.abs(expected[name]).max()))
        for name, difference in differences.items()
    )


def _require(found: Sequence[OutputDifference], what: str, remedy: str) -> None:
    for item in found:
        if not item.passes:
            why = f"{item.output} differs by {item.difference:.3g}, and {item.allowed:.3g} is allowed"
            raise EngineError(what, why=why, remedy=remedy)


def _read(path: Path) -> tuple[Arrays, Arrays]:
    """Golden inputs and outputs by name."""
    try:
        tensors = safetensors.numpy.load_file(path)
    except (OSError, SafetensorError) as error:
        raise EngineError(f"{path} cannot be read", why=str(error), remedy="export the bundle again") from error
    inputs, outputs = (
        {name.removeprefix(kind): array for name, array in tensors.items() if name.startswith(kind)}
        for kind in ("input.", "output.")
    )
    if not inputs or not outputs or len({array.shape[0] for array in tensors.values()}) != 1:
        raise EngineError(
            f"{path} is not a set of golden samples",
            why="it needs inputs and outputs with one number of samples",
            remedy="export the bundle again",
        )
    return inputs, outputs


def _difference(given: AnyArray | None, expected: AnyArray) -> float:
    """Largest absolute difference; infinite where there is no comparing."""
    if given is None or given.shape != expected.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):  # inf - inf is judged below
        difference = float(np.abs(given.astype(np.float64) - expected.astype(np.float64)).max())
    return float("inf") if np.isnan(difference) else difference
