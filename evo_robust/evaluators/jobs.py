"""What a worker does: evaluate one candidate, from its architecture to its figures."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import nn

from evo_robust.device import fixed_threads
from evo_robust.evaluators import kept
from evo_robust.evaluators.base import Evaluation
from evo_robust.evaluators.candidates import Meter, build_candidate, candidate_seed, worker_device
from evo_robust.evaluators.time_limit import within
from evo_robust.evaluators.untouched import torch_settings
from evo_robust.objectives.base import Candidate, Context, Objective
from evo_robust.objectives.constraints import Constraint, Gate
from evo_robust.objectives.cost import count_flops, count_params
from evo_robust.objectives.figures import flat, one_number
from evo_robust.parts.base import UserError
from evo_robust.spaces.base import Architecture
from evo_robust.training.steps import TimeLimit, TrainingDiverged


@dataclasses.dataclass(frozen=True)
class Stage:
    """A candidate's network at one stage of obtaining its weights.

    Attributes:
        model: the network, in eval mode on the context's device; a later stage may change it in place.
        figures: figures to be recorded.
        final: whether the objectives are measured with these weights; True for the last stage only.
        record_as: name among the figures for the objectives' values at an earlier stage, with their parts (strengths)
            by dotted name; None where objectives are not measured at this stage.
    """

    model: nn.Module
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    final: bool = True
    record_as: str | None = None


class Staged(Protocol):
    """What a job needs of an evaluator; see :class:`evo_robust.evaluators.pool.PooledEvaluator`."""

    version: ClassVar[int]

    @property
    def threads(self) -> int:
        """CPU threads per candidate."""

    @property
    def time_limit(self) -> float | None:
        """Seconds that a candidate may take."""

    def stages(self, context: Context, architecture: Architecture, deadline: float | None = None) -> Iterator[Stage]:
        """The candidate's network, stage by stage."""

    def obtain(
        self, context: Context, architecture: Architecture, deadline: float | None = None
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The network of the final stage, and the figures of all stages."""

    def state(self, context: Context) -> str:
        """Digest of the built files that weights depend on."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker needs to evaluate candidates; it is small, and the same for all of them."""

    evaluator: Staged
    context: Context
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates among the constraints."""
        return tuple(constraint for constraint in self.constraints if isinstance(constraint, Gate))


def inherited_value(job: Job, objective: Objective, architecture: Architecture) -> float | str:
    """The objective with an architecture's inherited weights (first stage), or the reason why it has no value."""
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
    """A candidate on this worker's device, without weights, with the evaluator's number of threads."""
    context = dataclasses.replace(job.context, device=worker_device(job.context.device))
    text = context.space.to_text(architecture)
    try:
        with fixed_threads(job.evaluator.threads), torch_settings():
            splits = context.data.on(context.device)
            yield Candidate(context, architecture, text, candidate_seed(context, text), splits)
    finally:
        if context.device.startswith("cuda"):
            torch.cuda.empty_cache()  # several workers share a device, so free what this one does not need


def reason_of(error: BaseException) -> str:
    """A candidate's failure in words, whatever it raised (even ``SystemExit``).

    Raises:
        UserError: the error concerns the whole search, such as missing data.
        KeyboardInterrupt: the user ends the search.
    """
    if isinstance(error, (UserError, KeyboardInterrupt)):
        raise error
    if isinstance(error, (TimeLimit, TrainingDiverged)):
        return str(error)
    try:
        text = str(error)
    except Exception as fault:  # a user's exception may itself be broken
        text = f"its message cannot be read ({type(fault).__name__})"
    return f"{type(error).__name__}: {text}"


def evaluate_candidate(job: Job, architecture: Architecture) -> Evaluation:
    """Obtain and measure one candidate. Any error makes it a failed evaluation, with the reason."""
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
    """Measure other objectives on an evaluated candidate with its weights; their values are under ``recorded``."""
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
    """The candidate's network with its weights: the kept ones, or the same ones made again."""
    context = candidate.context
    if context.keep is not None:
        model = build_candidate(context, candidate.architecture, candidate.seed)
        if kept.restore(context.keep, candidate.text, model):
            return model.to(context.device).eval()
    return job.evaluator.obtain(context, candidate.architecture, deadline)[0]


@dataclasses.dataclass
class _Measured:
    """Figures of a candidate measured so far."""

    objectives: dict[str, float] = dataclasses.field(default_factory=dict)
    constraints: dict[str, float] = dataclasses.field(default_factory=dict)
    recorded: dict[str, float] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


def _measure(job: Job, candidate: Candidate, measured: _Measured, started: float) -> str | None:
    """Fill ``measured``, cheap figures first; returns the reason where a constraint or gate rejects the candidate."""
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
    costly = [c for c in job.constraints if c.of.needs_weights and not isinstance(c, Gate)]
    _check(costly, meter, measured)
    return None


def _with_parts(values: Mapping[str, float], figures: Mapping[str, Any]) -> dict[str, float]:
    """Values of objectives and their parts (strengths) by dotted name, before the next stage overwrites them."""
    parts = {key: number for name in values for key, number in flat(name, figures.get(name)).items()}
    return {**values, **{key: number for key, number in parts.items() if key not in values}}


def _check(constraints: Iterable[Constraint], meter: Meter, measured: _Measured) -> list[tuple[Constraint, float]]:
    """Record every constraint's G; returns the broken constraints with their values."""
    broken = []
    for constraint in constraints:
        value = meter.value(constraint.of)
        g = one_number(constraint.name, constraint.violation(value))
        measured.constraints[constraint.name] = g
        if g > 0:
            broken.append((constraint, value))
    return broken
