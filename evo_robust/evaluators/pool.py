"""Evaluates several candidates at a time: cheap objectives first, then weights, then costly objectives."""

from __future__ import annotations

import abc
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import chz
import torch
from torch import nn

from evo_robust import workers
from evo_robust.device import MOST_THREADS, fixed_threads
from evo_robust.evaluators import kept
from evo_robust.evaluators.base import Evaluation, Evaluator, Session
from evo_robust.evaluators.candidates import candidate_seed
from evo_robust.evaluators.gates import with_limits
from evo_robust.evaluators.jobs import Job, Stage, evaluate_candidate, inherited_value, report_candidate
from evo_robust.objectives.base import Context, Objective
from evo_robust.objectives.constraints import Constraint
from evo_robust.objectives.cost import count_params
from evo_robust.parts.base import WHERE, digest, seed_from
from evo_robust.parts.facts import CO_TRAINED_WEIGHTS
from evo_robust.progress import silent
from evo_robust.spaces.base import Architecture

T = TypeVar("T")


@chz.chz
class PooledEvaluator(Evaluator, abc.ABC):
    """An evaluator whose candidates do not depend on each other. A subclass says how a candidate gets its weights."""

    # 2: robust errors of small images use larger batches, which may change last bits; finetuning shares one seed
    # 3: where noise is estimated, each strength starts from the noise of the one before
    version: ClassVar[int] = 3
    """Raised when a change of code changes figures, so that old ledger rows are not mixed with new ones."""

    threads: int = chz.field(
        default=1, doc="CPU threads per candidate; fixed, so that figures do not depend on workers"
    )
    seed: int = chz.field(
        default=0,
        doc="seed of training and measuring; another one does these again for the same architectures, which the "
        "problem's seed proposes; >= 0",
    )
    time_limit: float | None = chz.field(
        default=None,
        doc="seconds after which a candidate is stopped and recorded as failed; > 0 (on Windows and in threads, such "
        "as dask's, checked only between training steps and after each objective)",
    )
    backend: Literal["loky", "dask", "ray"] = chz.field(
        default="loky",
        doc="loky: processes of this machine; dask, ray: the cluster that this process is connected to (cluster= of "
        "the run command connects it)",
        metadata=WHERE,
    )

    @chz.validate
    def _limits(self) -> None:
        if self.threads < 1:
            raise ValueError(f"expected evaluator.threads >= 1, got {self.threads}")
        if self.threads > MOST_THREADS:
            raise ValueError(f"expected evaluator.threads <= {MOST_THREADS}, got {self.threads}")
        if self.seed < 0:
            raise ValueError(f"expected evaluator.seed >= 0, got {self.seed}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"expected evaluator.time_limit > 0 seconds, got {self.time_limit}")

    @abc.abstractmethod
    def stages(self, context: Context, architecture: Architecture, deadline: float | None = None) -> Iterator[Stage]:
        """The candidate's network with weights, stage by stage; each stage is computed when it is asked for.

        The weights depend on seed, data, evaluator and architecture only, so the same call gives the same weights. The
        context comes from ``seeded``, and the caller has fixed the number of threads. Gates are checked at the first
        stage.

        Raises:
            TimeLimit: the deadline (``time.monotonic`` seconds) passed.
            TrainingDiverged: the loss became NaN or infinite.
        """

    def obtain(
        self, context: Context, architecture: Architecture, deadline: float | None = None
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The network of the final stage, in eval mode on the context's device, and the figures of all stages.

        ``prepare`` must have been called on this machine, with the same ``seeded`` context. Raises as ``stages`` does.
        """
        figures: dict[str, Any] = {}
        model: nn.Module | None = None
        with fixed_threads(self.threads):
            for stage in self.stages(context, architecture, deadline):
                model = stage.model
                figures.update(stage.figures)
        assert model is not None, "an evaluator has a final stage"
        return model, figures

    @property
    def cluster(self) -> str:
        """See :attr:`Evaluator.cluster`."""
        return self.backend

    def network_again(
        self, context: Context, architecture: Architecture, generation: int, folder: Path
    ) -> tuple[nn.Module, str]:
        """See :meth:`Evaluator.network_again`: uses the same seeds and the same shared weights."""
        context = self.seeded(context)
        self.prepare(context)
        return self.obtain(context, architecture)[0], self.state(context)

    def seeded(self, context: Context) -> Context:
        """The context that candidates get: its seed depends on the seeds of both the search and the evaluator."""
        return context if self.seed == 0 else dataclasses.replace(context, seed=seed_from(context.seed, self.seed))

    def prepare(self, context: Context) -> None:  # noqa: B027 (most evaluators need nothing)
        """Build what all candidates share, such as a supernet: once, in the main process."""

    def state(self, context: Context) -> str:
        """Digest of the built files that weights depend on; valid after ``prepare``."""
        return ""

    def start(
        self, context: Context, objectives: Sequence[Objective], constraints: Sequence[Constraint]
    ) -> PoolSession:
        """See :meth:`Evaluator.start`."""
        return PoolSession(self, self.seeded(context), tuple(objectives), tuple(constraints))


Work = Callable[[Architecture], T]
"""The function that a worker applies to an architecture; it is sent by pickle."""


Died = Callable[[Architecture, str], T]
"""Makes the result of an architecture whose worker process died, from the reason."""


class PoolSession(Session):
    """Candidates of one search, evaluated in this process or in a pool."""

    reports: ClassVar[bool] = True

    def __init__(
        self,
        evaluator: PooledEvaluator,
        context: Context,
        objectives: tuple[Objective, ...],
        constraints: tuple[Constraint, ...],
    ) -> None:
        evaluator.prepare(context)
        if context.reported and context.folder and not context.staff and CO_TRAINED_WEIGHTS not in evaluator.provides:
            context = dataclasses.replace(context, keep=context.folder / kept.FOLDER)
        for objective in context.reported:
            objective.prepare(context)
        measured = (*objectives, *(c.of for c in constraints), *context.recorded)
        for objective in measured:
            objective.prepare(context)
        self.in_shape = context.data.in_shape
        self.device = context.device
        self.pool = workers.Pool(context.workers, context.staff, context.say)
        self.job = Job(evaluator, dataclasses.replace(context, say=silent, staff=None), objectives, constraints)
        states = [o.state(context) for o in measured]
        self.built = [o.name for o, state in zip(measured, states, strict=True) if state]
        if evaluator.state(context):
            self.built.append("evaluator")
        self.fingerprint = self._fingerprint(context, states)
        if context.measured_under and not self._goes_on(context, self.fingerprint):
            self.fingerprint = self._former_fingerprint(context, measured)
        if self.job.gates:
            self._find_limits(context)

    def _fingerprint(self, context: Context, states: Sequence[str]) -> str:
        """Digest of all that figures depend on; ``states`` are the objectives' states."""
        job = self.job
        return digest(
            job.evaluator.version,
            job.evaluator,
            context.space,
            context.data,
            list(job.objectives),
            list(job.constraints),
            list(context.recorded),
            list(states),
            context.seed,
            torch.device(context.device).type,
            *filter(None, [job.evaluator.state(context)]),
            *(f"images {content}" for content in context.data.key()),
        )

    def _former_fingerprint(self, context: Context, measured: Sequence[Objective]) -> str:
        """An older fingerprint in the run folder with the same meaning as the present one.

        Earlier versions had other names for the states of some objectives.
        """
        known = ((objective.state(context), *objective.former_states(context)) for objective in measured)
        former = (self._fingerprint(context, states) for states in itertools.product(*known))
        return next((found for found in former if self._goes_on(context, found)), self.fingerprint)

    def _goes_on(self, context: Context, fingerprint: str) -> bool:
        """Whether the run folder's rows were measured under this fingerprint."""
        return fingerprint in context.measured_under

    def _find_limits(self, context: Context) -> None:
        """Give every gate its limit."""

        def measure(objective: Objective, sample: Sequence[Architecture]) -> Iterator[tuple[int, float | str]]:
            work = functools.partial(inherited_value, self.job, objective)
            return self._each(work, sample, lambda _, reason: reason)

        try:
            limited = with_limits(self.job.constraints, context, self.fingerprint, measure)
        except BaseException:
            self.close()  # the caller has no session yet that could close the workers
            raise
        self.job = dataclasses.replace(self.job, constraints=limited)

    def evaluate(self, architectures: Sequence[Architecture]) -> Iterator[tuple[int, Evaluation]]:
        """See :meth:`Session.evaluate`."""
        yield from self._each(functools.partial(evaluate_candidate, self.job), architectures, self._failure)

    def report(
        self, architectures: Sequence[Architecture], objectives: Sequence[Objective]
    ) -> Iterator[tuple[int, Evaluation]]:
        """See :meth:`Session.report`."""
        yield from self._each(
            functools.partial(report_candidate, self.job, tuple(objectives)), architectures, self._failure
        )

    def forget_others(self, texts: Collection[str]) -> None:
        """See :meth:`Session.forget_others`."""
        if self.job.context.keep is not None:
            kept.forget_others(self.job.context.keep, texts)

    def network(self, architecture: Architecture) -> nn.Module:
        """See :meth:`Session.network`: trains in this process, which takes as long as a candidate's training."""
        return self.job.evaluator.obtain(self.job.context, architecture)[0]

    def _each(self, work: Work[T], architectures: Sequence[Architecture], died: Died[T]) -> Iterator[tuple[int, T]]:
        """Results of ``work`` with the index of their architecture, as they arrive."""
        order = range(len(architectures)) if self.pool.staff is None else self._costliest_first(architectures)
        for index, result in self.pool.run((i, functools.partial(work, architectures[i])) for i in order):
            if isinstance(result, workers.Died):
                result = died(architectures[index], f"its worker process died twice, the second time {result.reason}")
            yield index, result

    def _costliest_first(self, architectures: Sequence[Architecture]) -> Iterator[int]:
        """Indices in such an order that workers finish at about the same time."""
        first = min(self.pool.size, len(architectures))
        yield from range(first)  # at once, so that no worker waits for the guesses
        rest = {i: self._cost(architectures[i]) for i in range(first, len(architectures))}
        yield from sorted(rest, key=lambda i: (-rest[i], i))

    def _cost(self, architecture: Architecture) -> float:
        """Number of parameters, as a guess of the training time. Candidates that cannot be built come early.

        Operations (FLOPs) would be a better guess, but counting them takes 15 ms of a core that the workers need.
        """
        context = self.job.context
        try:
            with torch.device("meta"):
                model = context.space.build(architecture, context.data.n_classes, context.data.in_shape)
            return float(count_params(model))
        except Exception:  # the evaluation will fail too, and record the reason
            return math.inf

    def _failure(self, architecture: Architecture, reason: str) -> Evaluation:
        text = self.job.context.space.to_text(architecture)
        return Evaluation(architecture=text, status="failed", seed=candidate_seed(self.job.context, text), error=reason)

    def close(self) -> None:
        """See :meth:`Session.close`."""
        self.pool.close()
