"""Wsr-NAS's search objective: one number from the losses without attack and at many strengths."""

from __future__ import annotations

import chz

from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import PGD, GradientAttack
from evo_robust.estimators import AverageANE, Estimator, SearchLoss, Strengths
from evo_robust.estimators.measure import Source, measure_spectrum
from evo_robust.objectives.base import Candidate
from evo_robust.objectives.spectrum import SpectrumObjective, attack_in_words, noise_estimator
from evo_robust.parts.base import Fraction, refuse_unless


@chz.chz
class RobustLoss(SpectrumObjective):
    """α · L_nat + β · Σ β_i L_εi on the validation images (Cheng et al., AAAI 2023: Wsr-NAS, eq. 10).

    N1 of the strengths are attacked, and the others are estimated. All losses are recorded in the candidate's figures
    under the objective's name (``0`` is the natural loss), with the list of strengths that were estimated.
    """

    attack: GradientAttack = chz.field(
        default_factory=lambda: PGD(steps=7), blueprint_unspecified=PGD, doc="attack at the strengths that are attacked"
    )
    strengths: Strengths = chz.field(
        default_factory=lambda: Strengths(n_real=3),
        blueprint_unspecified=Strengths,
        doc="N1 real and N2 estimated ones",
    )
    estimator: Estimator = chz.field(
        default_factory=AverageANE,
        blueprint_unspecified=AverageANE,
        doc="estimator of the noise at the other strengths; AverageANE has nothing to learn",
    )
    loss: SearchLoss = chz.field(
        default_factory=SearchLoss, blueprint_unspecified=SearchLoss, doc="weights of the losses"
    )
    limit: int | None = chz.field(default=None, doc="validation images used, >= 1; all when not given")

    @chz.validate
    def _sensible(self) -> None:
        self.loss.shares(len(self.strengths.values))  # as many weights as strengths
        refuse_unless(self, ("limit", self.limit is None or self.limit >= 1, ">= 1 images"))

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        """See :meth:`Part.check_shape`: the attack and its balls fit the images."""
        self.attack.check(Threat(eps=Fraction(max(self.strengths.values))), in_shape, f"{key}attack.")

    @property
    def unit(self) -> str:
        """``nats``, the unit of cross-entropy."""
        return "nats"

    @property
    def noise_source(self) -> Source:
        """See :attr:`SpectrumObjective.noise_source`."""
        return Source(self.attack, self.strengths, self.estimator)

    @property
    def attacked(self) -> str:
        """See :attr:`Objective.attacked`."""
        return attack_in_words(self.attack, self.strengths.values, "linf")

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the losses in the figures: ``0`` for the natural one, then the strengths."""
        return ("0", *(f"{eps:.6g}" for eps in self.strengths.values))

    def measure(self, candidate: Candidate) -> float:
        """The weighted loss, in nats."""
        images = candidate.validation(self.limit)
        source = self.noise_source
        found = measure_spectrum(
            candidate.network(), images, source, noise_estimator(source, candidate), candidate.generator(self.name)
        )
        figures: dict[str, object] = dict(zip(self.keys, found.losses.tolist(), strict=True))
        candidate.figures[self.name] = figures | {"estimated": [f"{eps:.6g}" for eps in source.strengths.estimated]}
        return float(self.loss.of(found.losses))
