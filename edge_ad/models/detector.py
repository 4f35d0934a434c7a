"""The whole inspection as one module: camera arrays in, anomaly map out."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import field_validator
from torch import Tensor, nn

from edge_ad.bundle import InputSpec
from edge_ad.config import HeadConfig, PreprocessConfig, Settings
from edge_ad.models.anomaly_map import AnomalyHead, cosine_distance
from edge_ad.models.backbones import BACKBONES, BackboneSpec, frozen, teacher_features
from edge_ad.models.crd import Crd
from edge_ad.models.layers import Features
from edge_ad.models.preprocess import GeometryStatistics, Preprocess
from edge_ad.models.rd import Rd

METHODS: dict[str, type[Crd] | type[Rd]] = {"crd": Crd, "rd": Rd}


class FeatureScaling(nn.Module):
    """Per-channel standardisation of the teacher's features, with statistics of the training frames.

    EfficientNet-Lite's stages end linearly: a few channels with large offsets would rule every
    cosine. ResNet's are left as they are (the papers' setting): mean 0, standard deviation 1.
    """

    def __init__(self, backbone: BackboneSpec, modalities: int) -> None:
        super().__init__()
        self.levels = len(backbone.channels)
        for modality in range(modalities):
            for level, channels in enumerate(backbone.channels):
                self.register_buffer(f"mean_{modality}_{level}", torch.zeros(1, channels, 1, 1))
                self.register_buffer(f"std_{modality}_{level}", torch.ones(1, channels, 1, 1))

    def forward(self, features: list[Features]) -> list[Features]:
        """Per modality three maps → the same, each channel centred and scaled."""
        return [self.one(modality, maps) for modality, maps in enumerate(features)]

    def one(self, modality: int, maps: Features) -> Features:
        """The three maps of one modality → the same, each channel centred and scaled."""
        return [
            (x - self.get_buffer(f"mean_{modality}_{level}")) / self.get_buffer(f"std_{modality}_{level}")
            for level, x in enumerate(maps)
        ]

    def learn(self, features: list[Features]) -> None:
        """Takes mean and standard deviation from features of the training frames."""
        for m, maps in enumerate(features):
            for level, x in enumerate(maps):
                std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
                self.get_buffer(f"mean_{m}_{level}").copy_(mean)
                self.get_buffer(f"std_{m}_{level}").copy_(std.clamp_min(1e-4))


class DetectorConfig(Settings):
    """Everything that decides a detector's graph, apart from its weights."""

    model: Literal["crd", "rd"] = "crd"
    backbone: str = "efficientnet_lite0"
    preprocess: PreprocessConfig = PreprocessConfig()
    input: InputSpec
    geometry: GeometryStatistics = GeometryStatistics()
    head: HeadConfig = HeadConfig()

    @field_validator("backbone")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in BACKBONES:
            raise ValueError(f"choose one of {', '.join(BACKBONES)}")
        return value


class Detector(nn.Module):
    """Preprocessing, teacher, students and head.

    ``input_names`` and ``output_names`` give the order of the arguments and results of ``forward``.
    """

    def __init__(self, config: DetectorConfig, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.spec = BACKBONES[config.backbone]
        modalities = config.preprocess.modalities
        self.preprocess = Preprocess(config.preprocess, config.input, config.geometry, self.spec)
        self.teacher = frozen(teacher if teacher is not None else self.spec.build())
        self.scaling = FeatureScaling(self.spec, len(modalities))
        self.students = METHODS[config.model](self.spec)
        self.head = AnomalyHead(config.head, len(modalities), config.preprocess.image_size_px)
        self.input_names = config.preprocess.input_names
        self.output_names = ("anomaly_map", "score", *(f"map_{name}" for name in modalities))

    def train(self, mode: bool = True) -> Detector:
        """Only the students ever leave eval mode."""
        self.students.train(mode)
        return self

    def teacher_features(self, images: list[Tensor]) -> list[Features]:
        """Normalised images, one per modality → per modality the teacher's three raw maps, in one pass."""
        return teacher_features(self.teacher, images)

    def features(self, inputs: dict[str, Tensor]) -> tuple[list[Features], Tensor | None]:
        """Camera arrays → per modality the teacher's three maps, standardised; and the inspected region."""
        images, region = self.preprocess(inputs)
        return self.scaling(self.teacher_features(images)), region

    def distances(self, features: list[Features]) -> list[Features]:
        """Features → per modality the student's distance at each scale, (N, 1, h, w)."""
        floor = self.config.head.energy_floor if self.spec.signed else 0.0
        return [
            [cosine_distance(x, y, floor) for x, y in zip(own, restored, strict=True)]
            for own, restored in zip(features, self.students(features), strict=True)
        ]

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Arrays in the order of ``input_names`` → results in the order of ``output_names``."""
        features, region = self.features(dict(zip(self.input_names, arrays, strict=True)))
        anomaly_map, score, modality_maps = self.head(self.distances(features), region)
        return anomaly_map, score, *modality_maps
