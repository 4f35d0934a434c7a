"""Small valid things to test with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.reference
import safetensors.numpy

from edge_ad.bundle import (
    FULL,
    GOLDEN,
    MANIFEST,
    MODEL,
    THRESHOLDS,
    Bundle,
    InputSpec,
    Manifest,
    ModeInfo,
    TensorInfo,
    Threshold,
    Thresholds,
    TrainingData,
    file_digest,
    read_bundle,
)
from edge_ad.types import AnyArray, Roi
from tests.onnx_graphs import inspection_graph


def make_feeds(samples: int = 2, seed: int = 0) -> dict[str, AnyArray]:
    """Noise for the sample graph; every fifth depth pixel has no return."""
    generator = np.random.default_rng(seed)
    rgb = generator.integers(0, 256, (samples, 64, 64, 3), dtype=np.uint8)
    depth = generator.integers(0, 256, (samples, 64, 64, 2), dtype=np.uint8)
    depth[generator.random((samples, 64, 64)) < 0.2] = 0
    return {"rgb": rgb, "depth": depth}


def make_bundle(directory: Path, *, seed: int = 7, mixes_batch: bool = False, samples: int = 2) -> Bundle:
    """A bundle of the sample graph with weights from ``seed``, its golden outputs by ONNX's reference, one by one."""
    directory.mkdir(parents=True, exist_ok=True)
    model, feeds = inspection_graph(seed, mixes_batch=mixes_batch), make_feeds(samples)
    names = [output.name for output in model.graph.output]
    golden = {f"input.{name}": array for name, array in feeds.items()}
    reference = onnx.reference.ReferenceEvaluator(model)
    parts = [
        reference.run(None, {name: array[index : index + 1] for name, array in feeds.items()})
        for index in range(samples)
    ]
    for name, arrays in zip(names, zip(*parts, strict=True), strict=True):
        golden[f"output.{name}"] = np.concatenate(arrays)
    (directory / MODEL).write_bytes(model.SerializeToString())
    safetensors.numpy.save_file(golden, directory / GOLDEN)
    full = Threshold(value=4.0, method="largest good score", frames=10, false_reject_rate=0.05)
    (directory / THRESHOLDS).write_text(Thresholds(modes={FULL: full}).model_dump_json())
    manifest = _manifest({name: file_digest(directory / name) for name in (MODEL, GOLDEN, THRESHOLDS)})
    (directory / MANIFEST).write_text(manifest.model_dump_json())
    return read_bundle(directory)


def _manifest(files: dict[str, object]) -> Manifest:
    roi = Roi(x_px=0, y_px=0, width_px=64, height_px=64)
    manifest = Manifest.model_validate(
        {
            "schema_version": 2,
            "edge_ad_version": "0",
            "name": "widget",
            "model": "rd",
            "backbone": "none",
            "modalities": ("rgb", "normals"),
            "opset": 18,
            "input": InputSpec(
                frame_size_px=(64, 64), roi=roi, depth="uint16_planes", depth_unit_m=0.001, intrinsics=None
            ),
            "modes": {
                FULL: ModeInfo(
                    modalities=("rgb", "normals"),
                    inputs=(
                        TensorInfo(name="rgb", dtype="uint8", shape=(None, 64, 64, 3), unit="sRGB"),
                        TensorInfo(name="depth", dtype="uint8", shape=(None, 64, 64, 2), unit="bytes"),
                    ),
                    outputs=(
                        TensorInfo(name="anomaly_map", dtype="float32", shape=(None, 64, 64), unit="sigma"),
                        TensorInfo(name="score", dtype="float32", shape=(None,), unit="sigma"),
                    ),
                )
            },
            "training_data": TrainingData(category="widget", train_frames=10, validation_frames=5, sha256="0"),
            "metrics": {},
            "parity": {},
            "licences": {},
            "files": files,
        }
    )
    return manifest.sealed()
