"""The settings of a model and of its training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from edge_ad.settings import Settings
from edge_ad.types import MODALITIES


class PreprocessConfig(Settings):
    """How a frame becomes the images that the teacher sees.

    Attributes:
        modalities: what the model looks at, in this order.
        image_size_px: side of the square network input.
        normals_box_px: side of the box over which inverse depth is averaged before the normals.
        normals_source: ``depth`` computes normals, ``frame`` takes those of the data set (Eyecandies).
        hole_levels: pyramid levels of the hole filling; holes up to about 2**levels pixels close.
        background: ``auto`` looks for anomalies on the part only: what stands above the plane it lies
            on, or, where the training data shows no plane, what returns depth at all; ``keep``
            inspects everything.
        foreground_height_m: what stands this far above that plane is the part.
    """

    modalities: tuple[Literal["rgb", "depth", "normals"], ...] = ("rgb", "depth")
    image_size_px: int = Field(default=256, ge=64, le=1024, multiple_of=32)
    normals_box_px: int = Field(default=9, ge=1, le=31)
    normals_source: Literal["depth", "frame"] = "depth"
    hole_levels: int = Field(default=4, ge=1, le=6)
    background: Literal["auto", "keep"] = "auto"
    foreground_height_m: float = Field(default=0.005, gt=0)

    @field_validator("modalities")
    @classmethod
    def _known_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"name each of {', '.join(MODALITIES)} at most once, and at least one")
        return value

    @field_validator("normals_box_px")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("the box must be odd, so that it has a middle")
        return value

    @property
    def input_names(self) -> tuple[str, ...]:
        """The arrays that a frame has to bring: ``rgb``, ``depth``, ``normals``."""
        return self.inputs_for(self.modalities)

    def inputs_for(self, modalities: tuple[str, ...]) -> tuple[str, ...]:
        """The arrays that these of the modalities are made of."""
        from_depth = "depth" in modalities or ("normals" in modalities and self.normals_source == "depth")
        needed = {
            "rgb": "rgb" in modalities,
            "depth": from_depth,
            "normals": "normals" in modalities and self.normals_source == "frame",
        }
        return tuple(name for name, wanted in needed.items() if wanted)


class RoiConfig(Settings):
    """A rectangle of the frame in pixels."""

    x_px: int = Field(ge=0)
    y_px: int = Field(ge=0)
    width_px: int = Field(ge=32)
    height_px: int = Field(ge=32)


class HeadConfig(Settings):
    """How distances become a map.

    Attributes:
        sigma_px: of the Gaussian, in pixels of the network's size; cut at 4σ as SciPy does.
        energy_floor: share of the average feature energy that is added to the cosine's denominator,
            for standardised features only. Where a teacher has nothing to say (flat background) its
            features are short, their direction is noise, and plain cosine turns that into anomaly.
        standardize: ``scale`` gives each scale of each modality the same say on good parts;
            ``modality`` sums the scales first (the papers' way).
    """

    sigma_px: float = Field(default=4.0, gt=0, le=32)
    energy_floor: float = Field(default=0.2, ge=0, le=10)
    standardize: Literal["scale", "modality"] = "scale"


class CrdConfig(Settings):
    """Choices of crossmodal reverse distillation; without filter or amplifier they are the papers' ablations.

    Attributes:
        filter: the bottleneck also gets the filtered features of the other modality.
        amplifier: the decoder mixes in the amplified features of the other modality.
        modality_dropout: share of the training frames whose other modality is replaced by what the
            amplifier makes of the own one, so that the model can go on without a sensor. 0 trains with both
            always, and then there is no inspecting with one.
    """

    filter: bool = True
    amplifier: bool = True
    modality_dropout: float = Field(default=0.3, ge=0, lt=1)


class MmrdConfig(Settings):
    """Choices of MMRD.

    Attributes:
        prototypes: per modality, at strides 4, 8 and 16.
        temperature: of the softmax over prototypes; the paper has none, which is 1.
        prototype_weight: of the prototypes' loss.
        adaptation_passes: over the training frames, to adapt the teacher's BatchNorm to each modality.
        restore_finest: also join the stride-4 prior to the student's finest map (the paper's Fig. 3; its
            Eq. 8 leaves that prior without use).
    """

    prototypes: tuple[int, int, int] = (50, 50, 50)
    temperature: float = Field(default=1.0, gt=0, le=10)
    prototype_weight: float = Field(default=0.1, ge=0, le=10)
    adaptation_passes: int = Field(default=3, ge=0, le=100)
    restore_finest: bool = False

    @field_validator("prototypes")
    @classmethod
    def _some(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if any(not 1 <= count <= 4096 for count in value):
            raise ValueError("1 to 4096 prototypes at each scale")
        return value


class CmdiadConfig(Settings):
    """Choices of CMDIAD.

    Attributes:
        main: the sensor that is there when inspecting: ``rgb``, ``3d``, or ``both`` (no hallucination).
        bank_share: of all training tokens that a memory bank keeps.
        bank_limit: tokens that a bank holds at most.
        hidden_ratio: width of the hallucinating network's hidden layers over its input's.
        neighbours: in the bank, for the re-weighting of the image score.
        nu: of the one-class SVMs that join the scores and the maps.
    """

    main: Literal["rgb", "3d", "both"] = "rgb"
    bank_share: float = Field(default=0.1, gt=0, le=1)
    bank_limit: int = Field(default=4096, ge=16)
    hidden_ratio: float = Field(default=2.5, gt=0, le=16)
    neighbours: int = Field(default=3, ge=1, le=32)
    nu: float = Field(default=0.5, gt=0, lt=1)


ModelName = Literal["crd", "mmrd", "rd", "fd", "cmdiad"]

MODALITY_COUNTS: dict[ModelName, tuple[int, int]] = {
    "crd": (2, 2),
    "mmrd": (2, 3),
    "rd": (1, 3),
    "fd": (1, 3),
    "cmdiad": (2, 2),
}
"""Fewest and most modalities of each method."""

LEARNING_RATES: dict[ModelName, float] = {"crd": 5e-3, "mmrd": 5e-3, "rd": 5e-3, "fd": 5e-3, "cmdiad": 5e-4}
"""Of the papers, but MMRD's: its 1e-3 is for 400 epochs of hundreds of frames."""

STEPS: dict[ModelName, int] = {"crd": 160, "mmrd": 640, "rd": 160, "fd": 160, "cmdiad": 160}
"""Enough for some dozen frames; MMRD still gains from the fourth hundred on."""


MACHINE_SETTINGS = ("cache_bytes", "cache_disk_bytes", "checkpoint_every_s")
"""Of a training run, what only suits a machine and decides no result."""


class MethodConfig(Settings):
    """What decides a model's graph: the method, its teacher, what it looks at, and its map.

    Attributes:
        model: ``crd`` (two modalities that watch each other), ``mmrd`` (one student that restores the fused
            features of two or three), ``rd`` and ``fd`` (reverse and forward distillation, a student for
            each modality and the sum of their maps), ``cmdiad`` (memory banks; one sensor when inspecting).
        backbone: the teacher.
        preprocess: how frames become images.
        head: how distances become a map.
        standardize_features: give each channel of the teacher's features mean 0 and standard deviation 1 over the
            training frames. EfficientNet-Lite's always are; a ResNet's are left as they are in the papers.
        crd, mmrd, cmdiad: choices of these methods.
    """

    model: ModelName = "crd"
    backbone: str = "efficientnet_lite0"
    preprocess: PreprocessConfig = PreprocessConfig()
    head: HeadConfig = HeadConfig()
    standardize_features: bool = False
    crd: CrdConfig = CrdConfig()
    mmrd: MmrdConfig = MmrdConfig()
    cmdiad: CmdiadConfig = CmdiadConfig()

    @model_validator(mode="after")
    def _fits(self) -> MethodConfig:
        fewest, most = MODALITY_COUNTS[self.model]
        modalities = self.preprocess.modalities
        if not fewest <= len(modalities) <= most:
            wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise ValueError(f"model {self.model} takes {wanted} modalities, not {', '.join(modalities)}")
        if self.model == "cmdiad" and "rgb" not in modalities:
            raise ValueError("model cmdiad takes rgb and one of depth and normals")
        if self.model == "fd" and self.standardize_features:
            raise ValueError("model fd has the teacher's own architecture, which gives features as they are")
        return self


class TrainConfig(MethodConfig):
    """One training run.

    Attributes:
        roi: the part of the frame to look at; None for all of it.
        steps: optimiser steps; by default the method's, see ``STEPS``.
        batch_size: frames a step, over all processes.
        learning_rate: of Adam at the start; by default the method's, see ``LEARNING_RATES``.
        final_learning_rate: share of it that is left at the end, after an exponential decay (the papers'
            ×0.95 an epoch is 0.95 ** epochs).
        betas: of Adam (papers: 0.5, 0.999).
        precision: of the students' convolutions while training: ``bf16`` is faster where the processor has
            instructions for it, on CPUs from AVX-512 BF16, on GPUs from Ampere; weights stay float32.
        seed: of weights and of the frames' order.
        checkpoint_every_s: seconds between checkpoints from which a killed run goes on; more where writing one
            would take more than a tenth of the time. 0 writes one after every step.
        cache_bytes: teacher features are computed once when they fit into this much memory,
        cache_disk_bytes: or else into a file of this size beside the checkpoint.
    """

    roi: RoiConfig | None = None
    steps: int = Field(default=STEPS["crd"], ge=1, le=1_000_000)
    batch_size: int = Field(default=8, ge=2, le=256)
    learning_rate: float = Field(default=LEARNING_RATES["crd"], gt=0, le=1)
    final_learning_rate: float = Field(default=0.01, gt=0, le=1)
    betas: tuple[float, float] = (0.5, 0.999)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    checkpoint_every_s: float = Field(default=30, ge=0)
    cache_bytes: int = Field(default=2 << 30, ge=0)
    cache_disk_bytes: int = Field(default=16 << 30, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _as_the_method_wants(cls, values: Any) -> Any:
        model = values.get("model") if isinstance(values, dict) else None
        if not isinstance(model, str) or model not in STEPS:
            return values
        values = {"steps": STEPS[model], "learning_rate": LEARNING_RATES[model], **values}
        preprocess = values.get("preprocess", {})
        if model in ("rd", "fd") and isinstance(preprocess, dict):
            values["preprocess"] = {"modalities": ("rgb",), **preprocess}
        return values
