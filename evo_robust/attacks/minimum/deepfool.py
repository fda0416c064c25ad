"""DeepFool: steps to the nearest boundary of the linearised network (Moosavi-Dezfooli et al., CVPR 2016)."""

from __future__ import annotations

import math

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.ball import per_image, steepest
from evo_robust.attacks.base import Norm
from evo_robust.attacks.minimum.base import MinimumNormAttack
from evo_robust.inference.checks import slope
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
        rivals = self._rivals(network(x), y)
        images, y = x, y
        for step in range(self.steps + 1):
            logits, gaps, slopes = _linearised(network, images, y, rivals, last=step == self.steps)
            wrong = classes(logits) != y
            found[index[wrong]] = images[wrong]
            going = (~wrong).nonzero().squeeze(1)
            if step == self.steps or len(going) == 0:
                break
            index, y, rivals = index[going], y[going], rivals[going]
            images = self._step(images[going], gaps[going], slopes[going], norm)
        return found

    def _rivals(self, logits: Tensor, y: Tensor) -> Tensor:
        """The likeliest wrong classes, ``(n, k)``."""
        wrong = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        return wrong[:, : min(self.candidates, logits.shape[1] - 1)]

    def _step(self, images: Tensor, gaps: Tensor, slopes: Tensor, norm: Norm) -> Tensor:
        """Images beyond the nearest linear boundary; ``gaps`` ``(n, k)`` < 0, ``slopes`` ``(n, k, c, h, w)``."""
        dual = torch.linalg.vector_norm(slopes.flatten(2), ord=1 if norm == "linf" else 2, dim=2)
        # the authors add 1e-4, so that a step is never zero; where the slope is zero no boundary is near
        far = (gaps.abs() + 1e-4) / dual
        length, nearest = torch.where(dual > 0, far, torch.inf).min(1)
        way = steepest(slopes[torch.arange(len(images), device=images.device), nearest], norm)
        length = torch.where(length.isfinite(), length, 0.0)
        return (images + per_image((1 + self.overshoot) * length) * way).clamp(0.0, 1.0)


def _linearised(
    model: nn.Module, images: Tensor, y: Tensor, rivals: Tensor, *, last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, how far each rival is behind the true class ``(n, k)``, and the slope of that ``(n, k, c, h, w)``."""
    if last:
        return model(images), images.new_empty(0), images.new_empty(0)
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images)
        gaps = logits.gather(1, rivals) - logits.gather(1, y[:, None])
        columns = gaps.sum(0).unbind()
        slopes = [slope(column, images, retain=k + 1 < len(columns)) for k, column in enumerate(columns)]
    return logits.detach(), gaps.detach(), torch.stack(slopes, 1).nan_to_num(0.0, 0.0, 0.0)
