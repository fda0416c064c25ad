"""Threat model and the contract of attacks."""

from __future__ import annotations

import abc
from typing import Literal

import chz
import torch
from torch import Tensor, nn

from evo_robust.parts import Fraction, Part

Norm = Literal["linf", "l2"]


@chz.chz
class Threat(Part):
    """The ball an attacker may move in; images lie in [0,1]. Serves training, objectives and judgement alike."""

    norm: Norm = chz.field(default="linf", doc="linf or l2")
    eps: Fraction = chz.field(default=Fraction(8 / 255), doc="radius > 0, in units of the pixel range 0..1")

    @chz.validate
    def _positive(self) -> None:
        if not self.eps > 0:
            raise ValueError(f"expected eps > 0 in units of the pixel range 0..1 (such as 8/255), got {self.eps}")


@chz.chz
class Attack(Part, abc.ABC):
    """A way to find adversarial images."""

    @abc.abstractmethod
    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
        """Adversarial images ``(n, c, h, w)``, inside the threat's ball around ``x`` and inside [0,1].

        Leaves the model's mode, running statistics, gradients and ``requires_grad`` flags as they were.
        """
