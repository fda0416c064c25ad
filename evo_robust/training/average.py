"""A moving average of a network's weights, which often classifies better than the last ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the state of a network: its weights, and its batch statistics with them.

    After step t = 1, 2, …, the average moves towards the present state by the share 1 − d, where d is the smaller of
    ``decay`` and t/(t + 9). So the first states, which learned nothing yet, are soon forgotten (as in TensorFlow's
    ``ExponentialMovingAverage`` with ``num_updates``). Whole numbers, such as counts of batches, are copied.

    Args:
        model: the network; its present state is the first average.
        decay: in (0,1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        self._state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take one more step of training into the average."""
        self.steps += 1
        share = 1 - min(self.decay, self.steps / (self.steps + 9))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self._state[name].lerp_(value, share)
            else:
                self._state[name].copy_(value)

    @contextlib.contextmanager
    def instead(self) -> Iterator[None]:
        """Inside, the network has the average; on leaving, it gets its own state back, to the bit."""
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.copy_into_model()
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def copy_into_model(self) -> None:
        """Give the network the average."""
        self.model.load_state_dict(self._state)

    def state(self) -> dict[str, Tensor]:
        """The whole state, for a checkpoint."""
        return {**{f"value.{name}": value for name, value in self._state.items()}, "steps": torch.tensor(self.steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state.

        Raises:
            KeyError, ValueError: it is not the state of this network's average.
        """
        for name, value in self._state.items():
            kept = state[f"value.{name}"]
            if kept.shape != value.shape or kept.dtype != value.dtype or not kept.isfinite().all():
                raise ValueError(f"the average of {name} is not finite, or of another shape or type")
            value.copy_(kept)
        self.steps = int(state["steps"])
