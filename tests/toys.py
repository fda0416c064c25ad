"""A free integer problem with a known front: what searches are tested on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import chz
import numpy as np
from torch import nn

from evo_robust.evaluators.base import Evaluation, Evaluator, Session
from evo_robust.objectives.base import Context, Objective
from evo_robust.objectives.constraints import Constraint
from evo_robust.parts.base import WHERE, digest
from evo_robust.spaces.base import InvalidArchitecture, SearchSpace


@chz.chz
class Integers(SearchSpace):
    """Tuples of integers; order within a tuple does not matter, so that several genomes are one architecture."""

    genes: int = 6
    choices: int = 4
    refused: bool = False

    @property
    def n_choices(self) -> np.ndarray:
        return np.full(self.genes, self.choices)

    @property
    def blocks(self) -> tuple[slice, ...]:
        half = self.genes // 2
        return (slice(0, half), slice(half, self.genes))

    def decode(self, genome: np.ndarray) -> tuple[int, ...]:
        if self.refused and not np.any(genome):
            raise InvalidArchitecture("expected a gene that is not 0, got zeros alone")
        return tuple(sorted(int(g) for g in genome))

    def encode(self, architecture: Any) -> np.ndarray:
        return np.array(architecture)

    def to_text(self, architecture: Any) -> str:
        return " ".join(map(str, architecture))

    def from_text(self, text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split()))

    def build(self, architecture: Any, n_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(in_shape)), n_classes))

    def draw(self, architecture: Any, figure: Any) -> None:
        figure.text(0.5, 0.5, self.to_text(architecture))


@chz.chz
class Total(Objective):
    """Sum of the integers."""

    def measure(self, candidate: Any) -> float:
        return float(sum(candidate))


@chz.chz
class Distance(Objective):
    """Sum of squared distances from the largest choice: every architecture trades it for the total."""

    choices: int = 4

    def measure(self, candidate: Any) -> float:
        return float(sum((self.choices - 1 - g) ** 2 for g in candidate))


@chz.chz
class Toy(Evaluator):
    """Objectives of the integers themselves; can be slow, and can fail where the tuple holds ``fails``."""

    seconds: float = chz.field(default=0.0, metadata=WHERE)
    fails: tuple[int, ...] = ()

    def start(self, context: Context, objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> ToySession:
        for objective in objectives:
            objective.prepare(context)
        return ToySession(self, context, objectives, constraints)


class ToySession(Session):
    def __init__(self, toy: Toy, context: Context, objectives: Any, constraints: Any) -> None:
        self.toy, self.context, self.objectives, self.constraints = toy, context, objectives, constraints
        self.fingerprint = digest("toy", list(objectives))
        self.asked: list[Any] = []

    def evaluate(self, architectures: Sequence[Any]) -> Iterator[tuple[int, Evaluation]]:
        # backwards, since an order of arrival must not matter
        for index in reversed(range(len(architectures))):
            time.sleep(self.toy.seconds)
            architecture = architectures[index]
            self.asked.append(architecture)
            text = self.context.space.to_text(architecture)
            if self.toy.fails and (broken := set(self.toy.fails) & set(architecture)):
                yield index, Evaluation(architecture=text, status="failed", error=f"holds {min(broken)}")
                continue
            values = {o.name: o.measure(architecture) for o in self.objectives}
            limits = {c.name: c.violation(c.of.measure(architecture)) for c in self.constraints}
            yield index, Evaluation(architecture=text, status="ok", objectives=values, constraints=limits)
