"""Gradients for a distribution over architectures: their settings, and the learner of a co-trained search."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Literal

import chz
import numpy as np
import torch
from torch import Tensor

from evo_robust.distributions.base import Distribution, Sampler
from evo_robust.estimators.state import optimizer_tensors, part, restore_optimizer
from evo_robust.evaluators.base import Evaluation
from evo_robust.evaluators.learner import CoTraining
from evo_robust.objectives.base import Objective
from evo_robust.parts.base import Part, refuse_unless, seed_from
from evo_robust.spaces.base import SearchSpace
from evo_robust.spaces.supernet import SupernetPath

Redraw = Literal["step", "epoch"]

# a step of Adam is about as long as its rate; parameters are logarithms, and float32 overflows at e^88
_FASTEST = 1000


@chz.chz
class ArchitectureGradient(Part, abc.ABC):
    """A loss of architectures, and the settings of the Adam optimiser that minimises it."""

    lr: float = chz.field(default=6e-4, doc="learning rate of Adam, in (0,1000]")
    betas: tuple[float, float] = chz.field(default=(0.5, 0.999), doc="decay rates of Adam, in [0,1)")
    weight_decay: float = chz.field(default=1e-3, doc="L2 penalty on the distribution's parameters, in [0,1000]")
    redraw: Redraw = chz.field(
        default="step",
        doc="how often the supernet's paths are drawn, also in the warm-up: every step (RACL) or every epoch (Wsr-NAS)",
    )

    drawn: bool = chz.field(
        default=False,
        doc="in each step train weights not only on a mixture, but also on an architecture from the distribution; "
        "candidates run their operations without weights, and inherit weights trained for that",
    )

    @chz.validate
    def _optimiser(self) -> None:
        refuse_unless(
            self,
            ("lr", 0 < self.lr <= _FASTEST, f"in (0,{_FASTEST}]"),
            ("betas", all(0 <= b < 1 for b in self.betas), "in [0,1)"),
            ("weight_decay", 0 <= self.weight_decay <= _FASTEST, f"in [0,{_FASTEST}]"),
            prefix="algorithm.gradient.",
        )

    def check(self, distribution: Distribution, space: SearchSpace) -> None:  # noqa: B027 (most move any)
        """Raise ``ValueError`` where it cannot move ``distribution`` over the architectures of ``space``."""

    def check_objectives(self, objectives: Sequence[Objective]) -> None:  # noqa: B027
        """Raise ``ValueError`` where it cannot be used in a search for ``objectives``."""

    @abc.abstractmethod
    def start(
        self, sampler: Sampler, seed: int, objectives: Sequence[Objective], in_shape: tuple[int, int, int]
    ) -> DistributionLearner:
        """Start the learner of one search.

        Args:
            sampler: the distribution.
            seed: seed of the learner's random numbers; the distribution has its own.
            objectives: objectives of the search.
            in_shape: shape ``(c, h, w)`` of the images.
        """


class DistributionLearner:
    """Moves a distribution while a supernet's weights are trained; see :class:`evo_robust.evaluators.learner.Learner`.

    There is one Adam optimiser per group of the distribution's parameters, so that groups can take turns (RACL's µ and
    σ).
    """

    def __init__(self, settings: ArchitectureGradient, sampler: Sampler, seed: int) -> None:
        self.settings, self.sampler, self.seed = settings, sampler, seed
        self.optimizers = [
            torch.optim.Adam(
                [sampler.parameters[name] for name in group],
                lr=settings.lr,
                betas=settings.betas,
                weight_decay=settings.weight_decay,
            )
            for group in sampler.groups
        ]

    @property
    def reserve(self) -> float:
        """See :class:`Learner`: half of the images, as in DARTS and RACL."""
        return 0.5

    def observe(self, evaluations: Sequence[Evaluation]) -> None:
        """Take the evaluations of the generation that ends, measured with the present weights."""

    def paths(self, training: CoTraining, epoch: int) -> Iterator[Sequence[SupernetPath]]:
        """See :class:`Learner`: random architectures in warm-up, then the distribution's."""
        if epoch < training.warmup:
            rng = np.random.default_rng(seed_from(self.seed, "warmup", epoch))
            path = training.space.draw_path(rng)
            while True:
                yield (path,)
                if self.settings.redraw == "step":
                    path = training.space.draw_path(rng)
        logs = self.sampler.sample_logs().detach()
        while True:
            if self.settings.redraw == "step":
                logs = self.sampler.sample_logs().detach()
            mixture = self.sampler.mixture(self.sampler.weighed(logs))
            yield (mixture, self.sampler.derive(logs)) if self.settings.drawn else (mixture,)

    def learn(self, training: CoTraining | None, epochs: int) -> None:
        """See :class:`Learner`."""

    def move(self, group: int, loss: Tensor) -> None:
        """Move one group of the distribution's parameters a step down the gradient of a loss; nothing else changes.

        Raises:
            UserError: a parameter became NaN or infinite; a search that wrote such numbers could not be resumed.
        """
        if not loss.requires_grad:  # the loss does not depend on the weight of any operation
            return
        parameters = [self.sampler.parameters[name] for name in self.sampler.groups[group]]
        gradients = torch.autograd.grad(loss, parameters)
        self.sampler.refuse_unless_finite(
            "gradients", loss, *gradients, otherwise=", or a smaller recipe.lr where it is the supernet that diverged"
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer = self.optimizers[group]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.sampler.keep_valid()
        # Adam's moments too: an infinite square would silently end all further steps
        moments = optimizer_tensors(optimizer, "").values()
        self.sampler.refuse_unless_finite("parameters and moments", *self.sampler.parameters.values(), *moments)

    def state(self) -> dict[str, Tensor]:
        """See :class:`Learner`."""
        tensors = {f"distribution.{name}": t.detach().clone() for name, t in self.sampler.state().items()}
        for number, optimizer in enumerate(self.optimizers):
            tensors |= optimizer_tensors(optimizer, f"adam{number}")
        return tensors

    def restore(self, state: dict[str, Tensor]) -> None:
        """See :class:`Learner`."""
        self.sampler.restore(part(state, "distribution"))
        for number, optimizer in enumerate(self.optimizers):
            restore_optimizer(optimizer, state, f"adam{number}")

    def replay(self, state: dict[str, Tensor]) -> None:
        """See :class:`Learner`."""
        self.sampler.restore(part(state, "distribution"))

    def shared(self) -> dict[str, Tensor]:
        """See :class:`Learner`: the distribution's parameters."""
        return {f"distribution.{name}": t.detach() for name, t in self.sampler.parameters.items()}

    def figures(self) -> dict[str, float]:
        """See :class:`Learner`."""
        return self.sampler.figures()

    def caution(self) -> str | None:
        """See :class:`Learner`."""
        return None
