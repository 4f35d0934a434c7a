"""From a data set's good frames to what training needs: arrays, and what is learned from geometry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from edge_ad.bundle import InputSpec, RigReference
from edge_ad.config import PreprocessConfig, TrainConfig
from edge_ad.errors import ConfigError, DataError
from edge_ad.feeds import feeds_from_frame
from edge_ad.geometry import fit_plane
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.preprocess import MOSTLY, GeometryStatistics, Preprocess
from edge_ad.rig.identity import same_intrinsics
from edge_ad.thresholding import MIN_SCORES
from edge_ad.types import Intrinsics, LabelledFrame, Roi

Inputs = dict[str, Tensor]
"""The graph's inputs by name, frames first, see ``edge_ad.feeds``."""

PLANE_FRAMES = 16
MIN_FRAMES = {"train": 2, "validation": MIN_SCORES}
"""Good frames without which a split is of no use: BatchNorm needs a batch, the threshold its scores."""


class Category(Protocol):
    """What training needs of a data set: see ``edge_ad.data.Dataset``."""

    @property
    def category(self) -> str:
        """The product's name."""

    @property
    def intrinsics(self) -> Intrinsics | None:
        """Of the one camera that took all frames."""

    def frames(self, split: str) -> Sequence[LabelledFrame]:
        """The frames of a split; raises DataError where there are none."""


def input_spec(frames: Sequence[LabelledFrame], intrinsics: Intrinsics | None, config: TrainConfig) -> InputSpec:
    """How frames like these feed the graph.

    Raises:
        DataError: the frames differ in size, or lack an image or intrinsics that the model needs.
        ConfigError: the ROI lies outside the frames.
    """
    sizes = {item.frame.size_px for item in frames}
    if len(sizes) > 1:
        raise DataError(
            f"the training frames have several sizes: {sorted(sizes)}", remedy="record all with one camera setting"
        )
    height, width = sizes.pop()
    first = frames[0].frame
    roi = Roi(0, 0, width, height) if config.roi is None else Roi(**config.roi.model_dump())
    if roi.x_px + roi.width_px > width or roi.y_px + roi.height_px > height:
        corner = f"{roi.x_px},{roi.y_px},{roi.width_px},{roi.height_px}"
        raise ConfigError(f"the ROI {corner} leaves the frames of {width}×{height} px", remedy="choose it inside")
    roi = _snapped(roi, config.preprocess.image_size_px)
    intrinsics = intrinsics or first.intrinsics
    depth: Literal["uint16_planes", "float32_m", "none"] = "none"
    if "depth" in config.preprocess.input_names:
        uses_normals = "normals" in config.preprocess.modalities
        if intrinsics is None and uses_normals:
            raise DataError(
                "normals need the camera's intrinsics, and the data set has none",
                remedy="add intrinsics.json, or train with --modalities rgb,depth",
            )
        depth = "uint16_planes" if first.depth is not None and first.depth.dtype == np.uint16 else "float32_m"
    return InputSpec(
        frame_size_px=(height, width), roi=roi, depth=depth, depth_unit_m=first.depth_unit_m, intrinsics=intrinsics
    )


def _snapped(roi: Roi, size_px: int) -> Roi:
    """The ROI without the last columns and rows that would keep it from shrinking by a whole factor first."""
    width, height = (length - length % max(1, length // size_px) for length in (roi.width_px, roi.height_px))
    return Roi(roi.x_px, roi.y_px, width, height)


def check_rig(spec: InputSpec, rig: RigReference) -> None:
    """Refuses a rig that other frames than these come from.

    Raises:
        DataError: its camera has another frame size or other intrinsics.
    """
    remedy = "capture with the rig's camera in the mode of its calibration, or leave out --rig"
    if spec.frame_size_px != rig.frame_size_px:
        ours, theirs = (f"{width}×{height} px" for height, width in (spec.frame_size_px, rig.frame_size_px))
        raise DataError(
            "the training frames are not of this rig", why=f"they are {ours}, the rig's are {theirs}", remedy=remedy
        )
    if spec.intrinsics is not None and not same_intrinsics(spec.intrinsics, rig.intrinsics):
        raise DataError(
            "the training frames are not of this rig",
            why=f"they were taken at a focal length of {spec.intrinsics.fx:.1f} px around column "
            f"{spec.intrinsics.cx:.1f}, the rig has {rig.intrinsics.fx:.1f} px around {rig.intrinsics.cx:.1f}",
            remedy=remedy,
        )


def learn_geometry(
    frames: Sequence[LabelledFrame],
    inputs: Inputs,
    spec: InputSpec,
    config: PreprocessConfig,
    rig: RigReference | None = None,
) -> GeometryStatistics:
    """Finds the plane that parts lie on, the rig's or if there is one, and the range of their depth or height."""
    if "depth" not in inputs:
        return GeometryStatistics()
    some = frames[:: max(1, len(frames) // PLANE_FRAMES)][:PLANE_FRAMES]
    depths = [spec.roi.crop(item.frame.depth_m()) for item in some]
    reference_m = float(np.median(np.concatenate([depth[depth > 0] for depth in depths])))
    plane = None
    if spec.intrinsics is not None and config.background == "auto":
        intrinsics = spec.intrinsics.cropped(spec.roi)
        plane = fit_plane(depths, intrinsics, config.foreground_height_m) if rig is None else rig.plane
    preprocess = Preprocess(
        config, spec, GeometryStatistics(plane=plane, reference_m=reference_m), BACKBONES["resnet18"]
    )
    heights: list[Tensor] = []
    for row in range(len(inputs["depth"])):
        height, part, _, mask = preprocess.height(inputs["depth"][row : row + 1])
        heights.append(height[part & (mask > MOSTLY)])
    values = torch.cat(heights)
    if not len(values):
        raise DataError(
            "no training frame shows a part",
            why=f"nothing stands {config.foreground_height_m * 1000:g} mm above the plane around it",
            remedy="lower foreground_height_m, or set background to keep",
        )
    low, high = np.quantile(values.numpy(), [0.001, 0.999])
    return GeometryStatistics(plane=plane, range_m=(float(low), float(max(high, low + 1e-4))), reference_m=reference_m)


def good_frames(dataset: Category, split: str) -> list[LabelledFrame]:
    """The good frames of a split, read into memory.

    Raises:
        DataError: there are fewer than ``MIN_FRAMES``.
    """
    frames = [item for item in dataset.frames(split) if not item.is_anomalous]
    if len(frames) < MIN_FRAMES[split]:
        raise DataError(
            f"{dataset.category} has {len(frames)} good {split} frames",
            why=f"at least {MIN_FRAMES[split]} are needed",
            remedy="capture more",
        )
    return frames


def stacked_inputs(frames: Sequence[LabelledFrame], spec: InputSpec, names: Sequence[str]) -> Inputs:
    """All frames as one batch of the graph's inputs.

    Raises:
        DataError: a frame does not fit ``spec``.
    """
    feeds = [feeds_from_frame(item.frame, spec, names) for item in frames]
    return {name: torch.from_numpy(np.concatenate([feed[name] for feed in feeds])) for name in names}


def golden_samples(validation: Inputs) -> Inputs:
    """Three samples that every exported graph and engine must answer as PyTorch does.

    Two good frames as they are, and one whose middle third is upside down, so that maps have a peak.
    """
    samples = {}
    for name, x in validation.items():
        height = x.shape[1]
        broken = x[:1].clone()
        broken[:, height // 3 : 2 * height // 3] = broken[:, height // 3 : 2 * height // 3].flip(1)
        samples[name] = torch.cat([x[:1], x[-1:], broken])
    return samples
