"""Runs one attack at ascending strengths. Broken images make room for others, so that batches stay full."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evo_robust.attacks.ball import per_image, project, unit_noise
from evo_robust.attacks.base import Norm
from evo_robust.attacks.losses import cross_entropy
from evo_robust.inference.predictions import classes

Memory = dict[str, Tensor]
"""What an attack carries from step to step, by name; each tensor has a row per image."""

Fetch = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Gives images in [0,1] and their classes for indices."""


@dataclasses.dataclass(frozen=True)
class StepBudget:
    """Number and length of an attack's steps in a ball of a given radius.

    Attributes:
        steps: gradient steps per start.
        step: length of a step, in units of the pixel range 0..1 (largest entry for linf, Euclidean for l2).
        restarts: number of starts.
        random_start: whether to start at a uniform random point of the ball, instead of the image itself.
    """

    steps: int
    step: float
    restarts: int
    random_start: bool


@dataclasses.dataclass(frozen=True)
class Point:
    """Where n images stand in their climb, just before a step.

    Attributes:
        x: the images without attack, ``(n, c, h, w)`` in [0,1].
        delta: their perturbations, ``(n, c, h, w)``.
        loss: the loss there, ``(n,)``.
        gradient: its gradient there, ``(n, c, h, w)``.
        memory: what the attack carries from step to step, by name, each ``(n, ...)``; without meaning where ``time``
            is 0, and empty before the very first step.
        time: steps made in this ball, ``(n,)``.
        eps: radius of each image's ball, ``(n,)``, in units of the pixel range 0..1.
        step: length of each image's first step, ``(n,)``, in the same unit.
        norm: of the balls.
    """

    x: Tensor
    delta: Tensor
    loss: Tensor
    gradient: Tensor
    memory: Memory
    time: Tensor
    eps: Tensor
    step: Tensor
    norm: Norm


class Ascent(Protocol):
    """What the cascade needs of an attack; see :class:`evo_robust.attacks.gradient.GradientAttack`."""

    def budget(self, eps: float) -> StepBudget:
        """Steps, step length and starts in a ball of radius ``eps``."""

    def reference(self, network: nn.Module, x: Tensor, y: Tensor, norm: Norm, restarts: int) -> Tensor | None:
        """What the loss compares with at all starts, ``(n, ...)``; None where it needs nothing."""

    def aim(self, reference: Tensor | None, restart: int) -> Tensor | None:
        """The part of it that counts at one start, ``(n, ...)``."""

    def ascend(
        self, network: nn.Module, x: Tensor, y: Tensor, reference: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(n, n_classes)``, loss ``(n,)`` and its gradient ``(n, c, h, w)`` at the images ``x``."""

    def move(self, point: Point) -> tuple[Tensor, Memory]:
        """Next perturbation ``(n, c, h, w)`` and memory."""


@dataclasses.dataclass
class Slots:
    """The images under attack in one batch, each at its own strength and step.

    Attributes:
        index: index of each image, ``(m,)``.
        x: the images without attack, ``(m, c, h, w)``.
        y: their true classes, ``(m,)``.
        delta: perturbations, ``(m, c, h, w)``.
        level: index of the present strength, ``(m,)``.
        time: steps made at this strength, ``(m,)``; -1 where the start must be evaluated before the first step.
        last: index of the last strength to attack, ``(m,)``.
        start: start of each strength in the unit ball; None for starts at the image itself or the last iterate.
        reference: what the loss compares with, ``(m, ...)``; None where it needs nothing.
        memory: the attack's state from step to step, see :class:`Point`.
    """

    index: Tensor
    x: Tensor
    y: Tensor
    delta: Tensor
    level: Tensor
    time: Tensor
    last: Tensor
    start: Tensor | None
    reference: Tensor | None
    memory: Memory = dataclasses.field(default_factory=dict)

    def take(self, kept: Tensor) -> Slots:
        """The slots at these positions: int64 ``(k,)``."""
        return Slots(**{name: _each(lambda v: v[kept], value) for name, value in vars(self).items()})

    def join(self, new: Slots) -> Slots:
        """These slots and the new ones; new images get a memory of zero."""
        m = len(new.index)
        new.memory = {name: v.new_zeros((m, *v.shape[1:])) for name, v in self.memory.items()}
        joined: dict[str, Any] = {
            name: _each(lambda v, w: torch.cat((v, w)), value, getattr(new, name)) for name, value in vars(self).items()
        }
        return Slots(**joined)


def _each(change: Callable[..., Tensor], value: Any, *others: Any) -> Any:
    """``change`` of a tensor, or of each in a memory; None stays None."""
    if isinstance(value, dict):
        return {name: change(v, *(other[name] for other in others)) for name, v in value.items()}
    return None if value is None else change(value, *others)


@dataclasses.dataclass
class CascadeResult:
    """The result of a cascade for n images at k strengths.

    Attributes:
        level: index of the smallest strength that broke the image, ``(n,)``; k where none did.
        losses: cross-entropy at the last iterate of each strength, ``(k, n)``; None without ``keep_going``.
        images: adversarial images, if asked for: ``(n, c, h, w)``, the image that broke it, or the last iterate of an
            unbroken one. With ``keep_going``, the last iterates of every strength, ``(k, n, c, h, w)``.
    """

    level: Tensor
    losses: Tensor | None = None
    images: Tensor | None = None


class Cascade:
    """Runs one attack on many images at ascending strengths.

    An image that breaks at a strength counts as broken at every larger one, and leaves. An image that survives goes on
    to the next strength with its perturbation scaled up. The pass over its last iterate, which decides whether it
    survived, also gives the first gradient at the next strength. Single-step attacks start again at each strength,
    since going on would make them a different attack.
    """

    def __init__(
        self,
        attack: Ascent,
        network: nn.Module,
        eps: Sequence[float],
        norm: Norm,
        generator: torch.Generator,
        *,
        batch_size: int,
        confirm: nn.Module | None = None,
        keep_going: bool = False,
        images: bool = False,
    ) -> None:
        """Set up.

        Args:
            attack: the attack.
            network: the network to take gradients of, in eval mode.
            eps: strengths, ascending.
            norm: norm of the ball.
            generator: source of the random starts, drawn image by image in order.
            batch_size: number of images in a batch.
            confirm: the network that finally decides whether an image is broken, if it is not ``network``.
            keep_going: whether to attack every image to the last step of every strength.
            images: whether to keep the adversarial images.
        """
        self.attack, self.network, self.confirm = attack, network, confirm
        self.norm, self.generator, self.batch_size = norm, generator, batch_size
        self.keep_going, self.keep_images = keep_going, images
        budgets = [attack.budget(e) for e in eps]
        self.steps, self.random_start, self.restarts = budgets[0].steps, budgets[0].random_start, budgets[0].restarts
        self.eps, self.lengths = torch.tensor([float(e) for e in eps]), torch.tensor([b.step for b in budgets])
        self.warm = self.steps > 1

    @torch.no_grad()
    def run(self, x: Tensor, y: Tensor) -> CascadeResult:
        """Attack images ``(n, c, h, w)`` in [0,1] with true classes ``(n,)``, including misclassified ones."""
        indices, level = torch.arange(len(x), device=x.device), torch.full_like(y, len(self.eps))
        return self.run_on(lambda part: (x[part], y[part]), indices, level)

    @torch.no_grad()
    def run_on(self, fetch: Fetch, indices: Tensor, level: Tensor) -> CascadeResult:
        """Attack the images at ``indices``, each below the strength ``level`` ``(n,)`` that is known to break it.

        The others count as broken at every strength.
        """
        self.eps, self.lengths = self.eps.to(indices.device), self.lengths.to(indices.device)
        self.found = CascadeResult(torch.zeros_like(level))
        self.references: Tensor | None = None
        self.found.level[indices] = level[indices]
        for restart in range(self.restarts):
            if len(indices):
                self._pass(fetch, indices, restart)
            if not self.keep_going:
                indices = indices[self.found.level[indices] > 0]
        return self.found

    def _pass(self, fetch: Fetch, indices: Tensor, restart: int) -> None:
        """Run one start for each image; broken ones are attacked only below the strength that broke them."""
        portion = max(1, self.batch_size // 8)  # joining fewer at a time would copy the batch too often
        arrivals = iter(indices.split(portion))
        slots: Slots | None = None
        while True:
            while slots is None or len(slots.index) <= self.batch_size - portion:
                part = next(arrivals, None)
                if part is None:
                    break
                new = self._admit(part, *fetch(part), restart)
                slots = new if slots is None else slots.join(new)
            if slots is None:
                return
            logits, loss, gradient = self.attack.ascend(self.network, slots.x + slots.delta, slots.y, slots.reference)
            going = self._judge(slots, logits).logical_not().nonzero().squeeze(1)
            if len(going) < len(slots.index):
                slots, loss, gradient = slots.take(going), loss[going], gradient[going]
            slots = self._move(slots, loss, gradient) if len(going) else None

    def _admit(self, index: Tensor, x: Tensor, y: Tensor, restart: int) -> Slots:
        """Slots of new images at their first strength."""
        start = None
        if self.random_start:
            # one image at a time, so that an image's start does not depend on the size of batches
            noise = [unit_noise((1, *x.shape[1:]), self.norm, self.generator) for _ in range(len(x))]
            start = torch.cat(noise).to(x)
        level = torch.zeros_like(index)
        delta = torch.zeros_like(x) if start is None else self._started(x, start, level)
        last = torch.full_like(index, len(self.eps)) if self.keep_going else self.found.level[index]
        return Slots(
            index,
            x,
            y,
            delta,
            level,
            time=level.clone(),
            last=last - 1,
            start=None if self.warm else start,
            reference=self.attack.aim(self._reference(index, x, y, restart), restart),
        )

    def _reference(self, index: Tensor, x: Tensor, y: Tensor, restart: int) -> Tensor | None:
        """What the loss of these images compares with; found at the first start, and kept for the others."""
        if restart == 0:
            found = self.attack.reference(self.network, x, y, self.norm, self.restarts)
            if found is None or self.restarts == 1:
                return found
            if self.references is None:
                self.references = found.new_zeros((len(self.found.level), *found.shape[1:]))
            self.references[index] = found
        return None if self.references is None else self.references[index]

    def _started(self, x: Tensor, start: Tensor, level: Tensor) -> Tensor:
        """Perturbations at the start of a strength."""
        eps = self.eps[level]
        return project(x, per_image(eps) * start, eps, self.norm)

    def _judge(self, slots: Slots, logits: Tensor) -> Tensor:
        """Record results from the logits, move images to the next strength; returns which slots are done, ``(m,)``."""
        ended = slots.time == self.steps
        verdict = logits
        # of an image that is already broken, only the loss of its last iterate still counts
        unbroken = slots.level < self.found.level[slots.index]
        doubtful = (((classes(logits) != slots.y) & unbroken) | ended).nonzero().squeeze(1)
        if len(doubtful) == 0:
            return torch.zeros_like(ended)
        if self.confirm is not None:
            verdict = logits.clone()
            verdict[doubtful] = self.confirm(slots.x[doubtful] + slots.delta[doubtful]).to(logits)
        broken = classes(verdict) != slots.y
        hit = slots.index[broken]
        self.found.level[hit] = torch.minimum(self.found.level[hit], slots.level[broken])
        finished = ended & (slots.level == slots.last)
        if self.keep_going:
            self._note(slots, cross_entropy(verdict, slots.y), ended)
        else:
            finished |= broken
            # an image broken at an earlier start keeps the adversarial image from then
            self._store(slots, broken | (finished & (self.found.level[slots.index] == len(self.eps))))
        self._promote(slots, (ended & ~finished).nonzero().squeeze(1))
        return finished

    def _store(self, slots: Slots, done: Tensor) -> None:
        """Keep the adversarial images of slots that are done."""
        if not self.keep_images:
            return
        images = slots.x[done] + slots.delta[done]
        if self.found.images is None:
            self.found.images = images.new_zeros((len(self.found.level), *images.shape[1:]))
        self.found.images[slots.index[done]] = images

    def _note(self, slots: Slots, loss: Tensor, ended: Tensor) -> None:
        """Keep loss and image of last iterates where the loss exceeds that of earlier starts."""
        found, shape = self.found, (len(self.eps), len(self.found.level))
        if found.losses is None:
            found.losses = loss.new_full(shape, -torch.inf)
        if self.keep_images and found.images is None:
            found.images = slots.x.new_zeros((*shape, *slots.x.shape[1:]))
        better = ended & ~(loss <= found.losses[slots.level, slots.index])
        where = slots.level[better], slots.index[better]
        found.losses[where] = loss[better]
        if found.images is not None:
            found.images[where] = slots.x[better] + slots.delta[better]

    def _promote(self, slots: Slots, chosen: Tensor) -> None:
        """Move the slots at these positions to the next strength."""
        if len(chosen) == 0:
            return
        old, new = slots.level[chosen], slots.level[chosen] + 1
        slots.level[chosen] = new
        if self.warm:
            slots.time[chosen] = 0
            slots.delta[chosen] *= per_image(self.eps[new] / self.eps[old])
            return
        slots.time[chosen] = -1
        start = torch.zeros_like(slots.delta[chosen]) if slots.start is None else slots.start[chosen]
        slots.delta[chosen] = self._started(slots.x[chosen], start, new)

    def _move(self, slots: Slots, loss: Tensor, gradient: Tensor) -> Slots:
        """Make one step of every slot; slots at a new start stay there until it has been evaluated."""
        if not self.warm:
            gradient = gradient.masked_fill(per_image(slots.time < 0), 0.0)
        eps, step = self.eps[slots.level], self.lengths[slots.level]
        point = Point(slots.x, slots.delta, loss, gradient, slots.memory, slots.time, eps, step, self.norm)
        slots.delta, slots.memory = self.attack.move(point)
        slots.time = slots.time + 1
        return slots
