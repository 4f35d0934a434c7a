"""RD4AD: reverse distillation of one modality (Deng & Li, CVPR 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from edge_ad.models.backbones import BackboneSpec
from edge_ad.models.crd import flattened_cosine_loss
from edge_ad.models.layers import Decoder, Features, FusedBottleneck


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


class Rd(nn.Module):
    """One student."""

    def __init__(self, backbone: BackboneSpec) -> None:
        super().__init__()
        self.students = nn.ModuleList([RdStudent(backbone)])

    def forward(self, features: list[Features]) -> list[Features]:
        """Teacher features of the one modality → its restored maps."""
        return [self.students[0](features[0])]

    def losses(self, features: list[Features]) -> list[Tensor]:
        """Σ over scales of the flattened cosine distance."""
        return [flattened_cosine_loss(features[0], self.students[0](features[0]))]
