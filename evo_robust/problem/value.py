"""A problem as a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import chz

from evo_robust.algorithms.adapter import Ledger, SearchProblem
from evo_robust.algorithms.base import Algorithm
from evo_robust.clusters import choose_staff, hire
from evo_robust.data.base import DataSet
from evo_robust.device import choose_device
from evo_robust.evaluators.base import Evaluator, Session
from evo_robust.files import cache_folder, check_cache
from evo_robust.objectives.base import Context, Objective
from evo_robust.objectives.constraints import Constraint
from evo_robust.parts.base import WHERE, Part, UserError, check_shapes, dotted, parts_in
from evo_robust.parts.facts import Fact
from evo_robust.parts.plain import is_printable
from evo_robust.parts.stand_ins import tell
from evo_robust.progress import Say, silent
from evo_robust.spaces.base import SearchSpace
from evo_robust.workers import Staff


@chz.chz
class Problem(Part):
    """The description of a search: space, data, objectives, evaluator and algorithm.

    Example:
        >>> problem = load("roco")
        >>> [objective.name for objective in problem.objectives]
        ['clean_error', 'transfer_error', 'flops']
        >>> longer = chz.replace(problem, algorithm=chz.replace(problem.algorithm, n_gen=30))
    """

    space: SearchSpace = chz.field(doc="search space: the architectures")
    data: DataSet = chz.field(doc="data set: the images")
    objectives: tuple[Objective, ...] = chz.field(doc="objectives to minimise, in this order; names must differ")
    constraints: tuple[Constraint, ...] = chz.field(default=(), doc="limits that must not be exceeded")
    recorded: tuple[Objective, ...] = chz.field(
        default=(), doc="objectives that are measured and recorded for comparisons, but not searched for"
    )
    # no part of the identity: it changes no figure of the search, so a run may be resumed with others
    reported: tuple[Objective, ...] = chz.field(
        default=(),
        doc="objectives that are measured after the search, on the networks of the final front only",
        metadata=WHERE,
    )
    evaluator: Evaluator = chz.field(doc="how candidates get their weights and are measured")
    algorithm: Algorithm = chz.field(doc="how candidates are proposed")
    seed: int = chz.field(default=0, doc="seed of all random numbers of the search, >= 0")

    @chz.validate
    def _sound(self) -> None:
        if not self.objectives:
            raise ValueError("expected at least one objective, got none (objectives is empty)")
        measured = (*self.objectives, *self.recorded, *self.reported)
        self._refuse_twice("objective", "objectives", "recorded", "reported")
        self._refuse_twice("constraint", "constraints")
        self._check_names()
        if self.seed < 0:
            raise ValueError(f"expected seed >= 0, got {self.seed}")
        if missing_of(self) is None:  # a stand-in cannot be checked against other parts
            self._check_parts(measured)

    def _refuse_twice(self, what: str, *fields: str) -> None:
        """Refuse two parts of the same name in some fields."""
        places: dict[str, str] = {}
        for field in fields:
            for index, part in enumerate(getattr(self, field)):
                place = f"{field}.{index}"
                if part.name in places:
                    raise ValueError(
                        f"expected different {what} names, got {part.name!r} twice, as {places[part.name]} and "
                        f"{place}: give one of them a label, such as {place}.label={part.name}_2"
                    )
                places[part.name] = place

    def _check_parts(self, measured: tuple[Objective, ...]) -> None:
        """Refuse parts that do not fit together."""
        for objective in (*measured, *(c.of for c in self.constraints)):
            objective.check(self.data)
        check_shapes(self, self.data.in_shape)
        self.evaluator.check(self.space, self.data)
        self.algorithm.check(self.space, self.objectives)
        self._check_needs()

    def _check_needs(self) -> None:
        """Refuse a part with a need that no other part meets."""
        parts = tuple(parts_in(self))
        given = frozenset().union(*(part.provides for part in parts))
        for part in parts:
            for fact in sorted(part.needs, key=lambda fact: fact.name):
                reached = part in self.objectives or not fact.searched_only
                if fact not in given or not reached:
                    raise ValueError(_lacking(self, part, fact, reached))

    def _check_names(self) -> None:
        """Refuse names that are not text, and two objectives of the same name, which would write the same figures."""
        known: dict[str, Objective] = {}
        for objective in objectives_in((self.objectives, self.recorded, self.reported, self.constraints)):
            for what, text in (("name", objective.name), ("unit", objective.unit)):
                if not isinstance(text, str) or not is_printable(text) or (what == "name" and not text.strip()):
                    raise ValueError(
                        f"expected the {what} of {type(objective).__name__} to be text of one line without control "
                        f"characters, got {text!r}"
                    )
            first = known.setdefault(objective.name, objective)
            if first != objective:
                raise ValueError(
                    f"expected different names of different objectives, got two that are called {objective.name!r} "
                    f"({_difference(first, objective)}): give one of them a label"
                )

    def to_pymoo(
        self, *, device: str = "auto", workers: int | None = None, cluster: str | None = None
    ) -> SearchProblem:
        """This problem for any pymoo algorithm, without a record; ``algorithm`` is not used.

        :func:`evo_robust.pymoo_problem` gives the same with a record: a run folder that all commands read.

        Example:
            >>> with load("roco").to_pymoo(workers=2) as problem:
            ...     result = minimize(problem, SMSEMOA(pop_size=8), ("n_gen", 3), seed=1)
            ...     models = problem.networks(result.X)

        Args:
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
            workers: number of candidates evaluated at a time; all cores, or one per CUDA device, when not given.
            cluster: cluster whose workers evaluate candidates; see :func:`evo_robust.search`.
        """
        device = choose_device(device)
        here, staff = choose_staff(self.evaluator, cluster, workers, device)
        return self.adapt(self.start(device, here, staff=staff))

    def start(
        self,
        device: str,
        workers: int,
        folder: Path | None = None,
        say: Say = silent,
        measured_under: frozenset[str] = frozenset(),
        staff: Staff | None = None,
    ) -> Session:
        """Start the evaluator's session, and build what candidates share (adversarial sets, supernets).

        ``measured_under`` are the fingerprints of rows that are in the run folder already. ``staff`` are the workers of
        a cluster; the session releases them.
        """
        context = dataclasses.replace(
            self._context(device, workers),
            folder=folder,
            say=say,
            measured_under=measured_under,
            staff=staff or hire(self.evaluator, None, workers, device, say),
        )
        session = self.evaluator.start(context, self.objectives, self.constraints)
        if not isinstance(session, Session):
            raise UserError(f"expected {type(self.evaluator).__name__}.start to return a Session, got {session!r}")
        return session

    def check_cache(self, device: str) -> None:
        """Raise ``UserError`` where something has to be built in the cache, but the cache cannot be written."""
        context = self._context(device, workers=1)
        wanted = [*self.evaluator.builds(context)]
        for objective in (*self.objectives, *self.recorded, *self.reported, *(c.of for c in self.constraints)):
            wanted += objective.builds(context)
        if not all(file.is_file() for file in wanted):
            check_cache(context.cache)

    def _context(self, device: str, workers: int) -> Context:
        return Context(
            space=self.space,
            data=self.data.pinned(),
            seed=self.seed,
            device=device,
            workers=workers,
            cache=cache_folder(),
            recorded=self.recorded,
            reported=self.reported,
        )

    def adapt(self, session: Session, ledger: Ledger | None = None) -> SearchProblem:
        """The pymoo problem that evaluates with ``session`` and keeps results in ``ledger``."""
        return SearchProblem(self.space, session, self.objectives, self.constraints, self.seed, ledger)


def _lacking(problem: Problem, part: Part, fact: Fact, reached: bool) -> str:
    """The message about a part with a need that no part of the problem meets."""
    who = f"{part.name} ({type(part).__name__})" if isinstance(part, (Objective, Constraint)) else type(part).__name__
    expected = f"{fact.part}={fact.provider}" if reached else "it among the objectives, since they learn only for these"
    otherwise = f", or {fact.otherwise}" if fact.otherwise else ""
    return f"{who} needs {fact.name}: expected {expected}{otherwise}, got {dotted(problem).get(fact.part)}"


def objectives_in(value: object) -> Iterator[Objective]:
    """All objectives in a part or tuple, outer ones first."""
    return (part for part in parts_in(value) if isinstance(part, Objective))


def _difference(first: Objective, second: Objective) -> str:
    """The settings in which two objectives differ, such as ``cells: deep and all``."""
    one, other = ({"class": type(o).__name__, **dotted(o)} for o in (first, second))
    differing = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return "; ".join(f"{key}: {one.get(key)} and {other.get(key)}" for key in differing[:2])


def missing_of(problem: Problem) -> str | None:
    """The missing parts of a problem, for which there are stand-ins, in words; None where none is missing."""
    absent = [part for part in parts_in(problem) if part.stand_in]
    return tell((type(part).__name__ for part in absent), str(absent[0].stand_in)) if absent else None
