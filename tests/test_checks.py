"""What public calls refuse: radii, norms, images, labels and networks that would give nonsense without a word."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from evo_robust import DARTS, NSGA2, CleanError, Digits, FromScratch, OneShot, Problem, RobustError, SupernetLoss
from evo_robust.adversarial_set import AdversarialSet
from evo_robust.attacks.ball import project, steepest, unit_noise
from evo_robust.attacks.base import Threat, check_balls, check_eps, check_norm
from evo_robust.attacks.curve import check_strengths
from evo_robust.attacks.gradient import BIM, FGSM, MIFGSM, PGD
from evo_robust.attacks.level import CMAES
from evo_robust.attacks.losses import attack_loss
from evo_robust.estimators import WA, Strengths
from evo_robust.estimators.learner import MemoryLearner
from evo_robust.estimators.memory import NoiseLearner, NoiseMemory
from evo_robust.estimators.noises import real_noises
from evo_robust.objectives.fsp import FSPDistance
from evo_robust.parts import Fraction
from evo_robust.recipes import TRADES, FastTraining, MultiStrengthTraining, PGDTraining, Standard
from evo_robust.retraining import Retraining

# ---- one rule for ε


EIGHT = r"eps in \(0, 1\] with norm=linf .*got 8: did you mean 8/255\?"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Threat(eps=8), EIGHT),
        (lambda: PGDTraining(threat=Threat(eps=8)), EIGHT),
        (lambda: RobustError(eps=(Fraction(0.1), Fraction(8))), EIGHT),
        (lambda: FSPDistance(eps=8), EIGHT),
        (lambda: MultiStrengthTraining(eps=(8,)), "recipe." + EIGHT),
        (lambda: Retraining(network="lenet", data=Digits(), eps=(8,)), EIGHT),
        (lambda: Strengths(values=(8,)), r"strengths.values in \(0, 1\]"),
        (lambda: check_strengths([0.1, 8]), EIGHT),
        (lambda: Threat(eps=math.inf), r"in \(0, 1\]"),
        (lambda: Threat(eps=math.nan), r"in \(0, 1\]"),
        (lambda: Threat(eps=10**400), r"in \(0, 1\]"),
        (lambda: Threat(norm="l2", eps=math.inf), "eps > 0 and finite with norm=l2"),
        (lambda: Threat(norm="l2", eps=math.nan), "eps > 0 and finite with norm=l2"),
        (lambda: RobustError(norm="l2", eps=(math.inf,)), "eps > 0 and finite with norm=l2"),
        (lambda: MultiStrengthTraining(norm="l2", eps=(math.inf,)), "eps > 0 and finite with norm=l2"),
        (lambda: check_strengths(0.1), "sequence of numbers .*got 0.1"),
        (lambda: check_strengths("0.1"), "sequence of numbers .*got '0.1'"),
        (lambda: check_eps("8/255"), "number such as 8/255, got '8/255'"),
        (lambda: check_eps(True), "number such as 8/255, got True"),
    ],
)
def test_a_radius_is_held_to_one_rule(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_good_radii_pass() -> None:
    assert (
        check_strengths(np.array([0.1, 1.0]))
        == check_strengths(torch.tensor([0.1, 1.0], dtype=torch.float64))
        == (0.1, 1.0)
    )
    assert check_eps(1) == 1.0 and check_eps(math.sqrt(64), "l2", (1, 8, 8)) == 8.0
    assert Threat(norm="l2", eps=Fraction(3)).eps == 3


BEYOND = (
    r"eps in \(0, 8\] with norm=l2 and images \(1, 8, 8\), whose diagonal that is .*got 128: did you mean 128/255\?"
)
WIDE = Threat(norm="l2", eps=Fraction(128))


def problem(**settings: object) -> Problem:
    usual = {
        "space": DARTS(),
        "data": Digits(),
        "objectives": (CleanError(),),
        "evaluator": FromScratch(),
        "algorithm": NSGA2(),
    }
    return Problem(**{**usual, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: check_balls(WIDE, (1, 8, 8)), ""),
        (lambda: problem(objectives=(RobustError(norm="l2", eps=(Fraction(128),)),)), "objectives.0."),
        (lambda: problem(recorded=(FSPDistance(norm="l2", eps=Fraction(128)),)), "recorded.0."),
        (lambda: problem(evaluator=FromScratch(recipe=PGDTraining(threat=WIDE))), "evaluator.recipe.threat."),
        (lambda: problem(evaluator=OneShot(recipe=FastTraining(threat=WIDE))), "evaluator.recipe.threat."),
        (lambda: Retraining(network="lenet", data=Digits(), norm="l2", eps=(Fraction(128),)), ""),
        (lambda: Retraining(network="lenet", data=Digits(), recipe=TRADES(threat=WIDE)), "recipe.threat."),
        (lambda: check_balls(AdversarialSet(recipe=PGDTraining(threat=WIDE)), (1, 8, 8)), "recipe.threat."),
        (lambda: check_balls(SupernetLoss(threat=WIDE), (1, 8, 8)), "threat."),
    ],
)
def test_no_radius_exceeds_the_diagonal_of_known_images(make: Callable[[], object], key: str) -> None:
    with pytest.raises(ValueError, match=f"expected {key}{BEYOND}"):
        make()


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("Linf", "linf"),
        ("L_inf", "linf"),
        ("inf", "linf"),
        (math.inf, "linf"),
        ("l∞", "linf"),
        ("L2", "l2"),
        (2, "l2"),
        (2.0, "l2"),
        ("l1", None),
        (None, None),
    ],
)
def test_another_spelling_of_a_norm_is_refused_with_the_right_one(given: object, right: str | None) -> None:
    message = f"expected norm linf or l2, got {given!r}" + (f": did you mean {right!r}" if right else "$")
    x, one = torch.zeros(1, 1, 2, 2), torch.ones(1)
    for make in (
        lambda: check_norm(given),
        lambda: unit_noise((1, 1, 2, 2), given, torch.Generator()),  # type: ignore[arg-type]
        lambda: steepest(x, given),  # type: ignore[arg-type]
        lambda: project(x, x, one, given),  # type: ignore[arg-type]
        lambda: check_strengths([0.1], given),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_parts_refuse_another_spelling_of_a_norm() -> None:
    for make in (
        lambda: Threat(norm="Linf"),  # type: ignore[arg-type]
        lambda: RobustError(norm="Linf"),  # type: ignore[arg-type]
        lambda: FSPDistance(norm="Linf"),  # type: ignore[arg-type]
        lambda: MultiStrengthTraining(norm="Linf"),  # type: ignore[arg-type]
        lambda: CMAES(norm="Linf"),  # type: ignore[arg-type]
        lambda: Retraining(network="lenet", data=Digits(), norm="Linf"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="norm"):
            make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(step=Fraction(math.inf)), "step > 0 and finite"),
        (lambda: BIM(step=Fraction(math.nan)), "step > 0 and finite"),
        (lambda: MIFGSM(decay=math.inf), "decay >= 0 and finite"),
        (lambda: CMAES(sigma=math.inf), "sigma > 0 and finite"),
        (lambda: Standard(lr=math.inf), "lr > 0 and finite"),
        (lambda: Standard(weight_decay=math.inf), "weight_decay >= 0 and finite"),
        (lambda: Standard(clip=math.inf), "clip > 0 and finite, or None"),
        (lambda: TRADES(beta=math.inf), "beta >= 0 and finite"),
        (lambda: FastTraining(step_ratio=math.inf), "step_ratio > 0 and finite"),
        (lambda: FGSM(loss="dlr"), "loss"),  # type: ignore[arg-type]
        (lambda: PGD(loss="dlr"), "loss"),  # type: ignore[arg-type]
        (lambda: attack_loss("dlr", torch.zeros(1, 2), torch.zeros(1).long(), torch.ones(1, 2)), "ce, margin, kl"),  # type: ignore[arg-type]
    ],
)
def test_infinite_steps_and_rates_and_unknown_losses_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_strengths_of_estimators_are_held_to_the_rule_too() -> None:
    x, noises = torch.rand(2, 1, 4, 4), torch.zeros(2, 2, 1, 4, 4)
    estimator = WA().build((1, 4, 4))
    with pytest.raises(ValueError, match=r"each target in \(0, 1\].*got 16"):
        estimator.estimate(x, noises, (0.1, 0.2), 16)
    with pytest.raises(ValueError, match=r"eps in \(0, 1\].*got 16"):
        estimator.estimate(x, noises, (8 / 255, 16), 0.1)
    with pytest.raises(ValueError, match=r"strengths in \(0, 1\] for every image"):
        estimator.estimate(x, noises, torch.tensor([[0.1, 0.1], [16.0, 16.0]]), 0.1)
    with pytest.raises(ValueError, match=r"strengths in \(0, 1\], got 0.1 to 16"):
        NoiseMemory(10).push(x, noises, torch.tensor([[0.1, 0.1], [16.0, 16.0]]))
    with pytest.raises(ValueError, match=r"each strength in \(0, 1\].*got 8: did you mean 8/255"):
        real_noises(torch.nn.Flatten(), x, torch.zeros(2).long(), [0.1, 8], PGD(), torch.Generator())


def test_extra_strengths_stay_inside_the_pixel_range() -> None:
    learner = NoiseLearner(WA(), (1, 4, 4), Strengths(values=(Fraction(0.5), Fraction(1)), n_real=1), seed=0)
    assert isinstance(learner, MemoryLearner)
    drawn = [learner.extra_strength() for _ in range(200)]
    assert min(drawn) > 0 and 0.98 < max(drawn) <= 1
