"""Noises of real attacks at several strengths, and all strengths of a search from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evo_robust.attacks.base import Threat, check_eps
from evo_robust.attacks.calls import checked
from evo_robust.attacks.gradient import GradientAttack
from evo_robust.estimators.base import NoiseEstimator
from evo_robust.estimators.strengths import Strengths
from evo_robust.parts.base import Fraction


def real_noises(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    strengths: Sequence[float],
    attack: GradientAttack,
    generator: torch.Generator,
) -> Tensor:
    """Noises ``(k, n, c, h, w)`` of an L∞ attack at each strength; every image goes to the last step.

    The smallest strength starts as the attack does. Each larger one starts from the noise before it, scaled up, as in
    ``robust_curve``. For the same number of steps that is a stronger attack than a new start at each strength. It also
    makes noises at neighbouring strengths alike, which interpolation needs. An attack of a single step does start again
    at each strength, from the same random point of the ball; otherwise it would be iterative. With several starts, the
    first continues and the others are random at each strength; the next strength continues from the strongest.

    The model's mode, statistics and gradients stay as they were; in train mode it uses batch statistics.

    Args:
        model: network from images in [0,1] to logits.
        x: images ``(n, c, h, w)`` in [0,1].
        y: true classes ``(n,)``.
        strengths: L∞, at least one, each in (0, 1], in any order; noises come in the same order.
        attack: such as ``PGD(steps=7)``, whose step grows with the strength where it is not given.
        generator: source of the random start; one number is drawn.

    Raises:
        ValueError: no strengths, or one that is not in (0, 1]; network, images or labels that are not as said.
    """
    if not strengths:
        raise ValueError("expected at least one strength, got none")
    for strength in strengths:
        check_eps(strength, name="each strength")
    found: dict[int, Tensor] = {}
    start = None  # in the unit ball
    with checked(model, x, y, generator=generator, gradient=True) as (x, y):
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        for place in sorted(range(len(strengths)), key=lambda place: strengths[place]):
            strength, own = strengths[place], torch.Generator(generator.device).manual_seed(seed)
            threat, scaled = Threat(eps=Fraction(strength)), None if start is None else strength * start
            found[place] = attack.perturb(model, x, y, threat, own, keep_going=True, start=scaled) - x
            start = found[place] / strength if attack.budget(strength).steps > 1 else None
        return torch.stack([found[place] for place in range(len(strengths))])


def spectrum(estimator: NoiseEstimator, x: Tensor, noises: Tensor, strengths: Strengths) -> Tensor:
    """Noises ``(N1 + N2, n, c, h, w)`` at all strengths, ascending: real ones as they are, the others estimated.

    Args:
        estimator: for images of this shape.
        x: images ``(n, c, h, w)`` in [0,1], some hundred at a time, since estimators keep maps of all of them.
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
