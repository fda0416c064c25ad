"""Candidates trained from scratch on real digits: failures, limits, repeatability."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import torch
from torch import nn

from evo_robust.algorithms.evolution import NSGA2
from evo_robust.algorithms.random import RandomSearch
from evo_robust.attacks.base import Attack
from evo_robust.attacks.curve import robust_curve
from evo_robust.data.sets import Digits
from evo_robust.evaluators.base import Evaluation
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.inference.predictions import clean_error, correct_mask
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.objectives.combined import WeightedSum
from evo_robust.objectives.constraints import Constraint
from evo_robust.objectives.cost import Flops, Params
from evo_robust.objectives.errors import CleanError
from evo_robust.parts.base import seed_from
from evo_robust.problem.value import Problem
from evo_robust.record.reading import Run
from evo_robust.record.rebuild import rebuild
from evo_robust.search import search
from evo_robust.spaces import NSGAPhases
from evo_robust.training.recipes import Standard

TINY = Problem(
    space=NSGAPhases(phases=2, nodes=3, channels=4),
    data=Digits(train_limit=240, test_limit=40),
    objectives=(CleanError(), Flops()),
    evaluator=FromScratch(epochs=1),
    algorithm=NSGA2(pop_size=4, n_gen=2),
)


@chz.chz
class Broken(Objective):
    """Raises, or is not a number, for every other architecture."""

    nan: bool = False

    def measure(self, candidate: Candidate) -> float:
        if candidate.seed % 2 == 0:
            return 0.25
        if self.nan:
            return float("nan")
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")


@chz.chz
class Same(Attack):
    """Leaves images as they are."""

    def perturb(self, model: nn.Module, x: torch.Tensor, *_: Any) -> torch.Tensor:
        return x


def run(problem: Problem, folder: Path) -> Run:
    return search(problem, folder, device="cpu", workers=1)


def figures(run: Run) -> list[str]:
    keys = (
        "id",
        "generation",
        "genome",
        "architecture",
        "objectives",
        "constraints",
        "recorded",
        "figures",
        "status",
        "seed",
    )
    return [json.dumps([row[k] for k in keys]) for row in run.evaluations]


def distinct(problem: Problem, n: int) -> list[Any]:
    rng = np.random.default_rng(0)
    found = {problem.space.decode(problem.space.sample(rng)): None for _ in range(20 * n)}
    return list(found)[:n]


def evaluate(problem: Problem, architectures: list[Any]) -> list[Evaluation]:
    session = problem.start("cpu", 1)
    try:
        arrived = dict(session.evaluate(architectures))
    finally:
        session.close()
    return [arrived[i] for i in range(len(architectures))]


def test_figures_do_not_depend_on_order_or_outer_threads() -> None:
    architectures = distinct(TINY, 3)
    before = torch.get_num_threads()
    first = evaluate(TINY, architectures)
    torch.set_num_threads(2)
    try:
        again = evaluate(TINY, architectures[::-1])[::-1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert [dataclasses.replace(e, seconds=0) for e in first] == [dataclasses.replace(e, seconds=0) for e in again]


def test_measures_what_the_network_does() -> None:
    space = NSGAPhases(phases=2, nodes=3, channels=8)
    recipe = Standard(lr=0.1, batch_size=32)
    problem = chz.replace(TINY, space=space, data=Digits(), evaluator=FromScratch(epochs=5, recipe=recipe))
    evaluation = evaluate(problem, distinct(problem, 1))[0]
    assert evaluation.status == "ok"
    assert evaluation.objectives["clean_error"] < 0.3  # chance is 0.9
    assert evaluation.figures["flops"] == evaluation.objectives["flops"]
    assert evaluation.figures["params"] > 0 and 0 <= evaluation.figures["train_error"] < 0.5


def test_the_same_weights_come_again() -> None:
    architecture = distinct(TINY, 1)[0]
    session = TINY.start("cpu", 1)
    one, _ = TINY.evaluator.obtain(session.job.context, architecture)
    two, _ = TINY.evaluator.obtain(session.job.context, architecture)
    assert not one.training
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_of_the_evaluator_trains_the_same_architectures_anew(tmp_path: Path) -> None:
    drawn = chz.replace(TINY, algorithm=RandomSearch(pop_size=3, n_gen=1))
    runs = [
        search(
            chz.replace(drawn, evaluator=FromScratch(epochs=1, seed=seed)),
            tmp_path / str(seed),
            device="cpu",
            workers=1,
        )
        for seed in (0, 1)
    ]
    first, second = ([(row["id"], row["architecture"]) for row in run.evaluations] for run in runs)
    assert first == second
    for one, other in zip(*(run.evaluations for run in runs), strict=True):
        assert one["seed"] != other["seed"] and one["fingerprint"] != other["fingerprint"]
        assert one["objectives"]["flops"] == other["objectives"]["flops"]
    errors = [[row["objectives"]["clean_error"] for row in run.evaluations] for run in runs]
    assert errors[0] != errors[1]
    # without a seed of its own, candidates' randomness comes from the problem's seed alone
    assert runs[0].evaluations[0]["seed"] == seed_from(drawn.seed, first[0][1])
    val = drawn.data.load().val
    assert [clean_error(rebuild(runs[1], row)[0], val) for row in runs[1].evaluations] == errors[1]


def test_a_bad_seed_of_the_evaluator_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected evaluator.seed >= 0, got -1"):
        FromScratch(seed=-1)


@pytest.mark.parametrize("nan", [False, True])
def test_exceptions_and_nan_are_failures_with_a_reason(nan: bool) -> None:
    problem = chz.replace(TINY, objectives=(Broken(nan=nan), Flops()))
    evaluations = evaluate(problem, distinct(problem, 6))
    assert {e.status for e in evaluations} == {"ok", "failed"}
    for e in evaluations:
        assert (e.status == "failed") == (e.seed % 2 == 1)
        if e.status == "failed":
            assert e.error == ("ValueError: broken is nan" if nan else "OutOfMemoryError: tried to allocate 20 GiB")
            assert e.objectives == {}


def test_divergence_is_a_failure() -> None:
    problem = chz.replace(TINY, evaluator=FromScratch(epochs=3, recipe=Standard(lr=1e30, clip=1e30)))
    evaluation = evaluate(problem, distinct(problem, 1))[0]
    assert evaluation.status == "failed" and "loss" in (evaluation.error or "")


def test_time_limit_is_a_failure() -> None:
    problem = chz.replace(TINY, evaluator=FromScratch(epochs=10_000, time_limit=0.3))
    evaluation = evaluate(problem, distinct(problem, 1))[0]
    assert evaluation.status == "failed"
    assert evaluation.seconds < 10


def test_a_cheap_constraint_rejects_before_training() -> None:
    architectures = distinct(TINY, 6)
    sizes = [e.objectives["params"] for e in evaluate(chz.replace(TINY, objectives=(Params(),)), architectures)]
    limit = sorted(sizes)[2]
    # training these would take minutes: only what is rejected is fast
    problem = chz.replace(
        TINY, constraints=(Constraint(of=Params(), at_most=limit),), evaluator=FromScratch(epochs=100_000, time_limit=1)
    )
    for size, e in zip(sizes, evaluate(problem, architectures), strict=True):
        assert e.status == ("rejected" if size > limit else "failed")
        assert e.constraints["params_at_most"] == pytest.approx(size / limit - 1)
        assert (e.error or "").startswith("rejected before training") == (size > limit)


def test_a_search_with_rejected_candidates_goes_on(tmp_path: Path) -> None:
    problem = chz.replace(
        TINY, constraints=(Constraint(of=Params(), at_most=600),), algorithm=RandomSearch(pop_size=8, n_gen=2)
    )
    found = run(problem, tmp_path / "run")
    assert {row["status"] for row in found.evaluations} == {"ok", "rejected"}
    assert all(row["figures"]["params"] <= 600 for row in found.front)


def test_networks_are_released(tmp_path: Path) -> None:
    import gc

    def living() -> int:
        gc.collect()
        return sum(issubclass(type(o), nn.Module) for o in gc.get_objects())

    before = living()
    run(TINY, tmp_path / "run")
    assert living() <= before


def test_a_sum_of_objectives_is_their_sum() -> None:
    # twice the clean error, and what the terms measure alone beside it
    problem = chz.replace(
        TINY,
        objectives=(WeightedSum(of=(CleanError(), Flops()), weights=(2.0, 1e-6)), Params()),
        recorded=(CleanError(), Flops()),
    )
    evaluation = evaluate(problem, distinct(problem, 1))[0]
    expected = 2 * evaluation.recorded["clean_error"] + 1e-6 * evaluation.recorded["flops"]
    assert evaluation.objectives["weighted_sum"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="expected 2 weights"):
        WeightedSum(of=(CleanError(), Flops()), weights=(1.0,))


def test_what_is_asked_for_twice_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    measure = CleanError.measure
    monkeypatch.setattr(CleanError, "measure", lambda self, c: asked.append(self.name) or measure(self, c))
    problem = chz.replace(
        TINY,
        constraints=(Constraint(of=CleanError(), at_most=2.0),),
        recorded=(CleanError(label="again"), CleanError(limit=10, label="few")),
    )
    evaluation = evaluate(problem, distinct(problem, 1))[0]
    assert asked == ["clean_error", "again", "few"]  # other names or settings are other objectives
    assert evaluation.objectives["clean_error"] == evaluation.recorded["again"]
    assert evaluation.constraints == {"clean_error_at_most": evaluation.objectives["clean_error"] / 2 - 1}


def test_images_known_to_be_right_save_the_curve_its_clean_pass() -> None:
    session = TINY.start("cpu", 1)
    model, _ = TINY.evaluator.obtain(session.job.context, distinct(TINY, 1)[0])
    val = TINY.data.load().val
    correct = correct_mask(model, val)
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))

    def curve(**known: torch.Tensor) -> tuple[float, ...]:
        passes.clear()
        return robust_curve(model, val, Same(), [0.1], generator=torch.Generator(), **known).error

    assert curve() == curve() and len(passes) == 2
    assert curve(correct=correct) == curve() and 0 < correct.sum() < len(correct)
    curve(correct=correct)
    assert len(passes) == 1
    with pytest.raises(ValueError, match="expected bool correct"):
        curve(correct=correct[:-1])
