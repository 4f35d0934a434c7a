"""Runs a checkpoint in PyTorch, so that a trained model can be tried before it is exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from edge_ad.backends.base import check_feeds
from edge_ad.bundle import FULL, InputSpec, Thresholds, file_digest, unknown_mode
from edge_ad.drift.reference import Reference
from edge_ad.errors import CheckpointError
from edge_ad.models.checkpoint import checkpoint_path, load_detector
from edge_ad.models.detector import OperatingMode
from edge_ad.types import AnyArray, TensorSpec


def tensor_specs(graph: OperatingMode) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a detector's graph in an operating mode."""
    config = graph.detector.config
    spec, size = config.input, config.preprocess.image_size_px
    image = (None, spec.roi.height_px, spec.roi.width_px)
    kinds = {
        "rgb": ("uint8", (*image, 3)),
        "normals": ("uint8", (*image, 3)),
        "depth": ("uint8", (*image, 2)) if spec.depth == "uint16_planes" else ("float32", image),
    }
    inputs = tuple(TensorSpec(name, *kinds[name]) for name in graph.input_names)
    outputs = tuple(
        TensorSpec(name, "float32", (None,) if name == "score" else (None, size, size)) for name in graph.output_names
    )
    return inputs, outputs


class TorchBackend:
    """A detector on the CPU, or on the GPU that PyTorch sees."""

    name = "torch"

    def __init__(self, graph: OperatingMode) -> None:
        # TensorFloat-32 would round what ONNX Runtime and TensorRT do not.
        torch.backends.cudnn.allow_tf32 = False
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._graph = graph.to(self._device).eval()
        self.inputs, self.outputs = tensor_specs(graph)

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Runs the detector once, see :class:`edge_ad.types.Backend`."""
        check_feeds(feeds, self.inputs)
        arrays = [torch.from_numpy(np.ascontiguousarray(feeds[spec.name])).to(self._device) for spec in self.inputs]
        with torch.inference_mode():
            results = self._graph(*arrays)
        return {spec.name: result.cpu().numpy() for spec, result in zip(self.outputs, results, strict=True)}

    def close(self) -> None:
        """Nothing to free that the garbage collector would not."""


def open_checkpoint(
    path: Path, mode: str = FULL
) -> tuple[TorchBackend, InputSpec, Thresholds, str, str, Reference | None]:
    """A finished checkpoint, ready to run.

    Args:
        path: the file, or the run's directory.
        mode: the operating mode.

    Returns:
        The backend, how frames feed it, the thresholds, the file's digest, one line for people, what good frames
        were like.

    Raises:
        CheckpointError: it is missing, damaged or not finished, or its model has no such mode.
    """
    detector, record = load_detector(path)
    if mode not in detector.method.modes:
        raise unknown_mode(CheckpointError, str(path), mode, detector.method.modes)
    digest = file_digest(checkpoint_path(path)).sha256
    described = f"{record.detector.model} {'+'.join(detector.method.modes[mode])}, torch"
    backend = TorchBackend(detector.operating(mode))
    return backend, record.detector.input, record.thresholds, digest, described, record.reference()
