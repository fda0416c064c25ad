"""Fast minimum-norm attack: a ball that shrinks where it holds an adversarial image (Pintor et al., NeurIPS 2021)."""

from __future__ import annotations

import math

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.ball import project, steepest
from evo_robust.attacks.base import Norm, widest
from evo_robust.attacks.boundaries import steepness
from evo_robust.attacks.losses import margin
from evo_robust.attacks.minimum.base import Best, MinimumNormAttack, distance, logits_and_slope
from evo_robust.inference.predictions import classes

_LEAST = 1e-4
"""Smallest ball before an image is misclassified first: one on the very boundary would stay there."""


@chz.chz
class FMN(MinimumNormAttack):
    """Fast minimum-norm attack (Pintor et al., 2021, algorithm 1) in L∞ and L2.

    Every image has a ball of its own, which shrinks by γ where the image in it is misclassified, and else grows. Until
    an image is misclassified first, its ball reaches to the boundary of the linearised network. Step length and γ fall
    along a cosine.
    """

    steps: int = chz.field(default=100, doc="gradient steps, >= 1")
    step: float = chz.field(default=1.0, doc="length of the first step, Euclidean, > 0; the last is a hundredth of it")
    gamma: float = chz.field(
        default=0.05, doc="relative change of the ball at first, in (0, 1); at last a fiftieth of it"
    )

    @chz.validate
    def _sensible(self) -> None:
        if self.steps < 1:
            raise ValueError(f"expected steps >= 1, got {self.steps}")
        if not 0 < self.step < math.inf or not 0 < self.gamma < 1:
            raise ValueError(f"expected step > 0 and gamma in (0, 1), got {self.step} and {self.gamma}")

    def _closest(self, network: nn.Module, x: Tensor, y: Tensor, norm: Norm, generator: torch.Generator) -> Tensor:
        best, delta = Best.of(x), torch.zeros_like(x)
        farthest = x.new_full((len(x),), widest(norm, x.shape[1:]))
        radius = farthest
        for step in range(self.steps):
            share = (1 + math.cos(math.pi * step / self.steps)) / 2
            gamma = self.gamma * (0.02 + 0.98 * share)
            logits, gap, slopes = logits_and_slope(network, x + delta, lambda z: margin(z, y))
            length = distance(delta, norm)
            ever = best.length.isfinite()
            wrong = classes(logits) != y
            best.look(wrong, x + delta, length)
            dual = steepness(slopes, norm)
            ahead = (length + gap.abs() / dual.clamp_min(1e-12)).clamp_min(_LEAST)
            # by γ further, which the paper does not do: else an image ends on the boundary, and never beyond it
            outside = (1 + gamma) * torch.where(ever, radius, ahead)
            inside = torch.minimum(radius * (1 - gamma), best.length)
            radius = torch.minimum(torch.where(wrong, inside, outside), farthest)
            way = self.step * (0.01 + 0.99 * share) * steepest(slopes, "l2")
            delta = project(x, delta + way, radius, norm)
        best.look(classes(network(x + delta)) != y, x + delta, distance(delta, norm))
        return best.images
