"""RD4AD: reverse distillation, a student for each modality (Deng & Li, CVPR 2022).

The students know nothing of each other; with several modalities their maps are added (late fusion), and each
can do without the others.
"""

from __future__ import annotations

from torch import Generator, Tensor, nn

from edge_ad.config import MethodConfig
from edge_ad.models.backbones import BackboneSpec
from edge_ad.models.layers import Decoder, Features, FusedBottleneck
from edge_ad.models.method import Batch, Method, flattened_cosine_loss, single_sensor_modes


class RdStudent(nn.Module):
    """Bottleneck and decoder: restores the teacher's features from their own embedding."""

    def __init__(self, backbone: BackboneSpec) -> None:
        super().__init__()
        self.bottleneck = FusedBottleneck(backbone, backbone.channels, project_last=False)
        self.decoder = Decoder(backbone, mixed=False)

    def forward(self, own: Features) -> Features:
        """The teacher's three maps → the restored three maps."""
        _, restored = self.decoder(self.bottleneck(own))
        return restored  # type: ignore[no-any-return]


class Rd(Method):
    """One student per modality."""

    def __init__(self, config: MethodConfig, backbone: BackboneSpec) -> None:
        super().__init__(config, backbone)
        self.students = nn.ModuleDict({name: RdStudent(backbone) for name in self.modalities})

    @property
    def modes(self) -> dict[str, tuple[str, ...]]:
        """Every sensor can be missing."""
        return single_sensor_modes(self.modalities)

    def losses(self, batch: Batch, generator: Generator) -> list[Tensor]:
        """Per student Σ over scales of the flattened cosine distance."""
        return [
            flattened_cosine_loss(batch.features[name], student(batch.features[name]))
            for name, student in self.students.items()
        ]

    def distances(self, batch: Batch, mode: str) -> dict[str, Features]:
        """Per modality the distance to what its student restores."""
        return {
            name: self.compared(batch.features[name], self.students[name](batch.features[name]))
            for name in self.modes[mode]
        }
