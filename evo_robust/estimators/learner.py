"""What the learners of noises and of losses share: passes over a memory, and a state to continue from."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from evo_robust.estimators.state import optimizer_tensors, part, restore_optimizer
from evo_robust.parts.base import seed_from
from evo_robust.training.loop import reproducible


class MemoryLearner(abc.ABC):
    """An estimator under training: it, its optimiser, its random numbers and, in subclasses, its memory.

    The same calls from the same seed give the same weights to the bit on one kind of device with one number of threads,
    with or without ``state`` and ``restore`` in between.

    Attributes:
        estimator: what is trained.
        optimizer: of its weights; None where it has none.
        generator: source of all random numbers, except those of first weights and of the estimator's layers.
    """

    estimator: nn.Module
    optimizer: torch.optim.Optimizer | None

    def __init__(self, name: str, seed: int, device: str | torch.device) -> None:
        self.seed, self.device = seed, torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed_from(seed, f"{name} memory"))

    @abc.abstractmethod
    def __len__(self) -> int:
        """Samples in the memory."""

    @abc.abstractmethod
    def _loss(self, index: Tensor) -> Tensor:
        """Mean loss of the samples at ``index``."""

    @abc.abstractmethod
    def _remembered(self) -> Mapping[str, Tensor]:
        """The memory, by name; empty for an empty one."""

    @abc.abstractmethod
    def _remember(self, memory: Mapping[str, Tensor]) -> None:
        """Remember what ``_remembered`` gave, and nothing else."""

    def _passes(self, passes: int, batch_size: int) -> float:
        """So many passes over the memory, each in a new order; mean loss of the last one."""
        losses: list[Tensor] = []
        with reproducible(self.device, seed_from(self.seed, "layers")):
            for _ in range(passes):
                order = torch.randperm(len(self), generator=self.generator, device=self.device)
                losses = [self._step(index) * len(index) for index in order.split(batch_size)]
        return torch.stack(losses).sum().item() / len(self)

    def _step(self, index: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.optimizer is not None):
            loss = self._loss(index)
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        return loss.detach()

    def state(self) -> dict[str, Tensor]:
        """Everything that going on needs, as tensors by name for ``evo_robust.files.write_tensors``."""
        tensors = {f"estimator.{name}": value for name, value in self.estimator.state_dict().items()}
        tensors |= {f"memory.{name}": value for name, value in self._remembered().items()}
        if self.optimizer is not None:
            tensors |= optimizer_tensors(self.optimizer, "optimizer")
        return tensors | {"generator": self.generator.get_state()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave.

        Raises:
            RuntimeError: the weights are those of another kind of estimator.
        """
        self.estimator.load_state_dict(part(tensors, "estimator"))
        self._remember(part(tensors, "memory"))
        if self.optimizer is not None:
            restore_optimizer(self.optimizer, tensors, "optimizer")
        self.generator.set_state(tensors["generator"].cpu())
