"""From a checkpoint to a bundle: ONNX graphs, each run and compared with PyTorch before it is kept.

Which graphs there are says ``edge_ad.export_graphs``.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import safetensors.numpy
import torch
from torch import Tensor

from edge_ad import __version__
from edge_ad.backends.torch import tensor_specs
from edge_ad.bundle import (
    MANIFEST,
    REFERENCE,
    THRESHOLDS,
    WEIGHTS,
    Bundle,
    Manifest,
    ModeInfo,
    TensorInfo,
    file_digest,
    golden_name,
    read_bundle,
)
from edge_ad.errors import BundleError, OutputError
from edge_ad.export_graphs import Graph, graphs
from edge_ad.files import not_written, replace_directory
from edge_ad.models.checkpoint import CheckpointRecord, load_detector, read_golden
from edge_ad.models.detector import Detector, OperatingMode
from edge_ad.onnx_passes import fold_factors
from edge_ad.onnx_weights import share_weights

OPSET = 18
MAX_BATCH = 64
TOLERANCE = 1e-4
"""Largest difference of a map from PyTorch's, absolute; of features, as a share of their largest value."""
ROUNDING = 2e-6
"""What float32 leaves of a map's largest value: allowed instead where maps grow beyond 50."""


def onnx_from_graph(graph: Graph) -> onnx.ModelProto:
    """Exports one graph with a free batch and checks it.

    Raises:
        BundleError: it holds what no inference needs: BatchNorm, or outputs beside those named.
    """
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    shapes = tuple({0: batch} for _ in graph.arguments)
    with _quiet_exporter():
        program = torch.onnx.export(
            graph.module.eval(),
            graph.arguments,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=(shapes,),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]  # the exporter's stack traces, with this machine's paths
    fold_factors(model)
    onnx.checker.check_model(model)
    left = [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]
    names = tuple(output.name for output in model.graph.output)
    if left or names != graph.outputs:
        raise BundleError(
            f"{graph.name}.onnx is not as it should be", why=f"outputs {names}, unfolded {left}", remedy="report this"
        )
    return model


def parity(graph: Graph, content: bytes) -> float:
    """Runs a graph in ONNX Runtime and compares it with PyTorch.

    Returns:
        The largest difference: absolute for the fused graph's maps and score, elsewhere as a share of
        the output's largest value.

    Raises:
        BundleError: it is above ``TOLERANCE`` (of a fused map: or above ``ROUNDING`` of its peak).
    """
    with torch.no_grad():
        expected = graph.module(*graph.arguments)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feeds = {name: argument.numpy() for name, argument in zip(graph.inputs, graph.arguments, strict=True)}
    given = session.run(list(graph.outputs), feeds)
    worst = 0.0
    for name, ours, theirs in zip(graph.outputs, given, expected, strict=True):
        difference, largest = float(np.abs(ours - theirs.numpy()).max()), float(theirs.abs().max())
        if graph.is_whole:
            allowed = max(TOLERANCE, ROUNDING * largest)
        else:
            difference, allowed = difference / max(largest, 1e-6), TOLERANCE
        worst = max(worst, difference)
        if not difference <= allowed:
            raise BundleError(
                f"{graph.name}.onnx does not give PyTorch's answers",
                why=f"{name} differs by {difference:.2g}, allowed is {allowed:.2g}",
                remedy="report this with the versions that 'edge-ad doctor' prints",
            )
    return worst


def export_bundle(
    checkpoint: Path,
    directory: Path,
    *,
    metrics: dict[str, float] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Writes the bundle of a finished training run; an old one stays until the new one is whole.

    Args:
        checkpoint: the run's directory or its checkpoint file.
        directory: of the bundle; made, or replaced if it holds a bundle.
        metrics: of an evaluation, to travel with the bundle.
        progress: called with the name of each graph as it is exported.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or not finished.
        BundleError: a graph does not give PyTorch's answers.
        OutputError: the bundle cannot be written, or the directory holds something else.
    """
    if directory.is_file() or (
        directory.is_dir() and not (directory / MANIFEST).is_file() and any(directory.iterdir())
    ):
        raise OutputError(f"{directory} is not a bundle", why="something else is there", remedy="name another --output")
    detector, record = load_detector(checkpoint)
    golden = read_golden(checkpoint)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as temporary:
            fresh = Path(temporary) / "bundle"
            fresh.mkdir()
            models, differences = {}, {}
            for graph in graphs(detector, golden):
                progress(f"{graph.name}.onnx")
                models[graph.name] = onnx_from_graph(graph)
                differences[graph.name] = parity(graph, models[graph.name].SerializeToString())
            (fresh / WEIGHTS).write_bytes(share_weights(models, WEIGHTS))
            for name, model in models.items():
                (fresh / f"{name}.onnx").write_bytes(model.SerializeToString())
            for mode in detector.method.modes:
                _write_golden(fresh / golden_name(mode), detector.operating(mode).eval(), golden)
            (fresh / THRESHOLDS).write_text(record.thresholds.model_dump_json(indent=1))
            reference = record.reference()
            if reference is not None:
                (fresh / REFERENCE).write_text(reference.model_dump_json(indent=1))
            manifest = _manifest(detector, record, fresh, metrics or {}, differences)
            (fresh / MANIFEST).write_text(manifest.model_dump_json(indent=1))
            replace_directory(fresh, directory)
    except OSError as error:
        raise not_written(directory, error) from error
    return read_bundle(directory)


def _write_golden(path: Path, graph: OperatingMode, samples: dict[str, Tensor]) -> None:
    arrays = {name: samples[name] for name in graph.input_names}
    with torch.no_grad():
        results = graph(*arrays.values())
    golden = {f"input.{name}": x.numpy() for name, x in arrays.items()}
    golden |= {
        f"output.{name}": np.ascontiguousarray(x.numpy()) for name, x in zip(graph.output_names, results, strict=True)
    }
    path.write_bytes(safetensors.numpy.save(golden))


def _mode_info(graph: OperatingMode) -> ModeInfo:
    spec = graph.detector.config.input
    depth = "m" if spec.depth == "float32_m" else f"low and high byte of uint16, {spec.depth_unit_m:g} m a unit"
    units = {"rgb": "sRGB, 0 to 255", "normals": "(n + 1) * 127.5", "depth": depth}
    inputs, outputs = tensor_specs(graph)
    return ModeInfo(
        modalities=graph.modalities,
        inputs=tuple(TensorInfo(name=x.name, dtype=x.dtype, shape=x.shape, unit=units[x.name]) for x in inputs),
        outputs=tuple(
            TensorInfo(name=x.name, dtype=x.dtype, shape=x.shape, unit="standard deviations of good parts, summed")
            for x in outputs
        ),
    )


def _manifest(
    detector: Detector, record: CheckpointRecord, directory: Path, metrics: dict[str, float], parity: dict[str, float]
) -> Manifest:
    manifest = Manifest(
        schema_version=2,
        edge_ad_version=__version__,
        name=record.data.category,
        model=detector.config.model,
        backbone=detector.config.backbone,
        modalities=detector.config.preprocess.modalities,
        opset=OPSET,
        input=detector.config.input,
        modes={mode: _mode_info(detector.operating(mode)) for mode in detector.method.modes},
        training_data=record.data,
        metrics=metrics,
        parity=parity,
        licences={"edge-ad": "Apache-2.0", f"teacher {detector.spec.name}": detector.spec.licence},
        files={path.name: file_digest(path) for path in sorted(directory.iterdir())},
    )
    return manifest.sealed()


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps the exporter's notes on its own internals away from users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
