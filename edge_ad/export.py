"""From a checkpoint to a bundle: ONNX graphs, each run and compared with PyTorch before it is kept.

model.onnx                 camera arrays → anomaly map, score, map per modality: all that a box runs
teacher.onnx               normalised image → the teacher's three maps
tuner_<modality>.onnx      the other modality's maps → filtered and amplified maps     (crd)
student_<modality>.onnx    own maps (and the tuner's) → restored maps
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import safetensors.numpy
import torch
from torch import Tensor, nn

from edge_ad import __version__
from edge_ad.backends.torch import tensor_specs
from edge_ad.bundle import (
    GOLDEN,
    MANIFEST,
    THRESHOLDS,
    Bundle,
    Manifest,
    TensorInfo,
    Thresholds,
    file_digest,
    read_bundle,
)
from edge_ad.errors import BundleError, OutputError
from edge_ad.files import not_written, replace_directory
from edge_ad.models.checkpoint import CheckpointRecord, load_detector, read_golden
from edge_ad.models.crd import CrdStudent
from edge_ad.models.detector import Detector
from edge_ad.models.layers import Features
from edge_ad.scoring import threshold_from_scores

OPSET = 18
MAX_BATCH = 64
TOLERANCE = 1e-4
"""Largest difference of a map from PyTorch's, absolute; of features, as a share of their largest value."""
ROUNDING = 2e-6
"""What float32 leaves of a map's largest value: allowed instead where maps grow beyond 50."""


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph to export: a module, sample arguments, and names for what goes in and out."""

    name: str
    module: nn.Module
    arguments: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class _Teacher(nn.Module):
    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.teacher = detector.teacher

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.teacher(image))


class _Component(nn.Module):
    """A tuner or student that takes the teacher's raw maps, as ``teacher.onnx`` gives them."""

    def __init__(self, detector: Detector, student: int, source: int) -> None:
        super().__init__()
        self.scaling, self.source = detector.scaling, source
        self.student: Any = detector.students.students[student]

    def scaled(self, *maps: Tensor) -> Features:
        return self.scaling.one(self.source, list(maps))


class _Tuner(_Component):
    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, ...]:
        filtered, amplified = self.student.tuners(self.scaled(first, second, third))
        return *filtered, *amplified


class _CrdStudent(_Component):
    def forward(
        self,
        first: Tensor,
        second: Tensor,
        third: Tensor,
        filtered1: Tensor,
        filtered2: Tensor,
        filtered3: Tensor,
        amplified1: Tensor,
        amplified2: Tensor,
        amplified3: Tensor,
    ) -> tuple[Tensor, ...]:
        own = self.scaled(first, second, third)
        tuned = ([filtered1, filtered2, filtered3], [amplified1, amplified2, amplified3])
        return tuple(self.student.restore(own, *tuned)[1])


class _RdStudent(_Component):
    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.student(self.scaled(first, second, third)))


def graphs(detector: Detector, arrays: tuple[Tensor, ...]) -> Iterator[Graph]:
    """Every graph of a bundle, the fused one first, with sample arguments computed from ``arrays``.

    Args:
        detector: in eval mode.
        arrays: camera arrays in the order of ``detector.input_names``.
    """
    yield Graph("model", detector, arrays, detector.input_names, detector.output_names)
    modalities = detector.config.preprocess.modalities
    with torch.no_grad():
        images, _ = detector.preprocess(dict(zip(detector.input_names, arrays, strict=True)))
        raw = detector.teacher_features(images)
    scales = ("stride4", "stride8", "stride16")
    yield Graph("teacher", _Teacher(detector), (images[0],), ("image",), scales)
    own_names, restored = tuple(f"own_{s}" for s in scales), tuple(f"restored_{s}" for s in scales)
    for index, modality in enumerate(modalities):
        student = detector.students.students[index]
        if not isinstance(student, CrdStudent):
            component = _RdStudent(detector, index, index)
            yield Graph(f"student_{modality}", component, tuple(raw[index]), own_names, restored)
            continue
        other_names = tuple(f"other_{s}" for s in scales)
        tuned_names = tuple(f"{kind}_{s}" for kind in ("filtered", "amplified") for s in scales)
        tuner = _Tuner(detector, index, 1 - index).eval()
        with torch.no_grad():
            tuned = tuner(*raw[1 - index])
        yield Graph(f"tuner_{modality}", tuner, tuple(raw[1 - index]), other_names, tuned_names)
        restorer = _CrdStudent(detector, index, index)
        yield Graph(f"student_{modality}", restorer, (*raw[index], *tuned), own_names + tuned_names, restored)


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
            dynamic_shapes=(shapes,) if graph.name == "model" else shapes,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
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
        if graph.name == "model":
            allowed = max(TOLERANCE, ROUNDING * largest)
        else:
            difference, allowed = difference / largest, TOLERANCE
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
    arrays = tuple(golden[name] for name in detector.input_names)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as temporary:
            fresh = Path(temporary) / "bundle"
            fresh.mkdir()
            differences = {}
            for graph in graphs(detector, arrays):
                progress(f"{graph.name}.onnx")
                content = onnx_from_graph(graph).SerializeToString()
                differences[graph.name] = parity(graph, content)
                (fresh / f"{graph.name}.onnx").write_bytes(content)
            _write_golden(fresh / GOLDEN, detector, arrays)
            thresholds = Thresholds(modes={"full": threshold_from_scores(record.validation_scores)})
            (fresh / THRESHOLDS).write_text(thresholds.model_dump_json(indent=1))
            manifest = _manifest(detector, record, fresh, metrics or {}, differences)
            (fresh / MANIFEST).write_text(manifest.model_dump_json(indent=1))
            replace_directory(fresh, directory)
    except OSError as error:
        raise not_written(directory, error) from error
    return read_bundle(directory)


def _write_golden(path: Path, detector: Detector, arrays: Sequence[Tensor]) -> None:
    with torch.no_grad():
        results = detector(*arrays)
    golden = {f"input.{name}": x.numpy() for name, x in zip(detector.input_names, arrays, strict=True)}
    golden |= {
        f"output.{name}": np.ascontiguousarray(x.numpy())
        for name, x in zip(detector.output_names, results, strict=True)
    }
    path.write_bytes(safetensors.numpy.save(golden))


def _manifest(
    detector: Detector, record: CheckpointRecord, directory: Path, metrics: dict[str, float], parity: dict[str, float]
) -> Manifest:
    spec = detector.config.input
    depth = "m" if spec.depth == "float32_m" else f"low and high byte of uint16, {spec.depth_unit_m:g} m a unit"
    units = {"rgb": "sRGB, 0 to 255", "normals": "(n + 1) * 127.5", "depth": depth}
    inputs, outputs = tensor_specs(detector)
    manifest = Manifest(
        schema_version=1,
        edge_ad_version=__version__,
        name=record.data.category,
        model=detector.config.model,
        backbone=detector.config.backbone,
        modalities=detector.config.preprocess.modalities,
        opset=OPSET,
        input=spec,
        inputs=tuple(TensorInfo(name=x.name, dtype=x.dtype, shape=x.shape, unit=units[x.name]) for x in inputs),
        outputs=tuple(
            TensorInfo(name=x.name, dtype=x.dtype, shape=x.shape, unit="standard deviations of good parts, summed")
            for x in outputs
        ),
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
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
