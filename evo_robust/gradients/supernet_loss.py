"""Moves architectures by the loss of the supernet's mixture, on images that its weights are not trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import chz
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import GradientAttack
from evo_robust.data.images import batches
from evo_robust.distributions.base import Distribution, Sampler
from evo_robust.distributions.log_normal import LogNormal, LogNormalSampler
from evo_robust.evaluators.learner import CoTraining
from evo_robust.gradients.base import ArchitectureGradient, DistributionLearner
from evo_robust.gradients.multiplier import Confidence, Multiplier
from evo_robust.inference.checks import known_good
from evo_robust.inference.predictions import undisturbed
from evo_robust.objectives.base import Objective
from evo_robust.parts.base import LATER, Shape, refuse_unless, seed_from
from evo_robust.parts.facts import CO_TRAINED_WEIGHTS, LIPSCHITZ_LIMIT, Fact
from evo_robust.spaces.base import SearchSpace
from evo_robust.spaces.supernet import SupernetPath


@chz.chz
class SupernetLoss(ArchitectureGradient):
    """The cross-entropy of a sampled mixture, with a step of the distribution before each step of the weights.

    This is DARTS of first order, and RACL's eq. 16 (Dong et al., 2020). RACL searches on clean images, and trains only
    the found network adversarially. With an ``attack``, the search itself uses adversarial images.
    """

    attack: GradientAttack | None = chz.field(default=None, doc="attack on the images; clean ones when not given")
    threat: Threat = chz.field(default_factory=Threat, blueprint_unspecified=Threat, doc="ball the attack moves in")
    batch_size: int = chz.field(default=64, doc="images per step of the distribution, >= 2")
    warmup: Literal["architectures", "mixtures"] = chz.field(
        default="architectures",
        metadata=LATER,
        doc="paths of the supernet in the evaluator's warm-up: random architectures, or mixtures of the initial "
        "distribution (PC-DARTS)",
    )
    confidence: Confidence | None = chz.field(
        default=None, blueprint_unspecified=Confidence, doc="RACL's constraint on a LogNormal distribution"
    )

    @chz.validate
    def _size(self) -> None:
        refuse_unless(
            self,
            ("batch_size", self.batch_size >= 2, ">= 2"),
            prefix="algorithm.gradient.",
        )

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        """See :meth:`Part.check_shape`: the attack, if any, must fit the ball."""
        if self.attack is not None:
            self.attack.check(self.threat, in_shape, f"{key}attack.")

    @property
    def provides(self) -> frozenset[Fact]:
        """See :attr:`Part.provides`."""
        return frozenset() if self.confidence is None else frozenset({LIPSCHITZ_LIMIT})

    @property
    def needs(self) -> frozenset[Fact]:
        """See :attr:`Part.needs`: weights that are trained during the search, since they give the loss."""
        return frozenset({CO_TRAINED_WEIGHTS})

    def check(self, distribution: Distribution, space: SearchSpace) -> None:
        """See :meth:`ArchitectureGradient.check`: confidence needs log-normal weights, operations on all channels."""
        if self.confidence is not None and (partial := space.mixed_channels) > 1:
            raise ValueError(
                "expected space.partial=1 with algorithm.gradient.confidence, whose moments do not cover channels "
                f"that bypass the operations, got {partial}"
            )
        if self.confidence is not None and not isinstance(distribution, LogNormal):
            raise ValueError(
                "expected algorithm.distribution=LogNormal with algorithm.gradient.confidence, "
                f"got {type(distribution).__name__}"
            )

    def start(
        self, sampler: Sampler, seed: int, objectives: Sequence[Objective] = (), in_shape: Shape = (1, 8, 8)
    ) -> SupernetLearner:
        """See :meth:`ArchitectureGradient.start`."""
        return SupernetLearner(self, sampler, seed)


class SupernetLearner(DistributionLearner):
    """See :class:`SupernetLoss`."""

    settings: SupernetLoss

    def __init__(self, settings: SupernetLoss, sampler: Sampler, seed: int) -> None:
        super().__init__(settings, sampler, seed)
        self.multiplier: Multiplier | None = None
        if settings.confidence is not None:
            assert isinstance(sampler, LogNormalSampler), "SupernetLoss.check asks for a LogNormal distribution"
            self.multiplier = Multiplier(settings.confidence, sampler)

    def paths(self, training: CoTraining, epoch: int) -> Iterator[Sequence[SupernetPath]]:
        """See :meth:`DistributionLearner.paths`; the distribution moves between the steps."""
        if epoch < training.warmup and self.settings.warmup == "mixtures":
            # paths as after the warm-up, and no steps of the distribution between them
            yield from super().paths(dataclasses.replace(training, warmup=0), epoch)
        given = super().paths(training, epoch)
        if epoch < training.warmup:
            yield from given
            return
        if self.multiplier is not None:
            self.multiplier.look(training)
        device = training.images.x.device
        generator = torch.Generator(device).manual_seed(seed_from(self.seed, "architecture batches", epoch))
        while True:
            for x, y in batches(training.images, self.settings.batch_size, generator, None):
                if len(y) > 1:  # batch normalisation needs two
                    self.step(training, x, y, generator)
                    yield next(given)

    def learn(self, training: CoTraining | None, epochs: int) -> None:
        """See :meth:`DistributionLearner.learn`: the λ* for candidates uses the weights that they inherit."""
        if training is not None and self.multiplier is not None:
            self.multiplier.show(training)

    def step(self, training: CoTraining, x: Tensor, y: Tensor, generator: torch.Generator) -> None:
        """Move each group of the distribution's parameters in turn, every time with a fresh sample."""
        for group in range(len(self.sampler.groups)):
            weights = self.sampler.sample()
            mixture = self.sampler.mixture(weights)
            seen = x
            if self.settings.attack is not None:
                training.supernet.choose(mixture.detach())
                with known_good(x, y):
                    seen = self.settings.attack.perturb(training.supernet, x, y, self.settings.threat, generator)
            training.supernet.choose(mixture)
            with undisturbed(training.supernet):
                loss = F.cross_entropy(training.supernet(seen).float(), y)
            if self.multiplier is not None:
                loss = loss + self.multiplier.term(weights)
            self.move(group, loss)
        if self.multiplier is not None:
            self.multiplier.update()

    def state(self) -> dict[str, Tensor]:
        """See :meth:`DistributionLearner.state`."""
        return super().state() | ({} if self.multiplier is None else self.multiplier.state())

    def restore(self, state: dict[str, Tensor]) -> None:
        """See :meth:`DistributionLearner.restore`."""
        super().restore(state)
        if self.multiplier is not None:
            self.multiplier.restore(state)

    def shared(self) -> dict[str, Tensor]:
        """See :meth:`DistributionLearner.shared`: the limit λ* too."""
        return super().shared() | ({} if self.multiplier is None else self.multiplier.shared())

    def figures(self) -> dict[str, float]:
        """See :meth:`DistributionLearner.figures`."""
        return super().figures() | ({} if self.multiplier is None else self.multiplier.figures())

    def caution(self) -> str | None:
        """See :meth:`DistributionLearner.caution`: warns where the constraint's moments may be wrong."""
        return None if self.multiplier is None else self.multiplier.caution()
