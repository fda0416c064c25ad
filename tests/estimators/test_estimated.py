"""Losses and errors of which some strengths are estimated, and searches that learn the estimators as they go."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import chz
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from evo_robust import (
    DARTS,
    NSGA2,
    PGD,
    CleanError,
    Digits,
    FromScratch,
    Params,
    PGDTraining,
    Problem,
    RobustError,
    Standard,
    SupernetTraining,
    search,
)
from evo_robust.algorithms.hybrid import GradientHybrid
from evo_robust.attacks.fast import for_attack
from evo_robust.distributions import GumbelSoftmax
from evo_robust.estimators import AttentionANE, AverageANE, LossTraining, NoiseTraining, Strengths, real_noises
from evo_robust.estimators.measure import Source, measure_spectrum
from evo_robust.evaluators.co_trained import CoTrained
from evo_robust.gradients import EstimatedLoss
from evo_robust.objectives.combined import WeightedSum
from evo_robust.objectives.robust_loss import RobustLoss
from evo_robust.record.reading import Run
from evo_robust.training.epochs import EpochLog
from evo_robust.training.learning_curve import LearningCurve
from evo_robust.training.loop import train

SPACE = DARTS(channels=4, layers=2, nodes=2)
DATA = Digits(train_limit=300)
ATTACK = PGD(steps=2)


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    """A small network trained on digits."""
    torch.manual_seed(0)
    network = SPACE.build(SPACE.largest(), 10, (1, 8, 8))
    train(network, DATA.load().train, Standard(lr=0.1, batch_size=50), 12, seed=0)
    return network


def test_real_strengths_are_measured_and_the_others_estimated(trained: torch.nn.Module) -> None:
    images = DATA.load().train.take(slice(150))  # more than an estimator is asked about together
    strengths = Strengths(values=(0.05, 0.1, 0.15, 0.2), n_real=2)
    source = Source(ATTACK, strengths, AverageANE())
    assert strengths.real == (0.05, 0.15) and strengths.estimated == (0.1, 0.2) and not source.learned
    found = measure_spectrum(trained, images, source, source.estimator((1, 8, 8)), torch.Generator().manual_seed(3))
    x, y = images.floats(), images.y
    crafting = for_attack(trained, x[:16])
    near, far = real_noises(crafting, x, y, (0.05, 0.15), ATTACK, torch.Generator().manual_seed(3))
    halfway = (x + ((near + far) / 2).clamp(-0.1, 0.1)).clamp(0, 1)
    beyond = (x + (far * (0.2 / 0.15)).clamp(-0.2, 0.2)).clamp(0, 1)
    wrong = torch.zeros(len(x), dtype=torch.bool)
    with torch.no_grad():
        for place, image in enumerate((x, x + near, halfway, x + far, beyond)):
            logits = trained(image)
            wrong |= logits.argmax(1) != y
            assert found.losses[place].item() == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-4)
            assert found.errors[place].item() == wrong.double().mean().item()
    assert found.errors[-1] > found.errors[0] + 0.1 and found.losses[-1] > found.losses[0]


def test_all_strengths_attacked_is_the_naive_search(trained: torch.nn.Module) -> None:
    source = Source(ATTACK, Strengths(values=(0.1,)), AttentionANE())
    assert not source.learned, "there is nothing to estimate"
    images = DATA.load().val.take(slice(40))
    found = measure_spectrum(trained, images, source, source.estimator((1, 8, 8)), torch.Generator().manual_seed(0))
    assert found.losses.shape == (2,)


def problem(objective: Any = None, **fields: Any) -> Problem:
    given = {
        "evaluator": CoTrained(
            supernet=SupernetTraining(
                epochs=3, recipe=PGDTraining(lr=0.1, batch_size=50, attack=PGD(steps=1)), threads=1
            ),
            warmup=1,
            recalibration="clean",
            recalibration_batches=2,
        ),
        "algorithm": GradientHybrid(
            pop_size=6,
            n_gen=2,
            share=0.5,
            distribution=GumbelSoftmax(),
            gradient=EstimatedLoss(
                lr=0.1, steps=20, redraw="epoch", noises=NoiseTraining(batches=1), losses=LossTraining(passes=50)
            ),
        ),
        **fields,
    }
    objective = objective or RobustLoss(attack=ATTACK, limit=60, estimator=AttentionANE())
    return Problem(space=SPACE, data=DATA, objectives=(objective, Params()), **given)


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A search that nothing interrupted: only to be read."""
    longer = chz.replace(problem(), algorithm=chz.replace(problem().algorithm, n_gen=3))
    return search(longer, tmp_path_factory.mktemp("whole") / "run", workers=1)


def test_a_search_learns_its_estimators(run: Run) -> None:
    assert all(row["status"] == "ok" for row in run.evaluations)
    figures = run.evaluations[-1]["figures"]["robust_loss"]
    assert figures["estimated"] == ["0.045", "0.075", "0.105"]
    losses = [figures[key] for key in ("0", "0.03", "0.045", "0.06", "0.075", "0.09", "0.105")]
    weights = [1, 2, 3, 5, 7, 10]
    expected = 0.8 * losses[0] + 0.2 * sum(w * x for w, x in zip(weights, losses[1:], strict=True)) / 28
    assert run.evaluations[-1]["objectives"]["robust_loss"] == pytest.approx(expected, rel=1e-6)
    with (run.folder / "co_training.csv").open() as file:
        told = list(csv.DictReader(file))
    assert [row["generation"] for row in told] == ["1", "2", "3"]
    assert all(float(row["noise_estimator_mse"]) > 0 for row in told)
    assert told[1]["loss_estimator_mse"] and float(told[2]["entropy"]) < float(told[0]["entropy"])


def test_a_large_draw_of_none_leaves_gradients_finite() -> None:
    """Beside it the weights of all other operations are 0 in single precision."""
    none = SPACE.operations.index("none")
    sampler = GumbelSoftmax(temperature=0.1).start(SPACE, seed=0)
    learner = EstimatedLoss(lr=0.1).start(sampler, 0, problem().objectives, (1, 8, 8))
    for large in (9.5, 20.0):  # too small for a gradient's quotient, and 0
        with torch.no_grad():
            sampler.parameters["A"][..., none] = large
        logs = sampler.sample_logs()
        beside = sampler.weigh(logs).detach().sum(-1) - sampler.weigh(logs)[..., none].detach()
        assert bool((beside < 1e-4).all())
        predicted = learner._predicted()
        (gradient,) = torch.autograd.grad(predicted, sampler.parameters["A"])
        assert predicted.isfinite() and gradient.isfinite().all() and gradient.abs().sum() > 0
        assert gradient[..., none].abs().sum() == 0, "no architecture has it"
        before = sampler.parameters["A"].detach().clone()
        learner.move(0, learner._predicted())
        assert sampler.parameters["A"].isfinite().all() and not torch.equal(before, sampler.parameters["A"])


def test_without_none_a_prediction_is_that_of_the_sample() -> None:
    space = DARTS(channels=4, layers=2, nodes=2, operations=tuple(o for o in SPACE.operations if o != "none"))
    sampler = GumbelSoftmax().start(space, seed=0)
    learner = EstimatedLoss().start(sampler, 0, problem().objectives, (1, 8, 8))
    state = sampler.generator.get_state()
    predicted = learner._predicted()
    sampler.generator.set_state(state)
    logs = sampler.sample_logs()
    weights = sampler.weigh(logs)
    kept = torch.as_tensor(space.weights_of(sampler.derive(logs)).any(-1, keepdims=True))
    shares = weights / weights.sum(-1, keepdim=True) * kept
    assert torch.equal(predicted, learner.objective.loss.of(learner.losses.estimator(shares.flatten(0, 1))))


def test_killed_between_its_epochs_it_ends_with_the_same_record(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = LearningCurve.add

    def stop(curve: LearningCurve, log: EpochLog) -> None:
        add(curve, log)
        if log.epoch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LearningCurve, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            search(problem(), tmp_path / "killed", workers=1)
    search(problem(), tmp_path / "killed", workers=1)
    assert rows(tmp_path / "killed") == [row for row in rows(run.folder) if row["generation"] <= 2]


def test_without_a_supernet_it_learns_from_what_was_measured() -> None:
    """Candidates trained from scratch, one-shot or otherwise: the loss estimator needs their figures alone."""
    plain = problem(
        RobustLoss(attack=ATTACK, limit=60), evaluator=FromScratch(epochs=1, recipe=Standard(lr=0.1, batch_size=50))
    )
    plain = chz.replace(plain, algorithm=chz.replace(plain.algorithm, n_gen=3))
    entropies = []
    adapted = plain.to_pymoo(workers=1)
    algorithm = plain.algorithm.build(adapted)
    while algorithm.has_next():
        algorithm.next()
        entropies.append(algorithm.learner.figures()["entropy"])
    assert len(adapted.evaluations) == 18, "all offspring are new"
    assert len(entropies) == 3 and entropies[2] < entropies[0]


def test_robust_error_says_which_strengths_are_estimates(tmp_path: Path) -> None:
    objective = RobustError(attack=ATTACK, eps=(0.05, 0.1, 0.15, 0.2), estimator=AverageANE(), limit=60)
    plain = problem(
        objective, evaluator=FromScratch(epochs=3, recipe=Standard(lr=0.1)), algorithm=NSGA2(pop_size=2, n_gen=1)
    )
    run = search(plain, tmp_path / "run", workers=1)
    for row in run.evaluations:
        figures = row["figures"]["robust_error"]
        assert figures["estimated"] == ["0.1", "0.2"]
        errors = [figures[key] for key in ("0.05", "0.1", "0.15", "0.2")]
        assert errors == sorted(errors) and row["objectives"]["robust_error"] == pytest.approx(sum(errors) / 4)


def test_what_nobody_would_train_is_refused() -> None:
    with pytest.raises(
        ValueError, match="robust_loss .* needs noise estimators that learn: .*=EstimatedLoss, or estimator=AverageANE"
    ):
        problem(evaluator=FromScratch(), algorithm=NSGA2())
    learned = RobustError(eps=(0.05, 0.1), n_real=1, estimator=AttentionANE())
    with pytest.raises(
        ValueError, match="robust_error .* needs noise estimators that learn: expected it among the objectives"
    ):
        chz.replace(problem(), recorded=(WeightedSum(of=(CleanError(), learned)),))
    with pytest.raises(ValueError, match="expected RobustLoss among the objectives"):
        problem(CleanError())
    with pytest.raises(ValueError, match="expected estimator, such as AverageANE, with n_real=2, got none"):
        RobustError(n_real=2)
    with pytest.raises(ValueError, match="expected a gradient attack in linf"):
        RobustError(norm="l2", estimator=AverageANE())
