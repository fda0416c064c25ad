"""Errors of a candidate's network on the validation images, without attack and under attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import chz

from evo_robust.attacks.base import Attack, Norm, check_attack
from evo_robust.attacks.curve import check_strengths, robust_curve
from evo_robust.attacks.gradient import PGD, GradientAttack
from evo_robust.estimators.base import Estimator
from evo_robust.estimators.measure import Source, measure_spectrum
from evo_robust.estimators.strengths import Strengths
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.objectives.spectrum import SpectrumObjective, attack_in_words, noise_estimator
from evo_robust.parts.base import Fraction, refuse_unless

Reduction = Literal["mean", "worst"]
Crafting = Literal["float32", "bf16"]
"""Precisions that give the same figures in every run; ``auto`` may choose differently next time."""


@chz.chz
class CleanError(Objective):
    """Fraction of validation images that are misclassified without attack."""

    is_clean_error: ClassVar[bool] = True

    limit: int | None = chz.field(default=None, doc="validation images used, >= 1; all when not given")

    @chz.validate
    def _some(self) -> None:
        refuse_unless(self, ("limit", self.limit is None or self.limit >= 1, ">= 1 images"))

    @property
    def unit(self) -> str:
        """``fraction``: share of the validation images."""
        return "fraction"

    def measure(self, candidate: Candidate) -> float:
        """Clean error in [0, 1]."""
        return candidate.correct(self.limit).logical_not().double().mean().item()


@chz.chz
class RobustError(SpectrumObjective):
    """Fraction of validation images that are misclassified under an attack, over one or more strengths.

    The error at every strength is recorded in the candidate's figures under the objective's name, with the list of
    strengths that were estimated instead of attacked.

    Example:
        >>> RobustError(attack=PGD(steps=7), eps=(4 / 255, 8 / 255), reduce="worst").name
        'robust_error'
    """

    attack: Attack = chz.field(default_factory=PGD, blueprint_unspecified=PGD, doc="how adversarial images are found")
    eps: tuple[Fraction, ...] = chz.field(
        default=(Fraction(8 / 255),), doc="strengths, ascending, in units of the pixel range 0..1, such as 8/255,0.1"
    )
    norm: Norm = chz.field(default="linf", doc="norm of the ball, linf or l2")
    reduce: Reduction = chz.field(default="mean", doc="mean over the strengths, or the worst of them")
    precision: Crafting = chz.field(
        default="float32",
        doc="precision in which a gradient attack searches: float32, reproducible to the bit; bf16, faster on CUDA; "
        "every image is then classified by the network itself in float32",
    )
    limit: int | None = chz.field(default=None, doc="validation images attacked, >= 1; all when not given")
    estimator: Estimator | None = chz.field(
        default=None,
        doc="estimates the noise at some strengths, such as AverageANE (Wsr-NAS); when not given, all are attacked",
    )
    n_real: int | None = chz.field(
        default=None,
        doc="with an estimator: how many strengths are attacked (N1), evenly spaced, fewer than all; half of them, "
        "rounded up, when not given",
    )

    @chz.validate
    def _sensible(self) -> None:
        check_strengths(self.eps, self.norm)
        if self.n_real is not None and self.estimator is None:
            raise ValueError(f"expected estimator, such as AverageANE, with n_real={self.n_real}, got none")
        if self.estimator is not None and not (isinstance(self.attack, GradientAttack) and self.norm == "linf"):
            raise ValueError(
                "expected a gradient attack in linf where noises are estimated, "
                f"got {type(self.attack).__name__} in {self.norm}"
            )
        if self.estimator is not None and not 1 <= self._n1 < len(self.eps):
            raise ValueError(
                f"expected with an estimator n_real >= 1 strengths that are attacked, and more in eps to be estimated, "
                f"got n_real={self._n1} of {len(self.eps)}: estimator=None attacks all"
            )
        refuse_unless(self, ("limit", self.limit is None or self.limit >= 1, ">= 1 images"))

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        """See :meth:`Part.check_shape`: the attack and its balls fit the images."""
        check_attack(self.attack, self.eps, self.norm, in_shape, key)

    @property
    def unit(self) -> str:
        """``fraction``: share of the validation images, as a mean or the worst over the strengths."""
        return "fraction"

    @property
    def noise_source(self) -> Source | None:
        """See :attr:`SpectrumObjective.noise_source`."""
        if self.estimator is None or not isinstance(self.attack, GradientAttack):
            return None
        return Source(self.attack, Strengths(values=self.eps, n_real=self._n1), self.estimator)

    @property
    def attacked(self) -> str:
        """See :attr:`Objective.attacked`."""
        return attack_in_words(self.attack, self.eps, self.norm)

    @property
    def _n1(self) -> int:
        """Number of strengths that are attacked, with an estimator."""
        return (len(self.eps) + 1) // 2 if self.n_real is None else self.n_real

    def measure(self, candidate: Candidate) -> float:
        """Mean or worst error in [0, 1] over the strengths."""
        errors, estimated = self._errors(candidate)
        figures: dict[str, object] = {f"{e:.6g}": error for e, error in zip(self.eps, errors, strict=True)}
        candidate.figures[self.name] = figures | {"estimated": estimated}
        return max(errors) if self.reduce == "worst" else sum(errors) / len(errors)

    def _errors(self, candidate: Candidate) -> tuple[Sequence[float], list[str]]:
        """The error at every strength, and the strengths that were estimated."""
        images = candidate.validation(self.limit)
        source, generator = self.noise_source, candidate.generator(self.name)
        if source is not None:
            estimator = noise_estimator(source, candidate)
            found = measure_spectrum(candidate.network(), images, source, estimator, generator, self.precision)
            return found.errors[1:].tolist(), [f"{e:.6g}" for e in source.strengths.estimated]
        curve = robust_curve(
            *(candidate.network(), images, self.attack, self.eps, self.norm),
            generator=generator,
            precision=self.precision,
            correct=candidate.correct(self.limit),
        )
        return curve.error, []
