"""Noises of real attacks at several strengths, and all strengths of a search from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import GradientAttack
from evo_robust.estimators.base import NoiseEstimator
from evo_robust.estimators.strengths import Strengths
from evo_robust.parts import Fraction


def real_noises(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    strengths: Sequence[float],
    attack: GradientAttack,
    generator: torch.Generator,
) -> Tensor:
    """Noises ``(k, n, c, h, w)`` of an L∞ attack at each strength; every image goes to the last step.

    All strengths start from the same random point of their ball, so that noises at neighbouring ones resemble each
    other. The model's mode, statistics and gradients stay as they were; in train mode it uses batch statistics.

    Args:
        model: network from images in [0,1] to logits.
        x: images ``(n, c, h, w)`` in [0,1].
        y: true classes ``(n,)``.
        strengths: L∞, each > 0, in any order.
        attack: such as ``PGD(steps=7)``, whose step grows with the strength where it is not given.
        generator: source of the random start; one number is drawn.
    """
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    found = []
    for strength in strengths:
        start = torch.Generator(generator.device).manual_seed(seed)
        threat = Threat(eps=Fraction(strength))
        found.append(attack.perturb(model, x, y, threat, start, keep_going=True) - x)
    return torch.stack(found)


def spectrum(estimator: NoiseEstimator, x: Tensor, noises: Tensor, strengths: Strengths) -> Tensor:
    """Noises ``(N1 + N2, n, c, h, w)`` at all strengths, ascending: real ones as they are, the others estimated.

    Args:
        estimator: for images of this shape.
        x: images ``(n, c, h, w)`` in [0,1]; batches of some hundred, since estimators keep maps of all of them.
        noises: real noises ``(N1, n, c, h, w)`` at ``strengths.real``.
        strengths: which are real and which are estimated.

    Raises:
        ValueError: other than N1 noises, or shapes that do not belong together.
    """
    if len(noises) != strengths.n1:
        raise ValueError(f"expected noises at {strengths.n1} real strengths, got {len(noises)}")
    if not strengths.estimated:
        return noises
    estimates = iter(estimator.estimate_all(x, noises, strengths.real, strengths.estimated))
    real = iter(noises)
    return torch.stack(
        [next(estimates if place else real) for interval in strengths.intervals for place in range(len(interval))]
    )
