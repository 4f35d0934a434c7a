"""Runs a checkpoint in PyTorch, so that a trained model can be tried before it is exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from edge_ad.backends.base import check_feeds
from edge_ad.bundle import InputSpec, Thresholds, file_digest
from edge_ad.models.checkpoint import checkpoint_path, load_detector
from edge_ad.models.detector import Detector
from edge_ad.scoring import threshold_from_scores
from edge_ad.types import AnyArray, TensorSpec


def tensor_specs(detector: Detector) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a detector's graph."""
    spec, size = detector.config.input, detector.config.preprocess.image_size_px
    image = (None, spec.roi.height_px, spec.roi.width_px)
    kinds = {
        "rgb": ("uint8", (*image, 3)),
        "normals": ("uint8", (*image, 3)),
        "depth": ("uint8", (*image, 2)) if spec.depth == "uint16_planes" else ("float32", image),
    }
    inputs = tuple(TensorSpec(name, *kinds[name]) for name in detector.input_names)
    outputs = tuple(
        TensorSpec(name, "float32", (None,) if name == "score" else (None, size, size))
        for name in detector.output_names
    )
    return inputs, outputs


class TorchBackend:
    """A detector on the CPU, or on the GPU that PyTorch sees."""

    name = "torch"

    def __init__(self, detector: Detector) -> None:
        # TensorFloat-32 would round what ONNX Runtime and TensorRT do not.
        torch.backends.cudnn.allow_tf32 = False
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._detector = detector.to(self._device).eval()
        self.inputs, self.outputs = tensor_specs(detector)

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Runs the detector once, see :class:`edge_ad.types.Backend`."""
        check_feeds(feeds, self.inputs)
        arrays = [torch.from_numpy(np.ascontiguousarray(feeds[spec.name])).to(self._device) for spec in self.inputs]
        with torch.inference_mode():
            results = self._detector(*arrays)
        return {spec.name: result.cpu().numpy() for spec, result in zip(self.outputs, results, strict=True)}

    def close(self) -> None:
        """Nothing to free that the garbage collector would not."""


def open_checkpoint(path: Path) -> tuple[TorchBackend, InputSpec, Thresholds, str, str]:
    """A finished checkpoint, ready to run.

    Args:
        path: the file, or the run's directory.

    Returns:
        The backend, how frames feed it, the thresholds, the file's digest, one line for people.

    Raises:
        CheckpointError: it is missing, damaged or not finished.
    """
    detector, record = load_detector(path)
    thresholds = Thresholds(modes={"full": threshold_from_scores(record.validation_scores)})
    digest = file_digest(checkpoint_path(path)).sha256
    described = f"{record.detector.model} {'+'.join(record.detector.preprocess.modalities)}, torch"
    return TorchBackend(detector), record.detector.input, thresholds, digest, described
