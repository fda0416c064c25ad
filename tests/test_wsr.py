"""Wsr-NAS as its paper and code have it: epochs and steps of Algorithm 1, memories, both forms of A-ANE."""

from __future__ import annotations

import math
from typing import Any

import chz
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from evo_robust import DARTS, PGD, CoTrained, Digits, LossTraining, NoiseTraining, Params, Problem, load, search
from evo_robust.algorithms.hybrid import GradientHybrid
from evo_robust.distributions import GumbelSoftmax
from evo_robust.estimators import AttentionANE, AverageANE, NoiseLearner, Strengths
from evo_robust.estimators.base import rms
from evo_robust.evaluators import co_trained
from evo_robust.evaluators.base import Evaluation
from evo_robust.gradients import EstimatedLoss
from evo_robust.gradients.estimated_loss import EstimatedLearner
from evo_robust.objectives.robust_loss import RobustLoss
from evo_robust.parts.base import digest
from evo_robust.training.recipes import FastTraining
from evo_robust.training.supernet_training import SupernetTraining

SPACE = DARTS(channels=4, layers=2, nodes=2)
DATA = Digits(train_limit=300)
PAPER: Any = load("wsr", "paper")


def measured(space: Any, objective: RobustLoss, seed: int, n: int = 10) -> list[Evaluation]:
    """What a generation of ``n`` different architectures could have measured."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        losses = dict(zip(objective.keys, np.sort(rng.uniform(0.5, 2.5, len(objective.keys))).tolist(), strict=True))
        text = space.to_text(space.decode(space.sample(rng)))
        found.append(Evaluation(architecture=text, status="ok", figures={objective.name: losses}))
    return found


def searched(gradient: EstimatedLoss, generations: int, epochs: int) -> tuple[EstimatedLearner, list[int]]:
    """A learner through the generations of a search at the paper's scale, and the steps it took in each."""
    space, objective = PAPER.space, PAPER.objectives[0]
    sampler = PAPER.algorithm.distribution.start(space, 0)
    learner = gradient.start(sampler, 0, PAPER.objectives, PAPER.data.in_shape)
    steps: list[int] = []
    move = learner.move

    def counted(group: int, loss: Tensor) -> None:
        steps[-1] += 1
        move(group, loss)

    learner.move = counted  # type: ignore[method-assign]
    for generation in range(generations):
        steps.append(0)
        learner.learn(None, epochs)
        learner.observe(measured(space, objective, generation))
    return learner, steps


# --- Algorithm 1


def test_paper_has_the_epochs_and_steps_of_algorithm_1() -> None:
    evaluator, algorithm = PAPER.evaluator, PAPER.algorithm
    assert evaluator.supernet.epochs == 400 == evaluator.epochs_at(algorithm.n_gen)
    assert evaluator.epochs_at(10) == 200, "100 on random paths and 100 while the memory fills"
    recipe = evaluator.supernet.recipe
    rates = [recipe.lr_at(epoch, 400) for epoch in (0, 100, 199, 300, 399)]
    assert rates[:3] == [0.1] * 3 and 0.04 < rates[3] < 0.06 and rates[4] < 0.0011, "held for 200, then a cosine"
    quick = chz.replace(algorithm.gradient, losses=LossTraining(passes=1))
    learner, steps = searched(quick, algorithm.n_gen, evaluator.epochs)
    assert steps == [0] * 10 + [10] * 20 and len(learner.losses) == 100
    assert PAPER.space.for_final_training().channels == 45


def test_the_paper_scale_s_rate_leaves_uniform_draws_in_the_paper_s_number_of_steps() -> None:
    """A search of the paper's length without its networks: losses follow from the architecture."""
    gradient = chz.replace(PAPER.algorithm.gradient, losses=LossTraining(passes=50))
    assert gradient.lr == 0.3
    learner, steps = searched(gradient, PAPER.algorithm.n_gen, PAPER.evaluator.epochs)
    assert sum(steps) == 200 and learner.figures()["entropy"] <= 0.8 * math.log(8)


def test_published_keeps_the_rate_at_which_draws_stay_uniform() -> None:
    published: Any = load("wsr", "published")
    gradient = published.algorithm.gradient
    assert gradient.lr == 3e-5
    assert chz.replace(gradient, lr=PAPER.algorithm.gradient.lr) == PAPER.algorithm.gradient
    learner, steps = searched(chz.replace(gradient, losses=LossTraining(passes=1)), 30, 10)
    told = learner.figures()
    assert sum(steps) == 200 and told["entropy"] > 0.9999 * math.log(8) and told["largest"] < 0.127
    assert told["from_uniform"] < 0.01


def test_fill_must_fit_the_memory() -> None:
    with pytest.raises(ValueError, match=r"expected algorithm.gradient.fill in 0..50 \(losses.memory\), got 51"):
        EstimatedLoss(fill=51, losses=LossTraining(memory=50))


# --- images that are set aside


def problem(estimator: Any, share: float | None) -> Problem:
    recipe = FastTraining(lr=0.1, batch_size=50)
    return Problem(
        space=SPACE,
        data=DATA,
        objectives=(RobustLoss(attack=PGD(steps=1), limit=40, estimator=estimator), Params()),
        evaluator=CoTrained(
            supernet=SupernetTraining(epochs=1, recipe=recipe, threads=1),
            share=share,
            recalibration="clean",
            recalibration_batches=1,
        ),
        algorithm=GradientHybrid(
            pop_size=2,
            n_gen=1,
            distribution=GumbelSoftmax(),
            gradient=EstimatedLoss(redraw="epoch", losses=LossTraining(passes=1)),
        ),
    )


@pytest.mark.parametrize(
    ("estimator", "share", "part"),
    [(AverageANE(), None, 1.0), (AttentionANE(), None, 0.95), (AverageANE(), 0.6, 0.6), (AttentionANE(), 0.6, 0.6)],
)
def test_nothing_is_set_aside_for_nobody(
    estimator: Any, share: float | None, part: float, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    train = co_trained.train

    def watched(model: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        given.append(len(images))
        return train(model, images, *args, **kwargs)

    monkeypatch.setattr(co_trained, "train", watched)
    run = search(problem(estimator, share), tmp_path / "run", workers=1)
    assert all(row["status"] == "ok" for row in run.evaluations)
    assert given == [round(part * len(DATA.load().train))]


def test_every_scale_of_wsr_leaves_it_to_the_search() -> None:
    for scale in ("demo", "paper", "published"):
        evaluator: Any = load("wsr", scale).evaluator
        assert evaluator.share is None and evaluator.cut(1000, 0.0) == 1000


# --- M_a


@pytest.mark.parametrize(("training", "spans"), [(NoiseTraining(memory=60), 6), (NoiseTraining(batches=10), 0)])
def test_a_memory_of_samples_spans_epochs(training: NoiseTraining, spans: int) -> None:
    """Of 600 images 10 an epoch, the paper's B, are 60 epochs; 10 batches of 64 leave the last one alone."""
    strengths = Strengths(values=(0.1, 0.15, 0.2), n_real=2)
    learner = NoiseLearner(AverageANE(), DATA.in_shape, strengths, training, seed=0)
    images = Digits().load().train
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    generator = torch.Generator().manual_seed(0)
    extra = set()
    for _ in range(8):
        learner.epoch(model, images, PGD(steps=1), generator)
        own = learner.memory.state()["strengths"].flatten().tolist()
        extra = {round(value, 5) for value in own} - {0.1, 0.2}
    kept, pushed = len(learner), 640 if spans == 0 else 10
    assert kept == min(training.memory, 8 * pushed)
    if spans:
        assert len(extra) == spans, "an extra strength for each epoch that it spans"
    else:
        assert kept < pushed, "one epoch's own do not fit"
    assert NoiseTraining().memory // NoiseTraining().samples == 60


def test_samples_are_drawn_without_twins_and_batches_split_them() -> None:
    images = DATA.load().train
    for training, sizes in (
        (NoiseTraining(), [10]),
        (NoiseTraining(samples=100), [64, 36]),
        (NoiseTraining(batches=2, batch_size=16), [16, 16]),
        (NoiseTraining(samples=65), [64]),  # a single image is nothing to batch normalisation
    ):
        drawn = list(training.drawn(images, torch.Generator().manual_seed(1)))
        assert [len(y) for _, y in drawn] == sizes
        assert len(torch.cat([x for x, _ in drawn]).flatten(1).unique(dim=0)) == sum(sizes)


# --- A-ANE


def test_settings_of_before_keep_their_digests() -> None:
    assert digest(AttentionANE()) == "b6f6b4981e26e212"
    assert digest(CoTrained()) == "e244a40c8bc9e671"
    assert digest(AttentionANE(form="text")) != digest(AttentionANE(softmax=True)) != digest(AttentionANE())


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("form", ["code", "text"])
def test_forms_of_attention_step_by_step(form: Any, softmax: bool) -> None:
    """One image, three noises, a target between the first two: written out, vector by vector."""
    torch.manual_seed(0)
    network: Any = AttentionANE(width=6, channels=2, code=4, form=form, softmax=softmax).build((3, 16, 16))
    torch.nn.init.normal_(network.refine[-1].weight, std=0.1)  # it starts at zero, where both read the same
    x, noises = torch.rand(1, 3, 16, 16), torch.randn(3, 1, 3, 16, 16)
    strengths, target = torch.tensor([[0.03], [0.06], [0.09]]), torch.tensor([[0.04]])
    found = network(x, noises, strengths, target)[0, 0]

    sizes = [rms(noise)[0] for noise in noises]
    unit = [noise / size for noise, size in zip(noises, sizes, strict=True)]
    values = [noise + network.refine(noise) for noise in unit]
    read = unit if form == "text" else values
    long = (3 * 16 * 16) ** 0.5
    code = lambda size: network.code((size * long).view(1, 1))  # noqa: E731
    step = lambda cell, given, hidden: cell.body(torch.cat((given, hidden), 1))  # noqa: E731
    up, hidden = [], network.image(x)
    for noise, size in zip(read, sizes, strict=True):
        hidden = step(network.up, torch.cat((network.up_input(noise), code(size)), 1), hidden)
        up.append(hidden)
    down, hidden = [], network.image(x)
    for noise, size in zip(read[::-1], sizes[::-1], strict=True):
        hidden = step(network.down, torch.cat((network.down_input(noise), code(size)), 1), hidden)
        down.insert(0, hidden)
    wanted = (2 * sizes[0] + sizes[1]) / 3
    slot = torch.zeros_like(up[0]) if form == "text" else (2 * up[0] + down[1]) / 3
    rising = step(network.up, torch.cat((slot, code(wanted)), 1), up[0])
    falling = step(network.down, torch.cat((slot, code(wanted)), 1), down[1])
    if form == "text":
        query, keys = torch.cat((rising, falling), 1), [torch.cat(pair, 1) for pair in zip(up, down, strict=True)]
    else:
        query = torch.cat((network.up_query(rising), network.down_query(falling)), 1)
        keys = [torch.cat((network.up_key(u), network.down_key(d)), 1) for u, d in zip(up, down, strict=True)]
    weights = torch.stack([(key * query).sum() for key in keys]) / query.shape[1] ** 0.5
    if softmax:
        weights = weights.softmax(0)
    average = (2 * noises[0] + noises[1]) / 3 / wanted
    raw = average + sum(weight * value for weight, value in zip(weights, values, strict=True))
    torch.testing.assert_close(found, (raw / rms(raw) * wanted)[0], atol=1e-5, rtol=1e-4)
    assert F.cosine_similarity(found.flatten(), average.flatten(), dim=0) > 0.5
