"""One candidate: its seed, device, images and initial weights, and the measuring of its objectives."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from evo_robust.evaluators.time_limit import over
from evo_robust.evaluators.untouched import left_alone
from evo_robust.objectives.base import Candidate, Context, Objective
from evo_robust.objectives.figures import one_number
from evo_robust.parts.base import seed_from
from evo_robust.spaces.base import Architecture
from evo_robust.training.weights import fresh_weights
from evo_robust.workers import position


def worker_device(device: str) -> str:
    """``cuda`` becomes one of the machine's GPUs, by the worker's number; other names stay as they are."""
    if device != "cuda" or torch.cuda.device_count() < 2:
        return device
    return f"cuda:{position() % torch.cuda.device_count()}"


def candidate_seed(context: Context, text: str) -> int:
    """The candidate's seed, from the context's seed and the architecture; never from order, worker or clock."""
    return seed_from(context.seed, text)


def build_candidate(context: Context, architecture: Architecture, seed: int) -> nn.Module:
    """The candidate's network with its initial weights, on the CPU."""
    with fresh_weights(seed):
        return context.space.build(architecture, context.data.n_classes, context.data.in_shape)


class Meter:
    """Measures each objective once on a candidate's present network, within its time limit.

    Attributes:
        candidate: the candidate, with its present network.
        deadline: ``time.monotonic`` seconds; None without a limit.
    """

    def __init__(self, candidate: Candidate, limit: float | None, started: float) -> None:
        self.candidate, self.limit = candidate, limit
        self.deadline = None if limit is None else started + limit
        self._known: list[tuple[Objective, float]] = []

    def use(self, model: nn.Module, figures: Mapping[str, Any]) -> None:
        """Measure this network from now on, and keep its figures."""
        self.candidate.use(model)
        self.candidate.figures.update(figures)
        self._known = [(objective, value) for objective, value in self._known if not objective.needs_weights]

    def value(self, objective: Objective) -> float:
        """The objective's value.

        Raises:
            TypeError: it is not a number.
            ValueError: it is NaN or infinite, or a user's own part changed the network or the images.
            TimeLimit: the candidate's time ran out.
        """
        # the same objective may be searched for, recorded and limited; it is measured once
        for known, value in self._known:
            if known == objective:
                return value
        with left_alone(self.candidate, objective):
            found = objective.measure(self.candidate)
        value = one_number(objective.name, found)
        if self.limit is not None and self.deadline is not None and time.monotonic() > self.deadline:
            raise over(self.limit)
        self._known.append((objective, value))
        return value

    def values(self, objectives: Iterable[Objective]) -> dict[str, float]:
        """Values by name."""
        return {objective.name: self.value(objective) for objective in objectives}
