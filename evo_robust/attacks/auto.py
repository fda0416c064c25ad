"""Auto-PGD: projected gradient ascent that chooses its step lengths itself (Croce & Hein, ICML 2020)."""

from __future__ import annotations

import functools

import chz
import torch
from torch import Tensor

from evo_robust.attacks.ball import per_image, project, steepest
from evo_robust.attacks.cascade import Memory, Point, StepBudget
from evo_robust.attacks.gradient import GradientAttack
from evo_robust.attacks.losses import LossName

MOMENTUM = 0.75
"""Share of the new step; the rest goes on along the last one (α in the paper)."""

RHO = 0.75
"""A step is kept where more than this share of the steps since the last checkpoint raised the loss (ρ in the paper)."""


@functools.cache
def checkpoints(steps: int) -> tuple[int, ...]:
    """After which steps the step length is looked at (the paper's w_j).

    The first stretch has 22 % of the steps; each next one is 3 % shorter, and none shorter than 6 %. All are whole
    numbers of steps, as in the authors' code.

    Example:
        >>> checkpoints(100)
        (22, 41, 57, 70, 80, 87, 93, 99)
    """
    stretch, shorter, least = (max(1, int(share * steps)) for share in (0.22, 0.03, 0.06))
    found, at = [], 0
    while (at := at + stretch) < steps:
        found.append(at)
        stretch = max(stretch - shorter, least)
    return tuple(found)


@functools.lru_cache(maxsize=8)
def _stretches(steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The checkpoints ``(k,)``, and the steps since the one before each of them ``(k,)``; k is at most 20."""
    at = torch.tensor(checkpoints(steps), dtype=torch.long)
    return at.to(device), at.diff(prepend=at.new_zeros(1)).float().to(device)


def _lengths(steps: int, time: Tensor) -> Tensor:
    """For each number of steps made ``(n,)``: at a checkpoint the steps since the last one, else 0."""
    at, lengths = _stretches(steps, time.device)
    return ((time[:, None] == at) * lengths).sum(1)


@chz.chz
class APGD(GradientAttack):
    """Auto-PGD (Croce & Hein, Reliable Evaluation of Adversarial Robustness, 2020, algorithm 1).

    The first step is 2ε long. At each checkpoint an image's step is halved and it goes back to its best point, where
    at most 75 % of the steps since the last one raised the loss, or where neither the step nor the best loss has
    changed. With ``loss=targeted-dlr`` each start aims at another wrong class: with ``restarts=9`` this is APGD-T. The
    authors take the likeliest class first. Here it is the one with the nearest boundary, so that four starts are as
    strong as nine (see docs/benchmarks.md).
    """

    loss: LossName = chz.field(default="ce", doc="loss to raise: ce, margin, dlr, targeted-dlr, probability-margin, kl")
    steps: int = chz.field(default=100, doc="gradient steps per start, >= 1")
    restarts: int = chz.field(default=1, doc="number of starts, >= 1; of a targeted loss: number of classes aimed at")

    @chz.validate
    def _sensible(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"expected steps >= 1 and restarts >= 1, got {self.steps} and {self.restarts}")

    @property
    def words(self) -> str:
        """See :attr:`Attack.words`: such as ``APGD-CE-100`` or ``APGD-T-100``."""
        kind = {"targeted-dlr": "T", "probability-margin": "PM"}.get(self.loss, self.loss.upper())
        return f"APGD-{kind}-{self.steps}"

    def budget(self, eps: float) -> StepBudget:
        """A first step of 2ε, from random points."""
        return StepBudget(self.steps, 2 * eps, self.restarts, random_start=True)

    def move(self, point: Point) -> tuple[Tensor, Memory]:
        """Next perturbation, and in memory: the last and the best one, their losses, step lengths and counts."""
        memory, delta, gradient = self._looked(point)
        way = per_image(memory["step"]) * steepest(gradient, point.norm)
        ahead = project(point.x, delta + way, point.eps, point.norm)
        share = per_image(torch.where(point.time > 0, MOMENTUM, 1.0).to(delta.dtype))
        both = delta + share * (ahead - delta) + (1 - share) * (delta - memory["last"])
        return project(point.x, both, point.eps, point.norm), memory | {"last": delta}

    def outcome(self, delta: Tensor, memory: Memory) -> Tensor:
        """The best perturbation that was looked at."""
        return memory["best"]

    def _looked(self, point: Point) -> tuple[Memory, Tensor, Tensor]:
        """The memory after a look at this point, and the perturbation and gradient to step from."""
        old, delta, loss, gradient = point.memory, point.delta, point.loss, point.gradient
        first = point.time == 0
        if not old:
            old = {
                "last": delta, "best": delta, "best_gradient": gradient, "best_loss": loss, "loss": loss,
                "checked_loss": loss, "step": point.step, "rises": loss, "halved": first,
            }  # fmt: skip
        better = first | (loss > old["best_loss"])
        wide = per_image(better)
        best_loss = torch.where(better, loss, old["best_loss"])
        best = torch.where(wide, delta, old["best"])
        best_gradient = torch.where(wide, gradient, old["best_gradient"])
        rises = torch.where(first, 0.0, old["rises"] + (loss > old["loss"]))
        step = torch.where(first, point.step, old["step"])
        checked_loss = torch.where(first, loss, old["checked_loss"])
        # at the first checkpoint a best loss that has not moved is no reason to halve, as in the authors' code
        halved = first | old["halved"]
        length = _lengths(self.steps, point.time)
        due = length > 0
        stuck = (rises <= RHO * length) | (~halved & (checked_loss >= best_loss))
        back = due & stuck
        memory = {
            "last": torch.where(per_image(first), delta, old["last"]), "best": best, "best_gradient": best_gradient,
            "best_loss": best_loss, "loss": loss, "rises": torch.where(due, 0.0, rises),
            "checked_loss": torch.where(due, best_loss, checked_loss), "step": torch.where(back, step / 2, step),
            "halved": torch.where(due, stuck, halved),
        }  # fmt: skip
        wide = per_image(back)
        return memory, torch.where(wide, best, delta), torch.where(wide, best_gradient, gradient)
