"""Candidates evaluated several at a time: cheap figures first, then weights, then the dear ones."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import chz
import torch
from torch import nn

from evo_robust import workers
from evo_robust.device import MOST_THREADS, fixed_threads
from evo_robust.evaluators import kept
from evo_robust.evaluators.base import Evaluation, Evaluator, Session
from evo_robust.evaluators.candidates import Meter, build_candidate, candidate_seed, worker_device
from evo_robust.evaluators.gates import with_limits
from evo_robust.evaluators.time_limit import within
from evo_robust.evaluators.untouched import torch_settings
from evo_robust.objectives.base import Candidate, Context, Objective
from evo_robust.objectives.constraints import Constraint, Gate
from evo_robust.objectives.cost import count_flops, count_params
from evo_robust.objectives.figures import flat, one_number
from evo_robust.parts.base import WHERE, UserError, digest, seed_from
from evo_robust.parts.facts import CO_TRAINED_WEIGHTS
from evo_robust.progress import silent
from evo_robust.spaces.base import Architecture
from evo_robust.training.loop import TimeLimit, TrainingDiverged

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A candidate's network on its way to the weights that it is judged by.

    Attributes:
        model: the network, in eval mode on the context's device; a later stage may change it in place.
        figures: figures to be recorded.
        final: whether the objectives are measured with these weights; true of the last stage alone.
        record_as: name among the figures under which the objectives' values at an earlier stage are recorded, and
            what they record beside (strengths) by dotted name; None where they are not measured.
    """

    model: nn.Module
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    final: bool = True
    record_as: str | None = None


@chz.chz
class PooledEvaluator(Evaluator, abc.ABC):
    """An evaluator whose candidates are independent of each other; a subclass says how one gets its weights."""

    # 2: robust errors of small images come in larger batches, which may change last bits; finetuning shares its seed
    # 3: noises go on from strength to strength where some are estimated
    version: ClassVar[int] = 3
    """Raised when a change of code changes figures, so that old ledger rows are not mixed with new ones."""

    threads: int = chz.field(
        default=1, doc="CPU threads per candidate; fixed, so that figures do not depend on workers"
    )
    seed: int = chz.field(
        default=0,
        doc="another one trains and measures the same architectures anew; the problem's seed, which proposes them, "
        "stays; >= 0",
    )
    time_limit: float | None = chz.field(
        default=None,
        doc="seconds after which a candidate's training, attack or objective under way is given up and recorded as "
        "failed; > 0 (on Windows and in threads, such as dask's, looked at between training steps and after each "
        "objective alone)",
    )
    backend: Literal["loky", "dask", "ray"] = chz.field(
        default="loky",
        doc="loky: processes of this machine; dask, ray: the cluster that this process is connected with, which "
        "cluster= of the run command does by itself",
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
        """The candidate's network with weights, stage by stage; what a stage costs is paid when it is asked for.

        Depends on seed, data, evaluator and architecture alone: the same call gives the same weights again. The
        context is a ``seeded`` one, and the caller has fixed the number of threads. Gates are checked at the first
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

    def seeded(self, context: Context) -> Context:
        """The context of a search as candidates see it: its seed becomes one that depends on the evaluator's too."""
        return context if self.seed == 0 else dataclasses.replace(context, seed=seed_from(context.seed, self.seed))

    def prepare(self, context: Context) -> None:  # noqa: B027 (most evaluators need nothing)
        """Build, once and in the main process, what all candidates share (a supernet)."""

    def state(self, context: Context) -> str:
        """Digest of what weights depend on beside settings and data (built files), once ``prepare`` is over."""
        return ""

    def start(
        self, context: Context, objectives: Sequence[Objective], constraints: Sequence[Constraint]
    ) -> PoolSession:
        """See :meth:`Evaluator.start`."""
        return PoolSession(self, self.seeded(context), tuple(objectives), tuple(constraints))


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker needs to evaluate a candidate: small, and the same for all candidates."""

    evaluator: PooledEvaluator
    context: Context
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates among the constraints."""
        return tuple(constraint for constraint in self.constraints if isinstance(constraint, Gate))


Work = Callable[[Architecture], T]
"""What a worker does with an architecture; it travels by pickle."""

Died = Callable[[Architecture, str], T]
"""The result where the worker process died, with the reason."""


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
        """Digest of all that figures depend on; ``states`` are those of the objectives."""
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
        """The fingerprint of the run folder's rows where it says the same as the present one, which it is not equal to.

        Earlier versions called the states of some objectives otherwise.
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
            self.close()  # nobody else knows of the workers yet
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
        """See :meth:`Session.network`: trained in this process, as long as a candidate's training takes."""
        return self.job.evaluator.obtain(self.job.context, architecture)[0]

    def _each(self, work: Work[T], architectures: Sequence[Architecture], died: Died[T]) -> Iterator[tuple[int, T]]:
        """Results of ``work`` with the index of their architecture, as they arrive."""
        order = range(len(architectures)) if self.pool.staff is None else self._dearest_first(architectures)
        for index, result in self.pool.run((i, functools.partial(work, architectures[i])) for i in order):
            if isinstance(result, workers.Died):
                result = died(architectures[index], f"its worker process died twice, the second time {result.reason}")
            yield index, result

    def _dearest_first(self, architectures: Sequence[Architecture]) -> Iterator[int]:
        """Indices so that no worker waits long for the last candidate of another."""
        first = min(self.pool.size, len(architectures))
        yield from range(first)  # at once, so that nobody waits for the guesses
        rest = {i: self._cost(architectures[i]) for i in range(first, len(architectures))}
        yield from sorted(rest, key=lambda i: (-rest[i], i))

    def _cost(self, architecture: Architecture) -> float:
        """Parameters, as a guess of the training time; unbuildable candidates come early and fail fast.

        Operations would guess better, but counting them takes 15 ms of a core that the workers want.
        """
        context = self.job.context
        try:
            with torch.device("meta"):
                model = context.space.build(architecture, context.data.n_classes, context.data.in_shape)
            return float(count_params(model))
        except Exception:  # the reason is recorded where the candidate is evaluated
            return math.inf

    def _failure(self, architecture: Architecture, reason: str) -> Evaluation:
        text = self.job.context.space.to_text(architecture)
        return Evaluation(architecture=text, status="failed", seed=candidate_seed(self.job.context, text), error=reason)

    def close(self) -> None:
        """See :meth:`Session.close`."""
        self.pool.close()


def inherited_value(job: Job, objective: Objective, architecture: Architecture) -> float | str:
    """The objective on an architecture's first stage (inherited weights), or the reason why there is none."""
    started = time.monotonic()

    def measure() -> float:
        with at_work(job, architecture) as candidate:
            meter = Meter(candidate, job.evaluator.time_limit, started)
            stage = next(job.evaluator.stages(candidate.context, architecture, meter.deadline))
            meter.use(stage.model, stage.figures)
            return meter.value(objective)

    try:
        return within(job.evaluator.time_limit, started, measure)
    except BaseException as error:
        return reason_of(error)


@contextlib.contextmanager
def at_work(job: Job, architecture: Architecture) -> Iterator[Candidate]:
    """A candidate on this worker's device, without weights, under a fixed number of threads."""
    context = dataclasses.replace(job.context, device=worker_device(job.context.device))
    text = context.space.to_text(architecture)
    try:
        with fixed_threads(job.evaluator.threads), torch_settings():
            splits = context.data.on(context.device)
            yield Candidate(context, architecture, text, candidate_seed(context, text), splits)
    finally:
        if context.device.startswith("cuda"):
            torch.cuda.empty_cache()  # several workers share a device: what is not used must not be held


def reason_of(error: BaseException) -> str:
    """A candidate's failure in words: of whatever it raised, ``SystemExit`` and the like too.

    Raises:
        UserError: missing data and the like concern the search, not this candidate.
        KeyboardInterrupt: somebody wants the search to end.
    """
    if isinstance(error, (UserError, KeyboardInterrupt)):
        raise error
    if isinstance(error, (TimeLimit, TrainingDiverged)):
        return str(error)
    try:
        text = str(error)
    except Exception as fault:  # what a part raises may be broken itself
        text = f"its text cannot be had ({type(fault).__name__})"
    return f"{type(error).__name__}: {text}"


def evaluate_candidate(job: Job, architecture: Architecture) -> Evaluation:
    """Obtain and measure one candidate; whatever goes wrong is its own failure, with the reason."""
    started = time.monotonic()
    text = job.context.space.to_text(architecture)
    status: Literal["ok", "failed", "rejected"] = "failed"
    error: str | None = None
    measured = _Measured()

    def measure() -> str | None:
        with at_work(job, architecture) as candidate:
            rejected = _measure(job, candidate, measured, started)
            measured.figures = candidate.figures
            if rejected is None and job.context.keep is not None:
                kept.keep(job.context.keep, text, candidate.network())
            return rejected

    try:
        error = within(job.evaluator.time_limit, started, measure)
        status = "ok" if error is None else "rejected"
    except BaseException as reason:
        error = reason_of(reason)
    return Evaluation(
        architecture=text,
        status=status,
        objectives=measured.objectives if status == "ok" else {},
        constraints=measured.constraints,
        recorded=measured.recorded if status == "ok" else {},
        figures=measured.figures if status != "failed" else {},
        seconds=round(time.monotonic() - started, 3),
        seed=candidate_seed(job.context, text),
        error=error,
    ).sound()


def report_candidate(job: Job, objectives: tuple[Objective, ...], architecture: Architecture) -> Evaluation:
    """Other objectives on a candidate that was evaluated, with its weights; they stand under ``recorded``."""
    started = time.monotonic()
    text = job.context.space.to_text(architecture)
    seed = candidate_seed(job.context, text)

    def measure() -> Evaluation:
        with at_work(job, architecture) as candidate:
            meter = Meter(candidate, job.evaluator.time_limit, started)
            candidate.use(_judged(job, candidate, meter.deadline))
            values = meter.values(objectives)
            return Evaluation(text, "ok", recorded=values, figures=candidate.figures, seed=seed).sound()

    try:
        found = within(job.evaluator.time_limit, started, measure)
    except BaseException as error:
        found = Evaluation(text, "failed", seed=seed, error=reason_of(error)).sound()
    return dataclasses.replace(found, seconds=round(time.monotonic() - started, 3))


def _judged(job: Job, candidate: Candidate, deadline: float | None) -> nn.Module:
    """The candidate's network with its weights: those that were kept, else made again, which gives the same."""
    context = candidate.context
    if context.keep is not None:
        model = build_candidate(context, candidate.architecture, candidate.seed)
        if kept.restore(context.keep, candidate.text, model):
            return model.to(context.device).eval()
    return job.evaluator.obtain(context, candidate.architecture, deadline)[0]


@dataclasses.dataclass
class _Measured:
    """What is known of a candidate so far."""

    objectives: dict[str, float] = dataclasses.field(default_factory=dict)
    constraints: dict[str, float] = dataclasses.field(default_factory=dict)
    recorded: dict[str, float] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


def _measure(job: Job, candidate: Candidate, measured: _Measured, started: float) -> str | None:
    """Fill ``measured``: cheap figures first; the reason when a constraint or gate rejects the candidate."""
    context, evaluator = candidate.context, job.evaluator
    blank = build_candidate(context, candidate.architecture, candidate.seed)
    candidate.figures["params"] = count_params(blank)
    candidate.figures["flops"] = count_flops(blank, context.data.in_shape, "thop")
    del blank
    meter = Meter(candidate, evaluator.time_limit, started)
    cheap = [c for c in job.constraints if not c.of.needs_weights]
    if broken := _check(cheap, meter, measured):
        return f"rejected before training: {', '.join(c.name for c, _ in broken)}"
    for number, stage in enumerate(evaluator.stages(context, candidate.architecture, meter.deadline)):
        meter.use(stage.model, stage.figures)
        if number == 0 and (broken := _check(job.gates, meter, measured)):
            found = (f"{gate.of.name} {value:#.3g} > {gate.at_most:#.3g}" for gate, value in broken)
            return f"rejected before finetuning: {', '.join(found)}"
        if stage.final:
            measured.objectives = meter.values(job.objectives)
            measured.recorded = meter.values(context.recorded)
        elif stage.record_as:
            asked = [o for o in (*job.objectives, *context.recorded) if o.needs_weights]
            candidate.figures[stage.record_as] = _with_parts(meter.values(asked), candidate.figures)
    dear = [c for c in job.constraints if c.of.needs_weights and not isinstance(c, Gate)]
    _check(dear, meter, measured)
    return None


def _with_parts(values: Mapping[str, float], figures: Mapping[str, Any]) -> dict[str, float]:
    """Values of objectives, and what they recorded by dotted name (strengths), which the next stage overwrites."""
    parts = {key: number for name in values for key, number in flat(name, figures.get(name)).items()}
    return {**values, **{key: number for key, number in parts.items() if key not in values}}


def _check(constraints: Iterable[Constraint], meter: Meter, measured: _Measured) -> list[tuple[Constraint, float]]:
    """Keep every constraint's G; those that are broken, with the value."""
    broken = []
    for constraint in constraints:
        value = meter.value(constraint.of)
        g = one_number(constraint.name, constraint.violation(value))
        measured.constraints[constraint.name] = g
        if g > 0:
            broken.append((constraint, value))
    return broken
