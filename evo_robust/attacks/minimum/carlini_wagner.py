"""The attack of Carlini & Wagner in L2 (Towards Evaluating the Robustness of Neural Networks, 2017, section V)."""

from __future__ import annotations

import math

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.ball import per_image
from evo_robust.attacks.base import Norm
from evo_robust.attacks.losses import margin
from evo_robust.attacks.minimum.base import Best, MinimumNormAttack, distance, logits_and_slope
from evo_robust.inference.predictions import classes

_EDGE = 1 - 1e-6
"""Pixels of 0 and 1 have no finite tanh⁻¹: they are moved inwards by half a millionth."""


@chz.chz
class CarliniWagner(MinimumNormAttack):
    """Minimise ‖δ‖² + c·max(0, lead of the true class + κ) over tanh space by Adam; search c per image.

    In L2 only. Their L∞ attack is slow, and papers on robust networks print ``PGD(loss="margin")`` in its place.
    """

    steps: int = chz.field(default=100, doc="Adam steps for each c, >= 1; the authors' code takes up to 10,000")
    searches: int = chz.field(default=9, doc="values of c tried per image, by bisection, >= 1")
    lr: float = chz.field(default=0.01, doc="Adam's rate in tanh space, > 0")
    c: float = chz.field(default=0.01, doc="first c, > 0")
    confidence: float = chz.field(default=0.0, doc="lead κ, in logits, that a wrong class must reach, >= 0")

    @chz.validate
    def _sensible(self) -> None:
        if self.steps < 1 or self.searches < 1:
            raise ValueError(f"expected steps >= 1 and searches >= 1, got {self.steps} and {self.searches}")
        if not (0 < self.lr < math.inf and 0 < self.c < math.inf and 0 <= self.confidence < math.inf):
            raise ValueError(
                f"expected lr > 0, c > 0 and confidence >= 0, all finite, got {self.lr}, {self.c}, {self.confidence}"
            )

    @property
    def norms(self) -> tuple[Norm, ...]:
        """L2 alone."""
        return ("l2",)

    def _closest(self, network: nn.Module, x: Tensor, y: Tensor, norm: Norm, generator: torch.Generator) -> Tensor:
        best, low, high = Best.of(x), x.new_zeros(len(x)), x.new_full((len(x),), torch.inf)
        best.look(classes(network(x)) != y, x, x.new_zeros(len(x)))
        c = x.new_full((len(x),), self.c)
        for _ in range(self.searches):
            wrong = self._minimised(network, x, y, c, best)
            low, high = torch.where(wrong, low, c), torch.where(wrong, c, high)
            c = torch.where(high.isfinite(), (low + high) / 2, 10 * c)
        return best.images

    def _minimised(self, network: nn.Module, x: Tensor, y: Tensor, c: Tensor, best: Best) -> Tensor:
        """One run of Adam; notes what it finds in ``best`` and returns which images were ever misclassified."""
        point = torch.atanh((2 * x - 1) * _EDGE)
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        ever = torch.zeros_like(y, dtype=torch.bool)
        for step in range(1, self.steps + 1):
            tanh = torch.tanh(point)
            images = (tanh + 1) / 2
            logits, lead, slopes = logits_and_slope(network, images, lambda z: margin(z, y))
            wrong = (classes(logits) != y) & (lead >= self.confidence)
            best.look(wrong, images, distance(images - x, "l2"))
            ever |= wrong
            pull = per_image(torch.where(lead < self.confidence, c, 0.0)) * slopes
            gradient = (2 * (images - x) - pull) * (1 - tanh.square()) / 2
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            rate = self.lr * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            point = point - rate * first / (second.sqrt() + 1e-8)
        return ever
