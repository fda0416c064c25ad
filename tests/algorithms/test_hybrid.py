"""Gradient and evolution in one search: distributions, weights that are trained with the search, resume."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import torch
from small import small_supernet
from torch.nn import functional as F  # noqa: N812

from evo_robust import (
    DARTS,
    NSGA2,
    CleanError,
    Digits,
    FromScratch,
    Params,
    Problem,
    RobNet,
    Standard,
    SupernetTraining,
    search,
)
from evo_robust.algorithms.hybrid import GradientHybrid, _Hybrid
from evo_robust.data.images import batches
from evo_robust.distributions import Distribution, GumbelSoftmax, LogNormal
from evo_robust.evaluators.co_trained import CoTrained
from evo_robust.evaluators.learner import CoTraining
from evo_robust.evaluators.one_shot import OneShot
from evo_robust.files import read_tensors
from evo_robust.gradients import Confidence, EstimatedLoss, SupernetLoss
from evo_robust.gradients.base import DistributionLearner
from evo_robust.gradients.supernet_loss import SupernetLearner
from evo_robust.inference.predictions import clean_error
from evo_robust.parts.base import UserError, seed_from
from evo_robust.parts.facts import Fact
from evo_robust.record.reading import Run
from evo_robust.record.rebuild import rebuild
from evo_robust.spaces.supernet import Mixture
from evo_robust.training.epochs import EpochLog
from evo_robust.training.learning_curve import LearningCurve
from evo_robust.training.loop import train

SPACE = DARTS(channels=4, layers=2, nodes=2)
DATA = Digits(train_limit=300)


def problem(share: float = 0.5, distribution: Distribution | None = None, **fields: Any) -> Problem:
    given = {
        "evaluator": small_supernet(4, warmup=1),
        "algorithm": GradientHybrid(
            pop_size=4,
            n_gen=3,
            share=share,
            distribution=distribution or LogNormal(),
            gradient=SupernetLoss(lr=0.05, batch_size=50),
        ),
        **fields,
    }
    return Problem(space=SPACE, data=DATA, objectives=(CleanError(), Params()), **given)


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[Distribution, Run]:
    """Searches that nothing interrupted, by distribution: only to be read."""
    folder = tmp_path_factory.mktemp("wholes")
    return {
        distribution: search(problem(distribution=distribution), folder / type(distribution).__name__, workers=1)
        for distribution in (LogNormal(), GumbelSoftmax())
    }


@pytest.fixture(scope="module")
def whole(wholes: dict[Distribution, Run]) -> Run:
    return wholes[LogNormal()]


# --- distributions


def test_log_normal_samples_have_the_moments_of_their_parameters() -> None:
    sampler = LogNormal(sigma=0.4, spread=0.2).start(SPACE, seed=1)
    logs = torch.stack([sampler.sample().detach().log() for _ in range(3000)])
    p = sampler.parameters
    mu = p["mu_alpha"] + p["mu_beta"].unsqueeze(-1)
    torch.testing.assert_close(logs.mean(0), mu.detach(), atol=0.05, rtol=0)
    torch.testing.assert_close(logs.std(0), torch.full_like(mu, 0.4 * math.sqrt(2)), atol=0.05, rtol=0)
    # operations of one edge share its β
    covariance = ((logs[:, 0, 0, 0] - mu[0, 0, 0]) * (logs[:, 0, 0, 1] - mu[0, 0, 1])).mean().item()
    assert covariance == pytest.approx(0.16, abs=0.03)
    medians = p["mu_beta"].detach().exp()[0]
    assert medians[:2].mean() == pytest.approx(1 / 2, rel=0.4) and medians[2:5].mean() == pytest.approx(1 / 3, rel=0.4)


def test_gumbel_softmax_draws_in_proportion_and_runs_one_operation() -> None:
    sampler = GumbelSoftmax(temperature=0.1, init=1.0).start(SPACE, seed=2)
    chosen = torch.stack([sampler.sample().detach()[0, 0].argmax() for _ in range(3000)])
    shares = torch.bincount(chosen, minlength=8) / 3000
    torch.testing.assert_close(shares, sampler.parameters["A"].detach()[0, 0].softmax(0), atol=0.03, rtol=0)
    mixture = sampler.mixture()
    assert sorted(mixture.normal[0].tolist()) == [0.0] * 7 + [1.0]
    (mixture.normal * torch.arange(8.0)).sum().backward()
    gradient = sampler.parameters["A"].grad
    assert gradient is not None and gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0
    soft = GumbelSoftmax(noise=False, single_path=False, temperature=1.0).start(SPACE, seed=2)
    torch.testing.assert_close(soft.mixture().normal, soft.parameters["A"][0].softmax(-1))
    plain = GumbelSoftmax(noise=False).start(SPACE, seed=2)
    assert torch.equal(plain.mixture().normal.argmax(-1), plain.parameters["A"][0].argmax(-1)), "A alone decides"


@pytest.mark.parametrize("distribution", [LogNormal(), GumbelSoftmax()])
def test_a_sampler_goes_on_from_its_state(distribution: Distribution) -> None:
    one, other = distribution.start(SPACE, seed=1), distribution.start(SPACE, seed=9)
    one.sample()
    other.restore({name: t.detach().clone() for name, t in one.state().items()})
    assert [one.draw() for _ in range(5)] == [other.draw() for _ in range(5)]
    assert one.mode() == other.mode()


def test_a_fixed_scale_stays_when_weights_move() -> None:
    sampler = LogNormal(spread=0.3).start(SPACE, seed=1)
    with torch.no_grad():
        for parameter in sampler.parameters.values():
            parameter += 0.7
        sampler.parameters["sigma_alpha"] -= 5
    sampler.keep_valid()
    p = sampler.parameters
    torch.testing.assert_close(p["mu_alpha"].exp().sum(-1), torch.ones(2, 5))
    for into in (slice(0, 2), slice(2, 5)):
        torch.testing.assert_close(p["mu_beta"][:, into].exp().sum(-1), torch.ones(2))
    assert (p["sigma_alpha"] > 0).all()


def test_the_supernets_loss_moves_the_distribution_to_what_helps() -> None:
    """With weights trained on all operations and then frozen, steps of the distribution lower the mixture's loss."""
    images = DATA.load().train
    torch.manual_seed(0)
    supernet = SPACE.supernet(10, (1, 8, 8))
    sampler = LogNormal().start(SPACE, seed=0)
    learner = SupernetLoss(lr=0.1, weight_decay=0.0, batch_size=100).start(sampler, seed=0)
    plain = DistributionLearner(learner.settings, sampler, seed=0)
    training = CoTraining(SPACE, supernet, images.take(slice(150, None)), 0, 0)
    train(supernet, images, Standard(lr=0.1, batch_size=50), 8, seed=0, paths=lambda e: plain.paths(training, e))

    def loss() -> float:
        supernet.train()
        supernet.choose(sampler.mixture(sampler.center().detach()).detach())
        with torch.no_grad():
            return F.cross_entropy(supernet(training.images.floats()), training.images.y).item()

    before, weights = loss(), [p.detach().clone() for p in supernet.parameters()]
    mu = sampler.parameters["mu_alpha"].detach().clone()
    generator = torch.Generator().manual_seed(0)
    supernet.train()
    supernet.zero_grad()
    for _ in range(15):
        for x, y in batches(training.images, 100, generator, None):
            learner.step(training, x, y, generator)
    assert loss() < before - 0.02
    assert not torch.equal(mu, sampler.parameters["mu_alpha"])
    assert all(torch.equal(a, b) for a, b in zip(weights, supernet.parameters(), strict=True)), "weights stay"
    assert all(p.grad is None for p in supernet.parameters())
    assert (sampler.parameters["sigma_alpha"] > 0).all()


# --- the search


def test_without_gradient_it_is_nsga2(tmp_path: Path) -> None:
    plain = problem(evaluator=FromScratch(epochs=0), algorithm=NSGA2(pop_size=6, n_gen=4))
    hybrid = chz.replace(plain, algorithm=GradientHybrid(pop_size=6, n_gen=4, share=0, gradient=NoGradient()))
    search(plain, tmp_path / "plain", workers=1)
    search(hybrid, tmp_path / "hybrid", workers=1)
    assert rows(tmp_path / "plain") == rows(tmp_path / "hybrid")
    assert len(rows(tmp_path / "plain")) == 24


@chz.chz
class NoGradient(SupernetLoss):
    """Moves nothing and needs no supernet."""

    @property
    def needs(self) -> frozenset[Fact]:
        return frozenset()


@pytest.mark.parametrize(
    ("distribution", "lr"),
    [
        (LogNormal(), 100.0),  # weights that no float holds
        (LogNormal(sigma=30.0), 0.05),
    ],
)
def test_a_distribution_that_leaves_the_numbers_ends_in_words(
    distribution: Distribution, lr: float, tmp_path: Path
) -> None:
    wild = problem(distribution=distribution)
    gradient = chz.replace(wild.algorithm.gradient, lr=lr)  # type: ignore[attr-defined]
    wild = chz.replace(wild, algorithm=chz.replace(wild.algorithm, gradient=gradient))
    for _ in range(2):  # and the folder says it again: what was written of the warm-up are numbers
        with pytest.raises(UserError, match=r"got inf or NaN: choose a smaller algorithm\.gradient\.lr, or a"):
            search(wild, tmp_path / "run", workers=1)
        for file in (tmp_path / "run").rglob("*.safetensors"):
            state, _ = read_tensors(file)
            assert all(tensor.isfinite().all() for tensor in state.values()), file


def test_a_supernet_that_diverged_is_not_put_down_to_the_distribution_alone() -> None:
    sampler = LogNormal().start(SPACE, seed=0)
    learner = SupernetLoss().start(sampler, seed=0)
    before = {name: value.detach().clone() for name, value in sampler.parameters.items()}
    with pytest.raises(UserError, match=r"expected finite gradients of LogNormal.* or a smaller recipe\.lr"):
        learner.move(0, sampler.sample().sum() * math.nan)
    assert all(torch.equal(value, sampler.parameters[name]) for name, value in before.items())
    with pytest.raises(UserError, match="expected finite parameters and moments of LogNormal"):
        learner.move(0, sampler.sample().sum() * 1e25)  # Adam's squares


@pytest.mark.parametrize(("share", "wanted"), [(0.25, 1), (0.5, 2), (1.0, 4)])
def test_share_is_the_part_of_the_offspring_that_is_drawn(
    share: float, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []
    original = _Hybrid._drawn

    def spy(self: Any, count: int, taken: set[str | None]) -> Any:
        found = original(self, count, taken)
        drawn.append([SPACE.to_text(SPACE.decode(genome)) for genome in found.get("X")])
        return found

    monkeypatch.setattr(_Hybrid, "_drawn", spy)
    algorithm = GradientHybrid(pop_size=4, n_gen=3, share=share, gradient=NoGradient())
    run = search(problem(evaluator=FromScratch(epochs=0), algorithm=algorithm), tmp_path / "run", workers=1)
    assert [len(texts) for texts in drawn] == [wanted] * 3
    for generation, texts in enumerate(drawn, 1):
        own = [row["architecture"] for row in run.evaluations if row["generation"] == generation]
        assert len(own) == 4 and own[:wanted] == texts and not set(own[wanted:]) & set(texts)
    mode = GumbelSoftmax().start(SPACE, seed_from(0, "distribution")).mode()
    assert drawn[0][0] == SPACE.to_text(mode), "what the distribution stands for comes first"
    assert drawn[0][0] not in drawn[1], "and is not drawn again"


@pytest.mark.parametrize("redraw", ["step", "epoch"])
def test_paths_are_drawn_anew_as_asked_in_the_warm_up_too(redraw: Any) -> None:
    sampler = LogNormal().start(SPACE, seed=0)
    learner = NoGradient(redraw=redraw).start(sampler, seed=0)
    images = DATA.load().train.take(slice(20))
    training = CoTraining(SPACE, SPACE.supernet(10, (1, 8, 8)), images, 2, 0)
    epochs = [[SPACE.to_text(path) for (path,) in itertools.islice(learner.paths(training, e), 6)] for e in (0, 1)]
    assert [len(set(texts)) for texts in epochs] == ([6, 6] if redraw == "step" else [1, 1])
    assert not set(epochs[0]) & set(epochs[1])


def test_a_warm_up_on_mixtures_leaves_the_distribution_alone() -> None:
    """PC-DARTS's first epochs: paths are those of the search, and nothing moves between them."""
    images = DATA.load().train.take(slice(40))
    training = CoTraining(SPACE, SPACE.supernet(10, (1, 8, 8)), images, 2, 0)
    for warmup, kind in (("mixtures", Mixture), ("architectures", type(SPACE.draw_path(np.random.default_rng(0))))):
        sampler = LogNormal().start(SPACE, seed=0)
        learner = SupernetLoss(batch_size=20, warmup=warmup).start(sampler, seed=0)  # type: ignore[arg-type]
        before = {name: value.detach().clone() for name, value in sampler.parameters.items()}
        for epoch in (0, 1):
            paths = [path for (path,) in itertools.islice(learner.paths(training, epoch), 4)]
            assert {type(path) for path in paths} == {kind}
        assert all(torch.equal(before[name], value) for name, value in sampler.parameters.items())
        list(itertools.islice(learner.paths(training, 2), 2))
        assert not any(torch.equal(before[name], value) for name, value in sampler.parameters.items())
    with pytest.raises(
        ValueError, match="expected SupernetLoss.warmup to be 'architectures' or 'mixtures', got 'none'"
    ):
        SupernetLoss(warmup="none")  # type: ignore[arg-type]


def test_nothing_is_learned_from_the_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(SupernetLearner, "learn", lambda self, training, epochs: told.append(epochs))
    four = problem()
    search(chz.replace(four, algorithm=chz.replace(four.algorithm, n_gen=4)), tmp_path / "run", workers=1)
    assert told == [1, 1, 1, 0], "one epoch of each generation; the warm-up's is not counted, and the schedule ends"


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_generation_is_measured_with_one_set_of_weights(share: float, whole: Run, tmp_path: Path) -> None:
    run = whole if share == 0.5 else search(problem(share), tmp_path / "run", workers=1)
    by_generation: dict[int, set[str]] = {}
    for row in run.evaluations:
        by_generation.setdefault(row["generation"], set()).add(row["fingerprint"])
    assert [len(found) for found in by_generation.values()] == [1, 1, 1]
    assert len(set.union(*by_generation.values())) == 3
    third = [row["architecture"] for row in run.evaluations if row["generation"] == 3]
    second = [row["architecture"] for row in run.evaluations if row["generation"] == 2]
    assert len(third) == 8 and len(set(third)) == 8 and len(set(third) & set(second)) >= 4, "survivors are among them"
    assert {row["fingerprint"] for row in run.front} == by_generation[3]
    folder = run.folder / "co_training"
    assert sorted(p.name for p in folder.glob("weights*")) == ["weights-0003.safetensors"]
    assert len((run.folder / "supernet_learning_curve.csv").read_text().splitlines()) == 5


class Stop(Exception):
    """Ends a search from outside."""


@pytest.mark.parametrize("distribution", [LogNormal(), GumbelSoftmax()])
@pytest.mark.parametrize("epoch", [1, 3])
def test_killed_in_training_it_ends_with_the_same_record(
    distribution: Distribution,
    epoch: int,
    wholes: dict[Distribution, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = problem(distribution=distribution)
    add = LearningCurve.add

    def stop(curve: LearningCurve, log: EpochLog) -> None:
        add(curve, log)
        if log.epoch == epoch:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(LearningCurve, "add", stop)
        with pytest.raises(Stop):
            search(wanted, tmp_path / "killed", workers=1)
    search(wanted, tmp_path / "killed", workers=1)
    assert rows(tmp_path / "killed") == rows(wholes[distribution].folder)


def test_with_two_workers_and_killed_while_candidates_are_measured_it_ends_with_the_same_record(
    whole: Run, tmp_path: Path
) -> None:
    short = chz.replace(problem(), algorithm=chz.replace(problem().algorithm, n_gen=2))
    search(short, tmp_path / "run", workers=2)
    found = sorted(rows(tmp_path / "run"), key=lambda row: row["id"])
    assert found == [row for row in rows(whole.folder) if row["generation"] <= 2]
    ledger = tmp_path / "run" / "evaluations.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:-3]) + lines[-3][:40])
    search(problem(), tmp_path / "run", workers=1)
    assert sorted(rows(tmp_path / "run"), key=lambda row: row["id"]) == rows(whole.folder)


def test_weights_of_the_last_generation_are_made_again(whole: Run) -> None:
    last = whole.front[0]
    model, shared = rebuild(whole, last, "cpu")
    assert clean_error(model, DATA.load().val) == last["objectives"]["clean_error"] and shared
    with pytest.raises(UserError, match="the weights of generation 1 are gone: .*weights-0003.safetensors"):
        rebuild(whole, whole.evaluations[0], "cpu")


def test_a_damaged_file_of_a_generation_is_named(whole: Run, tmp_path: Path) -> None:
    shutil.copytree(whole.folder, tmp_path / "run")
    file = tmp_path / "run" / "co_training" / "generation-0002.safetensors"
    file.write_bytes(file.read_bytes()[:-8] + b"12345678")
    with pytest.raises(UserError, match=r"generation-0002\.safetensors is damaged"):
        search(problem(), tmp_path / "run", workers=1)


# --- what does not fit is refused


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected algorithm.share in \[0,1\], got 1.5"):
        GradientHybrid(share=1.5)
    with pytest.raises(ValueError, match="CoTrained needs .*: expected algorithm=GradientHybrid, got NSGA2"):
        problem(algorithm=NSGA2())
    with pytest.raises(ValueError, match="SupernetLoss needs .*: expected evaluator=CoTrained, got OneShot"):
        problem(evaluator=OneShot())
    with pytest.raises(ValueError, match="expected a space whose operations can be mixed, such as DARTS, got RobNet"):
        chz.replace(problem(), space=RobNet())
    with pytest.raises(ValueError, match="expected LogNormal.scale to be 'fixed' or 'free', got 'loose'"):
        LogNormal(scale="loose")  # type: ignore[arg-type]
    held = GradientHybrid(distribution=LogNormal(), gradient=SupernetLoss(confidence=Confidence()))
    with pytest.raises(ValueError, match="expected space.partial=1 with algorithm.gradient.confidence, .* got 2"):
        chz.replace(problem(algorithm=held), space=chz.replace(SPACE, partial=2))
    for part, field, value in (
        (LogNormal, "distribution.sigma", 0.0),
        (GumbelSoftmax, "distribution.temperature", 0.0),
        (SupernetLoss, "gradient.lr", math.inf),
        (SupernetLoss, "gradient.weight_decay", math.inf),
        (SupernetLoss, "gradient.batch_size", 1),
        (EstimatedLoss, "gradient.steps", 0),
    ):
        with pytest.raises(ValueError, match=rf"expected .*{field.split('.')[1]} .*, got {value!r}"):
            part(**{field.partition(".")[2]: value})
    with pytest.raises(ValueError, match=r"evaluator.warmup in 0..5 \(supernet.epochs\), got 6"):
        CoTrained(supernet=SupernetTraining(epochs=5), warmup=6)
    with pytest.raises(ValueError, match=r"evaluator.share in \(0,1\), or None, got 1"):
        CoTrained(share=1)


def test_the_distribution_is_never_asked_for_more_than_there_is(tmp_path: Path) -> None:
    tiny = chz.replace(problem(1.0), space=DARTS(channels=4, layers=1, nodes=1, operations=("skip_connect", "none")))
    run = search(tiny, tmp_path / "run", workers=1)
    assert {row["architecture"] for row in run.evaluations} == {tiny.space.to_text(tiny.space.decode(np.zeros(4, int)))}
    assert len(run.evaluations) == 3, "one architecture, measured anew each generation"
