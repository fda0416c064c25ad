"""A search as a pymoo problem: genomes in, objectives and constraints out, every architecture evaluated once."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self, get_args

import numpy as np
from pymoo.core.problem import Problem as PymooProblem
from torch import nn

from evo_robust.evaluators.base import Evaluation, Session, Status
from evo_robust.objectives.base import Objective
from evo_robust.objectives.constraints import Constraint
from evo_robust.parts.base import UserError
from evo_robust.spaces.base import Architecture, InvalidArchitecture, SearchSpace

PENALTY = 1e30
"""F and G of a candidate without figures: worse than all real values, whatever their units.

It is finite, since infinities break crowding distances. Its squares and products are finite too, since some algorithms
compute distances or volumes. It is a constant, since an individual's F never changes: a penalty based on the values so
far could be better than later values. A measured value at or beyond it is a failure (``_rankable``).
"""


class SearchFailed(RuntimeError):
    """Every candidate of the first generation failed."""


class Ledger(Protocol):
    """Where evaluations are kept."""

    def known(self, architecture: str, fingerprint: str) -> Evaluation | None:
        """The evaluation from an earlier process of the same search, or None."""

    def add(self, evaluation: Evaluation, *, id: int, generation: int, genome: np.ndarray, fingerprint: str) -> None:
        """Keep one evaluation."""


class SearchProblem(PymooProblem):
    """A search as a pymoo problem; our own algorithms also use its ``space``, ``seed``, ``key`` and ``proposed``.

    Attributes:
        space: the search space.
        seed: the problem's seed, for the algorithm.
        objectives: names of the objectives, in declared order.
        evaluations: all evaluations of this search, in the order of requests, by (architecture, fingerprint).
        generation: number of calls by pymoo, one per generation for generational algorithms.
        derived: the most likely architecture of the algorithm's distribution; None where there is no distribution.
        settled: figures of that distribution, such as its entropy.
    """

    def __init__(
        self,
        space: SearchSpace,
        session: Session,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        seed: int,
        ledger: Ledger | None = None,
    ) -> None:
        choices = _genes(space)
        super().__init__(
            n_var=len(choices),
            n_obj=len(objectives),
            n_ieq_constr=len(constraints),
            xl=np.zeros(len(choices), dtype=int),
            xu=choices - 1,
            vtype=int,
        )
        self.space = space
        self.session = session
        self.seed = seed
        self.ledger = ledger
        self.objectives = tuple(objectives)
        self.objective_names = [o.name for o in objectives]
        self.constraint_names = [c.name for c in constraints]
        self.evaluations: dict[tuple[str, str], Evaluation] = {}
        self.generation = 0
        self.derived: str | None = None
        self.settled: Mapping[str, float] = {}
        self._decoded: dict[bytes, tuple[str | None, Architecture | str]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> SearchProblem:
        """The problem itself, since pymoo copies algorithms with everything in them, and pools cannot be copied."""
        return self

    def __enter__(self) -> Self:
        """The problem itself; it is closed on leaving."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End worker processes, and release the run folder if there is one."""
        self.session.close()

    def architectures(self, X: np.ndarray) -> list[str]:
        """Notations of genomes, of one ``(n_genes,)`` or several ``(n, n_genes)``, such as pymoo's ``result.X``.

        Raises:
            UserError: they are not genomes of this space, or one of them is no network.
        """
        genomes = self._genomes(X)
        for genome in genomes:
            if why := self.no_network(genome):
                raise UserError(f"the genome {genome.tolist()} is no network: {why}")
        return [str(self.key(genome)) for genome in genomes]

    def networks(self, X: np.ndarray) -> list[nn.Module]:
        """Networks of genomes with the weights that they were evaluated with, in eval mode on the CPU.

        Weights are made again from the same random numbers, one network after the other. Each takes as long as its
        training took in the search; inherited weights take moments.

        Example:
            >>> result = minimize(problem, SMSEMOA(pop_size=8), ("n_gen", 3), seed=1)
            >>> models = problem.networks(result.X)

        Raises:
            UserError: as ``architectures``; or the evaluator has no networks with weights.
        """
        self.architectures(X)
        return [self.session.network(self._decode(genome)[1]).cpu().eval() for genome in self._genomes(X)]

    def _genomes(self, X: Any) -> np.ndarray:
        """Genomes ``(n, n_genes)`` as whole numbers."""
        if X is None:
            raise UserError("expected genomes, got None: pymoo found no solution that meets the constraints")
        try:
            found = np.atleast_2d(np.asarray(X, dtype=float)).round()
        except (TypeError, ValueError):
            raise UserError(f"expected genomes (n, {self.n_var}), got {reprlib.repr(X)}") from None
        if found.ndim != 2 or found.shape[1] != self.n_var:
            raise UserError(f"expected genomes (n, {self.n_var}), got an array of shape {np.shape(X)}")
        if not ((found >= self.xl) & (found <= self.xu)).all():  # NaN is outside too
            raise UserError(f"expected genes from 0 to below n_choices, got {reprlib.repr(X)}")
        return found.astype(int)

    def key(self, genome: np.ndarray) -> str | None:
        """Notation of the genome's architecture, the same for equal networks; None where the genome is no network."""
        return self._decode(genome)[0]

    def no_network(self, genome: np.ndarray) -> str:
        """The reason why the genome is no network; empty where it is one."""
        text, found = self._decode(genome)
        return str(found) if text is None else ""

    def proposed(self) -> set[str]:
        """Notations of all architectures evaluated so far under the session's present fingerprint (a copy)."""
        return {text for text, fingerprint in self.evaluations if fingerprint == self.session.fingerprint}

    def _decode(self, genome: np.ndarray) -> tuple[str | None, Architecture | str]:
        """(notation, architecture), or (None, reason)."""
        whole = np.asarray(genome).round().astype(np.int64)
        memo = whole.tobytes()
        if memo not in self._decoded:
            if len(self._decoded) > 100_000:  # decoding again is cheap; the cache must not grow without end
                self._decoded.clear()
            try:
                architecture = self.space.decode(whole)
                self._decoded[memo] = (_notation(self.space, architecture), architecture)
            except InvalidArchitecture as error:
                self._decoded[memo] = (None, str(error))
            except Exception as error:  # a user's own space may raise anything
                if isinstance(error, UserError):
                    raise
                self._decoded[memo] = (None, f"{type(error).__name__}: {error}")
        return self._decoded[memo]

    def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        self.generation += 1
        evaluations = self.evaluate_genomes(X)
        if self.generation == 1 and not any(e.status == "ok" for e in evaluations):
            failed = [e for e in evaluations if e.status == "failed"]
            if failed:
                raise SearchFailed(f"every candidate of the first generation failed; the first: {failed[0].error}")
        out["F"] = _rows(evaluations, self.objective_names, "objectives")
        if self.constraint_names:
            out["G"] = _rows(evaluations, self.constraint_names, "constraints")

    def evaluate_genomes(self, X: np.ndarray) -> list[Evaluation]:
        """One evaluation per row of ``X`` ``(n, n_genes)``; only unknown architectures are measured."""
        fingerprint = self.session.fingerprint
        keys: list[tuple[str, str]] = []
        todo: dict[tuple[str, str], tuple[int, np.ndarray, Architecture]] = {}
        for row in X:
            text, architecture = self._decode(row)
            genome = np.asarray(row).round().astype(int)
            key = (text if text is not None else _no_network(genome), fingerprint)
            keys.append(key)
            if key in self.evaluations:
                continue
            # take the number now, so that numbers follow the order of requests, not the order of results
            number = len(self.evaluations)
            known = self.ledger.known(*key) if self.ledger else None
            if known is not None:
                self.evaluations[key] = known
            elif text is None:
                self.evaluations[key] = Evaluation(architecture=key[0], status="failed", error=str(architecture))
                self._keep(key, number, genome)
            else:
                self.evaluations[key] = Evaluation(architecture=text, status="failed", error="not evaluated")
                todo[key] = (number, genome, architecture)
        asked = list(todo)
        open_ = set(asked)
        answers = self.session.evaluate([todo[key][2] for key in asked])
        if not isinstance(answers, Iterable):
            raise UserError(
                f"expected {type(self.session).__name__}.evaluate to give pairs (index, Evaluation), got {answers!r}"
            )
        for found in answers:
            index, evaluation = _answer(self.session, found, asked)
            number, genome, _ = todo[asked[index]]
            self.evaluations[asked[index]] = _rankable(_complete(evaluation.sound(), self.objective_names))
            self._keep(asked[index], number, genome)
            open_.discard(asked[index])
        if open_:
            raise UserError(
                f"expected {type(self.session).__name__}.evaluate to answer each of {len(asked)} architectures, "
                f"{len(open_)} are left"
            )
        return [self.evaluations[key] for key in keys]

    def evaluation(self, genome: np.ndarray) -> Evaluation:
        """The evaluation of a genome's architecture under the session's present fingerprint.

        Raises:
            KeyError: the architecture was not evaluated.
        """
        text = self.key(genome)
        if text is None:
            text = _no_network(np.asarray(genome).round().astype(int))
        return self.evaluations[text, self.session.fingerprint]

    def _keep(self, key: tuple[str, str], number: int, genome: np.ndarray) -> None:
        if self.ledger:
            self.ledger.add(
                self.evaluations[key], id=number, generation=self.generation, genome=genome, fingerprint=key[1]
            )


def _genes(space: SearchSpace) -> np.ndarray:
    """Number of choices of each gene of a space, which may be a user's own.

    Raises:
        UserError: they are not whole numbers >= 1.
    """
    found = np.asarray(space.n_choices)
    if found.ndim != 1 or len(found) == 0 or not np.issubdtype(found.dtype, np.integer) or found.min() < 1:
        raise UserError(
            f"expected n_choices of {type(space).__name__} to be whole numbers >= 1, one for each gene, "
            f"got {reprlib.repr(space.n_choices)}"
        )
    blocks = np.arange(len(found))
    inherited = [gene for block in space.blocks for gene in blocks[block]]
    if set(inherited) != set(blocks.tolist()):
        raise UserError(
            f"expected blocks of {type(space).__name__} to be slices that cover all {len(found)} genes, "
            f"got {reprlib.repr(space.blocks)}"
        )
    return found


def _notation(space: SearchSpace, architecture: Architecture) -> str:
    """The architecture's name in the record.

    Raises:
        UserError: the space gives no text.
    """
    text = space.to_text(architecture)
    if not isinstance(text, str) or not text:
        raise UserError(
            f"expected to_text of {type(space).__name__} to give the notation of an architecture, got {text!r}"
        )
    return text


def _answer(session: Session, found: Any, asked: Sequence[tuple[str, str]]) -> tuple[int, Evaluation]:
    """An evaluator's answer, checked: index and evaluation of one of the requested architectures.

    Raises:
        UserError: the answer is something else.
    """
    who = type(session).__name__
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], Evaluation):
        raise UserError(f"expected {who}.evaluate to give pairs (index, Evaluation), got {reprlib.repr(found)}")
    index, evaluation = found
    if not isinstance(index, int) or not 0 <= index < len(asked) or evaluation.architecture != asked[index][0]:
        raise UserError(
            f"expected {who}.evaluate to answer each of {len(asked)} architectures once, got one for "
            f"{evaluation.architecture!r} at index {index!r}"
        )
    return index, evaluation


def _complete(evaluation: Evaluation, names: Sequence[str]) -> Evaluation:
    """The evaluation, or a failure where its status is unknown or an objective is missing."""
    if evaluation.status not in get_args(Status):
        error = f"the evaluator gave the status {evaluation.status!r}: expected one of {', '.join(get_args(Status))}"
    elif evaluation.status == "ok" and (missing := [name for name in names if name not in evaluation.objectives]):
        error = f"the evaluator gave no {', '.join(missing)}"
    else:
        return evaluation
    return dataclasses.replace(evaluation, status="failed", objectives={}, constraints={}, recorded={}, error=error)


def _rankable(evaluation: Evaluation) -> Evaluation:
    """The evaluation, or a failure where an objective is larger than the penalty of failures."""
    for name, value in evaluation.objectives.items():
        if evaluation.status == "ok" and abs(value) >= PENALTY:
            error = f"{name} is {value:.3g}: expected less than {PENALTY:g}, the value of failures; use a larger unit"
            return dataclasses.replace(
                evaluation, status="failed", objectives={}, constraints={}, recorded={}, error=error
            )
    return evaluation


def _no_network(genome: np.ndarray) -> str:
    """The text for a genome without notation, because it is no network."""
    return "no network: " + "".join(map(str, genome))


def _rows(evaluations: Sequence[Evaluation], names: Sequence[str], what: str) -> np.ndarray:
    """Values ``(n, len(names))``; evaluations without figures get the penalty."""

    def value(evaluation: Evaluation, name: str) -> float:
        known: Mapping[str, float] = getattr(evaluation, what)
        # a rejected candidate keeps the violations that rejected it, so that pymoo sees how large they are
        usable = evaluation.status == "ok" or (what == "constraints" and evaluation.status == "rejected")
        missing = 0.0 if what == "constraints" and evaluation.status == "rejected" else PENALTY
        # with a limit close to zero, violations may have any size; none is worse than a failure
        return min(known.get(name, missing), PENALTY) if usable else PENALTY

    return np.array([[value(e, name) for name in names] for e in evaluations], dtype=float)
