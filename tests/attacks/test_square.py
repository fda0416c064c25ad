"""The square attack: queries alone."""

from __future__ import annotations

import pytest
import torch
from attackable import linear_problem, seeded
from torch import Tensor, nn

from evo_robust import load
from evo_robust.attacks.base import Threat
from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.gradient import PGD
from evo_robust.attacks.square import Square
from evo_robust.data.images import Images
from evo_robust.inference.predictions import classes
from evo_robust.objectives.errors import RobustError
from evo_robust.parts.base import Fraction, UserError


def test_it_comes_close_to_the_best_of_a_linear_model() -> None:
    model, images = linear_problem(n=60)
    nearest = (model.score(images.floats()).abs() / model.w.abs().sum()).detach()
    eps = sorted(nearest.quantile(q).item() for q in (0.3, 0.7))
    curve = robust_curve(model, images, Square(queries=400), eps, generator=seeded())
    for strength, error in zip(eps, curve.error, strict=True):
        best = (nearest <= strength).double().mean().item()
        assert best - 0.15 <= error <= best + 1e-9


def test_it_needs_no_gradient(trained: nn.Module, held_out: Images) -> None:
    class Steps(nn.Module):
        """The same answers, rounded: nothing leads back to the image."""

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return trained((x * 64).round() / 64)

    images = held_out.take(slice(80))
    error = robust_curve(Steps(), images, Square(queries=150), (0.15,), generator=seeded()).error[0]
    pgd = robust_curve(trained, images, PGD(steps=20), (0.15,), generator=seeded()).error[0]
    clean = robust_curve(trained, images, Square(queries=1), (0.001,), generator=seeded()).clean_error
    assert clean + 0.1 < error <= pgd + 0.05


def test_what_it_gives_lies_in_the_ball_and_what_it_calls_broken_is(trained: nn.Module, held_out: Images) -> None:
    x, y = held_out.floats(slice(50)), held_out.y[:50]
    found = Square(queries=60).perturb(trained, x, y, Threat(eps=Fraction(0.2)), seeded())
    assert (found - x).abs().max() <= 0.2 + 1e-6 and found.min() >= 0 and found.max() <= 1
    wrong, before = classes(trained(found)) != y, classes(trained(x)) != y
    assert wrong.sum() > before.sum() + 5
    again = Square(queries=60).perturb(trained, x, y, Threat(eps=Fraction(0.2)), seeded())
    assert torch.equal(found, again)


def test_queries_stop_where_all_are_broken() -> None:
    class Counting(nn.Module):
        asked = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.asked += len(x)
            lead = x.mean((1, 2, 3)) * 0 + (x.amax((1, 2, 3)) > 0.55)
            return torch.stack((0.5 - lead, lead - 0.5), 1)

    x, y = torch.full((10, 1, 4, 4), 0.5), torch.zeros(10, dtype=torch.long)
    Square(queries=1000).perturb(Counting(), x, y, Threat(eps=Fraction(0.1)), seeded())
    assert Counting.asked < 500


def test_it_knows_linf_alone() -> None:
    with pytest.raises(UserError, match="expected norm linf, got 'l2'"):
        given = {"objectives.1": "RobustError", "objectives.1.attack": "Square", "objectives.1.norm": "l2"}
        load("roco", "demo", given)
    assert Square().words == "Square-5000"
    said = RobustError(attack=Square(), eps=(Fraction(0.1),)).attacked
    assert said == "black-box by queries, Square-5000 on each network itself at L∞ ε 0.1"
    for fields in ({"queries": 0}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(ValueError, match="expected"):
            Square(**fields)  # type: ignore[arg-type]
