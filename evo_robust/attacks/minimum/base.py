"""Attacks that look for the closest image that is misclassified (minimum-norm attacks)."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import get_args

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.ball import per_image, project
from evo_robust.attacks.base import Attack, Norm, Threat, check_norm
from evo_robust.attacks.calls import checked
from evo_robust.attacks.fast import for_attack
from evo_robust.inference.checks import slope
from evo_robust.inference.predictions import classes, eval_mode, undisturbed


@chz.chz
class MinimumNormAttack(Attack, abc.ABC):
    """An attack that has no ball: it looks for the closest image that is misclassified.

    One run therefore serves every strength, see :func:`evo_robust.attacks.curve.robust_curve`.
    """

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
        """See :meth:`Attack.perturb`; what lies outside the ball is moved to its nearest point inside.

        A model in train mode is attacked in eval mode: the closest image depends on no other image.
        """
        closest = self.closest(model, x, y, threat.norm, generator)
        return x + project(x, closest - x, x.new_full((len(x),), threat.eps), threat.norm)

    def closest(self, model: nn.Module, x: Tensor, y: Tensor, norm: Norm, generator: torch.Generator) -> Tensor:
        """The closest misclassified images ``(n, c, h, w)`` in [0,1] that were found; the image itself where none was.

        Leaves the model's mode, running statistics, gradients and ``requires_grad`` flags as they were.

        Args:
            model: network from images in [0,1] to logits ``(n, n_classes)``.
            x: float32 images ``(n, c, h, w)`` in [0,1].
            y: true classes, int64 ``(n,)``.
            norm: in which distances are measured.
            generator: source of all random numbers.

        Raises:
            ValueError: the attack does not know the norm; or network, images or labels are not as said.
        """
        check_norm(norm, self.norms)
        with checked(model, x, y, generator=generator, gradient=True) as (x, y):
            if len(x) == 0:
                return x
            with torch.no_grad(), eval_mode(model), undisturbed(model):
                found = self._closest(for_attack(model, x[:16]), x, y, norm, generator)
                return _confirmed(model, x, y, found)

    @property
    def norms(self) -> tuple[Norm, ...]:
        """Norms in which it measures distances."""
        return get_args(Norm)

    def check(self, threat: Threat, in_shape: tuple[int, int, int], key: str = "") -> None:
        """See :meth:`Attack.check`: the norm must be one that it knows."""
        check_norm(threat.norm, self.norms)

    @abc.abstractmethod
    def _closest(self, network: nn.Module, x: Tensor, y: Tensor, norm: Norm, generator: torch.Generator) -> Tensor:
        """See :meth:`closest`.

        The arguments have been checked. ``network`` is a fast copy in eval mode; no gradient is recorded outside
        ``torch.enable_grad()``.
        """


def _confirmed(model: nn.Module, x: Tensor, y: Tensor, found: Tensor) -> Tensor:
    """What the network itself misclassifies too: what a fast copy finds on the very boundary may lie just before it.

    Only such images are pushed on, by 1 % at most; where nothing was found there is nowhere to go.
    """
    found = found.clone()
    left = ((found != x).flatten(1).any(1) & (classes(model(found)) == y)).nonzero().squeeze(1)
    for further in (1.0001, 1.001, 1.01):
        if len(left) == 0:
            break
        pushed = (x[left] + further * (found[left] - x[left])).clamp(0.0, 1.0)
        right = classes(model(pushed)) == y[left]
        found[left[~right]] = pushed[~right]
        left = left[right]
    return found


def distance(delta: Tensor, norm: Norm) -> Tensor:
    """Length ``(n,)`` of perturbations ``(n, c, h, w)``, in units of the pixel range 0..1."""
    return torch.linalg.vector_norm(delta.flatten(1), ord=torch.inf if norm == "linf" else 2, dim=1)


@dataclasses.dataclass
class Best:
    """The closest misclassified images so far.

    Attributes:
        images: ``(n, c, h, w)``; the image without attack where none was found.
        length: how far each is, ``(n,)``; infinite where none was found.
    """

    images: Tensor
    length: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Best:
        """Nothing found yet for the images ``x`` ``(n, c, h, w)``."""
        return cls(x.clone(), x.new_full((len(x),), torch.inf))

    def look(self, wrong: Tensor, images: Tensor, length: Tensor) -> None:
        """Keep images ``(n, c, h, w)`` that are misclassified (``wrong``, bool ``(n,)``) and closer."""
        better = wrong & (length < self.length)
        self.length = torch.where(better, length, self.length)
        self.images = torch.where(per_image(better), images, self.images)


def logits_and_slope(
    model: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``(n, n_classes)``, loss ``(n,)`` and its gradient ``(n, c, h, w)`` at images; finite everywhere."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images)
        value = loss(logits)
        gradient = slope(value.sum(), images)
    return logits.detach(), value.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)
