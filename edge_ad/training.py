"""Training: one plain loop from good frames to a checkpoint.

Only train and validation frames are read, never test frames, and nothing is selected by a score: the
last step is used. A killed run goes on from its checkpoint to the same weights, since the order of
the frames depends only on the seed and the epoch (on a GPU, to the rounding of its kernels).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import edge_ad
from edge_ad.bundle import RigReference, Thresholds, TrainingData
from edge_ad.config import MACHINE_SETTINGS, MethodConfig, TrainConfig
from edge_ad.data.digest import frame_digest, frames_digest
from edge_ad.drift.reference import measured_images
from edge_ad.errors import CheckpointError, ConfigError, OutputError
from edge_ad.feature_cache import FeatureCache, Maps
from edge_ad.head_statistics import learn_head
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.checkpoint import (
    CHECKPOINT,
    GOLDEN_PREFIX,
    CheckpointRecord,
    has_teacher,
    read_checkpoint,
    write_checkpoint,
)
from edge_ad.models.detector import Detector, DetectorConfig
from edge_ad.models.method import Batch
from edge_ad.models.weights import load_teacher
from edge_ad.processes import Processes, joined, shared_losses, whole_batch_norm
from edge_ad.thresholding import threshold_from_scores
from edge_ad.training_data import (
    Category,
    Inputs,
    check_rig,
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
    rig: RigReference | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> CheckpointRecord:
    """Trains a detector on good frames and writes ``run_dir/checkpoint.safetensors``.

    Under ``torchrun`` its processes share the work: the first one reports and writes, see
    ``edge_ad.processes``.

    Args:
        dataset: one category with train and validation frames.
        config: the run's settings.
        run_dir: where the checkpoint goes.
        weights_path: of the teacher; by default its published weights.
        rig: that the frames were captured on, whose plane is then not looked for in them.
        resume: go on from the checkpoint in ``run_dir`` if there is one.
        progress: called after every step; a ``KeyboardInterrupt`` that it raises leaves a checkpoint of this step.

    Returns:
        The finished checkpoint's record.

    Raises:
        DataError: frames are missing or do not fit together, or are not of the rig.
        ConfigError: there is no such backbone, or a setting does not fit the data.
        WeightsError: the teacher's weights cannot be had.
        CheckpointError: there is a checkpoint already and ``resume`` is False, or it is of another run.
        OutputError: a checkpoint cannot be written.
    """
    with joined(config.batch_size) as processes:
        return _train(dataset, config, run_dir, weights_path, rig, resume, progress, processes)


def _train(
    dataset: Category,
    config: TrainConfig,
    run_dir: Path,
    weights_path: Path | None,
    rig: RigReference | None,
    resume: bool,
    progress: Callable[[Progress], None],
    processes: Processes,
) -> CheckpointRecord:
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
        frames=tuple(frame_digest(item) for item in (*train_frames, *validation_frames)),
        rig=rig,
    )
    intrinsics = dataset.intrinsics if rig is None else dataset.intrinsics or rig.intrinsics
    spec = input_spec(train_frames, intrinsics, config)
    if rig is not None:
        check_rig(spec, rig)
    names = config.preprocess.input_names
    inputs, validation = (stacked_inputs(frames, spec, names) for frames in (train_frames, validation_frames))
    geometry = learn_geometry(train_frames, inputs, spec, config.preprocess, rig)
    images = measured_images((item.frame for item in (*train_frames, *validation_frames)), spec.roi)
    del train_frames, validation_frames
    torch.manual_seed(config.seed)
    teacher = load_teacher(config.backbone, weights_path)
    method = {name: getattr(config, name) for name in MethodConfig.model_fields}
    detector = Detector(DetectorConfig(**method, input=spec, geometry=geometry), teacher)
    trainer = _Trainer(detector, config, data, path, inputs, progress, processes)
    if path.exists() and trainer.resume():
        return read_checkpoint(path)[0]
    trainer.learn_statistics()
    processes.wait()
    trainer.run()
    if processes.first:
        trainer.finish(validation, images)
    processes.wait()
    return read_checkpoint(path)[0]


class _Trainer:
    """The state of one run."""

    def __init__(
        self,
        detector: Detector,
        config: TrainConfig,
        data: TrainingData,
        path: Path,
        inputs: Inputs,
        progress: Callable[[Progress], None],
        processes: Processes,
    ) -> None:
        torch.backends.cudnn.allow_tf32 = False  # the exported graph does not round to it either
        self.processes, self.device = processes, processes.device
        self.detector, self.config, self.data, self.path = detector.to(self.device), config, data, path
        self.inputs, self.progress = inputs, progress
        self.count = len(next(iter(inputs.values())))
        self.batch_size = min(config.batch_size, self.count)
        self.batch_size -= self.batch_size % processes.count
        if not self.batch_size:
            raise ConfigError(
                f"{self.count} training frames cannot be shared out to {processes.count} processes",
                remedy="start fewer processes, or capture more",
            )
        # The students' parameters and losses are disjoint: one Adam over all is one Adam for each.
        self.optimizer = torch.optim.Adam(detector.method.parameters(), config.learning_rate, config.betas)
        self.step = 0

    def learn_statistics(self) -> None:
        """Where parts are, the teacher's adaptation, and each feature channel's mean and standard deviation.

        A run that goes on has them from its checkpoint: measured anew, another machine would round them differently.
        """
        detector, config, first = self.detector, self.config, self.step == 0
        if first and "depth" in self.inputs:
            detector.preprocess.learn_occupancy(self.inputs["depth"])
        if first:
            detector.method.adapt_teacher(detector.teacher, self._image_batches)
        self.cache = FeatureCache(
            self._computed,
            self.count,
            memory_bytes=config.cache_bytes,
            disk_bytes=config.cache_disk_bytes,
            directory=self.path.parent,
            progress=lambda done: self.progress(Progress("computing the teacher's features", done, self.count)),
        )
        if first and detector.spec.signed:
            detector.scaling.learn(self.cache[slice(i, i + 8)] for i in range(0, self.count, 8))

    def run(self) -> None:
        """Steps until the end, with a checkpoint now and then."""
        config, batch = self.config, self.batch_size
        per_epoch = self.count // batch
        self.detector.train()
        self.losses = shared_losses(self.detector.method, self.processes)
        started, first, saved = time.monotonic(), self.step, time.monotonic()
        pause = config.checkpoint_every_s
        while self.step < config.steps:
            epoch, index = divmod(self.step, per_epoch)
            order = self._order(config.seed * 1_000_003 + epoch)
            losses = self._update(order[index * batch : (index + 1) * batch])
            self.step += 1
            pace = (time.monotonic() - started) / (self.step - first)
            left = pace * (config.steps - self.step)
            try:
                self.progress(Progress("training", self.step, config.steps, losses, left))
            except KeyboardInterrupt:  # between two steps, where nothing is half done
                if self.processes.first:
                    self._save()
                raise
            due = time.monotonic() - saved >= pause and self.step < config.steps
            if due and self.processes.first:
                before = time.monotonic()
                self._save()
                saved = time.monotonic()
                # Gigabytes on a slow disk: writing may take a tenth of the time, not more.
                pause = max(pause, 10 * (saved - before)) if pause else 0.0
        whole_batch_norm(self.detector.method, on=False)

    def finish(self, validation: Inputs, images: dict[str, tuple[float, ...]]) -> None:
        """The method's last touch, map statistics and scores of the validation frames, final file."""
        self.progress(Progress("measuring good frames", 0, 1))
        detector = self.detector
        detector.train()
        detector.method.finish(self._batches)
        detector.eval()
        scores = {mode: learn_head(detector, mode, validation) for mode in detector.method.modes}
        thresholds = Thresholds(modes={mode: threshold_from_scores(values) for mode, values in scores.items()})
        record = self._record(finished=True, scores=scores, thresholds=thresholds, images=images)
        golden = {f"{GOLDEN_PREFIX}{name}": x for name, x in golden_samples(validation).items()}
        write_checkpoint(self.path, record, {**detector.state_dict(), **golden})

    def resume(self) -> bool:
        """Takes weights, optimiser and step from the checkpoint; True, and nothing is taken, if the run is finished.

        Raises:
            CheckpointError: it belongs to other settings or other data.
        """
        record, tensors = read_checkpoint(self.path)
        was, now = ({name: getattr(x, name) for name in _deciding()} for x in (record.training, self.config))
        changed = ", ".join(f"{name} was {was[name]}" for name in was if was[name] != now[name])
        for what, before, after in (
            (f"settings: {changed}", was, now),
            ("training data", record.data, self.data),
            ("camera or plane", record.detector, self.detector.config),
            ("teacher weights", True, has_teacher(tensors, self.detector.teacher)),
            ("software", record.version, edge_ad.__version__),
        ):
            if before != after:
                raise CheckpointError(
                    f"{self.path} cannot be resumed",
                    why=f"it was made with other {what}",
                    remedy="name another --output",
                )
        if record.finished:
            return True
        self.step = record.step
        weights = {name: x for name, x in tensors.items() if not name.startswith("adam.")}
        self.detector.load_state_dict({name.removeprefix("detector."): x for name, x in weights.items()})
        for index, parameter in enumerate(self.detector.method.parameters()):
            self.optimizer.state[parameter] = {
                key: tensors[f"adam.{index}.{key}"].to(parameter.device)
                if key != "step"
                else tensors[f"adam.{index}.{key}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
        return False

    def _update(self, rows: Tensor) -> tuple[float, ...]:
        """One optimiser step on the frames ``rows``; returns each student's loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * config.final_learning_rate ** (self.step / config.steps)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            batch = replace(self._batch(self.processes.part(rows)), share=self.processes)
            losses: list[Tensor] = self.losses(batch, generator)
        self.optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return self.processes.mean(losses)

    def _batch(self, rows: Tensor) -> Batch:
        maps = {name: [x.to(self.device) for x in group] for name, group in self.cache[rows].items()}
        names: tuple[str, ...] = self.config.preprocess.modalities
        images = {name: maps[f"image {name}"][0] for name in names if f"image {name}" in maps}
        return Batch(self.detector.scaling({name: maps[name] for name in names}), images)

    def _batches(self) -> Iterator[Batch]:
        """The training set once; the last batch may be smaller."""
        return map(self._batch, torch.split(self._order(self.config.seed), self.batch_size))

    def _image_batches(self, shuffle: int) -> Iterator[dict[str, Tensor]]:
        """The teacher's inputs of the training set once, in batches of one size."""
        rows = torch.split(self._order(self.config.seed + shuffle), self.batch_size)
        return map(self._images, rows[: self.count // self.batch_size])

    def _order(self, seed: int) -> Tensor:
        return torch.randperm(self.count, generator=torch.Generator().manual_seed(seed))

    def _images(self, rows: slice | Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            chosen = {name: x[rows].to(self.device) for name, x in self.inputs.items()}
            return self.detector.preprocess(chosen, self.config.preprocess.modalities)[0]  # type: ignore[no-any-return]

    def _computed(self, rows: slice | Tensor) -> Maps:
        """The teacher's raw features of some frames, and the images where the method looks at them."""
        images = self._images(rows)
        with torch.no_grad():
            maps: Maps = self.detector.teacher(images)
        if self.detector.method.needs_images:
            maps |= {f"image {name}": [image] for name, image in images.items()}
        return maps

    def _record(
        self,
        *,
        finished: bool,
        scores: dict[str, tuple[float, ...]] | None = None,
        thresholds: Thresholds | None = None,
        images: dict[str, tuple[float, ...]] | None = None,
    ) -> CheckpointRecord:
        return CheckpointRecord(
            detector=self.detector.config,
            training=self.config,
            data=self.data,
            step=self.step,
            finished=finished,
            validation_scores=scores or {},
            thresholds=thresholds or Thresholds(modes={}),
            images=images or {},
        )

    def _save(self) -> None:
        tensors = {f"detector.{name}": x for name, x in self.detector.state_dict().items()}
        for index, parameter in enumerate(self.detector.method.parameters()):
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{index}.{key}"] = value
        write_checkpoint(self.path, self._record(finished=False), tensors)


def _deciding() -> list[str]:
    """The settings that decide the result, without those that only suit a machine."""
    return [name for name in TrainConfig.model_fields if name not in MACHINE_SETTINGS]


def _make_directory(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{run_dir} cannot be made", why=error.strerror or str(error), remedy="name another --output"
        ) from error
