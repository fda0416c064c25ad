"""Early stop and choice among the weights of a training's epochs, by a validation split; never by test images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.gradient import PGD
from evo_robust.data.images import Images
from evo_robust.inference.predictions import clean_error
from evo_robust.parts.base import digest, seed_from
from evo_robust.training.recipes import Recipe

Keep = Literal["last", "best"]
"""Whose weights a training ends with: its last epoch's, or those of the epoch with the smallest validation error."""

STEPS = 10
"""Steps of the PGD that a validation split is attacked with, each 2.5·ε/10 long."""


class ByValidation:
    """Measures the network after each epoch on images that it is not trained on; see :class:`Choice`.

    The error is that in the recipe's own balls, under PGD-10, the mean over them; where the recipe trains without
    attacks, it is that of the images as they are.

    Args:
        images: the validation images, on the network's device.
        recipe: the recipe of the training.
        keep: whose weights the network gets in the end.
        patience: end the training after this many epochs without a smaller error, >= 1; None to make all of them.
        seed: seed of the attack.
    """

    def __init__(self, images: Images, recipe: Recipe, keep: Keep, patience: int | None, seed: int) -> None:
        self.images, self.recipe, self.keep, self.patience, self.seed = images, recipe, keep, patience, seed
        self.errors: list[float] = []
        self._best: dict[str, Tensor] = {}

    @property
    def identity(self) -> str:
        """See :attr:`Choice.identity`."""
        return digest("by validation", self.images.content(), self.keep, self.patience, self.seed)

    @property
    def best_epoch(self) -> int:
        """The first epoch with the smallest error, counted from 1; 0 before the first one."""
        return int(np.argmin(self.errors)) + 1 if self.errors else 0

    @property
    def ended(self) -> bool:
        """See :attr:`Choice.ended`."""
        return self.patience is not None and len(self.errors) - self.best_epoch >= self.patience

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights the network gets, counted from 1."""
        return self.best_epoch if self.keep == "best" else len(self.errors)

    def look(self, model: nn.Module, epoch: int) -> float:
        """See :meth:`Choice.look`."""
        self.errors.append(self._error(model, epoch))
        if self.keep == "best" and self.best_epoch == len(self.errors):
            self._best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return self.errors[-1]

    def _error(self, model: nn.Module, epoch: int) -> float:
        threats = self.recipe.threats
        if not threats:
            return clean_error(model, self.images)
        generator = torch.Generator(self.images.x.device).manual_seed(seed_from(self.seed, "validation", epoch))
        eps = [threat.eps for threat in threats]
        curve = robust_curve(model, self.images, PGD(steps=STEPS), eps, threats[0].norm, generator=generator)
        return float(np.mean(curve.error))

    def chosen(self) -> dict[str, Tensor] | None:
        """See :meth:`Choice.chosen`."""
        return self._best or None

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Companion.state`."""
        best = {f"best.{name}": value for name, value in self._best.items()}
        return {"errors": torch.tensor(self.errors, dtype=torch.float64), **best}

    def restore(self, state: Mapping[str, Tensor], epochs: int) -> None:
        """See :meth:`Companion.restore`.

        Raises:
            KeyError, ValueError: it is not the state after so many epochs.
        """
        errors = state["errors"].tolist()
        best = {name.removeprefix("best."): value for name, value in state.items() if name.startswith("best.")}
        if len(errors) != epochs or not np.isfinite(errors).all():
            raise ValueError(f"expected {epochs} finite validation errors, got {len(errors)}")
        if (self.keep == "best") != bool(best) or not all(bool(value.isfinite().all()) for value in best.values()):
            raise ValueError("the weights of the best epoch are missing or not finite")
        self.errors, self._best = errors, {name: value.to(self.images.x.device) for name, value in best.items()}
