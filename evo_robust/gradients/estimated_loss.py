"""Moves architectures by a loss estimator that learns from the search's evaluations (Wsr-NAS)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import chz
import torch
from torch import Tensor

from evo_robust.correlations import kendall
from evo_robust.distributions.base import Sampler
from evo_robust.estimators import LossLearner, LossTraining, NoiseLearner, NoiseTraining
from evo_robust.estimators.measure import Source
from evo_robust.estimators.state import part
from evo_robust.evaluators.base import Evaluation
from evo_robust.evaluators.learner import CoTraining
from evo_robust.gradients.base import ArchitectureGradient, DistributionLearner
from evo_robust.objectives.base import Objective
from evo_robust.objectives.robust_loss import RobustLoss
from evo_robust.objectives.spectrum import SpectrumObjective
from evo_robust.parts.base import refuse_unless, seed_from
from evo_robust.parts.facts import LEARNED_NOISES, Fact

# least number of unseen architectures for a rank correlation
_FEWEST = 4


@chz.chz
class EstimatedLoss(ArchitectureGradient):
    """The search's loss, predicted by a validation-loss estimator (VLE) (Cheng et al., AAAI 2023: eqs 8 to 10).

    In every generation the estimator learns from the measured architectures. Then the distribution takes ``steps``
    steps per epoch down the predicted loss of samples. Noise estimators of objectives, if any, learn at the same times,
    from real attacks on the present supernet.

    The paper's Algorithm 1 measures 100 architectures before the distribution moves (``fill=100``), and learns and
    steps after each of them. Here an estimator learns once per generation, before that generation is measured. So it
    learns nothing from the last generation.

    In the paper's search, networks run one operation on each of 14 edges. Here an architecture has its two best edges
    per node, and the rows of its other edges are 0 for the estimator.
    """

    steps: int = chz.field(default=1, doc="steps of the distribution per epoch of training, >= 1")
    fill: int = chz.field(
        default=0, doc="number of measured architectures before the distribution moves, in 0..losses.memory"
    )
    losses: LossTraining = chz.field(
        default_factory=LossTraining, blueprint_unspecified=LossTraining, doc="how the loss estimator learns"
    )
    noises: NoiseTraining = chz.field(
        default_factory=NoiseTraining, blueprint_unspecified=NoiseTraining, doc="how noise estimators learn"
    )

    @chz.validate
    def _steps(self) -> None:
        refuse_unless(
            self,
            ("steps", self.steps >= 1, ">= 1"),
            ("fill", 0 <= self.fill <= self.losses.memory, f"in 0..{self.losses.memory} (losses.memory)"),
            prefix="algorithm.gradient.",
        )

    @property
    def provides(self) -> frozenset[Fact]:
        """See :attr:`Part.provides`."""
        return frozenset({LEARNED_NOISES})

    def check_objectives(self, objectives: Sequence[Objective]) -> None:
        """See :meth:`ArchitectureGradient.check_objectives`: one of them must be the estimated loss."""
        if not any(isinstance(objective, RobustLoss) for objective in objectives):
            raise ValueError(
                "expected RobustLoss among the objectives for algorithm.gradient=EstimatedLoss, which predicts it, "
                f"got {', '.join(type(o).__name__ for o in objectives)}"
            )

    def start(
        self, sampler: Sampler, seed: int, objectives: Sequence[Objective], in_shape: tuple[int, int, int]
    ) -> EstimatedLearner:
        """See :meth:`ArchitectureGradient.start`."""
        return EstimatedLearner(self, sampler, seed, objectives, in_shape)


class EstimatedLearner(DistributionLearner):
    """See :class:`EstimatedLoss`."""

    settings: EstimatedLoss

    def __init__(
        self,
        settings: EstimatedLoss,
        sampler: Sampler,
        seed: int,
        objectives: Sequence[Objective],
        in_shape: tuple[int, int, int],
    ) -> None:
        super().__init__(settings, sampler, seed)
        self.objective = next(o for o in objectives if isinstance(o, RobustLoss))
        heads = len(self.objective.keys)
        self.losses = LossLearner(
            sampler.shape[2], heads, settings.losses, seed=seed_from(seed, "losses"), device=sampler.device
        )
        self.noises: dict[str, tuple[Source, NoiseLearner]] = {}
        for source in (o.noise_source for o in objectives if isinstance(o, SpectrumObjective)):
            if source is not None and source.learned and source.key not in self.noises:
                own = seed_from(seed, source.key)
                learner = NoiseLearner(
                    source.kind, in_shape, source.strengths, settings.noises, seed=own, device=sampler.device
                )
                self.noises[source.key] = source, learner
        self._measured: list[tuple[Tensor, Tensor]] = []
        self._figures = torch.full((3,), math.nan, dtype=torch.float64)

    @property
    def reserve(self) -> float:
        """See :class:`Learner`: a twentieth for noise estimators, if there are any."""
        return 0.05 if self.noises else 0.0

    def observe(self, evaluations: Sequence[Evaluation]) -> None:
        """See :meth:`DistributionLearner.observe`."""
        space, keys = self.sampler.space, self.objective.keys
        self._measured = []
        for evaluation in evaluations:
            figures = evaluation.figures.get(self.objective.name)
            if evaluation.status == "ok" and isinstance(figures, dict):
                weights = space.weights_of(space.from_text(evaluation.architecture))
                losses = torch.tensor([figures[key] for key in keys])
                self._measured.append((self._rows(torch.tensor(weights, dtype=torch.float32)), losses))

    def _rows(self, weights: Tensor) -> Tensor:
        """Weights ``(cells, edges, operations)`` as rows ``(cells · edges, operations)``: the normal cell's first."""
        return weights.flatten(0, 1)

    def learn(self, training: CoTraining | None, epochs: int) -> None:
        """See :class:`Learner`."""
        if training is not None:
            self._learn_noises(training, epochs)
        if self._measured:
            self._learn_losses()
        if len(self.losses) >= max(1, self.settings.fill):
            for _ in range(self.settings.steps * max(1, epochs)):
                self.move(0, self._predicted())

    def _learn_noises(self, training: CoTraining, epochs: int) -> None:
        """Attack the supernet on paths of the distribution, and let the noise estimators learn from that."""
        if not self.noises:
            return
        device = training.images.x.device
        generator = torch.Generator(device).manual_seed(self.sampler.seed())
        training.supernet.train()  # a path has no running statistics of its own
        for source, learner in self.noises.values():
            for _ in range(max(1, epochs)):
                training.supernet.choose(self.sampler.mixture(self.sampler.sample().detach()))
                self._figures[2] = learner.epoch(training.supernet, training.images, source.attack, generator)
        training.supernet.eval()

    def _learn_losses(self) -> None:
        """Measure how well the newest architectures are predicted, then learn from them."""
        encodings, losses = (torch.stack(values).to(self.losses.device) for values in zip(*self._measured, strict=True))
        self._figures[0] = self._rank(encodings, losses)
        for encoding, loss in zip(encodings, losses, strict=True):
            self.losses.push(encoding, loss)
        self._figures[1] = self.losses.learn()
        self._measured = []

    def _rank(self, encodings: Tensor, losses: Tensor) -> float:
        """Kendall's τ between predicted and measured search loss of unseen architectures; NaN for too few."""
        known = self.losses.encodings
        if known is None:
            return math.nan
        new = ~(encodings[:, None] == known).all((-1, -2)).any(1)
        if int(new.sum()) < _FEWEST:
            return math.nan
        with torch.no_grad():
            predicted = self.objective.loss.of(self.losses.estimator.eval()(encodings[new]))
        return kendall(predicted.cpu().numpy(), self.objective.loss.of(losses[new]).cpu().numpy(), resamples=1).tau

    def _predicted(self) -> Tensor:
        """The predicted search loss of a sample, differentiable in the distribution's parameters."""
        space, logs = self.sampler.space, self.sampler.sample_logs()
        self.sampler.weighed(logs)  # refuses a distribution with infinite numbers
        chosen = space.weights_of(self.sampler.derive(logs))
        kept = torch.as_tensor(chosen.any(-1, keepdims=True), device=logs.device)
        # architectures never have ``none``, so the estimator has learned nothing about its column. It is removed from
        # the logarithms, since next to a large ``none`` the weights of the others would be too small for a float
        never = ~torch.as_tensor(space.mixture_choices, device=logs.device)
        allowed = self.sampler.weigh(logs.masked_fill(never, -torch.inf))
        encoding = self.sampler.encoding(allowed / allowed.sum(-1, keepdim=True))
        self.losses.estimator.eval()
        return self.objective.loss.of(self.losses.estimator(self._rows(encoding * kept)))

    def state(self) -> dict[str, Tensor]:
        """See :meth:`DistributionLearner.state`."""
        tensors = super().state() | {"figures": self._figures.clone()}
        tensors |= {f"losses.{name}": value for name, value in self.losses.state().items()}
        for key, (_, learner) in self.noises.items():
            tensors |= {f"{key}.{name}": value for name, value in learner.state().items()}
        return tensors

    def restore(self, state: dict[str, Tensor]) -> None:
        """See :meth:`DistributionLearner.restore`."""
        super().restore(state)
        self._figures = state["figures"].clone()
        self.losses.restore(part(state, "losses"))
        for key, (_, learner) in self.noises.items():
            learner.restore(part(state, key))

    def shared(self) -> dict[str, Tensor]:
        """See :meth:`DistributionLearner.shared`: the noise estimators too."""
        found = super().shared()
        for key, (_, learner) in self.noises.items():
            found |= {f"{key}.{name}": value for name, value in learner.estimator.state_dict().items()}
        return found

    def figures(self) -> dict[str, float]:
        """See :meth:`DistributionLearner.figures`."""
        names = ("tau_unseen", "loss_estimator_mse", "noise_estimator_mse")
        return super().figures() | dict(zip(names, self._figures.tolist(), strict=True))
