"""Golden samples: inputs that travel with a model, and what PyTorch answered for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from edge_ad.backends.base import Precision
from edge_ad.errors import EngineError
from edge_ad.types import AnyArray, Backend

REBUILD = (
    "remove the engine and build it again, with --precision fp32 if it was not; if that does not help, export the "
    "bundle again"
)

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1, "int8_fp16": 2e-1}
"""Largest difference allowed, as a share of the largest golden value of the same output. For two briefly
trained models in ONNX Runtime on a CPU, fp32 differed from PyTorch by up to 5e-4, fp16 from fp32 by up to 1e-2."""


def check_golden(
    backend: Backend, golden_path: Path, precision: Precision, max_batch: int = 1, remedy: str = REBUILD
) -> float:
    """Runs the golden inputs and compares every output.

    Args:
        backend: what to try.
        golden_path: safetensors file with ``input.<name>`` and ``output.<name>``, batch first.
        precision: of the backend's arithmetic; it sets the tolerance.
        max_batch: samples to feed at once.
        remedy: what to do where the answers differ.

    Returns:
        The largest absolute difference over all outputs and samples.

    Raises:
        EngineError: the file cannot be read, the backend fails, or an output differs by more than the
            tolerance, is missing, of another shape, or not a number.
    """
    inputs, expected = _read(golden_path)
    samples = next(iter(inputs.values())).shape[0]
    differences = dict.fromkeys(expected, 0.0)
    for start in range(0, samples, max_batch):
        part = slice(start, start + max_batch)
        outputs = backend.run({name: array[part] for name, array in inputs.items()})
        for name, array in expected.items():
            differences[name] = max(differences[name], _difference(outputs.get(name), array[part]))
    for name, difference in differences.items():
        allowed = TOLERANCES[precision] * float(np.abs(expected[name]).max())
        if not (np.isfinite(difference) and difference <= allowed):
            raise EngineError(
                f"{backend.name} in {precision} does not give the answers in {golden_path.name}",
                why=f"{name} differs by {difference:.3g}, and {allowed:.3g} is allowed",
                remedy=remedy,
            )
    return max(differences.values())


def _read(path: Path) -> tuple[dict[str, AnyArray], dict[str, AnyArray]]:
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
