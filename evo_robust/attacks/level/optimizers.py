"""CMA-ES and differential evolution of many independent problems at once.

The problems (one per image) share nothing but tensor operations: each has its own random generator, so that its
course does not depend on its neighbours. Libraries advance one problem per object: with 5 to 50 variables one ask and
tell takes `cma` 0.3 to 0.8 ms, more than LeNet needs for the candidates; here it takes 0.006 to 0.07 ms. A test holds
the batched forms against `cma` and pymoo's DE.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evo_robust.attacks.level.encoding import Boxes

Wall = Callable[[Tensor, Boxes], Tensor]
"""Moves points ``(n, k, d)`` into the bounds, in place."""


class BatchOptimizer(abc.ABC):
    """Minimises ``n`` functions of ``d`` variables within bounds, one generation of all of them at a time.

    Args:
        boxes: bounds and initial points.
        std: initial standard deviation of each variable, float ``(n, d)``, > 0.
        pop_size: candidates per generation and problem.
        wall: moves points beyond the bounds back into them.
        generators: one random generator per problem.
    """

    per_problem: tuple[str, ...] = ()
    """Names of the tensors whose first axis is the problem, except the bounds."""

    def __init__(
        self, boxes: Boxes, std: Tensor, pop_size: int, wall: Wall, generators: Sequence[torch.Generator]
    ) -> None:
        self.boxes, self.wall = boxes, wall
        self.pop_size = pop_size
        self.generators = list(generators)
        self._setup(boxes.start, std)

    @abc.abstractmethod
    def _setup(self, start: Tensor, std: Tensor) -> None:
        """Set up the initial state."""

    @abc.abstractmethod
    def ask(self) -> Tensor:
        """Candidates ``(n, pop_size, d)`` within the bounds."""

    @abc.abstractmethod
    def tell(self, fitness: Tensor) -> None:
        """Update the state with the fitness ``(n, pop_size)`` of the last candidates; smaller is better."""

    def converged(self) -> Tensor:
        """Which problems, bool ``(n,)``, can find nothing new any more."""
        return torch.zeros(len(self), dtype=torch.bool, device=self.boxes.start.device)

    def __len__(self) -> int:
        return len(self.generators)

    def keep(self, index: Tensor) -> None:
        """Go on with only the problems at ``index`` (int64)."""
        for name in self.per_problem:
            setattr(self, name, getattr(self, name)[index])
        self.boxes = Boxes(*(getattr(self.boxes, f.name)[index] for f in dataclasses.fields(Boxes)))
        self.generators = [self.generators[i] for i in index.tolist()]

    def join(self, other: BatchOptimizer) -> None:
        """Go on with the problems of ``other`` too (same class, ``d`` and ``pop_size``)."""
        for name in self.per_problem:
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))
        pairs = ((getattr(self.boxes, f.name), getattr(other.boxes, f.name)) for f in dataclasses.fields(Boxes))
        self.boxes = Boxes(*(torch.cat(pair) for pair in pairs))
        self.generators += other.generators

    def _noise(self, shape: tuple[int, ...], *, normal: bool) -> Tensor:
        """Standard normal or uniform [0,1) numbers ``(n, *shape)``; each problem uses its own generator."""
        out = self.boxes.start.new_empty((len(self), *shape))
        for row, generator in zip(out.unbind(0), self.generators, strict=True):
            _ = row.normal_(generator=generator) if normal else row.uniform_(generator=generator)
        return out


class BatchDE(BatchOptimizer):
    """Differential evolution best1bin with dither F ~ U(.5, 1) and CR 1, from a uniform population (Storn & Price).

    With CR 1 the trial vector is the whole mutant. ``start`` and ``std`` are not used: the first population covers the
    bounds.
    """

    per_problem: tuple[str, ...] = ("population", "fitness")

    def _setup(self, start: Tensor, std: Tensor) -> None:
        n, d = start.shape
        uniform = self._noise((self.pop_size, d), normal=False)
        lower, upper = self.boxes.lower.unsqueeze(1), self.boxes.upper.unsqueeze(1)
        self.population = uniform.mul_(upper - lower).add_(lower)
        self.fitness = start.new_full((n, self.pop_size), math.inf)

    def ask(self) -> Tensor:
        """At first the initial population, later one trial vector per member."""
        # one draw is the generation's F; the others pick two different members, neither of them the target
        draws = self._noise((2 * self.pop_size + 1,), normal=False)
        target = torch.arange(self.pop_size, device=draws.device)
        first, second = draws[:, 1:].view(len(self), 2, self.pop_size).unbind(1)
        # offsets around the ring of members: 1..P-1; for the second member 1..P-2, skipping the first
        step = (first * (self.pop_size - 1)).long().clamp_max_(self.pop_size - 2) + 1
        other = (second * (self.pop_size - 2)).long().clamp_max_(self.pop_size - 3) + 1
        other += other >= step
        rows = torch.arange(len(self), device=draws.device).unsqueeze(1)
        trial = self.population[rows, (target + step) % self.pop_size]
        trial -= self.population[rows, (target + other) % self.pop_size]
        trial *= (0.5 + 0.5 * draws[:, :1]).unsqueeze(2)
        trial += self.population[rows, self.fitness.argmin(1, keepdim=True)]
        trial = self.wall(trial, self.boxes)
        fresh = self.fitness.isinf().all(1, keepdim=True)
        if fresh.any():
            trial = torch.where(fresh.unsqueeze(2), self.population, trial)
        self._asked = trial
        return trial

    def tell(self, fitness: Tensor) -> None:
        """A trial replaces its target where it is better."""
        better = fitness < self.fitness
        self.fitness = torch.where(better, fitness, self.fitness)
        self.population = torch.where(better.unsqueeze(2), self._asked, self.population)

    def converged(self) -> Tensor:
        """True where all members lie within one integer step, so that new ones round to nearly the same image.

        With one pixel that takes some 30 generations.
        """
        return (self.population.amax(1) - self.population.amin(1)).amax(1) <= 1


class BatchCMAES(BatchOptimizer):
    """CMA-ES with positive weights (Hansen 2016, "The CMA Evolution Strategy: A Tutorial"); full covariance.

    Candidates beyond the bounds are moved only for their evaluation, so that the search distribution stays normal.
    """

    per_problem: tuple[str, ...] = (
        "mean",
        "sigma",
        "path_c",
        "path_s",
        "age",
        "cov",
        "root",
        "inverse",
    )

    def _setup(self, start: Tensor, std: Tensor) -> None:
        n, self.d = start.shape
        self.mean = start.clone()
        self.sigma = start.new_ones(n, 1)
        self.path_c, self.path_s = torch.zeros_like(start), torch.zeros_like(start)
        self.age = torch.zeros(n, dtype=torch.int64, device=start.device)
        self._constants(start)
        self._setup_covariance(std)

    def _constants(self, like: Tensor) -> None:
        """Weights and learning rates; equation numbers are the tutorial's."""
        d, lam = self.d, self.pop_size
        raw = [math.log((lam + 1) / 2) - math.log(i + 1) for i in range(lam // 2)]  # eq. 49
        self.weights = like.new_tensor(raw) / sum(raw)
        mu_eff = 1 / float((self.weights**2).sum())  # eq. 8
        self.c_c = (4 + mu_eff / d) / (d + 4 + 2 * mu_eff / d)  # eq. 56
        self.c_s = (mu_eff + 2) / (d + mu_eff + 5)  # eq. 55
        self.damping = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (d + 1)) - 1) + self.c_s  # eq. 55
        self.c_1 = 2 / ((d + 1.3) ** 2 + mu_eff)  # eq. 57
        self.c_mu = min(1 - self.c_1, 2 * (mu_eff - 2 + 1 / mu_eff) / ((d + 2) ** 2 + mu_eff))  # eq. 58
        self.mu_eff = mu_eff
        self.norm = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d * d))  # E‖N(0, I)‖

    def _setup_covariance(self, std: Tensor) -> None:
        self.cov = torch.diag_embed(std**2)
        self.root, self.inverse = torch.diag_embed(std), torch.diag_embed(1 / std)
        # the tutorial's B.2 decomposes every 1/(10 d (c_1 + c_mu)) generations; less often does no harm
        self.gap = max(1, int(1 / (2 * self.d * (self.c_1 + self.c_mu))))

    def _steps(self, z: Tensor) -> Tensor:
        """Standard normal z ``(n, k, d)`` → N(0, C)."""
        return z @ self.root

    def _whiten(self, y: Tensor) -> Tensor:
        """C^(−1/2) y for y ``(n, d)``."""
        return (y.unsqueeze(1) @ self.inverse).squeeze(1)

    def _adapt(self, steps: Tensor, stalled: Tensor) -> None:
        """Covariance from the best steps ``(n, mu, d)``, eq. 47."""
        left = 1 - self.c_1 - self.c_mu + stalled * self.c_1 * self.c_c * (2 - self.c_c)
        weighted = steps * (self.c_mu * self.weights).view(1, -1, 1)
        self.cov.mul_(left.unsqueeze(2)).baddbmm_(weighted.transpose(1, 2), steps)
        self.cov.add_(self.c_1 * self.path_c.unsqueeze(2) * self.path_c.unsqueeze(1))
        due = (self.age % self.gap == 0).nonzero().squeeze(1)
        if len(due):
            values, axes = torch.linalg.eigh(self.cov[due])
            # rounding may make the smallest eigenvalues negative: bound them by the precision
            scales = torch.maximum(values, torch.finfo(values.dtype).eps * values[:, -1:]).sqrt().unsqueeze(1)
            # symmetric roots do not depend on the arbitrary rotation of eigenvectors with equal eigenvalues
            self.root[due] = (axes * scales) @ axes.transpose(1, 2)
            self.inverse[due] = (axes / scales) @ axes.transpose(1, 2)

    def ask(self) -> Tensor:
        """Samples of the search distribution, moved into the bounds."""
        y = self._steps(self._noise((self.pop_size, self.d), normal=True))
        self._asked = y
        points = (y * self.sigma.unsqueeze(2)).add_(self.mean.unsqueeze(1))
        return self.wall(points, self.boxes)

    def tell(self, fitness: Tensor) -> None:
        """Update mean, paths, covariance and step size."""
        order = fitness.argsort(dim=1, stable=True)[:, : len(self.weights)]
        best = self._asked.gather(1, order.unsqueeze(2).expand(-1, -1, self.d))
        step = (best * self.weights.unsqueeze(1)).sum(1)
        self.mean = self.mean + self.sigma * step  # eq. 9
        self.age += 1
        rate = math.sqrt(self.c_s * (2 - self.c_s) * self.mu_eff)
        self.path_s = (1 - self.c_s) * self.path_s + rate * self._whiten(step)  # eq. 43
        length = self.path_s.norm(dim=1, keepdim=True)
        discount = (1 - (1 - self.c_s) ** (2 * self.age.to(length.dtype))).sqrt().unsqueeze(1)
        stalled = (length / discount >= (1.4 + 2 / (self.d + 1)) * self.norm).to(length.dtype)
        rate = math.sqrt(self.c_c * (2 - self.c_c) * self.mu_eff)
        self.path_c = (1 - self.c_c) * self.path_c + (1 - stalled) * rate * step  # eq. 45
        self._adapt(best, stalled)
        self.sigma = self.sigma * torch.exp(self.c_s / self.damping * (length / self.norm - 1))  # eq. 44
        # with a small step, all rounded candidates are the same image: enlarge it to leave the plateau
        flat = fitness.amax(1, keepdim=True) == fitness.amin(1, keepdim=True)
        self.sigma = torch.where(flat, self.sigma * math.exp(0.2 + self.c_s / self.damping), self.sigma)


class BatchSepCMAES(BatchCMAES):
    """CMA-ES with a diagonal covariance (Ros & Hansen 2008), for thousands of variables."""

    per_problem: tuple[str, ...] = ("mean", "sigma", "path_c", "path_s", "age", "cov", "scales")

    def _setup_covariance(self, std: Tensor) -> None:
        self.cov, self.scales = std**2, std.clone()
        # only d instead of d²/2 numbers to learn, so Ros & Hansen multiply the learning rates by (d + 2)/3
        faster = (self.d + 2) / 3
        self.c_1 = min(1.0, self.c_1 * faster)
        self.c_mu = min(1 - self.c_1, self.c_mu * faster)

    def _steps(self, z: Tensor) -> Tensor:
        return z.mul_(self.scales.unsqueeze(1))

    def _whiten(self, y: Tensor) -> Tensor:
        return y / self.scales

    def _adapt(self, steps: Tensor, stalled: Tensor) -> None:
        left = 1 - self.c_1 - self.c_mu + stalled * self.c_1 * self.c_c * (2 - self.c_c)
        rank_mu = (steps.square() * self.weights.unsqueeze(1)).sum(1)
        self.cov = left * self.cov + self.c_mu * rank_mu + self.c_1 * self.path_c**2
        self.scales = self.cov.sqrt()
