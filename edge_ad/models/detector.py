"""The whole inspection as one module: camera arrays in, anomaly map out."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from edge_ad.bundle import InputSpec
from edge_ad.config import PreprocessConfig, Settings
from edge_ad.models.anomaly_map import AnomalyHead, cosine_map
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
        return [
            [
                (x - self.get_buffer(f"mean_{m}_{level}")) / self.get_buffer(f"std_{m}_{level}")
                for level, x in enumerate(maps)
            ]
            for m, maps in enumerate(features)
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

    model: str = "crd"
    backbone: str = "efficientnet_lite0"
    preprocess: PreprocessConfig = PreprocessConfig()
    input: InputSpec
    geometry: GeometryStatistics = GeometryStatistics()
    sigma_px: float = Field(default=4.0, gt=0, le=32)


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
        self.head = AnomalyHead(len(modalities), config.sigma_px)
        self.input_names = config.preprocess.input_names
        self.output_names = ("anomaly_map", "score", *(f"map_{name}" for name in modalities))

    def train(self, mode: bool = True) -> Detector:
        """Only the students ever leave eval mode."""
        self.students.train(mode)
        return self

    def features(self, inputs: dict[str, Tensor]) -> list[Features]:
        """Camera arrays → per modality the teacher's three maps, standardised."""
        with torch.no_grad():
            features = teacher_features(self.teacher, self.preprocess(inputs))
            return self.scaling(features)  # type: ignore[no-any-return]

    def maps(self, features: list[Features]) -> list[Tensor]:
        """Features → per modality the raw distance map (N, 1, S, S)."""
        size = self.config.preprocess.image_size_px
        return [cosine_map(own, out, size) for own, out in zip(features, self.students(features), strict=True)]

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Arrays in the order of ``input_names`` → results in the order of ``output_names``."""
        inputs = dict(zip(self.input_names, arrays, strict=True))
        features = self.scaling(teacher_features(self.teacher, self.preprocess(inputs)))
        anomaly_map, score, modality_maps = self.head(self.maps(features))
        return anomaly_map, score, *modality_maps
