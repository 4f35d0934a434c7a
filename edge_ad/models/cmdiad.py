"""CMDIAD: memory banks of one sensor's tokens and of the other sensor's, hallucinated (arXiv 2405.13571).

*MTFI*, multimodal training and few-modal inference, with feature-to-feature hallucination (F2F): a small network
learns on good frames what the absent sensor's tokens look like, given those of the main one. Bank 1 keeps real
tokens of the main sensor, bank 2 hallucinated tokens of the other. When inspecting, only the main sensor is read;
each token, real or hallucinated, is as strange as it is far from its nearest neighbour in its bank. One-class SVMs
join the two banks.

Where this departs from the authors' code:

- Tokens come from this package's backbones at strides 8 and 16 in PatchCore's way (Roth et al., CVPR 2022), not
  from DINO and Point-MAE. EfficientNet-Lite's are standardised per channel, ResNet's raw as in PatchCore.
- The re-weighting looks at a token's own nearest neighbours, not at those of its nearest neighbour. Where two
  neighbours are equally near that cannot jump, so every runtime gives the same answer. It is done for every token,
  so that the head, which knows where the part is, can choose the image's token.
- The SVMs see good validation frames: training tokens would find themselves in the banks. Distances are divided by
  their standard deviation first, in place of the authors' fixed weights of 1.0 and 0.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from sklearn.linear_model import SGDOneClassSVM
from sklearn.random_projection import SparseRandomProjection, johnson_lindenstrauss_min_dim
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from edge_ad.bundle import FULL
from edge_ad.config import HeadConfig, MethodConfig
from edge_ad.models.anomaly_map import AnomalyHead
from edge_ad.models.backbones import BackboneSpec
from edge_ad.models.layers import Features
from edge_ad.models.method import Batch, Batches, Method

TOKEN_LIMIT = 50_000
"""Tokens that the coreset is chosen from; of more, so many are drawn at random."""
PIXEL_LIMIT = 20_000
"""Pixels that the maps' SVM is fitted to; of more, so many are drawn at random."""
PROJECTION_EPS = 0.9
"""Distortion that the random projection before the coreset may cause (PatchCore, M3DM)."""
SMALLEST_SPREAD = 0.01
"""Least standard deviation of distances, as a share of their mean: a few frames may agree by chance."""


def patch_tokens(maps: Features) -> Tensor:
    """PatchCore's tokens: averages over 3×3 of the maps at strides 8 and 16, the latter upsampled.

    Returns:
        (N, T, C) with T = (S/8)² tokens row by row and C = channels[1] + channels[2].
    """
    fine, coarse = (F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) for x in maps[1:])
    coarse = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([fine, coarse], 1).flatten(2).transpose(1, 2)


class Hallucinator(nn.Module):
    """CMDIAD's F2F: LayerNorm and three linear layers with GELU, for each token on its own."""

    def __init__(self, channels: int, hidden_ratio: float) -> None:
        super().__init__()
        hidden = max(1, round(hidden_ratio * channels))
        first, second, last = nn.Linear(channels, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, channels)
        self.layers = nn.Sequential(nn.LayerNorm(channels), first, nn.GELU(), second, nn.GELU(), last)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, C) of the main modality → (N, T, C) as those of the other one should be."""
        return self.layers(tokens)  # type: ignore[no-any-return]


class Bank(nn.Module):
    """A memory of good tokens (B, C), B as the training data gave, and the search for ``neighbours`` in it."""

    tokens: Tensor

    def __init__(self, channels: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.register_buffer("tokens", torch.zeros(1, channels))

    def nearest(self, queries: Tensor) -> Tensor:
        """Euclidean distances (N, T, k) of queries (N, T, C) to their k nearest tokens, in no sure order."""
        # |q|² is the same for all tokens of the bank, so the order does not need it.
        order = self.tokens.square().sum(1) - 2 * queries @ self.tokens.T
        index = torch.topk(order, min(self.neighbours, len(self.tokens)), largest=False).indices
        # From the differences, as the order's rounding would show where a token is (almost) in the bank.
        return (queries.unsqueeze(2) - F.embedding(index, self.tokens)).square().sum(3).sqrt()

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, T, C) → distance to the nearest one in the bank (N, T), and the same re-weighted (N, T).

        PatchCore's Eq. 7 with the token's own k nearest neighbours, d_1 ≤ … ≤ d_k, and M3DM's scale √C:
        s = d_1 · (1 − exp(d_1/√C) / Σ_i exp(d_i/√C)). A single neighbour gives no weight.
        """
        distances = self.nearest(queries)
        first = distances.amin(2)
        if distances.shape[2] == 1:
            return first, first
        return first, first * (1 - torch.softmax(distances / queries.shape[2] ** 0.5, 2).amin(2))

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: object) -> None:
        saved = state_dict.get(f"{prefix}tokens")
        if saved is not None and saved.dim() == 2 and saved.shape[1] == self.tokens.shape[1]:
            self.tokens = self.tokens.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Cmdiad(Method):
    """One hallucinating network and two banks; ``config.cmdiad.main`` says which sensor is read."""

    def __init__(self, config: MethodConfig, backbone: BackboneSpec) -> None:
        super().__init__(config, backbone)
        settings, channels = config.cmdiad, sum(backbone.channels[1:])
        spatial = next(name for name in self.modalities if name != "rgb")
        self.names = {"rgb": ("rgb", spatial), "3d": (spatial, "rgb"), "both": self.modalities}[settings.main]
        main, other = self.names
        self.maps = (main, other if settings.main == "both" else f"hallucinated_{other}")
        self.banks = nn.ModuleDict({name: Bank(channels, settings.neighbours) for name in self.maps})
        if settings.main == "both":
            self.hallucinator = None
            # Two banks of real tokens have nothing to train, but a training loop wants something to move.
            self.idle = nn.Parameter(torch.zeros(()))
        else:
            self.hallucinator = Hallucinator(channels, settings.hidden_ratio)

    @property
    def modes(self) -> dict[str, tuple[str, ...]]:
        """One mode, which reads the main modality only (with ``both``: both)."""
        return {FULL: self.names if self.hallucinator is None else self.names[:1]}

    def losses(self, batch: Batch, generator: Generator) -> list[Tensor]:
        """The hallucinated tokens' Euclidean distance from the real ones, mean over tokens; with ``both`` a zero."""
        if self.hallucinator is None:
            return [0 * self.idle]
        main, other = (patch_tokens(batch.features[name]) for name in self.names)
        return [torch.linalg.vector_norm(self.hallucinator(main) - other, dim=2).mean()]

    def tokens(self, features: Mapping[str, Features]) -> tuple[Tensor, Tensor]:
        """Tokens (N, T, C) of the main modality and of the other, hallucinated unless both are read."""
        main = patch_tokens(features[self.names[0]])
        if self.hallucinator is None:
            return main, patch_tokens(features[self.names[1]])
        return main, self.hallucinator(main)

    def distances(self, batch: Batch, mode: str) -> dict[str, Features]:
        """By bank two maps (N, 1, S/8, S/8): each token's distance from good ones, and the same re-weighted."""
        grid = (1, *batch.features[self.names[0]][1].shape[2:])
        return {
            name: [x.unflatten(1, grid) for x in self.banks[name](tokens)]
            for name, tokens in zip(self.maps, self.tokens(batch.features), strict=True)
        }

    def head(self, mode: str) -> AnomalyHead:
        """Two one-class SVMs over the banks."""
        return CmdiadHead(self.config.head, self.maps, self.config.preprocess.image_size_px, self.config.cmdiad.nu)

    def finish(self, batches: Batches) -> None:
        """Fills the banks with a coreset of the training frames' tokens."""
        self.eval()
        settings = self.config.cmdiad
        with torch.no_grad():
            chunks = (torch.cat(self.tokens(batch.features), 2).flatten(0, 1) for batch in batches())
            tokens, total = sampled(chunks, TOKEN_LIMIT)
            count = min(settings.bank_limit, max(1, round(settings.bank_share * total)), len(tokens))
            for name, own in zip(self.maps, tokens.chunk(2, 1), strict=True):
                self.banks[name].tokens = own[greedy_coreset(projected(own), count)]


class CmdiadHead(AnomalyHead):
    """Joins the banks by one-class SVMs, one for the maps and one for the image scores.

    A linear one-class SVM separates good samples from the origin: of distances x ≥ 0 it takes a weighted sum
    w·x with w ≥ 0 in which the bank that varies least on good parts says most. The weights go into ``std``
    (banks, 3): first column for maps, second for image scores. Maps are standardised over good frames' pixels,
    and scores get, over good frames, the mean and standard deviation of the maps' maxima: one threshold fits both.
    Arguments are those of ``AnomalyHead``, and ``nu`` of the SVMs.
    """

    def __init__(self, config: HeadConfig, names: tuple[str, ...], size_px: int, nu: float) -> None:
        super().__init__(config, names, size_px)
        self.nu = nu

    def learn(self, distances: Mapping[str, Features], region: Tensor | None) -> None:
        """Fits both SVMs to distances of good validation frames, as ``forward`` takes them."""
        maps, scores = self._per_bank(distances, region)
        pixels = maps.permute(0, 2, 3, 1).flatten(0, 2)
        if region is not None:
            pixels = pixels[region.expand(len(maps), -1, -1, -1).flatten() > 0]
        chosen = torch.randperm(len(pixels), generator=Generator().manual_seed(0))[:PIXEL_LIMIT]
        weights = one_class_weights(pixels[chosen.to(pixels.device)], self.nu)
        unit = _spread(pixels @ weights)
        self.mean[:, 0], self.std[:, 0] = pixels.mean(0), unit / weights
        peaks = torch.einsum("nbhw,b->nhw", maps, weights).amax((1, 2))
        peak = (peaks.mean() - pixels.mean(0) @ weights) / unit
        weights = one_class_weights(scores, self.nu)
        # Good frames' joint scores spread as their maps' peaks do, around the same mean.
        self.std[:, 1] = _spread(scores @ weights) / (_spread(peaks) / unit) / weights
        self.mean[:, 1] = scores.mean(0) - self.std[:, 1] * peak / len(weights)

    def forward(
        self, distances: Mapping[str, Features], region: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Joins the banks.

        Args:
            distances: by name distances and re-weighted distances, (N, 1, h, w) each.
            region: (N or 1, 1, S, S), 1 where the part is inspected. A token counts for the score if any of
                its pixels does.

        Returns:
            anomaly_map (N, S, S), score (N), and by name each bank's share of the map (N, S, S).
        """
        maps, scores = self._per_bank(distances, region)
        shares = (maps - self.mean[:, :1, None]) / self.std[:, :1, None]
        score = ((scores - self.mean[:, 1]) / self.std[:, 1]).sum(1)
        return shares.sum(1), score, {name: shares[:, row] for row, name in enumerate(self.names)}

    def _per_bank(self, distances: Mapping[str, Features], region: Tensor | None) -> tuple[Tensor, Tensor]:
        """Smoothed distances (N, banks, S, S) and the largest re-weighted distance (N, banks) on the part."""
        maps, scores = [], []
        for name in self.names:
            distance, weighted = distances[name]
            resized = self.resize(distance)
            if region is not None:
                resized = resized * region
                weighted = weighted * F.max_pool2d(region, self.size_px // weighted.shape[3])
            maps.append(self.blur(resized))
            scores.append(weighted.amax((2, 3)))
        return torch.cat(maps, 1), torch.cat(scores, 1)


def one_class_weights(samples: Tensor, nu: float) -> Tensor:
    """A linear one-class SVM's weights.

    Args:
        samples: (M, banks) of good parts, ≥ 0.
        nu: share of the samples that the SVM may leave on the origin's side.

    Returns:
        (banks), > 0: each bank has at least a hundredth of the largest say, so that what is joined rises
        with every distance.
    """
    spread = _spread(samples)
    # Scaled, not centred: the SVM separates from the origin.
    machine = SGDOneClassSVM(nu=nu, random_state=0).fit((samples / spread).double().cpu().numpy())
    weights = torch.from_numpy(machine.coef_.reshape(-1)).to(samples)
    return weights.clamp_min(max(0.01 * float(weights.max()), 1e-6)) / spread


def _spread(samples: Tensor) -> Tensor:
    """Standard deviation of distances (M) or (M, banks) over M, not below a share of their mean."""
    std, mean = torch.std_mean(samples, 0, correction=0)
    return torch.maximum(std, SMALLEST_SPREAD * mean).clamp_min(1e-6)


def sampled(chunks: Iterable[Tensor], limit: int) -> tuple[Tensor, int]:
    """At most ``limit`` rows of all chunks (n, C), each as likely as any other, and how many rows there were."""
    generator = Generator().manual_seed(0)
    rows, keys, total = torch.empty(0), torch.empty(0), 0
    for chunk in chunks:
        total += len(chunk)
        rows = torch.cat([rows.to(chunk), chunk]) if len(rows) else chunk
        keys = torch.cat([keys, torch.rand(len(chunk), generator=generator)])
        if len(rows) > limit:
            kept = keys.topk(limit, largest=False).indices
            rows, keys = rows[kept.to(rows.device)], keys[kept]
    return rows, total


def projected(points: Tensor) -> Tensor:
    """(n, C) → (n, fewer) by a sparse random projection that about keeps distances (Li et al., KDD 2006).

    Where Johnson and Lindenstrauss's bound asks for as many dimensions as there are, nothing is projected.
    """
    if johnson_lindenstrauss_min_dim(len(points), eps=PROJECTION_EPS) >= points.shape[1]:
        return points
    projection = SparseRandomProjection(eps=PROJECTION_EPS, random_state=0)
    return torch.from_numpy(projection.fit_transform(points.cpu().numpy())).to(points)


def greedy_coreset(points: Tensor, count: int) -> Tensor:
    """Greedy k-centre: again and again the point that is farthest from all that were chosen (Gonzalez 1985).

    Args:
        points: (n, D).
        count: of rows to choose, at most n.

    Returns:
        Their indices (count), int64, starting with row 0; no point is farther from them than twice the best
        choice's covering radius.
    """
    points = points - points.mean(0)  # less to cancel in |p|² − 2 p·q + |q|²
    columns, energy = points.T.contiguous(), points.square().sum(1)  # a vector times columns is faster than rows
    distances = torch.full_like(energy, torch.inf)
    chosen = [0]
    while len(chosen) < count:
        latest = chosen[-1]
        torch.minimum(distances, energy + energy[latest] - 2 * points[latest] @ columns, out=distances)
        distances[latest] = -torch.inf
        chosen.append(int(distances.argmax()))
    return torch.tensor(chosen, device=points.device)
