"""From camera bytes to the images a teacher sees. One module, trained with and exported.

Everything a frame needs on its way is here: joining the depth planes, resizing, separating part
from background, filling holes, surface normals, the teacher's mean and standard deviation. What
depends on the data (ranges, plane) is learned on training frames and kept as constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.bundle import InputSpec
from edge_ad.config import PreprocessConfig
from edge_ad.models.backbones import BackboneSpec
from edge_ad.models.resampling import on_both_axes, smoothing, upsampling
from edge_ad.settings import Settings

NEAREST_M, FARTHEST_M = 1e-3, 1e4
"""Depth outside counts as no return: no camera measures it, and the inverse of a denormal number is infinite."""


MOSTLY = 0.4931
"""Share of valid samples from which a pixel counts. Not ½: averages of whole pixels hit simple fractions often,
and there the last bit, which differs between runtimes, would decide."""


class GeometryStatistics(Settings):
    """What the preprocessing learned from the training frames' depth.

    Attributes:
        plane: (α, β, γ) with 1/z = α·(u−cx)/fx + β·(v−cy)/fy + γ on the plane the part lies on, in
            1/m; None where the frames show none.
        range_m: (low, high) of the part's depth, or of its height above the plane.
        reference_m: a typical depth. Inverse depth is kept relative to it, as its small differences
            would drown in the rounding of its large value.
    """

    plane: tuple[float, float, float] | None = None
    range_m: tuple[float, float] = Field(default=(0.0, 1.0))
    reference_m: float = Field(default=1.0, gt=0)


class Preprocess(nn.Module):
    """Camera arrays → one normalised image (N, 3, S, S) per modality.

    Args:
        config: sizes and choices.
        spec: the frames' ROI, intrinsics and how depth is sent.
        statistics: learned constants.
        backbone: whose mean and standard deviation the images get.
    """

    mean: Tensor
    std: Tensor
    sobel: Tensor
    flat: Tensor
    rays: Tensor
    box: Tensor
    surroundings: Tensor
    focal: Tensor
    occupancy: Tensor
    reach: Tensor

    def __init__(
        self,
        config: PreprocessConfig,
        spec: InputSpec,
        statistics: GeometryStatistics,
        backbone: BackboneSpec,
    ) -> None:
        super().__init__()
        self.config, self.spec, self.statistics = config, spec, statistics
        self.size = config.image_size_px
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
        self.register_buffer("sobel", torch.stack([sobel, sobel.T]).unsqueeze(1), persistent=False)
        self.register_buffer("flat", torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1), persistent=False)
        # Where the part was in at least half of the training frames (1, 1, S, S), see ``forward``.
        self.register_buffer("occupancy", torch.zeros(1, 1, self.size, self.size))
        # Where it was in any of them.
        self.register_buffer("reach", torch.ones(1, 1, self.size, self.size))
        for name, width in (("box", config.normals_box_px), ("surroundings", 2**config.hole_levels + 1)):
            self.register_buffer(name, smoothing(self.size, torch.ones(width) / width), persistent=False)
        for level in range(1, config.hole_levels + 1):
            length = self.size >> level
            matrix = upsampling(length, self.size >> (level - 1), align_corners=False)
            self.register_buffer(f"from_{length}", matrix, persistent=False)
        if spec.intrinsics is not None:
            self._register_rays(spec)

    def _register_rays(self, spec: InputSpec) -> None:
        """Focal lengths at the network's size and the viewing ray (x/z, y/z) of each of its pixels."""
        assert spec.intrinsics is not None
        intrinsics, size = spec.intrinsics.cropped(spec.roi), self.size
        scale_x, scale_y = spec.roi.width_px / size, spec.roi.height_px / size
        # Pixel centres are at whole numbers, so network pixel j covers camera pixels around (j + ½)·scale − ½.
        u = (torch.arange(size, dtype=torch.float64) + 0.5) * scale_x - 0.5
        v = (torch.arange(size, dtype=torch.float64) + 0.5) * scale_y - 0.5
        ray_x = ((u - intrinsics.cx) / intrinsics.fx).float().view(1, 1, 1, -1).expand(1, 1, size, size)
        ray_y = ((v - intrinsics.cy) / intrinsics.fy).float().view(1, 1, -1, 1).expand(1, 1, size, size)
        self.register_buffer("rays", torch.cat([ray_x, ray_y], 1), persistent=False)
        focal = torch.tensor([intrinsics.fx / scale_x, intrinsics.fy / scale_y]).float().view(1, 2, 1, 1)
        self.register_buffer("focal", focal, persistent=False)

    def forward(
        self, inputs: Mapping[str, Tensor], modalities: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Makes the images and tells the part from the background.

        Args:
            inputs: ``rgb`` uint8 (N, H, W, 3); ``depth`` uint8 (N, H, W, 2), low byte first, or float32
                (N, H, W) in metres, 0 or NaN where there was no return; ``normals`` uint8 (N, H, W, 3);
                those that the modalities need, at the ROI's size.
            modalities: those wanted, of the config's.

        Returns:
            One image per modality, in this order, without a NaN for any input; and the region that is
            inspected, (N, 1, S, S) of 0 and 1: the part as it is now and where parts use to be (so that
            what is missing counts), grown by two pixels; while the depth sensor is away, (1, 1, S, S),
            where parts have ever been. None for a model that knows no depth, or where the config keeps the
            background.
        """
        images: dict[str, Tensor] = {}
        part = None
        if "depth" in inputs:
            images, part = self._geometry(inputs["depth"])
        images |= {name: self._colour(inputs[name]) for name in ("rgb", "normals") if name in inputs}
        region = None
        if self.config.background == "auto" and "depth" in self.config.input_names:
            place = self.reach if part is None else torch.maximum(part.float(), self.occupancy)
            region = F.max_pool2d(F.max_pool2d(place, (5, 1), 1, (2, 0)), (1, 5), 1, (0, 2))
        return {name: (images[name] - self.mean) / self.std for name in modalities}, region

    def learn_occupancy(self, depth: Tensor) -> None:
        """Learns where parts use to be from the ``depth`` input (N, …) of training frames."""
        seen = torch.zeros_like(self.occupancy)
        for row in range(len(depth)):
            seen += self._geometry(depth[row : row + 1].to(seen.device))[1].float()
        self.occupancy.copy_(seen > len(depth) / 2)
        self.reach.copy_(seen > 0)

    def _colour(self, image: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) → (N, 3, S, S) in [0, 1]. TensorRT wants the cast before the transpose."""
        return self._resize(image.float().permute(0, 3, 1, 2)) / 255

    def _resize(self, x: Tensor) -> Tensor:
        """Whole-number averaging first, so that the bilinear step never shrinks enough to alias."""
        height, width = int(x.shape[2]), int(x.shape[3])
        factors = (_divisor(height, height // self.size), _divisor(width, width // self.size))
        if factors != (1, 1):
            x = F.avg_pool2d(x, factors)
        if tuple(x.shape[2:]) == (self.size, self.size):
            return x
        return F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)

    def _inverse_depth(self, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Camera depth → 1/z − 1/reference in 1/m and the share of valid samples, both (N, 1, S, S).

        On a plane 1/z is linear in the pixel, so averaging it adds no bias at any tilt; dividing the
        resized values by the resized mask leaves holes out of the average (normalised convolution).
        """
        if self.spec.depth == "uint16_planes":
            planes = depth.float()
            metres = (planes[..., 0] + 256 * planes[..., 1]) * self.spec.depth_unit_m
        else:
            metres = depth
        metres = metres.unsqueeze(1)
        valid = (metres > NEAREST_M) & (metres < FARTHEST_M)
        inverse = 1 / torch.where(valid, metres, torch.ones_like(metres)) - 1 / self.statistics.reference_m
        inverse = torch.where(valid, inverse, torch.zeros_like(metres))
        mask = self._resize(valid.float())
        return self._resize(inverse) / mask.clamp_min(1e-6), mask

    def _fill(self, inverse: Tensor, mask: Tensor) -> Tensor:
        """Pulls valid samples down a pyramid and pushes them back up into the holes (push-pull)."""
        levels = [(inverse * mask, mask)]
        for _ in range(self.config.hole_levels):
            value, weight = levels[-1]
            levels.append((F.avg_pool2d(value, 2), F.avg_pool2d(weight, 2)))
        # Where even the coarsest level holds nothing, the mean of all valid samples stands in.
        value, weight = (x.mean((2, 3), keepdim=True) for x in levels[-1])
        filled = value / weight.clamp_min(1e-6)
        for value, weight in reversed(levels):
            confidence = weight.clamp(max=1)
            if filled.shape[2] not in (1, value.shape[2]):  # a single pixel spreads by itself
                upsample = self.get_buffer(f"from_{filled.shape[2]}")
                filled = on_both_axes(upsample, filled, upsample)
            filled = value + (1 - confidence) * filled
        return filled

    def height(self, depth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fills the holes and measures from the plane.

        Args:
            depth: the ``depth`` input.

        Returns:
            Each (N, 1, S, S): metres above the plane (without one: metres from the camera), True on the
            part, 1/z − 1/reference without holes, share of valid samples.
        """
        inverse, mask = self._inverse_depth(depth)
        relative = self._fill(inverse, mask)
        filled = (relative + 1 / self.statistics.reference_m).clamp_min(1e-6)
        # A pixel without a return whose surroundings are mostly there is a hole in the part.
        part = (mask > MOSTLY) | (on_both_axes(self.surroundings, mask, self.surroundings) > MOSTLY)
        height = 1 / filled
        if self.statistics.plane is not None:
            alpha, beta, gamma = self.statistics.plane
            on_plane = alpha * self.rays[:, :1] + beta * self.rays[:, 1:] + gamma
            height = (1 - on_plane / filled) / math.sqrt(alpha**2 + beta**2 + gamma**2)
            if self.config.background == "auto":
                part = part & (height > self.config.foreground_height_m)
        return height, part, relative, mask

    def _geometry(self, depth: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Depth (or height above the plane) and normals as images in [0, 1], and the part's mask."""
        height, part, relative, mask = self.height(depth)
        images = {}
        if "depth" in self.config.modalities:
            low, high = self.statistics.range_m
            # Good parts take [0.1, 0.9]; the rest is for what stands higher or lies deeper than any of them.
            scaled = (0.1 + 0.8 * (height - low) / (high - low)).clamp(0, 1)
            images["depth"] = torch.where(part, scaled, torch.zeros_like(scaled)).expand(-1, 3, -1, -1)
        if "normals" in self.config.modalities and self.config.normals_source == "depth":
            images["normals"] = self._normals(relative, mask, part)
        return images, part

    def _normals(self, relative: Tensor, mask: Tensor, part: Tensor) -> Tensor:
        """Unit normals from the gradient of inverse depth, as images: flat and background (½, ½, 1).

        With q = 1/z and rays r = (x/z, y/z): n ∝ −(∂q/∂r_x, ∂q/∂r_y, q − r·∂q/∂r), pictured with its z
        turned round, so that what faces the camera has the largest third channel.
        """
        weight = mask + 1e-3
        both = on_both_axes(self.box, torch.cat([relative * weight, weight], 1), self.box)
        smooth = both[:, :1] / both[:, 1:]
        gradient = F.conv2d(F.pad(smooth, (1, 1, 1, 1), mode="replicate"), self.sobel) * self.focal
        along = smooth + 1 / self.statistics.reference_m - (self.rays * gradient).sum(1, keepdim=True)
        length = torch.sqrt((gradient * gradient).sum(1, keepdim=True) + along * along).clamp_min(1e-9)
        normals = torch.cat([-gradient, along], 1) / length
        return torch.where(part, normals, self.flat) * 0.5 + 0.5


def _divisor(length: int, at_most: int) -> int:
    """The largest divisor of ``length`` that is not above ``at_most`` (at least 1)."""
    return next(k for k in range(max(at_most, 1), 0, -1) if length % k == 0)
