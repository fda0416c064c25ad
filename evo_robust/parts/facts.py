"""What parts of a problem give each other: facts that some provide and others need."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Fact:
    """Something that one part of a problem gives to others.

    Attributes:
        name: what it is, as it reads after "needs".
        part: where a part stands that provides it, as a user types it.
        provider: the shipped part that provides it there; parts of one's own may provide it too.
        searched_only: whether it reaches the objectives that are searched for alone, not constraints, sums or what is
            only recorded.
        otherwise: what to do where nobody shall provide it.
    """

    name: str
    part: str
    provider: str
    searched_only: bool = False
    otherwise: str = ""


INHERITED_WEIGHTS = Fact("candidates that inherit weights", "evaluator", "OneShot")
FINETUNING = Fact("inherited weights that are trained further before they are judged", "evaluator", "OneShot")
CO_TRAINED_WEIGHTS = Fact("weights that are trained generation by generation", "evaluator", "CoTrained")
CO_TRAINING = Fact(
    "an algorithm that has weights trained in each generation (OneShot trains a supernet beforehand)",
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
