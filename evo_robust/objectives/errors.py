"""Errors of a candidate's network on the search's validation images: without attack and under one."""

from __future__ import annotations

from typing import Literal

import chz

from evo_robust.attacks.base import Attack, Norm
from evo_robust.attacks.curve import check_strengths, robust_curve
from evo_robust.attacks.gradient import PGD
from evo_robust.images import Images
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.parts import Fraction

Reduction = Literal["mean", "worst"]
Crafting = Literal["float32", "bf16"]
"""Precisions whose figures are the same in every run; the curve's ``auto`` may choose otherwise next time."""


def _limited(images: Images, limit: int | None) -> Images:
    """The first ``limit`` images, all of them when not given (any beginning has the class proportions of the whole)."""
    return images if limit is None else images.take(slice(limit))


@chz.chz
class CleanError(Objective):
    """Fraction of validation images that are misclassified without attack."""

    limit: int | None = chz.field(default=None, doc="validation images used, >= 1; all when not given")

    @chz.validate
    def _some(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"expected limit >= 1 images, got {self.limit}")

    def measure(self, candidate: Candidate) -> float:
        """Clean error in [0, 1]."""
        return candidate.correct(self.limit).logical_not().double().mean().item()


@chz.chz
class RobustError(Objective):
    """Fraction of validation images that are misclassified under an attack, over one or more strengths.

    Every strength is recorded in the candidate's figures under the objective's name, with the list of those that were
    estimated instead of attacked.
    """

    attack: Attack = chz.field(default_factory=PGD, blueprint_unspecified=PGD, doc="how adversarial images are found")
    eps: tuple[Fraction, ...] = chz.field(
        default=(Fraction(8 / 255),), doc="strengths, ascending, in units of the pixel range 0..1, such as 8/255,0.1"
    )
    norm: Norm = chz.field(default="linf", doc="norm of the ball, linf or l2")
    reduce: Reduction = chz.field(default="mean", doc="mean over the strengths, or the worst of them")
    precision: Crafting = chz.field(
        default="float32",
        doc="of a gradient attack's crafting: float32, which repeats to the bit; bf16, faster on CUDA; the network "
        "itself, in float32, has the last word on every image either way",
    )
    limit: int | None = chz.field(default=None, doc="validation images attacked, >= 1; all when not given")

    @chz.validate
    def _sensible(self) -> None:
        check_strengths(self.eps)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"expected limit >= 1 images, got {self.limit}")

    def measure(self, candidate: Candidate) -> float:
        """Mean or worst error in [0, 1] over the strengths."""
        images = _limited(candidate.splits.val, self.limit)
        curve = robust_curve(
            *(candidate.network(), images, self.attack, self.eps, self.norm),
            generator=candidate.generator(self.name),
            precision=self.precision,
            correct=candidate.correct(self.limit),
        )
        figures: dict[str, object] = {f"{e:.6g}": error for e, error in zip(curve.eps, curve.error, strict=True)}
        candidate.figures[self.name] = figures | {"estimated": []}
        return max(curve.error) if self.reduce == "worst" else sum(curve.error) / len(curve.error)
