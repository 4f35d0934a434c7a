"""The graphs of a bundle: the whole inspection per operating mode, and its parts for whoever builds on them.

model.onnx                 camera arrays → anomaly map, score, a map per modality: all that a box runs
model_rgb_only.onnx        the same without depth, and model_3d_only.onnx without colour (crd, rd, fd)
embedding.onnx             camera arrays → one vector that tells frames apart, to choose calibration frames by
teacher.onnx               normalised image → the teacher's three maps (mmrd: teacher_<modality>.onnx)
tuner_<modality>.onnx      the other modality's maps → filtered and amplified maps     (crd)
student.onnx               all modalities' maps → target and restored maps             (mmrd)
student_<modality>.onnx    own maps (and the tuner's) → restored maps                  (crd, rd, fd)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_ad.bundle import EMBEDDING, FULL, model_name
from edge_ad.models.backbones import SharedTeacher
from edge_ad.models.crd import Crd
from edge_ad.models.detector import Detector
from edge_ad.models.fd import Fd
from edge_ad.models.layers import Features
from edge_ad.models.mmrd import Mmrd, SiameseTeacher
from edge_ad.models.rd import Rd

SCALES = ("stride4", "stride8", "stride16")


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph to export: a module, sample arguments, and names for what goes in and out.

    ``is_whole`` tells the graph of an operating mode from its parts.
    """

    name: str
    module: nn.Module
    arguments: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_whole: bool = False


def graphs(detector: Detector, samples: Mapping[str, Tensor]) -> Iterator[Graph]:
    """Every graph of a bundle, that of the full mode first, with sample arguments computed from ``samples``.

    Args:
        detector: in eval mode.
        samples: camera arrays by input name, for all modalities.
    """
    for mode in detector.method.modes:
        whole = detector.operating(mode)
        arrays = tuple(samples[name] for name in whole.input_names)
        name = model_name(mode).removesuffix(".onnx")
        yield Graph(name, whole, arrays, whole.input_names, whole.output_names, is_whole=True)
    embedding = _Embedding(detector)
    arrays = tuple(samples[name] for name in embedding.input_names)
    yield Graph(EMBEDDING.removesuffix(".onnx"), embedding, arrays, embedding.input_names, ("embedding",))
    with torch.no_grad():
        images = detector.preprocess(samples, detector.config.preprocess.modalities)[0]
        raw: dict[str, Features] = detector.teacher(images)
    if isinstance(detector.teacher, SharedTeacher):
        image = next(iter(images.values()))
        yield Graph("teacher", _Network(detector.teacher.network), (image,), ("image",), SCALES)
    if isinstance(detector.teacher, SiameseTeacher):
        for name, network in detector.teacher.networks.items():
            yield Graph(f"teacher_{name}", _Network(network), (images[name],), ("image",), SCALES)
    method = detector.method
    if isinstance(method, Crd):
        yield from _crd(detector, method, raw)
    elif isinstance(method, Rd):
        for name, student in method.students.items():
            part = _Restorer(detector, name, student)
            yield Graph(f"student_{name}", part, tuple(raw[name]), _names("own"), _names("restored"))
    elif isinstance(method, Mmrd):
        maps = [x for name in method.modalities for x in raw[name]]
        inputs = tuple(x for name in method.modalities for x in _names(name))
        yield Graph("student", _Fusion(detector, method), tuple(maps), inputs, _names("target") + _names("restored"))
    elif isinstance(method, Fd):
        for name, student in method.students.items():
            yield Graph(f"student_{name}", _Network(student), (images[name],), ("image",), _names("restored"))


def _crd(detector: Detector, method: Crd, raw: Mapping[str, Features]) -> Iterator[Graph]:
    """Tuner and student of each modality; without filter and amplifier there is no tuner."""
    choices = detector.config.crd
    kinds = [kind for kind, there in (("filtered", choices.filter), ("amplified", choices.amplifier)) if there]
    tuned_names = tuple(name for kind in kinds for name in _names(kind))
    for name, student in method.students.items():
        other = method.other(name)
        tuner = _Tuner(detector, other, student).eval()
        with torch.no_grad():
            tuned = tuner(*raw[other])
        if kinds:
            yield Graph(f"tuner_{name}", tuner, tuple(raw[other]), _names("other"), tuned_names)
        restorer = _CrdRestorer(detector, name, student)
        yield Graph(f"student_{name}", restorer, (*raw[name], *tuned), _names("own") + tuned_names, _names("restored"))


def _names(kind: str) -> tuple[str, ...]:
    return tuple(f"{kind}_{scale}" for scale in SCALES)


class _Embedding(nn.Module):
    """What the teacher sees of a frame, averaged over each of its maps: (N, D)."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.input_names = detector.operating().input_names

    def forward(self, *arrays: Tensor) -> tuple[Tensor]:
        modalities = self.detector.method.modes[FULL]
        batch, _ = self.detector.batch(dict(zip(self.input_names, arrays, strict=True)), modalities)
        maps = [level for name in modalities for level in batch.features[name]]
        return (torch.cat([level.mean((2, 3)) for level in maps], 1),)


class _Network(nn.Module):
    """A teacher, or a student that sees images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(images[0]))


class _Part(nn.Module):
    """A part that takes the teacher's raw maps of one modality, as ``teacher.onnx`` gives them."""

    def __init__(self, detector: Detector, modality: str, student: nn.Module) -> None:
        super().__init__()
        self.scaling, self.modality = detector.scaling, modality
        self.student: Any = student

    def scaled(self, *maps: Tensor) -> Features:
        return self.scaling.one(self.modality, list(maps))


class _Fusion(nn.Module):
    """MMRD's student, which takes the raw maps of all modalities."""

    def __init__(self, detector: Detector, method: Mmrd) -> None:
        super().__init__()
        self.scaling, self.method = detector.scaling, method

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        names = self.method.modalities
        raw = {name: list(maps[3 * index : 3 * index + 3]) for index, name in enumerate(names)}
        outputs = self.method.restore(self.scaling(raw))
        return *outputs.target, *outputs.restored


class _Restorer(_Part):
    def forward(self, *own: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.student(self.scaled(*own)))


class _Tuner(_Part):
    def forward(self, *other: Tensor) -> tuple[Tensor, ...]:
        filtered, amplified = self.student.tuners(self.scaled(*other))
        return *filtered, *amplified


class _CrdRestorer(_Part):
    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """Own maps, then the filtered and the amplified ones, as far as there are such."""
        tuned = list(maps[3:])
        split = len(self.student.tuners.filters)
        return tuple(self.student.restore(self.scaled(*maps[:3]), tuned[:split], tuned[split:])[1])
