"""The whole inspection as one module: camera arrays in, anomaly map out."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from pydantic import field_validator
from torch import Tensor, nn

from edge_ad.bundle import FULL, InputSpec
from edge_ad.config import MethodConfig, ModelName
from edge_ad.models.backbones import BACKBONES, BackboneSpec
from edge_ad.models.layers import Features
from edge_ad.models.method import Batch, Method
from edge_ad.models.preprocess import GeometryStatistics, Preprocess

METHODS: dict[ModelName, str] = {
    "crd": "edge_ad.models.crd:Crd",
    "mmrd": "edge_ad.models.mmrd:Mmrd",
    "rd": "edge_ad.models.rd:Rd",
    "fd": "edge_ad.models.fd:Fd",
    "cmdiad": "edge_ad.models.cmdiad:Cmdiad",
}
"""Method → module and class."""


def method_class(model: ModelName) -> type[Method]:
    """The class of a method."""
    module, _, name = METHODS[model].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), name)
    return found


class FeatureScaling(nn.Module):
    """Per-channel standardisation of the teacher's features, with statistics of the training frames.

    EfficientNet-Lite's stages end linearly: a few channels with large offsets would rule every
    cosine. ResNet's are left as they are (the papers' setting): mean 0, standard deviation 1, unless
    ``standardize_features`` is set.
    """

    def __init__(self, backbone: BackboneSpec, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.modalities = modalities
        for modality in modalities:
            for level, channels in enumerate(backbone.channels):
                self.register_buffer(f"mean_{modality}_{level}", torch.zeros(1, channels, 1, 1))
                self.register_buffer(f"std_{modality}_{level}", torch.ones(1, channels, 1, 1))

    def forward(self, features: Mapping[str, Features]) -> dict[str, Features]:
        """Per modality three maps → the same, each channel centred and scaled."""
        return {modality: self.one(modality, maps) for modality, maps in features.items()}

    def one(self, modality: str, maps: Features) -> Features:
        """The three maps of one modality → the same, each channel centred and scaled."""
        return [
            (x - self.get_buffer(f"mean_{modality}_{level}")) / self.get_buffer(f"std_{modality}_{level}")
            for level, x in enumerate(maps)
        ]

    def learn(self, parts: Iterable[Mapping[str, Features]]) -> None:
        """Takes mean and standard deviation (over frames and pixels) from features of the training frames.

        Args:
            parts: the features of all frames, some frames at a time; other maps among them are left out.
        """
        sums: dict[str, Tensor] = {}
        count: dict[str, int] = {}
        for part in parts:
            for modality in self.modalities:
                for level, x in enumerate(part[modality]):
                    y = x.double()
                    moments = torch.stack([y.sum((0, 2, 3)), (y * y).sum((0, 2, 3))])
                    key = f"{modality}_{level}"
                    sums[key] = sums.get(key, 0) + moments
                    count[key] = count.get(key, 0) + x.shape[0] * x.shape[2] * x.shape[3]
        for key, moments in sums.items():
            mean, square = moments / count[key]
            std = (square - mean * mean).clamp_min(0).sqrt()
            self.get_buffer(f"mean_{key}").copy_(mean.view(1, -1, 1, 1))
            self.get_buffer(f"std_{key}").copy_(std.clamp_min(1e-4).view(1, -1, 1, 1))


class DetectorConfig(MethodConfig):
    """Everything that decides a detector's graph, apart from its weights."""

    input: InputSpec
    geometry: GeometryStatistics = GeometryStatistics()

    @field_validator("backbone")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in BACKBONES:
            raise ValueError(f"choose one of {', '.join(BACKBONES)}")
        return value


class Detector(nn.Module):
    """Preprocessing, teacher, students, and a head for each operating mode."""

    def __init__(self, config: DetectorConfig, network: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.spec = BACKBONES[config.backbone]
        if config.standardize_features:
            self.spec = replace(self.spec, signed=True)
        self.preprocess = Preprocess(config.preprocess, config.input, config.geometry, self.spec)
        self.scaling = FeatureScaling(self.spec, config.preprocess.modalities)
        self.method = method_class(config.model)(config, self.spec)
        self.teacher = self.method.make_teacher(network if network is not None else self.spec.build())
        self.heads = nn.ModuleDict({mode: self.method.head(mode) for mode in self.method.modes})

    def train(self, mode: bool = True) -> Detector:
        """Only the method ever leaves eval mode."""
        self.method.train(mode)
        return self

    def batch(self, inputs: Mapping[str, Tensor], modalities: tuple[str, ...] = ()) -> tuple[Batch, Tensor | None]:
        """Camera arrays → what the method gets of ``modalities`` (by default all), and the inspected region."""
        images, region = self.preprocess(inputs, modalities or self.config.preprocess.modalities)
        return Batch(self.scaling(self.teacher(images)), images), region

    def operating(self, mode: str = FULL) -> OperatingMode:
        """The graph that runs in an operating mode."""
        return OperatingMode(self, mode)


class OperatingMode(nn.Module):
    """A detector as it runs with some of its sensors, or with all.

    ``input_names`` and ``output_names`` give the order of the arguments and results of ``forward``. What the mode
    does not read is not computed.
    """

    def __init__(self, detector: Detector, mode: str) -> None:
        super().__init__()
        self.detector, self.mode = detector, mode
        self.modalities = detector.method.modes[mode]
        self.head = detector.heads[mode]
        self.input_names = detector.config.preprocess.inputs_for(self.modalities)
        self.output_names = ("anomaly_map", "score", *(f"map_{name}" for name in self.head.names))  # type: ignore[union-attr]

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Arrays in the order of ``input_names`` → results in the order of ``output_names``."""
        inputs = dict(zip(self.input_names, arrays, strict=True))
        batch, region = self.detector.batch(inputs, self.modalities)
        anomaly_map, score, maps = self.head(self.detector.method.distances(batch, self.mode), region)
        return anomaly_map, score, *maps.values()
