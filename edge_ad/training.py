"""Training: one plain loop from good frames to a checkpoint.

Only train and validation frames are read, never test frames, and nothing is selected by a score: the
last step is used. A killed run goes on from its checkpoint to the same weights, since the order of
the frames depends only on the seed and the epoch (on a GPU, to the rounding of its kernels).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_ad.bundle import TrainingData
from edge_ad.config import TrainConfig
from edge_ad.errors import CheckpointError, ConfigError, OutputError
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.checkpoint import CHECKPOINT, GOLDEN_PREFIX, CheckpointRecord, read_checkpoint, write_checkpoint
from edge_ad.models.detector import Detector, DetectorConfig
from edge_ad.models.layers import Features
from edge_ad.models.weights import load_teacher
from edge_ad.training_data import (
    Category,
    Inputs,
    frames_digest,
    golden_samples,
    good_frames,
    input_spec,
    learn_geometry,
    stacked_inputs,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is: ``losses`` has one value per student, ``seconds_left`` is an estimate."""

    stage: str
    step: int
    steps: int
    losses: tuple[float, ...] = ()
    seconds_left: float = 0.0


def train(
    dataset: Category,
    config: TrainConfig,
    run_dir: Path,
    *,
    weights_path: Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> CheckpointRecord:
    """Trains a detector on good frames and writes ``run_dir/checkpoint.safetensors``.

    Args:
        dataset: one category with train and validation frames.
        config: the run's settings.
        run_dir: where the checkpoint goes.
        weights_path: of the teacher; by default its published weights.
        resume: go on from the checkpoint in ``run_dir`` if there is one.
        progress: called after every step.

    Returns:
        The finished checkpoint's record.

    Raises:
        DataError: frames are missing or do not fit together.
        ConfigError: there is no such backbone, or a setting does not fit the data.
        WeightsError: the teacher's weights cannot be had.
        CheckpointError: there is a checkpoint already and ``resume`` is False, or it is of another run.
        OutputError: a checkpoint cannot be written.
    """
    path = run_dir / CHECKPOINT
    if path.exists() and not resume:
        raise CheckpointError(
            f"{path} is there already", why="training would replace it", remedy="add --resume, or name another --output"
        )
    if config.backbone not in BACKBONES:
        raise ConfigError(f"there is no backbone {config.backbone!r}", remedy=f"choose one of {', '.join(BACKBONES)}")
    _make_directory(run_dir)
    progress(Progress("reading frames", 0, config.steps))
    train_frames, validation_frames = good_frames(dataset, "train"), good_frames(dataset, "validation")
    data = TrainingData(
        category=dataset.category,
        train_frames=len(train_frames),
        validation_frames=len(validation_frames),
        sha256=frames_digest([*train_frames, *validation_frames]),
    )
    spec = input_spec(train_frames, dataset.intrinsics, config)
    names = config.preprocess.input_names
    inputs, validation = (stacked_inputs(frames, spec, names) for frames in (train_frames, validation_frames))
    geometry = learn_geometry(train_frames, inputs, spec, config.preprocess)
    del train_frames, validation_frames
    torch.manual_seed(config.seed)
    teacher = load_teacher(config.backbone, weights_path)
    detector_config = DetectorConfig(
        model=config.model,
        backbone=config.backbone,
        preprocess=config.preprocess,
        head=config.head,
        input=spec,
        geometry=geometry,
    )
    detector = Detector(detector_config, teacher)
    trainer = _Trainer(detector, config, data, path, progress)
    trainer.learn_statistics(inputs)
    if path.exists():
        trainer.resume()
    trainer.run(inputs)
    return trainer.finish(inputs, validation)


class _Trainer:
    """The state of one run."""

    def __init__(
        self,
        detector: Detector,
        config: TrainConfig,
        data: TrainingData,
        path: Path,
        progress: Callable[[Progress], None],
    ) -> None:
        torch.backends.cudnn.allow_tf32 = False  # the exported graph does not round to it either
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.detector, self.config, self.data, self.path = detector.to(self.device), config, data, path
        self.progress = progress
        # The students' parameters and losses are disjoint: one Adam over all is one Adam for each.
        self.optimizer = torch.optim.Adam(detector.students.parameters(), config.learning_rate, config.betas)
        self.step = 0
        self.finished = False

    def learn_statistics(self, inputs: Inputs) -> None:
        """Where parts are, and each feature channel's mean and standard deviation."""
        if "depth" in inputs:
            self.detector.preprocess.learn_occupancy(inputs["depth"])
        self.cache: list[Features] | None = None
        count = len(next(iter(inputs.values())))
        one = self._features(inputs, slice(0, 1))
        each = sum(x.numel() * x.element_size() for maps in one for x in maps)
        if each * count <= self.config.cache_bytes:
            self.progress(Progress("computing the teacher's features", 0, self.config.steps))
            self.cache = self._all_features(inputs)
        if self.detector.spec.signed:
            some = {name: x[: max(1, self.config.cache_bytes // each)] for name, x in inputs.items()}
            self.detector.scaling.learn(self.cache or self._all_features(some))
            self.cache = self.detector.scaling(self.cache) if self.cache else None

    def run(self, inputs: Inputs) -> None:
        """Steps until the end, with a checkpoint now and then."""
        config = self.config
        count = len(next(iter(inputs.values())))
        batch = min(config.batch_size, count)
        per_epoch = count // batch
        self.detector.train()
        started, first, saved = time.monotonic(), self.step, time.monotonic()
        while self.step < config.steps:
            epoch, index = divmod(self.step, per_epoch)
            order = torch.randperm(count, generator=torch.Generator().manual_seed(config.seed * 1_000_003 + epoch))
            losses = self._update(inputs, order[index * batch : (index + 1) * batch])
            self.step += 1
            pace = (time.monotonic() - started) / (self.step - first)
            left = pace * (config.steps - self.step)
            self.progress(Progress("training", self.step, config.steps, losses, left))
            if time.monotonic() - saved >= config.checkpoint_every_s and self.step < config.steps:
                self._save()
                saved = time.monotonic()

    def finish(self, inputs: Inputs, validation: Inputs) -> CheckpointRecord:
        """Exact batch statistics, map statistics and scores of the validation frames, final file."""
        if self.finished:
            return read_checkpoint(self.path)[0]
        self.progress(Progress("measuring good frames", self.step, self.config.steps))
        detector = self.detector
        exact_batch_norm(detector.students, self._batches(inputs))
        detector.eval()
        with torch.no_grad():
            pairs = [self._validation_distances(validation, i) for i in range(len(next(iter(validation.values()))))]
            distances = _concatenated([maps for maps, _ in pairs])
            regions = [p[1] for p in pairs if p[1] is not None]
            region = torch.cat(regions) if regions else None
            detector.head.learn(distances, region)
            scores = detector.head(distances, region)[1]
        record = self._record(finished=True, scores=tuple(float(score) for score in scores.double()))
        golden = {f"{GOLDEN_PREFIX}{name}": x for name, x in golden_samples(validation).items()}
        write_checkpoint(self.path, record, {**detector.state_dict(), **golden})
        return record

    def resume(self) -> None:
        """Takes weights, optimiser and step from the checkpoint.

        Raises:
            CheckpointError: it belongs to other settings or other data.
        """
        record, tensors = read_checkpoint(self.path)
        state = {name.removeprefix("detector."): x for name, x in tensors.items() if not name.startswith("adam.")}
        fresh = self.detector.state_dict()
        teacher = {name: x.cpu() for name, x in fresh.items() if name.startswith("teacher.")}
        same_teacher = all(name in state and torch.equal(x, state[name]) for name, x in teacher.items())
        for what, was, now in (
            ("settings", _settings(record.training), _settings(self.config)),
            ("training data", record.data, self.data),
            ("camera or plane", record.detector, self.detector.config),
            ("teacher weights", True, same_teacher),
        ):
            if was != now:
                raise CheckpointError(
                    f"{self.path} cannot be resumed",
                    why=f"it was made with other {what}",
                    remedy="name another --output",
                )
        self.step, self.finished = record.step, record.finished
        if self.finished:
            return
        self.detector.load_state_dict({name: x for name, x in state.items() if name in fresh})
        for index, parameter in enumerate(self.detector.students.parameters()):
            self.optimizer.state[parameter] = {
                key: tensors[f"adam.{index}.{key}"].to(parameter.device)
                if key != "step"
                else tensors[f"adam.{index}.{key}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
            }

    def _update(self, inputs: Inputs, rows: Tensor) -> tuple[float, ...]:
        """One optimiser step on the frames ``rows``; returns each student's loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.01 ** (self.step / config.steps)
        losses = self.detector.students.losses(self._batch(inputs, rows))
        self.optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return tuple(float(loss.detach()) for loss in losses)

    def _batch(self, inputs: Inputs, rows: Tensor) -> list[Features]:
        if self.cache is not None:
            return [[x[rows] for x in maps] for maps in self.cache]
        return self.detector.scaling(self._features(inputs, rows))  # type: ignore[no-any-return]

    def _batches(self, inputs: Inputs) -> Iterator[list[Features]]:
        """The training set once, in batches of one size."""
        count = len(next(iter(inputs.values())))
        size = min(self.config.batch_size, count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.config.seed))
        for start in range(0, count - size + 1, size):
            yield self._batch(inputs, order[start : start + size])

    def _features(self, inputs: Inputs, rows: slice | Tensor) -> list[Features]:
        """The teacher's raw features of some frames."""
        with torch.no_grad():
            images, _ = self.detector.preprocess({name: x[rows].to(self.device) for name, x in inputs.items()})
            return self.detector.teacher_features(images)

    def _all_features(self, inputs: Inputs) -> list[Features]:
        count = len(next(iter(inputs.values())))
        parts = [self._features(inputs, slice(i, i + 8)) for i in range(0, count, 8)]
        return _concatenated(parts)

    def _validation_distances(self, validation: Inputs, row: int) -> tuple[list[Features], Tensor | None]:
        one = {name: x[row : row + 1].to(self.device) for name, x in validation.items()}
        features, region = self.detector.features(one)
        return self.detector.distances(features), region

    def _record(self, *, finished: bool, scores: tuple[float, ...] = ()) -> CheckpointRecord:
        return CheckpointRecord(
            detector=self.detector.config,
            training=self.config,
            data=self.data,
            step=self.step,
            finished=finished,
            validation_scores=scores,
        )

    def _save(self) -> None:
        tensors = {f"detector.{name}": x for name, x in self.detector.state_dict().items()}
        for index, parameter in enumerate(self.detector.students.parameters()):
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{index}.{key}"] = value
        write_checkpoint(self.path, self._record(finished=False), tensors)


def exact_batch_norm(students: nn.Module, batches: Iterable[list[Features]]) -> None:
    """Replaces BatchNorm's running averages by exact averages over the training set.

    With few frames the running averages lag behind weights that still move ("precise BN", Wu &
    Johnson 2021).
    """
    layers = [layer for layer in students.modules() if isinstance(layer, nn.BatchNorm2d)]
    momentum = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    students.train()
    with torch.no_grad():
        for batch in batches:
            students(batch)
    for layer, value in zip(layers, momentum, strict=True):
        layer.momentum = value


def _concatenated(parts: Sequence[list[Features]]) -> list[Features]:
    """Features (or distances) of several batches as those of one."""
    return [[torch.cat(x) for x in zip(*maps, strict=True)] for maps in zip(*parts, strict=True)]


def _settings(config: TrainConfig) -> TrainConfig:
    """The settings that decide the result, without those that only suit a machine."""
    usual = TrainConfig.model_fields
    return config.model_copy(update={name: usual[name].default for name in ("cache_bytes", "checkpoint_every_s")})


def _make_directory(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{run_dir} cannot be made", why=error.strerror or str(error), remedy="name another --output"
        ) from error
