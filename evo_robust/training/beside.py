"""What may run beside a training: state that moves with the weights, and a choice among the weights of its epochs."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Companion(Protocol):
    """State that changes together with the weights during training."""

    def state(self) -> dict[str, Tensor]:
        """The whole state, by name."""

    def restore(self, state: dict[str, Tensor], epochs: int) -> None:
        """Restore the state saved after ``epochs`` epochs."""


class Choice(Companion, Protocol):
    """Looks at the network after each epoch, and says when to stop and which weights to take in the end."""

    @property
    def identity(self) -> str:
        """A digest of its settings and images; a checkpoint with another one is refused."""

    @property
    def ended(self) -> bool:
        """Whether training stops here."""

    def look(self, model: nn.Module, epoch: int) -> float:
        """Error of the network after epoch ``epoch``, counted from 1; it must change neither weights nor modes."""

    def chosen(self) -> dict[str, Tensor] | None:
        """State of the network to end with; None for the last one."""
