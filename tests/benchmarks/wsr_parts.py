"""What an iteration of Wsr-NAS's search (Cheng et al., AAAI 2023) is made of, for ``bench_wsr.py`` to time."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import chz
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from safetensors.torch import load_file, save_file
from torch import Tensor

from evo_robust import load
from evo_robust.attacks.curve import attacked_together, robust_curve
from evo_robust.attacks.fast import for_attack
from evo_robust.data.images import Images, batches
from evo_robust.distributions import Sampler
from evo_robust.estimators import Estimator, NoiseLearner, Strengths, real_noises
from evo_robust.estimators.measure import Source, Spectrum, measure_spectrum
from evo_robust.evaluators.base import Evaluation
from evo_robust.evaluators.co_trained import CoTrained
from evo_robust.evaluators.learner import CoTraining
from evo_robust.files import cache_folder
from evo_robust.gradients import EstimatedLoss
from evo_robust.gradients.base import DistributionLearner
from evo_robust.inference.predictions import undisturbed
from evo_robust.objectives.robust_loss import RobustLoss
from evo_robust.parts.base import Fraction, digest
from evo_robust.problem.value import Problem
from evo_robust.spaces.supernet import Mixture, Supernet
from evo_robust.training.loop import train
from evo_robust.training.recipes import FastTraining, PGDTraining, Recipe

SCALES = {"digits": "demo", "cifar10": "paper"}
"""Data sets, and the scale of the problem ``wsr`` that each is for."""

N_REAL = 3


@dataclasses.dataclass
class Bench:
    """One architecture of a search.

    Attributes:
        problem: the search.
        supernet: trained on the sampled path, in eval mode.
        sampler: the distribution over architectures.
        before: its state when the path was drawn, so that the same path can be drawn again.
        train: the half of the training images that weights are trained on (D_t).
        val: the half that losses are measured on (D_v).
        images: those of ``val`` that are measured.
    """

    problem: Problem
    supernet: Supernet
    sampler: Sampler
    before: dict[str, Tensor]
    train: Images
    val: Images
    images: Images

    @property
    def objective(self) -> RobustLoss:
        """The search's loss."""
        found = self.problem.objectives[0]
        assert isinstance(found, RobustLoss)
        return found

    @property
    def gradient(self) -> EstimatedLoss:
        """What moves the distribution."""
        found = self.problem.algorithm.gradient  # type: ignore[attr-defined]
        assert isinstance(found, EstimatedLoss)
        return found

    def path(self) -> Mixture:
        """The path, differentiable in the distribution's parameters."""
        self.sampler.restore(self.before)
        return self.sampler.mixture()

    def strengths(self, n: int) -> Strengths:
        """``n`` strengths from the problem's smallest to its largest, 3 of them attacked."""
        ends = self.objective.strengths.values
        values = tuple(Fraction(eps) for eps in np.linspace(ends[0], ends[-1], n).round(6))
        return Strengths(values=values, n_real=min(n, N_REAL))

    def generator(self) -> torch.Generator:
        """Source of random starts, always the same."""
        return torch.Generator(self.images.x.device).manual_seed(0)


def prepared(options: argparse.Namespace) -> Bench:
    """The path and its images; the path is trained, or taken from the cache folder."""
    given = {"data.val_share": "0", "data.root": options.root}
    given |= {f"space.{name}": getattr(options, name) for name in ("channels", "layers")}
    texts = {key: str(value) for key, value in given.items() if value is not None}
    problem = load("wsr", SCALES[options.data], texts)
    images = problem.data.load().train.to(options.device)
    half = len(images) // 2
    halves = images.take(slice(half)), images.take(slice(half, None))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = problem.space.supernet(problem.data.n_classes, problem.data.in_shape).to(options.device)
    sampler = problem.algorithm.distribution.start(problem.space, 0, options.device)  # type: ignore[attr-defined]
    before = {name: value.clone() for name, value in sampler.state().items()}
    bench = Bench(problem, supernet, sampler, before, *halves, halves[1].take(slice(options.images)))
    _warm_up(bench, options)
    return bench


def _warm_up(bench: Bench, options: argparse.Namespace) -> None:
    """Train the path, so that attacks break some images and not all."""
    images, path = bench.train.take(slice(options.train_images)), bench.path().detach()
    own: Any = _recipe(bench)
    recipe = FastTraining(threat=own.threat, lr=0.05, batch_size=64).for_data(bench.problem.data)
    key = digest(bench.problem.space, bench.problem.data, recipe, len(images), options.epochs, options.device)
    file = cache_folder() / "benchmarks" / f"wsr-{key}.safetensors"
    if not file.exists():
        print(f"training the path ({len(images)} images, {options.epochs} epochs) …", flush=True)
        train(bench.supernet, images, recipe, options.epochs, seed=0, paths=lambda epoch: itertools.repeat((path,)))
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in bench.supernet.state_dict().items()}, file)
    bench.supernet.load_state_dict(load_file(file, device=options.device))
    bench.supernet.to(memory_format=torch.channels_last).eval().choose(path)


def _recipe(bench: Bench) -> Recipe:
    """How the search trains its supernet."""
    assert isinstance(bench.problem.evaluator, CoTrained)
    return bench.problem.evaluator.supernet.recipe.for_data(bench.problem.data)


def adversarial_training(bench: Bench, supernet: Supernet) -> None:
    """An epoch of the paper's training, by the attack that losses are measured with, on as many images."""
    path = bench.path().detach()
    images = bench.train.take(slice(len(bench.images)))
    own: Any = _recipe(bench)  # the demo's is cheaper
    recipe = PGDTraining(attack=bench.objective.attack, threat=own.threat, batch_size=own.batch_size)
    recipe = recipe.for_data(bench.problem.data)
    train(supernet, images, recipe, 1, seed=0, paths=lambda epoch: itertools.repeat((path,)))


def attacks(bench: Bench, strengths: Strengths) -> list[Tensor]:
    """Real noises at every strength, batch by batch, crafted on a fast copy as ``measure_spectrum`` does."""
    generator, crafting = bench.generator(), for_attack(bench.supernet, bench.images.floats(slice(16)))
    return [
        real_noises(crafting, x, y, strengths.values, bench.objective.attack, generator)
        for x, y in batches(bench.images, attacked_together(bench.images))
    ]


def gradients(bench: Bench, learner: DistributionLearner, noises: list[Tensor]) -> Tensor:
    """One step of the distribution down the gradient of eq. 10; the losses ``(1 + n,)`` on the way."""
    mixture = bench.path()
    leaves = [weights.detach().requires_grad_() for weights in (mixture.normal, mixture.reduction)]
    losses = torch.zeros(1 + len(noises[0]), device=bench.images.x.device)
    loss, n = bench.objective.loss, len(losses) - 1
    factors = (loss.alpha, *(loss.beta * share for share in loss.shares(n)))
    bench.supernet.choose(Mixture(leaves[0], leaves[1]))
    with undisturbed(bench.supernet):
        for (x, y), found in zip(batches(bench.images, attacked_together(bench.images)), noises, strict=True):
            # one strength after the other, so that maps of one alone are kept
            for index, images in enumerate((x, *(x + noise for noise in found))):
                own = F.cross_entropy(bench.supernet(images).float(), y, reduction="sum") / len(bench.images)
                (factors[index] * own).backward()
                losses[index] += own.detach()
    # an operation that runs nowhere has no gradient
    slopes = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    learner.move(0, (mixture.normal * slopes[0]).sum() + (mixture.reduction * slopes[1]).sum())
    bench.supernet.choose(mixture.detach())
    return losses.cpu()


def cascade(bench: Bench, strengths: Strengths, keep_going: bool) -> Tensor:
    """Exact errors ``(1 + n,)`` without attack and at all strengths; with ``keep_going`` losses instead."""
    curve = robust_curve(
        *(bench.supernet, bench.images, bench.objective.attack, strengths.values),
        generator=bench.generator(),
        keep_going=keep_going,
    )
    if curve.losses is None:
        return torch.tensor([curve.clean_error, *curve.error])
    with torch.no_grad():
        logits = torch.cat(
            [bench.supernet(x).float() for x, _ in batches(bench.images, attacked_together(bench.images))]
        )
    natural = F.cross_entropy(logits, bench.images.y)
    return torch.cat((natural[None], curve.losses.mean(1))).cpu()


def losses_learned(bench: Bench, strengths: Strengths) -> Callable[[], None]:
    """The loss estimator's learning and the step, with a full memory of architectures."""
    objective, space = chz.replace(bench.objective, strengths=strengths), bench.problem.space
    learner = bench.gradient.start(bench.sampler, 0, (objective,), bench.problem.data.in_shape)
    rng = np.random.default_rng(0)
    measured = []
    for _ in range(bench.gradient.losses.memory):
        figures = dict(zip(objective.keys, np.sort(rng.uniform(0.5, 2.5, len(objective.keys))).tolist(), strict=True))
        text = space.to_text(space.decode(space.sample(rng)))
        measured.append(Evaluation(architecture=text, status="ok", figures={objective.name: figures}))
    learner.observe(measured)
    training = CoTraining(space, bench.supernet, bench.val, 0, 0)
    return lambda: learner.learn(training, 1)


def estimated(
    bench: Bench, strengths: Strengths, kind: Estimator | None = None, weights: dict[str, Tensor] | None = None
) -> Spectrum:
    """Losses and errors where N1 of the strengths are attacked; the problem's estimator when no other is given."""
    source = Source(bench.objective.attack, strengths, kind or bench.objective.estimator)
    estimator = source.kind.build(bench.problem.data.in_shape).to(bench.images.x.device).eval()
    if weights is not None:
        estimator.load_state_dict(weights)
    return measure_spectrum(bench.supernet, bench.images, source, estimator, bench.generator())


def noises_learned(bench: Bench, strengths: Strengths, kind: Estimator) -> tuple[NoiseLearner, Callable[[], float]]:
    """A noise estimator with a full memory, and an epoch of it."""
    problem, device = bench.problem, bench.images.x.device
    learner = NoiseLearner(kind, problem.data.in_shape, strengths, bench.gradient.noises, seed=0, device=device)
    generator = bench.generator()

    def epoch() -> float:
        return learner.epoch(bench.supernet, bench.val, bench.objective.attack, generator)

    while len(learner) < min(learner.training.memory, len(bench.val)):
        for x, y in batches(bench.val, learner.training.batch_size, generator):
            learner.observe(bench.supernet, x, y, bench.objective.attack)
    epoch()
    return learner, epoch
