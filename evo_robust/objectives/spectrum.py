"""Objectives over many attack strengths; at some of them, the noise may be estimated instead of attacked."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import chz

from evo_robust.attacks.base import Attack, Norm
from evo_robust.estimators.base import NoiseEstimator
from evo_robust.estimators.measure import Source
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.parts.facts import CO_TRAINED_WEIGHTS, LEARNED_NOISES, Fact


@chz.chz
class SpectrumObjective(Objective, abc.ABC):
    """An objective over a spectrum of strengths (Cheng et al., AAAI 2023: Wsr-NAS, §3.2)."""

    @property
    @abc.abstractmethod
    def noise_source(self) -> Source | None:
        """The source of noises, where some are estimated; None where all strengths are attacked."""

    @property
    def needs(self) -> frozenset[Fact]:
        """See :attr:`Part.needs`: an estimator that learns needs a search that trains it."""
        source = self.noise_source
        return frozenset({LEARNED_NOISES, CO_TRAINED_WEIGHTS} if source is not None and source.learned else ())


def attack_in_words(attack: Attack, eps: Sequence[float], norm: Norm) -> str:
    """An attack in words, such as ``white-box, PGD-20 on each network itself at L∞ ε 0.05, 0.1``."""
    strengths = ", ".join(f"{e:.3g}" for e in eps)
    ball = {"linf": "L∞", "l2": "L2"}[norm]
    return f"{attack.access}, {attack.words} on each network itself at {ball} ε {strengths}"


def noise_estimator(source: Source, candidate: Candidate) -> NoiseEstimator:
    """The estimator of a source of noises, with its present weights, on the candidate's device."""
    return source.estimator(candidate.context.data.in_shape, candidate.shared()).to(candidate.context.device)
