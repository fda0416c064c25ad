"""A problem, a run folder, and pymoo in between: the generation loop of a search, or a pymoo algorithm run by hand."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chz
import numpy as np

from evo_robust.algorithms.adapter import SearchProblem
from evo_robust.algorithms.plain import PlainPymoo
from evo_robust.clusters import choose_staff
from evo_robust.data.checks import remarks
from evo_robust.device import choose_device, choose_workers
from evo_robust.evaluators.base import Session
from evo_robust.parts.base import UserError
from evo_robust.parts.facts import CO_TRAINED_WEIGHTS
from evo_robust.parts.paths import refuse_odd_path
from evo_robust.problem.files import problem_to_dict, refuse_while_reading
from evo_robust.problem.sources import source_of
from evo_robust.problem.value import Problem
from evo_robust.progress import Printed, Reporter, Silent, duration
from evo_robust.record.ending import early_end, keep_early_end
from evo_robust.record.reading import IMAGES, Run, check_entries, load_run
from evo_robust.record.writing import Record, library_versions, with_images


def search(
    problem: Problem,
    out: str | Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    cluster: str | None = None,
    info: dict[str, Any] | None = None,
    reporter: Reporter | None = None,
    progress: bool = False,
    on_generation: Callable[[SearchProblem], None] | None = None,
) -> Run:
    """Search ``problem`` and record it in the run folder ``out``; an interrupted search goes on where it stopped.

    Example:
        >>> run = search(load("roco"), "runs/x", progress=True)
        >>> run.table()[0]["flops"]
        >>> model = run.network("knee")

    Args:
        problem: what to search.
        out: run folder; made when absent, continued when it holds the same search.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        workers: number of candidates evaluated at a time; all cores, or one per CUDA device, when not given. On a
            cluster, the largest number; as many as it has workers when not given.
        cluster: cluster whose workers evaluate candidates, ``dask://HOST:PORT`` or ``ray://HOST:PORT``.
        info: further entries for ``problem.json`` (name and scale of the problem, the command).
        reporter: receives the progress of the search; silent when not given.
        progress: print a line for each generation, and a bar on a terminal, where no reporter is given.
        on_generation: called after each generation is on disk.

    Returns:
        The run folder, read.

    Raises:
        UserError: device, data, cluster or folder cannot be used, or a file starts a search while it is loaded; nothing
            is written then.
        SearchFailed: every candidate of the first generation failed.
    """
    refuse_while_reading()
    _check_arguments(problem, out, cluster, info, progress, reporter)
    # a command tells where its problem came from; elsewhere the parts' own files do
    info = {"source": source_of(problem)} | {key: value for key, value in (info or {}).items() if value is not None}
    if on_generation is not None and not callable(on_generation):
        raise UserError(f"expected on_generation to be a function, got {on_generation!r}")
    problem.algorithm.check_runs()
    reporter = reporter or (Printed() if progress else Silent())
    try:
        with _opened(problem, out, device, workers, cluster, info, reporter) as (pinned, session, record):
            _loop(pinned, pinned.adapt(session, record), session, record, reporter, on_generation)
            _report(session, record, reporter)
    except BaseException:
        reporter.stop()
        raise
    return load_run(out)


def pymoo_problem(
    problem: Problem,
    out: str | Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    cluster: str | None = None,
    info: dict[str, Any] | None = None,
    reporter: Reporter | None = None,
    progress: bool = False,
) -> RecordedProblem:
    """``problem`` for a pymoo algorithm that you run yourself, recorded in the run folder ``out`` as a search is.

    All commands can read the folder. With the same algorithm and seed it resumes where it stopped: pymoo asks for all
    candidates again, and known ones are not measured again. The problem's own ``algorithm`` is not used. Only you know
    when the search is over: :meth:`RecordedProblem.report` then measures what is ``reported`` of the front.
    ``problem.to_pymoo()`` gives the same without a record.

    Example:
        >>> from pymoo.algorithms.moo.sms import SMSEMOA
        >>> from pymoo.optimize import minimize
        >>> with pymoo_problem(load("roco"), "runs/sms") as problem:
        ...     result = minimize(problem, SMSEMOA(pop_size=8), ("n_gen", 3), seed=1)
        ...     models = problem.networks(result.X)
        ...     problem.report()  # measures what is reported on the front

    Args:
        problem: what to search.
        out: run folder; made when absent, continued when it holds the same search.
        device: see :func:`search`, as for ``workers``, ``cluster``, ``info`` and ``progress``.
        workers: candidates evaluated at a time.
        cluster: cluster whose workers evaluate candidates.
        info: further entries for ``problem.json``.
        reporter: receives each evaluation and each of pymoo's generations.
        progress: print a line for each generation where no reporter is given.

    Returns:
        The pymoo problem. Leaving its ``with`` block, or ``close()``, releases the folder and the workers.

    Raises:
        UserError: as :func:`search`.
    """
    refuse_while_reading()
    _check_arguments(problem, out, cluster, info, progress, reporter)
    # a command tells where its problem came from; elsewhere the parts' own files do
    info = {"source": source_of(problem)} | {key: value for key, value in (info or {}).items() if value is not None}
    reporter = reporter or (Printed() if progress else Silent())
    stack = contextlib.ExitStack()
    plain = chz.replace(problem, algorithm=PlainPymoo())
    pinned, session, record = stack.enter_context(_opened(plain, out, device, workers, cluster, info, reporter))
    record.on_row = reporter.evaluated
    return RecordedProblem(pinned, session, record, reporter, stack)


class RecordedProblem(SearchProblem):
    """A search problem whose record counts every call by pymoo as a generation; see :func:`pymoo_problem`."""

    def __init__(
        self, problem: Problem, session: Session, record: Record, reporter: Reporter, stack: contextlib.ExitStack
    ) -> None:
        super().__init__(problem.space, session, problem.objectives, problem.constraints, problem.seed, record)
        self.record, self.reporter, self._stack = record, reporter, stack
        self._watch = _Stopwatch(record)

    def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        measured = self.record.n_measured
        super()._evaluate(X, out, *args, **kwargs)
        told = self.record.end_generation(self.generation, self._watch.seconds(self.generation))
        if self.record.n_measured > measured:  # a replay passes by fronts that are past
            self.session.forget_others({row["architecture"] for row in self.record.front()})
        self.reporter.generation(told, None)

    def report(self) -> None:
        """Measure on the networks of the present front what the problem's ``reported`` names, and record it.

        Figures that the record holds already are not measured again.
        """
        _report(self.session, self.record, self.reporter)

    def close(self) -> None:
        """See :meth:`SearchProblem.close`."""
        self._stack.close()


@contextlib.contextmanager
def _opened(
    problem: Problem,
    out: str | Path,
    device: str,
    workers: int | None,
    cluster: str | None,
    info: dict[str, Any],
    reporter: Reporter,
) -> Iterator[tuple[Problem, Session, Record]]:
    """The problem with its images, the evaluator's session and the record; all are closed on leaving."""
    device = choose_device(device)
    choose_workers(workers, device)  # a mistake is reported before anything is loaded
    folder = Path(out)
    problem, caution = with_images(problem, folder)  # missing data is said before a folder is made
    splits = problem.data.load()
    if len(splits.val) == 0 or len(splits.train) < 2:
        raise UserError(
            f"expected images to train on and to validate on, got {len(splits.train)} and {len(splits.val)} "
            f"(data.val_share={problem.data.val_share})"
        )
    problem.check_cache(device)
    here, staff = choose_staff(problem.evaluator, cluster, workers, device, reporter.say)
    with (
        contextlib.closing(staff) if staff else contextlib.nullcontext(),
        Record(folder, problem, _entries(problem, device, info)) as record,
    ):
        for line in (*caution, *remarks(problem.data, splits)):
            reporter.say(line)
        session = problem.start(device, here, folder, reporter.say, record.fingerprints, staff)
        try:
            if problem.reported and not session.reports:
                raise UserError(
                    f"{type(problem.evaluator).__name__} cannot measure a finished front: expected reported "
                    f"to be empty, got {', '.join(objective.name for objective in problem.reported)}"
                )
            # co-trained weights are checked by the files of each generation
            if CO_TRAINED_WEIGHTS not in problem.evaluator.provides:
                record.check_goes_on(session)
            yield problem, session, record
            record.begin()  # all was known already; the number of generations may have changed
        finally:
            session.close()


def _entries(problem: Problem, device: str, info: dict[str, Any]) -> dict[str, Any]:
    """The entries of ``problem.json`` for a search."""
    entries = {**info, **problem_to_dict(problem), "versions": library_versions(), "device": device}
    entries["draws"] = problem.algorithm.draws
    # the last bits of figures differ between kinds of device, so a folder has only one kind
    entries["identity"]["device"] = device.partition(":")[0]
    if problem.data.digest():
        entries["identity"][IMAGES] = problem.data.digest()
    return entries


def _check_arguments(
    problem: object, out: object, cluster: object, info: object, progress: object, reporter: object
) -> None:
    """Refuse arguments of wrong types."""
    if isinstance(problem, str):
        raise UserError(
            f'expected a Problem, got the text {problem!r}: load("{problem}") reads the problem of that name'
        )
    if not isinstance(problem, Problem):
        raise UserError(f"expected a Problem, got {type(problem).__name__}")
    if not isinstance(out, (str, Path)) or not str(out):
        raise UserError(f"expected out to be a folder, such as 'runs/first', got {out!r}")
    try:
        refuse_odd_path("out", str(out))
    except ValueError as error:
        raise UserError(str(error)) from None
    if cluster is not None and not isinstance(cluster, str):
        raise UserError(f"expected cluster to be text, such as 'dask://HOST:8786', got {cluster!r}")
    if info is not None and not isinstance(info, dict):
        raise UserError(f"expected info to be a dictionary, got {info!r}")
    check_entries(info or {})
    if not isinstance(progress, bool):
        raise UserError(f"expected progress to be True or False, got {progress!r}")
    if not isinstance(reporter, (Reporter, type(None))):
        raise UserError(f"expected reporter to be a Reporter, got {reporter!r}")


def _report(session: Session, record: Record, reporter: Reporter) -> None:
    """Measure the reported objectives on the networks of the front, unless the record has them already."""
    left = [(row, objectives) for row, objectives in record.unreported() if row["fingerprint"] == session.fingerprint]
    for objectives in dict.fromkeys(tuple(objectives) for _, objectives in left):
        rows = [row for row, missing in left if tuple(missing) == objectives]
        names, began = ", ".join(o.name for o in objectives), time.monotonic()
        reporter.say(f"measuring {names} on the {len(rows)} networks of the front …")
        for index, found in session.report([record.architecture(row) for row in rows], objectives):
            record.report(rows[index], objectives, found)
            if found.status != "ok":
                reporter.say(f"  evaluation {rows[index]['id']} has no {names}: {found.error}")
        reporter.say(f"measured {names} in {duration(time.monotonic() - began)}")
    session.forget_others(())


class _Stopwatch:
    """The time that a search has taken, in all processes that worked on it."""

    def __init__(self, record: Record) -> None:
        self._record, self._measured = record, record.n_measured
        self._began, self._before = time.monotonic(), 0.0

    def seconds(self, generation: int) -> float:
        """Seconds at the end of a generation; for a replayed one, the time that it took originally."""
        if self._record.n_measured == self._measured:
            self._began, self._before = time.monotonic(), self._record.past_seconds(generation)
        self._measured = self._record.n_measured
        return self._before + time.monotonic() - self._began


def _loop(
    problem: Problem,
    adapted: SearchProblem,
    session: Session,
    record: Record,
    reporter: Reporter,
    on_generation: Callable[[SearchProblem], None] | None,
) -> None:
    """Run the algorithm from its seed; evaluations in the record are not measured again."""
    algorithm = problem.algorithm.build(adapted)
    total = problem.algorithm.budget(problem.evaluator)
    reporter.start(total, known=record.n_known, co_trained=CO_TRAINED_WEIGHTS in problem.evaluator.provides)
    record.on_row = reporter.evaluated
    watch = _Stopwatch(record)
    while algorithm.has_next():
        generation = adapted.generation
        measured = record.n_measured
        algorithm.next()
        if adapted.generation == generation:  # no new architectures were left
            break
        spent = watch.seconds(adapted.generation)
        told = record.end_generation(adapted.generation, spent, adapted.derived, adapted.settled)
        if record.n_measured > measured:  # not for past fronts during a replay
            session.forget_others({row["architecture"] for row in record.front()})
        reporter.generation(told, problem.algorithm.n_gen)
        if on_generation:
            on_generation(adapted)
    if record.rows and adapted.generation < problem.algorithm.n_gen:
        keep_early_end(record.folder, adapted.generation)
        reporter.say(early_end(record.folder, adapted.generation, problem.algorithm.n_gen))
    reporter.stop()
