"""Genetic operators on genomes of integers that respect a space's blocks (phases, cells)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.repair import Repair
from pymoo.core.sampling import Sampling

from evo_robust.parts.base import UserError
from evo_robust.spaces.structure import Budget

if TYPE_CHECKING:
    from evo_robust.algorithms.adapter import SearchProblem

# draws per wanted genome, after which the space counts as exhausted
_PATIENCE = 100


class DistinctSampling(Sampling):
    """Random genomes of architectures that differ from each other and from all evaluated so far.

    With ``budgets``, each budget gets the same number of genomes, and the first ones get the remainder. A budget with
    too few architectures left gives fewer.
    """

    def __init__(self, seeded: bool = False, budgets: Sequence[Budget] = ()) -> None:
        super().__init__()
        self.seeded = seeded
        self.budgets = budgets

    def _do(
        self, problem: SearchProblem, n_samples: int, *args: Any, random_state: np.random.Generator, **kwargs: Any
    ) -> np.ndarray:
        space = problem.space
        taken = problem.proposed()
        hand_made = [space.encode(a) for a in space.seeds()] if self.seeded else []
        genomes: list[np.ndarray] = []
        if not self.budgets:
            genomes = _distinct(problem, n_samples, taken, lambda: space.sample(random_state), hand_made)
        for index, budget in enumerate(self.budgets):
            share = n_samples // len(self.budgets) + (index < n_samples % len(self.budgets))
            draw = functools.partial(space.sample_in, random_state, budget)
            genomes += _distinct(problem, share, taken, draw)
        if not genomes and not taken:
            reason = problem.no_network(space.sample(random_state))
            raise UserError(f"expected random genomes of {type(space).__name__} to be networks, got none: {reason}")
        return np.array(genomes, dtype=int).reshape(len(genomes), problem.n_var)


def _distinct(
    problem: SearchProblem,
    wanted: int,
    taken: set[str],
    draw: Callable[[], np.ndarray],
    first: Sequence[np.ndarray] = (),
) -> list[np.ndarray]:
    """Up to ``wanted`` genomes, ``first`` and then drawn ones, of networks not in ``taken``; adds them to ``taken``."""
    genomes: list[np.ndarray] = []
    for attempt in range(wanted * _PATIENCE):
        if len(genomes) == wanted:
            break
        genome = first[attempt] if attempt < len(first) else draw()
        key = problem.key(genome)
        if key is not None and key not in taken:
            taken.add(key)
            genomes.append(genome)
    return genomes


class BlockCrossover(Crossover):
    """Two children that inherit each whole block from one parent or the other (RoCo-NAS: whole phases)."""

    def __init__(self, blocks: tuple[slice, ...], prob: float = 0.9) -> None:
        super().__init__(n_parents=2, n_offsprings=2, prob=prob)
        self.blocks = blocks

    def _do(
        self, problem: SearchProblem, X: np.ndarray, *args: Any, random_state: np.random.Generator, **kwargs: Any
    ) -> np.ndarray:
        children = X.copy()
        swap = random_state.random((X.shape[1], len(self.blocks))) < 0.5
        for b, block in enumerate(self.blocks):
            rows = swap[:, b]
            children[0, rows, block], children[1, rows, block] = X[1, rows, block], X[0, rows, block]
        return children


class BlockMutation(Mutation):
    """Change genes of one randomly chosen block: each with probability 1/length of the block, and at least one."""

    def __init__(self, blocks: tuple[slice, ...], n_choices: np.ndarray) -> None:
        super().__init__(prob=1.0)
        self.blocks = blocks
        self.n_choices = n_choices

    def _do(
        self, problem: SearchProblem, X: np.ndarray, *args: Any, random_state: np.random.Generator, **kwargs: Any
    ) -> np.ndarray:
        mutants = X.copy()
        for row in mutants:
            block = self.blocks[random_state.integers(len(self.blocks))]
            genes = np.arange(block.start, block.stop)
            chosen = genes[random_state.random(len(genes)) < 1 / len(genes)]
            if len(chosen) == 0:
                chosen = random_state.choice(genes, size=1)
            change_genes(row, chosen, self.n_choices, random_state)
        return mutants


class GeneMutation(Mutation):
    """Change each gene with probability ``rate``; 1/n_genes when not given (NSGA-Net)."""

    def __init__(self, n_choices: np.ndarray, rate: float | None = None) -> None:
        super().__init__(prob=1.0)
        self.n_choices = n_choices
        self.rate = 1 / len(n_choices) if rate is None else rate

    def _do(
        self, problem: SearchProblem, X: np.ndarray, *args: Any, random_state: np.random.Generator, **kwargs: Any
    ) -> np.ndarray:
        mutants = X.copy()
        for row in mutants:
            chosen = np.flatnonzero(random_state.random(len(row)) < self.rate)
            change_genes(row, chosen, self.n_choices, random_state)
        return mutants


def change_genes(row: np.ndarray, genes: np.ndarray, n_choices: np.ndarray, rng: np.random.Generator) -> None:
    """Give each of the ``genes`` of ``row`` another value, chosen uniformly, in place."""
    for gene in genes:
        if n_choices[gene] > 1:
            row[gene] = (row[gene] + rng.integers(1, n_choices[gene])) % n_choices[gene]


class SpaceRepair(Repair):
    """Convert to whole numbers, then apply the space's own repair."""

    def _do(self, problem: SearchProblem, X: np.ndarray, **kwargs: Any) -> np.ndarray:
        whole = np.asarray(X).round().astype(int)
        return np.array([problem.space.repair(x) for x in whole]).reshape(whole.shape)


class DistinctArchitectures(DuplicateElimination):
    """Drop genomes whose architecture is among the others or was evaluated before, even if their bits differ."""

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__()
        self.problem = problem

    def _do(self, pop: Population, other: Population | None, is_duplicate: np.ndarray) -> np.ndarray:
        keys = [self.problem.key(x) for x in pop.get("X")]
        taken = self.problem.proposed() if other is None else {self.problem.key(x) for x in other.get("X")}
        for i, key in enumerate(keys):
            is_duplicate[i] = key is None or key in taken
            if other is None and key is not None:
                taken.add(key)
        return is_duplicate
