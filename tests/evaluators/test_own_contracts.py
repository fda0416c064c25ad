"""Parts of one's own say for themselves what the package asks of any part."""

from __future__ import annotations

import chz
import pytest
import torch
from torch import Tensor, nn

from evo_robust.algorithms.random import RandomSearch
from evo_robust.attacks.base import Attack, Norm, Threat, check_attack, check_eps
from evo_robust.data.sets import Digits
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.final_training.settings import Retraining
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.objectives.errors import CleanError, RobustError
from evo_robust.parts.base import Fraction
from evo_robust.problem.value import Problem
from evo_robust.spaces import NSGAPhases
from evo_robust.training.recipes import PGDTraining, Recipe


def problem(objective: Objective | None = None, recipe: Recipe | None = None) -> Problem:
    return Problem(
        space=NSGAPhases(phases=1, nodes=3, channels=2),
        data=Digits(train_limit=60),
        objectives=(objective or CleanError(),),
        evaluator=FromScratch(epochs=0, recipe=recipe or PGDTraining()),
        algorithm=RandomSearch(pop_size=2, n_gen=1),
    )


# ---- balls and attacks, and the images that a problem has


@chz.chz
class Blur(Attack):
    """An attack that knows balls of L∞ alone, and no images of a single row."""

    def check(self, threat: Threat, in_shape: tuple[int, int, int], key: str = "") -> None:
        if threat.norm != "linf" or in_shape[1] < 2:
            raise ValueError(f"expected {key or 'an attack '}in linf on rows, got {threat.norm} on {in_shape}")

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
        return x


@chz.chz
class Shift(Objective):
    """An objective with a ball of its own."""

    attack: Attack = chz.field(default_factory=Blur)
    size: float = 0.1
    metric: Norm = "linf"

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        check_eps(self.size, self.metric, in_shape, name=f"{key}size")
        self.attack.check(Threat(norm=self.metric, eps=Fraction(self.size)), in_shape, f"{key}attack.")

    def measure(self, candidate: Candidate) -> float:
        return 0.0


@chz.chz
class Blurred(Recipe):
    """A recipe with an attack of its own."""

    attack: Attack = chz.field(default_factory=Blur)
    norm: Norm = "l2"

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        check_attack(self.attack, (0.1, 0.5), self.norm, in_shape, key)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def test_an_attack_refuses_a_ball_before_anything_is_written() -> None:
    problem(RobustError(attack=Blur()))
    for make, key in (
        (lambda: problem(RobustError(attack=Blur(), norm="l2")), "objectives.0.attack."),
        (lambda: problem(Shift(metric="l2")), "objectives.0.attack."),
        (lambda: problem(recipe=Blurred()), "evaluator.recipe.attack."),
        (lambda: Retraining(network="lenet", data=Digits(), attack=Blur(), norm="l2"), "attack."),
    ):
        with pytest.raises(ValueError, match=rf"expected {key}in linf on rows, got l2 on \(1, 8, 8\)"):
            make()


def test_a_ball_of_ones_own_is_held_to_the_images() -> None:
    problem(Shift(size=7.9, attack=RobustError().attack, metric="l2"))
    with pytest.raises(ValueError, match=r"expected objectives.0.size in \(0, 8\] with norm=l2 and images \(1, 8, 8\)"):
        problem(Shift(size=8.1, attack=RobustError().attack, metric="l2"))
