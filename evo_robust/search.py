"""The generation loop: a problem, a run folder, and pymoo in between."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evo_robust.algorithms.adapter import SearchProblem
from evo_robust.clusters import choose_staff
from evo_robust.data.checks import remarks
from evo_robust.device import choose_device, choose_workers
from evo_robust.parts.base import UserError
from evo_robust.parts.facts import CO_TRAINED_WEIGHTS
from evo_robust.problem.files import problem_to_dict, refuse_while_reading
from evo_robust.problem.sources import source_of
from evo_robust.problem.value import Problem
from evo_robust.progress import Reporter, Silent
from evo_robust.record.reading import IMAGES, Run, load_run
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
    on_generation: Callable[[SearchProblem], None] | None = None,
) -> Run:
    """Search ``problem`` and record it in the run folder ``out``; an interrupted search goes on where it stopped.

    Args:
        problem: what to search.
        out: run folder; made when absent, continued when it holds the same search.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        workers: candidates evaluated at a time; all cores, or one per CUDA device, when not given. With a cluster: at
            most; as many as it has workers when not given.
        cluster: whose workers evaluate candidates, ``dask://HOST:PORT`` or ``ray://HOST:PORT``.
        info: entries for ``problem.json`` beside the problem itself (its name, scale, the command).
        reporter: shows progress; silent when not given.
        on_generation: called after each generation is on disk.

    Returns:
        The run folder, read.

    Raises:
        UserError: a device, data, cluster or folder that cannot be used, or a file that searches while it is read
            for its parts; nothing is written then.
        SearchFailed: every candidate of the first generation failed.
    """
    refuse_while_reading()
    _check_arguments(problem, out, cluster, info)
    reporter = reporter or Silent()
    device = choose_device(device)
    choose_workers(workers, device)  # said before anything is loaded
    problem, caution = with_images(problem, Path(out))  # missing data is said before a folder is made
    splits = problem.data.load()
    if len(splits.val) == 0 or len(splits.train) < 2:
        raise UserError(
            f"expected images to train on and to validate on, got {len(splits.train)} and {len(splits.val)} "
            f"(data.val_share={problem.data.val_share})"
        )
    problem.check_cache(device)
    # a command tells where its problem came from; elsewhere the parts' own files do
    info = {"source": source_of(problem)} | {key: value for key, value in (info or {}).items() if value is not None}
    entries = {**info, **problem_to_dict(problem), "versions": library_versions(), "device": device}
    entries["draws"] = problem.algorithm.draws
    # the last bits of figures differ between kinds of device: one folder, one kind
    entries["identity"]["device"] = device.partition(":")[0]
    if problem.data.digest():
        entries["identity"][IMAGES] = problem.data.digest()
    folder = Path(out)
    here, staff = choose_staff(problem.evaluator, cluster, workers, device, reporter.say)
    with contextlib.closing(staff) if staff else contextlib.nullcontext(), Record(folder, problem, entries) as record:
        for line in (*caution, *remarks(problem.data, splits)):
            reporter.say(line)
        session = problem.start(device, here, folder, reporter.say, record.fingerprints, staff)
        try:
            if (
                CO_TRAINED_WEIGHTS not in problem.evaluator.provides
            ):  # whose files of each generation say whose they are
                record.check_goes_on(session)
            _loop(problem, problem.adapt(session, record), record, reporter, on_generation)
        finally:
            session.close()
    return load_run(folder)


def _check_arguments(problem: object, out: object, cluster: object, info: object) -> None:
    """Refuse what a call from Python may be given instead of what it takes."""
    if isinstance(problem, str):
        raise UserError(
            f'expected a Problem, got the text {problem!r}: load("{problem}") reads the problem of that name'
        )
    if not isinstance(problem, Problem):
        raise UserError(f"expected a Problem, got {type(problem).__name__}")
    if not isinstance(out, (str, Path)) or not str(out):
        raise UserError(f"expected out to be a folder, such as 'runs/first', got {out!r}")
    if cluster is not None and not isinstance(cluster, str):
        raise UserError(f"expected cluster to be text, such as 'dask://HOST:8786', got {cluster!r}")
    if info is not None and not isinstance(info, dict):
        raise UserError(f"expected info to be a dictionary, got {info!r}")


def _loop(
    problem: Problem,
    adapted: SearchProblem,
    record: Record,
    reporter: Reporter,
    on_generation: Callable[[SearchProblem], None] | None,
) -> None:
    """Let the algorithm run from its seed; what the record knows is not measured again."""
    algorithm = problem.algorithm.build(adapted)
    total = problem.algorithm.budget(problem.evaluator)
    reporter.start(total, known=record.n_known, co_trained=CO_TRAINED_WEIGHTS in problem.evaluator.provides)
    record.on_row = reporter.evaluated
    started, spent_before = time.monotonic(), 0.0
    while algorithm.has_next():
        generation = adapted.generation
        measured = record.n_measured
        algorithm.next()
        if adapted.generation == generation:  # nothing new was left to propose
            break
        if record.n_measured == measured:  # replayed: its time was spent by an earlier process
            started, spent_before = time.monotonic(), record.past_seconds(adapted.generation)
        spent = spent_before + time.monotonic() - started
        progress = record.end_generation(adapted.generation, spent, adapted.derived, adapted.settled)
        reporter.generation(progress, problem.algorithm.n_gen)
        if on_generation:
            on_generation(adapted)
    record.begin()  # all was known: it may be asked for longer or shorter than before
    reporter.stop()
