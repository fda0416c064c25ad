"""Facts that some parts of a problem provide and others need."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Fact:
    """Something that one part of a problem gives to others.

    Attributes:
        name: its name, as it reads after "needs".
        part: key of a part that can provide it, as a user types it.
        provider: the shipped class that provides it there; a user's own class may provide it too.
        searched_only: whether it reaches only objectives that are searched for, not constraints, sums or recorded
            objectives.
        otherwise: what to do if no part should provide it.
    """

    name: str
    part: str
    provider: str
    searched_only: bool = False
    otherwise: str = ""


INHERITED_WEIGHTS = Fact("candidates that inherit weights", "evaluator", "OneShot")
FINETUNING = Fact("inherited weights that are trained further before they are measured", "evaluator", "OneShot")
CO_TRAINED_WEIGHTS = Fact("weights that are trained generation by generation", "evaluator", "CoTrained")
CO_TRAINING = Fact(
    "an algorithm that trains weights in each generation (OneShot trains a supernet beforehand)",
    "algorithm",
    "GradientHybrid",
)
DISTRIBUTION = Fact("a distribution over architectures", "algorithm", "GradientHybrid")
LIPSCHITZ_LIMIT = Fact("a limit λ* of Lipschitz constants", "algorithm.gradient.confidence", "Confidence")
LEARNED_NOISES = Fact(
    "noise estimators that learn",
    "algorithm.gradient",
    "EstimatedLoss",
    searched_only=True,
    otherwise="estimator=AverageANE, which has nothing to learn",
)
