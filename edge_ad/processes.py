"""One model trained by several processes, as ``torchrun`` starts them: on several GPUs, or on several machines.

Each process takes its share of every batch, gradients are averaged (DistributedDataParallel), and BatchNorm sees
the whole batch. So n processes learn what one learns with the same ``batch_size``. All of them need the
data and the run's directory at the same path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edge_ad.errors import ConfigError
from edge_ad.models.method import Batch, Method, Share


@dataclass(frozen=True)
class Processes(Share):
    """This process among those that train together."""

    local_rank: int = 0

    @property
    def first(self) -> bool:
        """True for the one that reports and writes files."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The GPU that is this process's, or the CPU."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    def mean(self, values: list[Tensor]) -> tuple[float, ...]:
        """The mean over all processes of each value."""
        total = self.total(torch.stack(values).double())
        return tuple(float(value) / self.count for value in total)

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def joined(batch_size: int) -> Iterator[Processes]:
    """Joins the processes that torchrun has started; a process on its own where it has not.

    Raises:
        ConfigError: a batch cannot be shared out evenly.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if batch_size % count or batch_size // count < 1:
        raise ConfigError(
            f"a batch of {batch_size} frames cannot be shared out to {count} processes",
            remedy=f"choose a --batch-size that {count} divides",
        )
    processes = Processes(int(os.environ["RANK"]), count, int(os.environ.get("LOCAL_RANK", "0")))
    if processes.device.type == "cuda":
        torch.cuda.set_device(processes.device)
    dist.init_process_group("nccl" if processes.device.type == "cuda" else "gloo")
    try:
        yield processes
    finally:
        dist.destroy_process_group()


class Losses(nn.Module):
    """A method whose ``forward`` gives its losses, which is what DistributedDataParallel wraps."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, generator: Generator) -> list[Tensor]:
        """See ``Method.losses``."""
        return self.method.losses(batch, generator)


def shared_losses(method: Method, processes: Processes) -> nn.Module:
    """What gives a batch's losses; with several processes their gradients are averaged."""
    losses = Losses(method)
    if processes.count == 1:
        return losses
    whole_batch_norm(method, on=True)
    return DistributedDataParallel(losses)


class WholeBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes; torch's SyncBatchNorm, which there is for GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        if not self.training:
            return super().forward(x)
        x = x.float()
        count = x.numel() / x.shape[1] * dist.get_world_size()
        mean = _sum(x.sum((0, 2, 3))) / count
        centred = x - mean.view(1, -1, 1, 1)
        variance = _sum((centred * centred).sum((0, 2, 3))) / count
        with torch.no_grad():
            for name, value in (("running_mean", mean), ("running_var", variance * count / (count - 1))):
                self.get_buffer(name).lerp_(value, self.momentum or 0.0)
            self.get_buffer("num_batches_tracked").add_(1)
        normalized = centred * torch.rsqrt(variance + self.eps).view(1, -1, 1, 1)
        result: Tensor = normalized * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return result


class _Sum(torch.autograd.Function):
    """Over all processes; gradients pass through it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _sum(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


def whole_batch_norm(method: nn.Module, *, on: bool) -> None:
    """Turns every BatchNorm into one over all processes, or back; weights and statistics stay."""
    old, new = (nn.BatchNorm2d, WholeBatchNorm2d) if on else (WholeBatchNorm2d, nn.BatchNorm2d)
    for layer in method.modules():
        if type(layer) is old:
            layer.__class__ = new
