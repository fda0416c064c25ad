"""RACL's confidence constraint: on the distribution, and for a single architecture."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import chz
import numpy as np
import pytest
import torch
from small import small_supernet

from evo_robust import (
    DARTS,
    NSGA2,
    CleanError,
    Confidence,
    Constraint,
    Digits,
    FromScratch,
    Gate,
    GradientHybrid,
    GumbelSoftmax,
    LipschitzBound,
    LipschitzConfidence,
    LogConstraint,
    LogGate,
    LogNormal,
    Problem,
    Standard,
    SupernetLoss,
    search,
)
from evo_robust.evaluators.learner import CoTraining
from evo_robust.files import read_tensors
from evo_robust.gradients.multiplier import Multiplier
from evo_robust.lipschitz.linear import SpectralNorms
from evo_robust.lipschitz.moments import network_moments
from evo_robust.lipschitz.network import network_constants
from evo_robust.parts.base import UserError, digest, seed_from
from evo_robust.problem.overrides import override
from evo_robust.progress import Reporter
from evo_robust.record.reading import Run
from evo_robust.record.rebuild import rebuild

PROBLEM = Problem(
    space=DARTS(channels=4, layers=3, nodes=2),
    data=Digits(train_limit=300),
    objectives=(CleanError(), LipschitzConfidence()),
    evaluator=small_supernet(2),
    algorithm=GradientHybrid(
        pop_size=3, n_gen=2, distribution=LogNormal(), gradient=SupernetLoss(lr=0.05, batch_size=100)
    ),
)


def kept(run: Run, row: dict[str, Any]) -> float:
    """µ + Φ⁻¹(0.9)σ of an architecture of the last generation, over its operations alone."""
    state, _ = read_tensors(run.folder / "co_training" / "weights-0002.safetensors")
    mu_alpha, sigma_alpha, mu_beta, sigma_beta = (
        state[f"distribution.{name}"].double() for name in ("mu_alpha", "sigma_alpha", "mu_beta", "sigma_beta")
    )
    network, _ = rebuild(run, row, "cpu")
    found = network_constants(network, (1, 8, 8), "layers", SpectralNorms(slack=0.01))
    constants = found.of_operations(PROBLEM.space.operations, 5)
    assert int((constants > 0).sum()) == 3 * 4, "two operations on each of two nodes, in each of three cells"
    # reductions are cells 1 and 2
    mu, var = network_moments(
        *(mu_alpha, sigma_alpha.square(), mu_beta, sigma_beta.square(), constants, [0, 1, 1]),
        log_c=found.log_outside(),
    )
    return float(mu.item() + NormalDist().inv_cdf(0.9) * var.item() ** 0.5)


def test_an_architecture_is_measured_by_its_own_operations(tmp_path: Path) -> None:
    run = search(PROBLEM, tmp_path / "run", workers=1)
    row = run.front[0]
    assert row["objectives"]["lipschitz_confidence"] == pytest.approx(kept(run, row), rel=1e-5)
    assert row["figures"]["lipschitz_confidence"]["distribution"] == "LogNormal"


def test_an_architecture_is_held_to_a_limit_and_to_that_of_the_search(tmp_path: Path) -> None:
    held = chz.replace(
        PROBLEM.algorithm,
        gradient=chz.replace(PROBLEM.algorithm.gradient, confidence=Confidence()),  # type: ignore[attr-defined]
    )
    constrained = chz.replace(
        PROBLEM,
        objectives=(CleanError(),),
        constraints=(
            LogConstraint(of=LipschitzConfidence(), at_most=20.0),
            LogConstraint(of=LipschitzConfidence(relative=True, label="relative"), at_most=-2.0),
        ),
        algorithm=held,
    )
    run = search(constrained, tmp_path / "run", workers=1)
    last = [row for row in run.evaluations if row["generation"] == 2]
    assert len(last) == 6
    # λ*: what the distribution as it began keeps with the supernet that these candidates inherit from
    supernet = PROBLEM.space.supernet(10, (1, 8, 8))
    state, _ = read_tensors(tmp_path / "run" / "co_training" / "weights-0002.safetensors")
    supernet.load_state_dict({name: value for name, value in state.items() if not name.startswith("distribution.")})
    found = network_constants(supernet, (1, 8, 8), "layers", SpectralNorms(steps=20), everything=True)
    p = LogNormal().start(PROBLEM.space, seed_from(0, "distribution")).parameters
    mu, var = network_moments(
        *(p["mu_alpha"], p["sigma_alpha"].square(), p["mu_beta"], p["sigma_beta"].square()),
        *(found.of_operations(PROBLEM.space.operations, 5).float(), [0, 1, 1]),
        log_c=found.log_outside(),
    )
    log_limit = mu.item() + NormalDist().inv_cdf(0.9) * var.item() ** 0.5
    for row in last:
        value = kept(run, row)
        g = row["constraints"]
        assert g["lipschitz_confidence_at_most"] == pytest.approx(value - 20, abs=1e-4)
        assert g["relative_at_most"] == pytest.approx(value - log_limit + 2, abs=1e-3)
    good = [row for row in last if row["constraints"]["relative_at_most"] <= 0]
    assert 0 < len(good) < len(last), "the limit tells architectures apart"
    assert run.front and {row["id"] for row in run.front} <= {row["id"] for row in good}


def test_the_moments_are_those_of_what_the_search_samples() -> None:
    """Network-level µ and σ² of a supernet whose cells share their weights, against the products of its own samples."""
    torch.manual_seed(0)
    space = DARTS(channels=4, layers=4, nodes=2)
    training = CoTraining(space, space.supernet(10, (1, 8, 8)), PROBLEM.data.load().train.take(slice(20)), 0, 0)
    sampler = LogNormal(sigma=0.1).start(space, seed=0)
    multiplier = Multiplier(Confidence(), sampler)
    multiplier.look(training)
    with torch.no_grad():
        logs = torch.stack([multiplier._log_product(sampler.sample()).double() for _ in range(4000)])
        mu, var = (moment.item() for moment in multiplier._kept(sampler.parameters)[1:])
    assert logs.mean().item() == pytest.approx(mu, abs=4 * (var / 4000) ** 0.5)
    assert logs.var().item() == pytest.approx(var, rel=0.1)  # 4.5 standard errors of a sample's variance
    alone = Multiplier(Confidence(cells="independent"), sampler)
    alone.look(training)
    assert alone._kept(sampler.parameters).var.item() < 0.8 * var, "independent cells vary less, and wrongly so"


def quiet(**settings: Any) -> Problem:
    """A search for clean error alone whose distribution hardly moves; ``settings`` are the constraint's."""
    gradient = SupernetLoss(lr=1e-4, batch_size=100, confidence=Confidence(**settings))
    # what the distribution keeps is known before candidates are drawn
    algorithm = chz.replace(PROBLEM.algorithm, pop_size=1, gradient=gradient)
    return chz.replace(PROBLEM, objectives=(CleanError(),), algorithm=algorithm)


def wide(problem: Problem, sigma: float) -> Problem:
    return chz.replace(problem, algorithm=chz.replace(problem.algorithm, distribution=LogNormal(sigma=sigma)))


class Kept(Reporter):
    """Keeps what a search says."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def say(self, text: str) -> None:
        self.lines.append(text)


def learned(folder: Path) -> list[dict[str, float]]:
    with (folder / "co_training.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_sigma_is_told_in_every_generation_and_beyond_what_was_checked_once(tmp_path: Path) -> None:
    said: dict[float, list[str]] = {}
    gates = (LipschitzConfidence(), LipschitzConfidence(cells="independent", label="apart"))
    for sigma in (0.3, 0.6, 1.2):
        said[sigma] = []
        problem = chz.replace(wide(quiet(), sigma), recorded=gates)
        search(problem, tmp_path / str(sigma), workers=1, reporter=Kept(said[sigma]))
        told = learned(tmp_path / str(sigma))
        assert len(told) == 2
        for row in told:
            assert row["sigma_mean"] == pytest.approx(sigma, abs=0.02) and row["sigma_max"] >= row["sigma_mean"]
    words = {s: [line.split(":")[0] for line in lines if "quantile=sampled" in line] for s, lines in said.items()}
    assert words == {0.3: [], 0.6: ["apart"], 1.2: ["algorithm.gradient.confidence", "lipschitz_confidence", "apart"]}
    lines: list[str] = []
    search(wide(quiet(quantile="sampled", draws=500), 1.2), tmp_path / "drawn", workers=1, reporter=Kept(lines))
    assert not any("quantile=sampled" in line for line in lines), "draws need no small σ"


def test_a_search_may_be_held_to_a_quantile_that_is_drawn(tmp_path: Path) -> None:
    """λ* and the constraint are both drawn; where σ is large they say more than the moments, as they should."""
    found = {}
    for quantile in ("moments", "sampled"):
        search(wide(quiet(quantile=quantile, draws=2000), 2.0), tmp_path / quantile, workers=1)
        found[quantile] = learned(tmp_path / quantile)
        for row in found[quantile]:
            assert abs(row["constraint"]) < 0.5, "the distribution has hardly moved, so that λ* is what it keeps"
    assert found["sampled"][0]["ln_limit"] > found["moments"][0]["ln_limit"] + 0.3
    # the same draws whenever a search runs: one that was interrupted finds the same
    search(wide(quiet(quantile="sampled", draws=2000), 2.0), tmp_path / "again", workers=1)
    assert learned(tmp_path / "again") == found["sampled"]


def test_a_drawn_quantile_moves_the_distribution_as_moments_do() -> None:
    images = PROBLEM.data.load().train.take(slice(20))
    training = CoTraining(PROBLEM.space, PROBLEM.space.supernet(10, (1, 8, 8)), images, 0, 0)
    slopes = {}
    for quantile in ("moments", "sampled"):
        sampler = LogNormal(spread=0.3).start(PROBLEM.space, seed=0)
        multiplier = Multiplier(Confidence(quantile=quantile, factor=0.5, rho=1.0), sampler)
        multiplier.look(training)
        term = multiplier.term(sampler.sample())
        assert multiplier.last == pytest.approx(math.log(2), abs=1e-4)
        slopes[quantile] = torch.autograd.grad(term, list(sampler.parameters.values()))
    for one, other in zip(slopes["moments"], slopes["sampled"], strict=True):
        assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.95


def test_random_architectures_with_the_present_weights_give_single_ones_their_limit(tmp_path: Path) -> None:
    gate = LogGate(of=LipschitzConfidence(), quantile=0.5, sample=8)
    problem = chz.replace(quiet(), constraints=(gate,), recorded=(LipschitzConfidence(),))
    problem = chz.replace(problem, algorithm=chz.replace(problem.algorithm, pop_size=4, share=0.0))
    run = search(problem, tmp_path / "run", workers=1)
    kept = json.loads((tmp_path / "run" / "gates.json").read_text())["lipschitz_confidence_gate"]
    (before,) = kept["earlier"]
    fingerprints = list(dict.fromkeys(row["fingerprint"] for row in run.evaluations))
    assert fingerprints == [before["fingerprint"], kept["fingerprint"]], "a limit for the weights of each generation"
    limits = dict(zip(fingerprints, (before["limit"], kept["limit"]), strict=True))
    assert before["limit"] != kept["limit"]
    assert kept["limit"] == pytest.approx(np.median(list(kept["found"].values()))) and len(kept["found"]) == 8
    for row in run.evaluations:
        g = row["constraints"]["lipschitz_confidence_gate"]
        assert (row["status"] == "rejected") == (g > 0)
        if row["status"] == "ok":
            assert g == pytest.approx(row["recorded"]["lipschitz_confidence"] - limits[row["fingerprint"]], abs=1e-6)
    assert {row["status"] for row in run.evaluations} == {"ok", "rejected"}, "zero, a quantile, rejects a share"
    # an interrupted search finds the same limits, though the first weights are gone
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "evaluations.jsonl").write_text("".join(lines[:-2]))
    (tmp_path / "run" / "gates.json").unlink()
    again = search(problem, tmp_path / "run", workers=1)
    assert [r["constraints"] for r in again.evaluations] == [r["constraints"] for r in run.evaluations]


def test_a_gate_on_a_logarithm_takes_a_limit_of_any_sign() -> None:
    of = LipschitzConfidence()
    assert LogGate(of=of, at_most=-3.0).violation(-2.0) == 1.0 == LogConstraint(of=of, at_most=-3.0).violation(-2.0)
    assert Gate(of=of, at_most=2.0).violation(3.0) == 0.5
    with pytest.raises(ValueError, match="expected LogGate.at_most to be a finite number or None, got inf"):
        LogGate(of=of, at_most=math.inf)
    with pytest.raises(ValueError, match="expected constraint at_most > 0, got -3"):
        Gate(of=of, at_most=-3.0)
    with pytest.raises(ValueError, match=r"expected quantile in \(0,1\), got 1"):
        LogGate(of=of, quantile=1)


def test_settings_that_came_later_leave_old_records_as_they_were() -> None:
    assert digest(SupernetLoss(confidence=Confidence())) == "478adf5420afd4a4"
    assert digest(LipschitzConfidence(relative=True)) == "abdda0cd5cc0760c"
    assert digest(SupernetLoss(confidence=Confidence(quantile="sampled"))) != "478adf5420afd4a4"
    assert digest(LipschitzConfidence(relative=True, draws=999)) != "abdda0cd5cc0760c"


def test_what_is_relative_to_no_limit_is_refused() -> None:
    relative = LipschitzConfidence(relative=True)
    plain = FromScratch(), NSGA2()
    for evaluator, algorithm in ((PROBLEM.evaluator, PROBLEM.algorithm), plain):
        alone = chz.replace(PROBLEM, objectives=(CleanError(),), evaluator=evaluator, algorithm=algorithm)
        for fields in (
            {"objectives": (CleanError(), relative)},
            {"recorded": (relative,)},
            {"constraints": (LogConstraint(of=relative, at_most=0),)},
        ):
            with pytest.raises(
                ValueError,
                match="needs .*: expected (algorithm.gradient.confidence=Confidence|evaluator=CoTrained)",
            ):
                chz.replace(alone, **fields)


def test_without_a_distribution_it_is_the_bound(tmp_path: Path) -> None:
    objectives = (LipschitzConfidence(), LipschitzBound(constants="layers"))
    plain = chz.replace(
        PROBLEM,
        objectives=objectives,
        evaluator=FromScratch(epochs=1, recipe=Standard(lr=0.1)),
        algorithm=NSGA2(pop_size=3, n_gen=1),
        constraints=(Constraint(of=LipschitzConfidence(), at_most=0.5),),
    )
    run = search(plain, tmp_path / "run", workers=1)
    for row in run.evaluations:
        confidence, bound = row["objectives"].values()
        assert confidence == pytest.approx(bound, rel=1e-6)
        assert row["figures"]["lipschitz_confidence"] == {"distribution": None}
        assert row["constraints"]["lipschitz_confidence_at_most"] == pytest.approx(confidence / 0.5 - 1)


def test_the_multiplier_holds_the_distribution_back(tmp_path: Path) -> None:
    """The same search with a heavy multiplier keeps µ lower than without one."""
    means = {}
    for name, confidence in (
        ("free", None),
        ("held", Confidence(rho=1.0, factor=0.1)),
        ("sampled", Confidence(rho=1.0, factor=0.1, learning=False)),
        ("printed", Confidence(rho=1.0, factor=0.1, form="as_printed", cells="independent", constants="paper")),
    ):
        gradient = chz.replace(PROBLEM.algorithm.gradient, confidence=confidence)  # type: ignore[attr-defined]
        # with a free scale the constraint is met by weights that shrink: the strongest sign of it in few steps
        algorithm = chz.replace(PROBLEM.algorithm, pop_size=1, gradient=gradient, distribution=LogNormal(scale="free"))
        problem = chz.replace(PROBLEM, objectives=(CleanError(),), algorithm=algorithm)
        search(problem, tmp_path / name, workers=1)
        state, _ = read_tensors(tmp_path / name / "co_training" / "generation-0002.safetensors")
        means[name] = state["distribution.mu_alpha"].mean().item()
        assert bool((state["distribution.sigma_alpha"] > 0).all())
    assert all(means[name] < means["free"] - 0.1 for name in ("held", "sampled", "printed")), means
    with (tmp_path / "held" / "co_training.csv").open() as file:
        told = list(csv.DictReader(file))
    assert float(told[0]["theta"]) > 0 and math.isfinite(float(told[1]["constraint"]))


def test_the_constraint_works_on_operations_alone() -> None:
    """With a fixed scale, as shipped: weights cannot all shrink, other operations must be weighed higher."""
    images = PROBLEM.data.load().train.take(slice(50))
    torch.manual_seed(0)
    supernet = PROBLEM.space.supernet(10, (1, 8, 8))
    training = CoTraining(PROBLEM.space, supernet, images, 0, 0)
    distances = {}
    for name, confidence in (("free", None), ("held", Confidence(rho=10.0, factor=0.01))):
        sampler = LogNormal().start(PROBLEM.space, seed=0)
        judge = Multiplier(Confidence(factor=0.01), sampler)
        judge.look(training)
        learner = SupernetLoss(lr=0.1, weight_decay=0.0, confidence=confidence).start(sampler, seed=0)
        if learner.multiplier is not None:
            learner.multiplier.look(training)
        supernet.train()
        generator = torch.Generator().manual_seed(0)
        for _ in range(10):
            learner.step(training, images.floats(), images.y, generator)
        judge.term(sampler.sample())
        distances[name] = judge.last
        torch.testing.assert_close(sampler.parameters["mu_alpha"].exp().sum(-1), torch.ones(2, 5))
    assert distances["held"] < distances["free"] - 1 and distances["held"] < -math.log(0.01) - 1, distances


def test_a_limit_may_be_beyond_what_a_float_holds(tmp_path: Path) -> None:
    (found, *_) = limits(tmp_path / "run", Confidence(factor=1e308), n_gen=1)
    assert found > 709.8


def limits(folder: Path, confidence: Confidence, n_gen: int = 2) -> list[float]:
    """ln λ* at the end of each generation."""
    gradient = chz.replace(PROBLEM.algorithm.gradient, confidence=confidence)  # type: ignore[attr-defined]
    algorithm = chz.replace(PROBLEM.algorithm, pop_size=1, n_gen=n_gen, gradient=gradient)
    evaluator = chz.replace(
        PROBLEM.evaluator,
        supernet=chz.replace(PROBLEM.evaluator.supernet, epochs=3),  # type: ignore[attr-defined]
    )
    problem = chz.replace(PROBLEM, objectives=(CleanError(),), algorithm=algorithm, evaluator=evaluator)
    search(problem, folder, workers=1)
    with (folder / "co_training.csv").open() as file:
        return [float(row["ln_limit"]) for row in csv.DictReader(file)]


def test_a_calibrated_limit_follows_the_weights_and_a_given_one_stays(tmp_path: Path) -> None:
    follows = limits(tmp_path / "follows", Confidence())
    assert abs(follows[1] - follows[0]) > 0.1, follows
    # a factor moves λ* by as much, whatever the weights are: those of the first epoch have seen no constraint
    (halved,) = limits(tmp_path / "halved", Confidence(factor=0.5), n_gen=1)
    assert halved == pytest.approx(follows[0] + math.log(0.5), abs=1e-4)
    first = limits(tmp_path / "first", Confidence(follow=False))
    assert first == pytest.approx([follows[0]] * 2, abs=1e-4)
    assert limits(tmp_path / "given", Confidence(limit=7.0)) == pytest.approx([math.log(7.0)] * 2)


def test_bad_settings_are_named() -> None:
    for field, value in (("eta", 1.0), ("eta", 0.0), ("rho", 0.0), ("limit", 0.0), ("factor", -1.0), ("steps", 0)):
        with pytest.raises(ValueError, match=rf"algorithm.gradient.confidence.{field} .*got {value}"):
            Confidence(**{field: value})
    with pytest.raises(ValueError, match=r"expected eta in \(0,1\), such as 0.9, got 2"):
        LipschitzConfidence(eta=2)
    with pytest.raises(ValueError, match="expected algorithm.distribution=LogNormal"):
        gradient = SupernetLoss(confidence=Confidence())
        chz.replace(PROBLEM, algorithm=GradientHybrid(distribution=GumbelSoftmax(), gradient=gradient))
    given = {"algorithm.gradient.confidence": "Confidence", "algorithm.gradient.confidence.eta": "2"}
    with pytest.raises(UserError, match="algorithm.gradient.confidence.eta"):
        override(PROBLEM, given, "test")
    held = override(PROBLEM, {"algorithm.gradient.confidence": "Confidence"}, "test")
    assert override(held, {"algorithm.gradient.confidence": "None"}, "test") == PROBLEM, "RACL's first ablation"
    assert held == chz.replace(
        PROBLEM,
        algorithm=chz.replace(
            PROBLEM.algorithm,
            gradient=chz.replace(PROBLEM.algorithm.gradient, confidence=Confidence()),  # type: ignore[attr-defined]
        ),
    )


def test_ties_of_the_reference_hold_in_the_search_s_precision() -> None:
    """The search computes in float32: the reference's moments come out to 1e-5 there."""
    from evo_robust.lipschitz.moments import edge_moments

    mu, var = edge_moments(
        torch.tensor([0.0, -1.0, 0.5]), torch.tensor([0.09, 0.25, 0.04]), torch.tensor([1.0, 0.5, 2.0])
    )
    assert mu.item() == pytest.approx(1.516722315, abs=1e-5) and var.item() == pytest.approx(0.026701459, abs=1e-6)
