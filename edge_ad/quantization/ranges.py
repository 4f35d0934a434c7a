"""What values a network's tensors take on good frames: the ranges that INT8 has to cover."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    CalibrationMethod,
    TensorData,
    TensorsData,
    create_calibrator,
)

from edge_ad.errors import OutputError
from edge_ad.files import write_bytes
from edge_ad.quantization.calibration import RANGES, CalibrationSet, RangeMethod
from edge_ad.quantization.network import network_nodes
from edge_ad.types import AnyArray

Ranges = dict[str, tuple[float, float]]
"""By tensor name its lowest and highest value."""

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
PERCENTILE = 99.999
BINS, ENTROPY_BINS = 2048, 1024

_log = logging.getLogger(__name__)


def ranges_of(
    model: bytes,
    frames: CalibrationSet,
    names: Sequence[str],
    method: RangeMethod = "minmax",
    progress: Callable[[int], None] = lambda done: None,
) -> Ranges:
    """The ranges of a graph on a calibration set; measured once, then kept beside the set.

    Args:
        model: content of an ONNX file in float32.
        frames: the set.
        names: of the graph's inputs.
        method: see :func:`activation_ranges`.
        progress: called with the number of frames done.

    Raises:
        DataError: the set lacks an input.
    """
    key = {"model": hashlib.sha256(model).hexdigest(), "frames": frames.digest, "method": f"{method} 2"}
    path = frames.directory / RANGES / f"{key['model'][:16]}-{method}.json"
    try:
        kept = json.loads(path.read_text())
        if kept["key"] == key:
            return {name: (float(low), float(high)) for name, (low, high) in kept["ranges"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # absent, damaged or of another version: measured again
    found = activation_ranges(model, frames.feeds("calibration", names), method, progress)
    try:
        write_bytes(path, json.dumps({"key": key, "ranges": found}, indent=1).encode())
    except OutputError as error:
        _log.warning("the ranges are not kept: %s", error)
    return found


class _One(CalibrationDataReader):  # type: ignore[misc]
    """A single feed: what a calibrator keeps of its tensors is then freed before the next comes."""

    def __init__(self, feed: Mapping[str, AnyArray]) -> None:
        self._feeds: Iterator[Mapping[str, AnyArray]] = iter([feed])

    def get_next(self) -> Mapping[str, AnyArray] | None:
        return next(self._feeds, None)


def activation_ranges(
    model: bytes,
    feeds: Iterable[Mapping[str, AnyArray]],
    method: RangeMethod = "minmax",
    progress: Callable[[int], None] = lambda done: None,
) -> Ranges:
    """Runs a graph on calibration frames and watches the tensors of its networks.

    Args:
        model: content of an ONNX file in float32.
        feeds: the graph's inputs, one frame at a time; only one is held in memory.
        method: ``minmax`` takes the extremes; ``percentile`` leaves out the most extreme 0.001 % of the values;
            ``entropy`` cuts where the distribution in 8 bits differs least (Kullback-Leibler) from the original.
        progress: called with the number of frames done.

    Returns:
        The range of each tensor that a quantised graph may need.
    """
    proto = onnx.load_from_string(model)
    nodes = network_nodes(proto.graph)
    weights = {tensor.name for tensor in proto.graph.initializer}
    wanted = {name for node in nodes for name in (*node.input, *node.output) if name and name not in weights}
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "model.onnx"
        source.write_bytes(model)
        options: dict[RangeMethod, dict[str, Any]] = {
            "minmax": {},
            "percentile": {"num_bins": BINS, "percentile": PERCENTILE},
            "entropy": {"num_bins": ENTROPY_BINS, "num_quantized_bins": 128},
        }
        calibrator = create_calibrator(
            str(source),
            sorted({node.op_type for node in nodes}),
            str(Path(directory) / "watched.onnx"),
            METHODS[method],
            extra_options=options[method],
        )
        with redirect_stdout(io.StringIO()):  # the calibrators print what they do, into what may be a JSON report
            for done, feed in enumerate(feeds, 1):
                calibrator.collect_data(_One(feed))
                progress(done)
            data = calibrator.compute_data()
    found = {name: _range(data[name]) for name in data.keys() if name in wanted}  # noqa: SIM118 - not a mapping
    return dict(sorted(found.items()))


def tensors_data(ranges: Ranges) -> TensorsData:
    """The ranges as onnxruntime.quantization wants them."""
    return TensorsData(
        CalibrationMethod.MinMax, {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    )


def _range(data: TensorData) -> tuple[float, float]:
    low, high = data.range_value
    return float(np.min(low)), float(np.max(high))
