"""DeepFool: steps to the nearest boundary of the linearised network (Moosavi-Dezfooli et al., CVPR 2016)."""

from __future__ import annotations

import math

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.ball import per_image, steepest
from evo_robust.attacks.base import Norm
from evo_robust.attacks.boundaries import linearised, rivals, steepness
from evo_robust.attacks.minimum.base import MinimumNormAttack
from evo_robust.inference.predictions import classes


@chz.chz
class DeepFool(MinimumNormAttack):
    """DeepFool (Moosavi-Dezfooli et al., 2016, algorithm 2, and its extension to ℓp for L∞).

    In each step the network is taken as linear, and the image goes to the nearest boundary between its class and
    another one. It stops as soon as it is misclassified, so what it finds is close, but seldom the closest.
    """

    steps: int = chz.field(default=50, doc="most steps per image, >= 1; the authors' code takes 50")
    overshoot: float = chz.field(default=0.02, doc="share by which a step goes beyond the boundary, >= 0")
    candidates: int = chz.field(
        default=9, doc="wrong classes looked at, the likeliest without attack, >= 1; each costs a gradient per step"
    )

    @chz.validate
    def _sensible(self) -> None:
        if self.steps < 1 or self.candidates < 1:
            raise ValueError(f"expected steps >= 1 and candidates >= 1, got {self.steps} and {self.candidates}")
        if not 0 <= self.overshoot < math.inf:
            raise ValueError(f"expected overshoot >= 0 and finite, got {self.overshoot}")

    def _closest(self, network: nn.Module, x: Tensor, y: Tensor, norm: Norm, generator: torch.Generator) -> Tensor:
        found, index = x.clone(), torch.arange(len(x), device=x.device)
        images, others = x, rivals(network(x), y, self.candidates)
        for _ in range(self.steps):
            logits, ahead, slopes = linearised(network, images, y, others, lambda slopes: slopes)
            wrong = classes(logits) != y
            found[index[wrong]] = images[wrong]
            going = (~wrong).nonzero().squeeze(1)
            if len(going) == 0:
                return found
            index, y, others = index[going], y[going], others[going]
            images = self._step(images[going], ahead[going], slopes[going], norm)
        wrong = classes(network(images)) != y
        found[index[wrong]] = images[wrong]
        return found

    def _step(self, images: Tensor, ahead: Tensor, slopes: Tensor, norm: Norm) -> Tensor:
        """Images beyond the nearest linear boundary; ``ahead`` ``(n, k)`` < 0, ``slopes`` ``(n, k, c, h, w)``."""
        dual = steepness(slopes, norm)
        # the authors add 1e-4, so that a step is never zero; where the slope is zero no boundary is near
        far = (ahead.abs() + 1e-4) / dual
        length, nearest = torch.where(dual > 0, far, torch.inf).min(1)
        way = steepest(slopes[torch.arange(len(images), device=images.device), nearest], norm)
        length = torch.where(length.isfinite(), length, 0.0)
        return (images + per_image((1 + self.overshoot) * length) * way).clamp(0.0, 1.0)
