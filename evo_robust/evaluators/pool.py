"""Candidates evaluated several at a time: cheap figures first, then weights, then the dear ones."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import math
import multiprocessing
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import chz
import joblib
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from torch import nn

from evo_robust.data import DataSet, Splits
from evo_robust.device import fixed_threads
from evo_robust.evaluators.base import Evaluation, Evaluator, Session
from evo_robust.objectives.base import Candidate, Constraint, Context, Objective, silent
from evo_robust.objectives.cost import count_flops, count_params
from evo_robust.parts import WHERE, UserError, digest, seed_from
from evo_robust.spaces.base import Architecture
from evo_robust.train import TimeLimit, TrainingDiverged


@chz.chz
class PooledEvaluator(Evaluator, abc.ABC):
    """An evaluator whose candidates are independent of each other; a subclass says how one gets its weights."""

    version: ClassVar[int] = 1
    """Raised when a change of code changes figures, so that old ledger rows are not mixed with new ones."""

    threads: int = chz.field(
        default=1, doc="CPU threads per candidate; fixed, so that figures do not depend on workers"
    )
    time_limit: float | None = chz.field(
        default=None, doc="seconds after which a candidate's training is given up and recorded as failed; > 0"
    )
    backend: Literal["loky", "dask", "ray"] = chz.field(
        default="loky", doc="joblib backend: processes here, or a dask or ray cluster", metadata=WHERE
    )

    @chz.validate
    def _limits(self) -> None:
        if self.threads < 1:
            raise ValueError(f"expected evaluator.threads >= 1, got {self.threads}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"expected evaluator.time_limit > 0 seconds, got {self.time_limit}")

    @abc.abstractmethod
    def obtain(
        self, context: Context, architecture: Architecture, deadline: float | None = None
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The candidate's network with weights, in eval mode on the context's device, and figures to be recorded.

        Depends on seed, data, evaluator and architecture alone: the same call gives the same weights again.

        Raises:
            TimeLimit: the deadline (``time.monotonic`` seconds) passed.
            TrainingDiverged: the loss became NaN or infinite.
        """

    def start(
        self, context: Context, objectives: Sequence[Objective], constraints: Sequence[Constraint]
    ) -> PoolSession:
        """See :meth:`Evaluator.start`."""
        return PoolSession(self, context, tuple(objectives), tuple(constraints))


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker needs to evaluate a candidate: small, and the same for all candidates."""

    evaluator: PooledEvaluator
    context: Context
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]


class PoolSession(Session):
    """Candidates of one search, evaluated in this process or in a pool."""

    def __init__(
        self,
        evaluator: PooledEvaluator,
        context: Context,
        objectives: tuple[Objective, ...],
        constraints: tuple[Constraint, ...],
    ) -> None:
        for objective in (*objectives, *(c.of for c in constraints), *context.recorded):
            objective.prepare(context)
        self.workers = context.workers
        self.job = Job(evaluator, dataclasses.replace(context, say=silent), objectives, constraints)
        self.fingerprint = digest(
            evaluator.version,
            evaluator,
            context.space,
            context.data,
            list(objectives),
            list(constraints),
            list(context.recorded),
            [o.state(context) for o in (*objectives, *(c.of for c in constraints), *context.recorded)],
            context.seed,
            torch.device(context.device).type,
        )

    def evaluate(self, architectures: Sequence[Architecture]) -> Iterator[tuple[int, Evaluation]]:
        """See :meth:`Session.evaluate`."""
        if self.workers == 1 or len(architectures) == 0:
            for index, architecture in enumerate(architectures):
                yield index, evaluate_candidate(self.job, architecture)
            return
        todo = dict(enumerate(architectures))
        yield from self._in_pool(todo)

    def _in_pool(self, todo: dict[int, Architecture]) -> Iterator[tuple[int, Evaluation]]:
        """A dead worker costs only its own candidate."""
        try:
            for index, evaluation in self._run(self._dearest_first(todo), todo, self.workers):
                del todo[index]
                yield index, evaluation
        except TerminatedWorkerError:
            # somebody's process was killed (memory, as a rule) and took the pool with it: one at a time tells whose
            for index in list(todo):
                try:
                    yield from self._run([index], todo, 2)
                except TerminatedWorkerError as error:
                    reason = f"its worker process died, most likely out of memory ({type(error).__name__})"
                    yield index, self._failure(todo[index], reason)

    def _run(
        self, order: Iterable[int], todo: Mapping[int, Architecture], workers: int
    ) -> Iterator[tuple[int, Evaluation]]:
        evaluator = self.job.evaluator
        parallel = joblib.Parallel(
            n_jobs=workers, return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs"
        )
        with _backend(evaluator.backend), warnings.catch_warnings():
            # loky restarts workers that hold much memory and says so each time
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
            architectures = dict(todo)  # what arrives leaves ``todo`` while tasks are still being made
            yield from parallel(joblib.delayed(_numbered)(self.job, i, architectures[i]) for i in order)

    def _dearest_first(self, todo: Mapping[int, Architecture]) -> Iterator[int]:
        """Indices so that no worker waits long for the last candidate of another."""
        architectures = dict(todo)
        first = list(architectures)[: self.workers]
        yield from first  # at once: joblib hands these out before it asks for more, and nobody waits for the guesses
        rest = {i: self._cost(a) for i, a in architectures.items() if i not in first}
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
        if self.workers > 1 and self.job.evaluator.backend == "loky":
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(wait=True)


def _numbered(job: Job, index: int, architecture: Architecture) -> tuple[int, Evaluation]:
    return index, evaluate_candidate(job, architecture)


@contextlib.contextmanager
def _backend(name: str) -> Iterator[None]:
    if name == "ray":
        from ray.util.joblib import register_ray

        register_ray()
    with joblib.parallel_config(backend=name):
        yield


@functools.lru_cache(maxsize=2)
def splits_on(data: DataSet, device: str) -> Splits:
    """The data set's images on a device, loaded once per process."""
    return data.load().to(device)


def worker_device(device: str) -> str:
    """``cuda`` becomes one of the devices, by the number of the worker process; other names stay."""
    if device != "cuda" or torch.cuda.device_count() < 2:
        return device
    name = multiprocessing.current_process().name  # LokyProcess-3
    number = int(digits) if (digits := "".join(filter(str.isdigit, name))) else 0
    return f"cuda:{number % torch.cuda.device_count()}"


def candidate_seed(context: Context, text: str) -> int:
    """The candidate's seed: problem seed and architecture, never order, worker or clock."""
    return seed_from(context.seed, text)


def build_candidate(context: Context, architecture: Architecture, seed: int) -> nn.Module:
    """The candidate's network with its initial weights, on the CPU."""
    # modules draw their initial weights from torch's global generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return context.space.build(architecture, context.data.n_classes, context.data.in_shape)


def evaluate_candidate(job: Job, architecture: Architecture) -> Evaluation:
    """Train and measure one candidate; whatever goes wrong is its own failure, with the reason."""
    started = time.monotonic()
    context = dataclasses.replace(job.context, device=worker_device(job.context.device))
    text = context.space.to_text(architecture)
    seed = candidate_seed(context, text)
    status: Literal["ok", "failed", "rejected"] = "failed"
    error: str | None = None
    measured = _Measured()
    try:
        with fixed_threads(job.evaluator.threads):
            candidate = Candidate(context, architecture, text, seed, splits_on(context.data, context.device))
            error = _measure(job, candidate, measured, started)
        status = "ok" if error is None else "rejected"
        figures = candidate.figures
    except UserError:
        raise  # missing data and the like concern the search, not this candidate
    except (TimeLimit, TrainingDiverged) as reason:
        error, figures = str(reason), {}
    except Exception as reason:
        error, figures = f"{type(reason).__name__}: {reason}", {}
    finally:
        if context.device.startswith("cuda"):
            torch.cuda.empty_cache()  # several workers share a device: what is not used must not be held
    return Evaluation(
        architecture=text,
        status=status,
        objectives=measured.objectives if status == "ok" else {},
        constraints=measured.constraints,
        recorded=measured.recorded if status == "ok" else {},
        figures=figures,
        seconds=round(time.monotonic() - started, 3),
        seed=seed,
        error=error,
    )


@dataclasses.dataclass
class _Measured:
    """What is known of a candidate so far."""

    objectives: dict[str, float] = dataclasses.field(default_factory=dict)
    constraints: dict[str, float] = dataclasses.field(default_factory=dict)
    recorded: dict[str, float] = dataclasses.field(default_factory=dict)


def _measure(job: Job, candidate: Candidate, measured: _Measured, started: float) -> str | None:
    """Fill ``measured``: cheap figures first; the reason when a cheap constraint rejects the candidate."""
    context, evaluator = candidate.context, job.evaluator
    blank = build_candidate(context, candidate.architecture, candidate.seed)
    candidate.figures["params"] = count_params(blank)
    candidate.figures["flops"] = count_flops(blank, context.data.in_shape, "thop")
    del blank
    _constraints(job, candidate, measured, needs_weights=False)
    broken = [name for name, g in measured.constraints.items() if g > 0]
    if broken:
        return f"rejected before training: {', '.join(broken)}"
    deadline = None if evaluator.time_limit is None else started + evaluator.time_limit
    candidate.model, figures = evaluator.obtain(context, candidate.architecture, deadline)
    candidate.figures.update(figures)
    for objectives, values in ((job.objectives, measured.objectives), (context.recorded, measured.recorded)):
        for objective in objectives:
            values[objective.name] = _finite(objective.name, objective.measure(candidate))
            if deadline is not None and time.monotonic() > deadline:
                raise TimeLimit(f"took longer than evaluator.time_limit={evaluator.time_limit} s")
    _constraints(job, candidate, measured, needs_weights=True)
    return None


def _constraints(job: Job, candidate: Candidate, measured: _Measured, *, needs_weights: bool) -> None:
    for constraint in job.constraints:
        if constraint.of.needs_weights == needs_weights:
            value = _finite(constraint.name, constraint.of.measure(candidate))
            measured.constraints[constraint.name] = constraint.violation(value)


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    return float(value)
