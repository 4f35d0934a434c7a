"""CRD / TRD: crossmodal reverse distillation of two modalities (arXiv 2412.08949).

For each modality one student restores the teacher's features T_m from a bottleneck that holds T_m
and the filtered features of the other modality. Filter and amplifier (the *crossmodal tuners*) both
translate the other modality's features into T_m's space. All four outputs imitate T_m:

    loss = Σ_scales [ d(T_m, decoder) + d(T_m, mix) + d(T_m, filter) + d(T_m, amplifier) ]
    d(a, b) = 1 − cos of the flattened (C·H·W) vectors

The teacher is frozen; nothing else is detached. Only the mix is scored.

Inspecting with one sensor (CMDIAD's idea, arXiv 2405.13571): the amplifier of the missing modality's student
makes that modality's features of those that are there, T̂_a = s · Amplifier_a(T_m), and the student that is left
takes them for the real ones. Its loss leaves the scale of T̂ open, so s is fitted per scale by least squares; and
students meet T̂ in training already (*modality dropout*). Each mode has map statistics and a threshold of its
own. The map of the missing modality is left out of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from edge_ad.bundle import FULL
from edge_ad.config import CrdConfig, MethodConfig
from edge_ad.models.backbones import BackboneSpec
from edge_ad.models.layers import CrossmodalAmplifier, CrossmodalFilter, Decoder, Features, FusedBottleneck
from edge_ad.models.method import (
    Batch,
    Batches,
    Method,
    exact_batch_norm,
    flattened_cosine_loss,
    single_sensor_modes,
)


class CrossmodalTuners(nn.Module):
    """Filter and amplifier of one student at all three scales; one that is switched off is empty."""

    def __init__(self, backbone: BackboneSpec, config: CrdConfig) -> None:
        super().__init__()
        signed, channels = backbone.signed, backbone.channels
        self.filters = nn.ModuleList(
            CrossmodalFilter(width, 3 - level, signed) for level, width in enumerate(channels) if config.filter
        )
        self.amplifiers = nn.ModuleList(CrossmodalAmplifier(width, signed) for width in channels if config.amplifier)

    def forward(self, other: Features) -> tuple[Features, Features]:
        """The other modality's three maps → filtered and amplified maps of the same shapes, or empty lists."""
        filtered = [tuner(x) for tuner, x in zip(self.filters, other, strict=False)]
        return filtered, self.amplify(other)

    def amplify(self, other: Features) -> Features:
        """The other modality's three maps → the amplified maps alone."""
        return [tuner(x) for tuner, x in zip(self.amplifiers, other, strict=False)]


@dataclass(frozen=True, slots=True)
class CrdOutputs:
    """What a student makes of one batch; each a list of three maps, finest first, or empty if switched off."""

    filtered: Features
    amplified: Features
    restored: Features
    mixed: Features


class CrdStudent(nn.Module):
    """Bottleneck, decoder and tuners of one modality; shares nothing with the other student."""

    def __init__(self, backbone: BackboneSpec, config: CrdConfig) -> None:
        super().__init__()
        first, second, third = (width * (2 if config.filter else 1) for width in backbone.channels)
        self.tuners = CrossmodalTuners(backbone, config)
        self.bottleneck = FusedBottleneck(backbone, (first, second, third), project_last=True)
        self.decoder = Decoder(backbone, mixed=config.amplifier)

    def restore(self, own: Features, filtered: Features, amplified: Features) -> tuple[Features, Features]:
        """Own features and the tuners' outputs → the decoder's maps before and after the mixing."""
        fused = [torch.cat([x, y], 1) for x, y in zip(own, filtered, strict=True)] if filtered else own
        return self.decoder(self.bottleneck(fused), amplified)  # type: ignore[no-any-return]

    def forward(self, own: Features, other: Features) -> CrdOutputs:
        """The own and the other modality's teacher features → all four outputs."""
        filtered, amplified = self.tuners(other)
        restored, mixed = self.restore(own, filtered, amplified)
        return CrdOutputs(filtered, amplified, restored, mixed)


class Crd(Method):
    """Two students that watch each other."""

    def __init__(self, config: MethodConfig, backbone: BackboneSpec) -> None:
        super().__init__(config, backbone)
        self.students = nn.ModuleDict({name: CrdStudent(backbone, config.crd) for name in self.modalities})
        # Least-squares scale of each modality's features as the other one hallucinates them.
        for name in self.modalities:
            self.register_buffer(f"scale_{name}", torch.ones(3))

    @property
    def modes(self) -> dict[str, tuple[str, ...]]:
        """One sensor can be missing where training prepared for it."""
        if self.config.crd.amplifier and self.config.crd.modality_dropout > 0:
            return single_sensor_modes(self.modalities)
        return {FULL: self.modalities}

    def losses(self, batch: Batch, generator: Generator) -> list[Tensor]:
        """One scalar per student; each may be optimised on its own."""
        features = batch.features
        losses = []
        for (name, student), others in zip(self.students.items(), self._assists(batch, generator), strict=True):
            own = features[name]
            outputs: CrdOutputs = student(own, others)
            terms = [outputs.restored, outputs.filtered, outputs.amplified]
            if outputs.amplified:
                terms.append(outputs.mixed)
            losses.append(torch.stack([flattened_cosine_loss(own, term) for term in terms if term]).sum())
        return losses

    def distances(self, batch: Batch, mode: str) -> dict[str, Features]:
        """Per modality that is there the distance to its student's mix."""
        present = self.modes[mode]
        result = {}
        for name in present:
            other = self.other(name)
            own = batch.features[name]
            assist = batch.features[other] if other in present else self.hallucinated(other, own)
            result[name] = self.compared(own, self.students[name](own, assist).mixed)
        return result

    def hallucinated(self, modality: str, other: Features) -> Features:
        """The features of ``modality`` as the other modality's features lead to expect them."""
        scale = self.get_buffer(f"scale_{modality}")
        amplified: Features = self.students[modality].tuners.amplify(other)  # type: ignore[union-attr, operator]
        return [scale[level] * x for level, x in enumerate(amplified)]

    def finish(self, batches: Batches) -> None:
        """Exact BatchNorm, then the scales of the hallucinated features."""
        exact_batch_norm(self, batches())
        if len(self.modes) == 1:
            return
        self.eval()
        with torch.no_grad():
            for name in self.modalities:
                scale = self.get_buffer(f"scale_{name}").fill_(1)
                products = torch.zeros(2, 3, device=scale.device)
                for batch in batches():
                    estimates = self.hallucinated(name, batch.features[self.other(name)])
                    pairs = zip(batch.features[name], estimates, strict=True)
                    products += torch.stack([_products(x, y) for x, y in pairs], 1)
                scale.copy_(products[0] / products[1].clamp_min(1e-12))

    def other(self, modality: str) -> str:
        """The modality that ``modality`` is watched with."""
        first, second = self.modalities
        return second if modality == first else first

    def _assists(self, batch: Batch, generator: Generator) -> list[Features]:
        """What each student gets of the other modality: its features, for some frames hallucinated ones."""
        features, share = batch.features, batch.share
        if len(self.modes) == 1:
            return [features[self.other(name)] for name in self.modalities]
        assists = []
        for name in self.modalities:
            other = self.other(name)
            real = features[other]
            draws = torch.rand(len(real[0]) * share.count, 1, 1, 1, generator=generator)
            dropped = share.part(draws < self.config.crd.modality_dropout).to(real[0].device)
            with torch.no_grad():
                estimates: Features = self.students[other].tuners.amplify(features[name])  # type: ignore[union-attr, operator]
                products = [share.total(_products(x, y)) for x, y in zip(real, estimates, strict=True)]
            assists.append(
                [
                    torch.where(dropped, y * (fit[0] / fit[1].clamp_min(1e-12)), x)
                    for x, y, fit in zip(real, estimates, products, strict=True)
                ]
            )
        return assists


def _products(target: Tensor, estimate: Tensor) -> Tensor:
    """(⟨target, estimate⟩, ⟨estimate, estimate⟩), whose ratio is the least-squares scale."""
    return torch.stack([(target * estimate).sum(), (estimate * estimate).sum()])
