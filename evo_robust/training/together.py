"""Training on several devices, one process each, as ``torchrun`` starts them: each takes its share of every batch."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from evo_robust.parts.base import seed_from


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes that train one network together.

    Every process draws the same batches and takes its own images of each. Gradients are summed over all of them, so a
    step is that of one device with the whole batch. Two things differ: batch normalisation takes the statistics of a
    device's own images, and attacks and dropout draw other random numbers.

    Attributes:
        rank: this process's number, from 0.
        size: number of processes, >= 2.
    """

    rank: int
    size: int

    def share(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """This process's images of a batch, and their classes."""
        return x[self.rank :: self.size], y[self.rank :: self.size]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes, in place."""
        dist.all_reduce(values)
        return values

    def average_statistics(self, model: nn.Module) -> None:
        """Give all processes the mean of their running statistics."""
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(self.size)

    def wait(self) -> None:
        """Wait until all processes are here."""
        dist.barrier()

    def seed(self, seed: int, epoch: int, what: str) -> int:
        """Seed of this process's own random numbers in an epoch."""
        return seed_from(seed, what, self.rank, self.size, epoch)


def started_together() -> bool:
    """Whether ``torchrun`` started this process, and others with it."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


@contextlib.contextmanager
def joined(device: str) -> Iterator[Group | None]:
    """Inside, the group of processes that ``torchrun`` started this one in; None where there is only one.

    Args:
        device: its kind decides how they talk: NCCL between CUDA devices, else gloo.
    """
    if not started_together():
        yield None
        return
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """``cuda`` becomes the device of this process among those of its machine; other names stay."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device
