"""How architectures become figures: evaluators and what they return."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import chz
from torch import nn

from evo_robust.data.base import DataSet
from evo_robust.evaluators.learner import Learner
from evo_robust.objectives.base import Context, Objective
from evo_robust.objectives.constraints import Constraint
from evo_robust.objectives.figures import as_json, one_number, printable
from evo_robust.parts.base import Part, UserError, dotted
from evo_robust.spaces.base import Architecture, SearchSpace

Status = Literal["ok", "failed", "rejected"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is known of one architecture under one evaluator.

    Attributes:
        architecture: notation of the architecture.
        status: ``ok``; ``failed`` (exception, NaN, memory, time); ``rejected`` (it broke a cheap constraint or a gate).
        objectives: value by name, in declared order; costly ones are missing unless it is ``ok``.
        constraints: G by name (feasible where ≤ 0).
        recorded: values of objectives that are measured but not searched for, by name.
        figures: extra figures by name, JSON values (``sound`` makes them so).
        seconds: wall-clock time it took.
        seed: the candidate's seed.
        error: the reason of a failure or rejection.
    """

    architecture: str
    status: Status
    objectives: dict[str, float] = dataclasses.field(default_factory=dict)
    constraints: dict[str, float] = dataclasses.field(default_factory=dict)
    recorded: dict[str, float] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    seed: int = 0
    error: str | None = None

    def sound(self) -> Evaluation:
        """The evaluation with floats and JSON values only, as the record needs it; ``failed`` where that cannot be."""
        try:
            sound = dataclasses.replace(
                self,
                objectives=_numbers(self.objectives),
                constraints=_numbers(self.constraints),
                recorded=_numbers(self.recorded),
                figures={printable(name): as_json(name, value) for name, value in self.figures.items()},
            )
        except (TypeError, ValueError, AttributeError) as error:  # not numbers, or not dictionaries of numbers
            reason = printable(f"{type(error).__name__}: {error}")
            return Evaluation(
                architecture=self.architecture, status="failed", seconds=self.seconds, seed=self.seed, error=reason
            )
        return sound if self.error is None else dataclasses.replace(sound, error=printable(str(self.error)))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: one_number(name, value) for name, value in values.items()}


class Session(abc.ABC):
    """An evaluator during one search; it owns pools, supernets, estimators and their versions."""

    fingerprint: str
    """Digest of all that the figures depend on: settings, data, budget, version of the shared weights."""

    reports: ClassVar[bool] = False
    """Whether it can measure the networks of a finished front once more, as ``Problem.reported`` needs."""

    built: Sequence[str] = ()
    """Names of the parts whose figures depend on files built beforehand in the cache."""

    in_shape: tuple[int, int, int] = (0, 0, 0)
    """Shape ``(c, h, w)`` of the images, where there are any."""

    device: str = "cpu"
    """Torch device on which an algorithm does its own computations."""

    trains: bool = False
    """Whether ``advance`` trains weights between generations."""

    def advance(self, generation: int, learner: Learner) -> None:
        """Train shared weights for a generation, counted from 1, and ``learner`` with them. Only where it ``trains``.

        Raises:
            UserError: no weights are trained in this search.
        """
        raise UserError(f"{type(self).__name__} trains no weights between generations")

    @abc.abstractmethod
    def evaluate(self, architectures: Sequence[Architecture]) -> Iterator[tuple[int, Evaluation]]:
        """Evaluations with their index in ``architectures``, each as soon as it is done.

        A candidate that fails (an exception, NaN, a time limit) is an evaluation with the status ``failed`` and the
        reason; nothing is raised for it.

        Args:
            architectures: canonical ones of the search space, all different.

        Returns:
            Pairs of an index and an evaluation, every index once, in any order. One with the status ``ok`` holds a
            finite value for every objective, by name, in the objective's unit.

        Raises:
            UserError: the session cannot go on at all, such as for want of a disk or a cluster.
        """

    def network(self, architecture: Architecture) -> nn.Module:
        """The network with the weights that it is evaluated with, in eval mode; made again on each call.

        Raises:
            UserError: the evaluator has no networks with weights.
        """
        raise UserError(f"{type(self).__name__} gives no networks with weights")

    def report(
        self, architectures: Sequence[Architecture], objectives: Sequence[Objective]
    ) -> Iterator[tuple[int, Evaluation]]:
        """Values of other objectives on networks that were evaluated, with the same weights as then.

        Each evaluation holds them under ``recorded``. As in ``evaluate``, it comes with its index in ``architectures``
        as soon as it is done. Only where the session ``reports``.

        Raises:
            UserError: the evaluator cannot measure a finished front.
        """
        raise UserError(f"{type(self).__name__} cannot measure a finished front")

    def forget_others(self, texts: Collection[str]) -> None:  # noqa: B027 (most sessions keep no weights)
        """Drop the weights kept for ``report``, except those of the architectures with these notations."""

    def close(self) -> None:  # noqa: B027 (most sessions hold nothing)
        """Release processes and memory."""


@chz.chz
class Evaluator(Part, abc.ABC):
    """A way to evaluate architectures."""

    told: ClassVar[tuple[str, ...]] = ()
    """Dotted names of the fields that describe how candidates get their weights, such as ``supernet.epochs``."""

    @property
    def words(self) -> str:
        """How candidates get their weights, in words: ``FromScratch(epochs=25, seed=0, recipe=Standard)``."""
        values = dotted(self)
        return f"{type(self).__name__}({', '.join(f'{name}={values[name]}' for name in self.told)})"

    def trains_in(self, generation: int) -> bool:
        """Whether a generation, counted from 1, begins with training the weights that candidates share."""
        return False

    def network_again(
        self, context: Context, architecture: Architecture, generation: int, folder: Path
    ) -> tuple[nn.Module, str]:
        """Make the network of an evaluated architecture again, with the same weights as then, in eval mode.

        Args:
            context: context of the search, without its run folder.
            architecture: the architecture that was evaluated.
            generation: the generation in which it was evaluated.
            folder: the run folder, which may hold weights.

        Returns:
            The network, and the digest of the weights that candidates share; empty where they share none.

        Raises:
            UserError: the evaluator gives no weights, or they are lost and cannot be made again.
        """
        raise UserError(f"{type(self).__name__} gives no weights: expected weights=false")

    @property
    def cluster(self) -> str | None:
        """Where candidates are evaluated.

        ``loky``: in processes of this machine, unless a cluster is asked for. ``dask`` or ``ray``: on the cluster that
        this process is connected to. None: in this process.
        """
        return None

    def check(self, space: SearchSpace, data: DataSet) -> None:  # noqa: B027 (most evaluators take any)
        """Raise ``ValueError`` where the evaluator cannot work with ``space`` or ``data``; called before a search."""

    def builds(self, context: Context) -> Sequence[Path]:
        """Files of the cache that ``start`` makes where they are missing."""
        return ()

    @abc.abstractmethod
    def start(self, context: Context, objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> Session:
        """Begin to work for one search.

        Everything that candidates share (cached files, a supernet, worker processes) is made here or by the session.

        Args:
            context: space, data, seed, device, workers and folders of the search.
            objectives: what is searched for, at least one; ``context.recorded`` is measured beside them.
            constraints: limits that candidates must keep; each has an objective to be measured.

        Returns:
            The session, which the caller closes.

        Raises:
            UserError: data, device or files cannot be used.
        """
