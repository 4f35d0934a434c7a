"""Forward distillation, the older baseline: a student that sees the image as its teacher does.

STFPM (Wang et al., BMVC 2021): a network of the teacher's make, trained from scratch on good images to give the
teacher's three feature maps. It has no bottleneck, so it generalises to defects too well, which is why
reverse distillation took its place.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from edge_ad.config import MethodConfig
from edge_ad.models.anomaly_map import cosine_distance
from edge_ad.models.backbones import BackboneSpec
from edge_ad.models.layers import Features
from edge_ad.models.method import Batch, Method, single_sensor_modes


class Fd(Method):
    """One student per modality, of the backbone's architecture."""

    needs_images = True

    def __init__(self, config: MethodConfig, backbone: BackboneSpec) -> None:
        super().__init__(config, backbone)
        self.students = nn.ModuleDict({name: backbone.build() for name in self.modalities})

    @property
    def modes(self) -> dict[str, tuple[str, ...]]:
        """Every sensor can be missing."""
        return single_sensor_modes(self.modalities)

    def losses(self, batch: Batch, generator: Generator) -> list[Tensor]:
        """Per student Σ over scales of the mean distance per pixel (half of STFPM's squared one)."""
        return [
            torch.stack(
                [
                    cosine_distance(target, output.float()).mean()
                    for target, output in zip(batch.features[name], student(batch.images[name]), strict=True)
                ]
            ).sum()
            for name, student in self.students.items()
        ]

    def distances(self, batch: Batch, mode: str) -> dict[str, Features]:
        """Per modality the distance to what its student sees."""
        return {
            name: self.compared(batch.features[name], self.students[name](batch.images[name]))
            for name in self.modes[mode]
        }
