"""Settings as frozen records: validated where they are made, read from TOML, unknown keys refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edge_ad.errors import ConfigError, EdgeAdError
from edge_ad.types import MODALITIES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Settings(BaseModel):
    """Base of every record that is written to or read from JSON or TOML."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


SettingsT = TypeVar("SettingsT", bound=BaseModel)


def validated(
    kind: type[SettingsT], values: Any, source: str, error: type[EdgeAdError] = ConfigError, remedy: str = ""
) -> SettingsT:
    """Makes a record from parsed JSON or TOML (a mapping) or from JSON text (str or bytes).

    Args:
        kind: the record's class.
        values: the parsed values, or JSON text.
        source: the file or option they came from, for the error.
        error: the error to raise.
        remedy: what the user should do; by default, to correct ``source``.

    Raises:
        EdgeAdError: of class ``error``, naming the first wrong field, its value and what it must be.
    """
    try:
        if isinstance(values, (str, bytes)):
            return kind.model_validate_json(values)
        return kind.model_validate(values)
    except ValidationError as failure:
        first = failure.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the content"
        value = "" if first["type"] in ("missing", "json_invalid") else f" (got {str(first['input'])[:80]!r})"
        raise error(
            f"{source}: {field} is not valid",
            why=f"{first['msg']}{value}",
            remedy=remedy or f"correct {field} in {source}",
        ) from failure


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
        from_depth = "depth" in self.modalities or ("normals" in self.modalities and self.normals_source == "depth")
        needed = {
            "rgb": "rgb" in self.modalities,
            "depth": from_depth,
            "normals": "normals" in self.modalities and self.normals_source == "frame",
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


class TrainConfig(Settings):
    """One training run.

    Attributes:
        model: ``crd`` (two modalities that watch each other) or ``rd`` (one modality).
        backbone: the teacher.
        preprocess: how frames become images.
        head: how distances become a map.
        roi: the part of the frame to look at; None for all of it.
        steps: optimiser steps.
        batch_size: frames a step.
        learning_rate: of Adam at the start; it decays exponentially to 1 % of it (papers: ×0.95 an epoch).
        betas: of Adam (papers: 0.5, 0.999).
        seed: of weights and of the frames' order.
        checkpoint_every_s: seconds between checkpoints from which a killed run goes on.
        cache_bytes: teacher features are computed once when they fit into this much memory.
    """

    model: Literal["crd", "rd"] = "crd"
    backbone: str = "efficientnet_lite0"
    preprocess: PreprocessConfig = PreprocessConfig()
    head: HeadConfig = HeadConfig()
    roi: RoiConfig | None = None
    steps: int = Field(default=160, ge=1, le=1_000_000)
    batch_size: int = Field(default=8, ge=2, le=256)
    learning_rate: float = Field(default=5e-3, gt=0, le=1)
    betas: tuple[float, float] = (0.5, 0.999)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    checkpoint_every_s: float = Field(default=30, ge=0)
    cache_bytes: int = Field(default=2 << 30, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        wanted = {"crd": 2, "rd": 1}[self.model]
        if len(self.preprocess.modalities) != wanted:
            raise ValueError(
                f"model {self.model} takes {wanted} {'modality' if wanted == 1 else 'modalities'}, "
                f"not {', '.join(self.preprocess.modalities)}"
            )
        return self


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ConfigError: it is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", why=str(error), remedy="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML", why=str(error), remedy=f"correct {path}") from error
