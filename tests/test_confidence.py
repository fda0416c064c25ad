"""RACL's confidence constraint: on the distribution, and for a single architecture."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from statistics import NormalDist

import chz
import pytest
import torch

from evo_robust import (
    DARTS,
    NSGA2,
    CleanError,
    Confidence,
    Constraint,
    CoTrained,
    Digits,
    FromScratch,
    GradientHybrid,
    GumbelSoftmax,
    LipschitzBound,
    LipschitzConfidence,
    LogNormal,
    Problem,
    Standard,
    SupernetLoss,
    SupernetTraining,
    search,
)
from evo_robust.files import read_tensors
from evo_robust.lipschitz.linear import SpectralNorms
from evo_robust.lipschitz.moments import network_moments
from evo_robust.lipschitz.network import network_constants
from evo_robust.parts import UserError
from evo_robust.problem import override
from evo_robust.rebuild import rebuild

PROBLEM = Problem(
    space=DARTS(channels=4, layers=3, nodes=2),
    data=Digits(train_limit=300),
    objectives=(CleanError(), LipschitzConfidence()),
    evaluator=CoTrained(
        supernet=SupernetTraining(epochs=2, recipe=Standard(lr=0.1, batch_size=50), threads=1),
        recalibration="clean",
        recalibration_batches=2,
    ),
    algorithm=GradientHybrid(
        pop_size=3, n_gen=2, distribution=LogNormal(), gradient=SupernetLoss(lr=0.05, batch_size=100)
    ),
)


def test_an_architecture_is_held_to_its_own_operations(tmp_path: Path) -> None:
    run = search(PROBLEM, tmp_path / "run", workers=1)
    row = run.front[0]
    state, _ = read_tensors(tmp_path / "run" / "co_training" / "weights-0002.safetensors")
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
    expected = mu.item() + NormalDist().inv_cdf(0.9) * var.item() ** 0.5
    assert row["objectives"]["lipschitz_confidence"] == pytest.approx(expected, rel=1e-5)
    assert row["figures"]["lipschitz_confidence"]["distribution"] == "LogNormal"


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


def limits(folder: Path, confidence: Confidence) -> list[float]:
    """ln λ* at the end of each of three generations."""
    gradient = chz.replace(PROBLEM.algorithm.gradient, confidence=confidence)  # type: ignore[attr-defined]
    algorithm = chz.replace(PROBLEM.algorithm, pop_size=1, n_gen=3, gradient=gradient)
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
    assert all(abs(after - before) > 0.1 for before, after in itertools.pairwise(follows)), follows
    # a factor moves λ* by as much, whatever the weights are: those of the first epoch have seen no constraint
    halved = limits(tmp_path / "halved", Confidence(factor=0.5))
    assert halved[0] == pytest.approx(follows[0] + math.log(0.5), abs=1e-4)
    first = limits(tmp_path / "first", Confidence(follow=False))
    assert first == pytest.approx([follows[0]] * 3, abs=1e-4)
    assert limits(tmp_path / "given", Confidence(limit=7.0)) == pytest.approx([math.log(7.0)] * 3)


def test_bad_settings_are_named() -> None:
    for field, value in (("eta", 1.0), ("eta", 0.0), ("rho", 0.0), ("limit", 0.0), ("factor", -1.0), ("steps", 0)):
        with pytest.raises(ValueError, match=rf"algorithm.gradient.confidence.{field} .*got {value}"):
            Confidence(**{field: value})
    with pytest.raises(ValueError, match=r"confidence η in \(0,1\), such as 0.9, got 2"):
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
