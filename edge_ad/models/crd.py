"""CRD / TRD: crossmodal reverse distillation of two modalities (arXiv 2412.08949).

For each modality one student restores the teacher's features T_m from a bottleneck that holds T_m
and the filtered features of the other modality. Filter and amplifier (the *crossmodal tuners*) both
translate the other modality's features into T_m's space. All four outputs imitate T_m:

    loss = Σ_scales [ d(T_m, decoder) + d(T_m, mix) + d(T_m, filter) + d(T_m, amplifier) ]
    d(a, b) = 1 − cos of the flattened (C·H·W) vectors

The teacher is frozen; nothing else is detached. Only the mix is scored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_ad.models.backbones import BackboneSpec
from edge_ad.models.layers import CrossmodalAmplifier, CrossmodalFilter, Decoder, Features, FusedBottleneck


def flattened_cosine_loss(targets: Features, outputs: Features) -> Tensor:
    """Σ over scales of 1 − cosine of the flattened maps, averaged over the batch; scalar in [0, 6]."""
    total = torch.zeros(())
    for target, output in zip(targets, outputs, strict=True):
        total = total + (1 - torch.cosine_similarity(target.flatten(1), output.flatten(1))).mean()
    return total


class CrossmodalTuners(nn.Module):
    """Filter and amplifier of one student at all three scales."""

    def __init__(self, backbone: BackboneSpec) -> None:
        super().__init__()
        signed = backbone.signed
        self.filters = nn.ModuleList(
            CrossmodalFilter(channels, 3 - level, signed) for level, channels in enumerate(backbone.channels)
        )
        self.amplifiers = nn.ModuleList(CrossmodalAmplifier(channels, signed) for channels in backbone.channels)

    def forward(self, other: Features) -> tuple[Features, Features]:
        """The other modality's three maps → filtered and amplified maps of the same shapes."""
        filtered = [tuner(x) for tuner, x in zip(self.filters, other, strict=True)]
        return filtered, [tuner(x) for tuner, x in zip(self.amplifiers, other, strict=True)]


@dataclass(frozen=True, slots=True)
class CrdOutputs:
    """What a student makes of one batch; each a list of three maps, finest first."""

    filtered: Features
    amplified: Features
    restored: Features
    mixed: Features


class CrdStudent(nn.Module):
    """Bottleneck, decoder and tuners of one modality; shares nothing with the other student."""

    def __init__(self, backbone: BackboneSpec) -> None:
        super().__init__()
        first, second, third = backbone.channels
        self.tuners = CrossmodalTuners(backbone)
        self.bottleneck = FusedBottleneck(backbone, (2 * first, 2 * second, 2 * third), project_last=True)
        self.decoder = Decoder(backbone, mixed=True)

    def restore(self, own: Features, filtered: Features, amplified: Features) -> tuple[Features, Features]:
        """Own features and the tuners' outputs → the decoder's maps before and after the mixing."""
        fused = [torch.cat([x, y], 1) for x, y in zip(own, filtered, strict=True)]
        return self.decoder(self.bottleneck(fused), amplified)  # type: ignore[no-any-return]

    def forward(self, own: Features, other: Features) -> CrdOutputs:
        """The own and the other modality's teacher features → all four outputs."""
        filtered, amplified = self.tuners(other)
        restored, mixed = self.restore(own, filtered, amplified)
        return CrdOutputs(filtered, amplified, restored, mixed)


class Crd(nn.Module):
    """Two students that watch each other."""

    def __init__(self, backbone: BackboneSpec) -> None:
        super().__init__()
        self.students = nn.ModuleList(CrdStudent(backbone) for _ in range(2))

    def forward(self, features: list[Features]) -> list[Features]:
        """Teacher features of both modalities → what is scored: each student's mixed maps."""
        first, second = features
        return [self.students[0](first, second).mixed, self.students[1](second, first).mixed]

    def losses(self, features: list[Features]) -> list[Tensor]:
        """One scalar per student; each may be optimised on its own."""
        losses = []
        for index, student in enumerate(self.students):
            own = features[index]
            outputs: CrdOutputs = student(own, features[1 - index])
            terms = (outputs.restored, outputs.mixed, outputs.filtered, outputs.amplified)
            losses.append(torch.stack([flattened_cosine_loss(own, term) for term in terms]).sum())
        return losses
