"""Attacks that look for the closest adversarial image, against a model for which it is known."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from attackable import linear_problem, seeded
from torch import Tensor, nn

from evo_robust import load
from evo_robust.attacks.base import Norm, Threat
from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.gradient import PGD
from evo_robust.attacks.minimum.base import MinimumNormAttack, distance
from evo_robust.attacks.minimum.carlini_wagner import CarliniWagner
from evo_robust.attacks.minimum.deepfool import DeepFool
from evo_robust.attacks.minimum.fmn import FMN
from evo_robust.data.images import Images
from evo_robust.inference.predictions import classes
from evo_robust.parts.base import Fraction, UserError

# how far beyond the closest image each may end
CASES: list[tuple[MinimumNormAttack, Norm, float]] = [
    (DeepFool(), "linf", 1.03),
    (DeepFool(), "l2", 1.03),
    (FMN(), "linf", 1.02),
    (FMN(), "l2", 1.02),
    (CarliniWagner(steps=200, c=1.0), "l2", 1.05),
]


def nearest(model: nn.Module, x: Tensor, norm: Norm) -> Tensor:
    """How far the boundary of the linear model is: |score| over the dual norm of its weights."""
    w = model.w.detach()
    return (model.score(x).abs() / (w.abs().sum() if norm == "linf" else w.norm())).detach()


@pytest.mark.parametrize(("attack", "norm", "within"), CASES)
def test_it_finds_the_closest_image(attack: MinimumNormAttack, norm: Norm, within: float) -> None:
    model, images = linear_problem(n=40)
    x, y = images.floats(), images.y
    found = attack.closest(model, x, y, norm, seeded())
    assert (classes(model(found)) != y).all()
    assert found.min() >= 0 and found.max() <= 1
    ratio = distance(found - x, norm) / nearest(model, x, norm)
    # an image on the boundary itself is pushed over it by rounding
    far = nearest(model, x, norm) > 1e-3
    assert ratio[far].min() > 0.999 and ratio[far].quantile(0.9) < within


@pytest.mark.parametrize(("attack", "norm", "within"), CASES)
def test_one_run_answers_at_every_strength(attack: MinimumNormAttack, norm: Norm, within: float) -> None:
    model, images = linear_problem(n=60)
    x = images.floats()
    eps = sorted(nearest(model, x, norm).quantile(q).item() for q in (0.2, 0.5, 0.8))
    curve = robust_curve(model, images, attack, eps, norm, generator=seeded(), keep_images=True)
    closest = distance(attack.closest(model, x, images.y, norm, seeded()) - x, norm)
    for strength, error in zip(eps, curve.error, strict=True):
        at_most = (nearest(model, x, norm) <= strength).double().mean().item()
        assert (closest <= strength).double().mean().item() - 0.02 <= error <= at_most + 1e-9
    assert curve.images is not None
    broken = curve.level < len(eps)
    assert (classes(model(curve.images[broken])) != images.y[broken]).all()
    radius = torch.tensor(eps)[curve.level[broken]]
    assert (distance(curve.images[broken] - x[broken], norm) <= radius * 1.001 + 1e-6).all()


def test_a_trained_network_is_left_as_it_was(trained: nn.Module, held_out: Images) -> None:
    x, y = held_out.floats(slice(30)), held_out.y[:30]
    before = copy.deepcopy(trained.state_dict())
    trained.train()
    try:
        for attack in (DeepFool(steps=5), FMN(steps=5)):
            found = attack.perturb(trained, x, y, Threat(eps=Fraction(0.1)), seeded())
            assert trained.training and (found - x).abs().max() <= 0.1 + 1e-6
    finally:
        trained.eval()
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in trained.parameters())


def test_fmn_is_about_as_strong_as_pgd(trained: nn.Module, held_out: Images) -> None:
    images, eps = held_out.take(slice(150)), (0.05, 0.1, 0.2)
    pgd = robust_curve(trained, images, PGD(steps=20), eps, generator=seeded()).error
    fmn = robust_curve(trained, images, FMN(steps=60), eps, generator=seeded()).error
    deepfool = robust_curve(trained, images, DeepFool(), eps, generator=seeded()).error
    assert fmn == pytest.approx(pgd, abs=0.04)
    assert all(first <= best + 0.02 for first, best in zip(deepfool, fmn, strict=True)), "it stops at the first one"


def test_what_cannot_be_broken_stays() -> None:
    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            none = x.sum((1, 2, 3)) * 0
            return torch.stack((none + 1, none), 1)

    x, y = torch.rand((5, 1, 4, 4), generator=seeded()), torch.zeros(5, dtype=torch.long)
    for attack, norm, _ in CASES:
        assert torch.equal(attack.closest(Sure(), x, y, norm, seeded()), x)
        assert attack.closest(Sure(), x[:0], y[:0], norm, seeded()).shape == (0, 1, 4, 4)


@pytest.mark.parametrize(("attack", "norm", "within"), CASES)
def test_an_image_that_cannot_be_broken_moves_no_other(attack: MinimumNormAttack, norm: Norm, within: float) -> None:
    class PartlySure(nn.Module):
        """The linear model, which never changes its mind on images whose first pixel is black."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.where((x[:, 0, 0, 0] < 0.05)[:, None], 1e-3 * x[:, 0, :1, 0] * 0 + keep, model(x))

    model, images = linear_problem(n=12)
    keep = torch.tensor([[1.0, 0.0]])
    x, y = images.floats(), images.y
    alone = attack.closest(model, x, y, norm, seeded())
    black = x[:1].clone()
    black[:, 0, 0, 0] = 0.0
    both = torch.cat((x, black)), torch.cat((y, torch.zeros(1, dtype=torch.long)))
    found = attack.closest(PartlySure(), *both, norm, seeded())[:-1]
    assert torch.allclose(distance(found - x, norm), distance(alone - x, norm), rtol=2e-3, atol=1e-5)


def test_a_norm_that_it_does_not_know_is_refused_before_anything_is_made() -> None:
    with pytest.raises(UserError, match="expected norm l2, got 'linf'"):
        load("roco", "demo", {"objectives.1": "RobustError", "objectives.1.attack": "CarliniWagner"})
    model, images = linear_problem(n=4)
    with pytest.raises(ValueError, match="expected norm l2, got 'linf'"):
        CarliniWagner().closest(model, images.floats(), images.y, "linf", seeded())
    assert set(FMN().norms) == set(get_args(Norm))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DeepFool(steps=0), lambda: DeepFool(overshoot=-1), lambda: DeepFool(candidates=0), lambda: FMN(steps=0),
        lambda: FMN(gamma=1.0), lambda: FMN(step=0.0), lambda: CarliniWagner(steps=0), lambda: CarliniWagner(c=0.0),
        lambda: CarliniWagner(lr=float("inf")),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()  # type: ignore[operator]


def test_a_network_that_cuts_its_gradient_off_is_refused() -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = x.detach().mean((1, 2, 3))
            return torch.stack((bright, 1 - bright), 1)

    x, y = torch.rand((3, 1, 4, 4), generator=seeded()) * 0.1 + 0.8, torch.zeros(3, dtype=torch.long)
    for attack, norm, _ in CASES:
        with pytest.raises(ValueError, match="expected a network with a gradient"):
            attack.closest(Cut(), x, y, norm, seeded())
