"""Failed candidates rank behind all measured ones, whatever the units, under any pymoo algorithm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
from pymoo.algorithms.moo.ctaea import CTAEA
from pymoo.algorithms.moo.moead import MOEAD
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3 as PymooNSGA3
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.algorithms.moo.spea2 import SPEA2
from pymoo.core.algorithm import Algorithm as PymooAlgorithm
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.util.ref_dirs import get_reference_directions
from toys import Distance, Integers, Total, Toy

from evo_robust import NSGA2, NSGA3, Digits, Problem, RandomSearch, search
from evo_robust.algorithms.adapter import PENALTY, SearchProblem
from evo_robust.algorithms.base import Algorithm
from evo_robust.objectives.constraints import Constraint
from evo_robust.record.reading import load_run

POP = 8
UNITS = [(1.0, 1.0), (1.0, 1e10), (1e18, 1.0), (1e18, 1e-18), (1e29, 1e29)]
in_units = pytest.mark.parametrize("units", UNITS, ids=str)


@chz.chz
class InUnit(Total):
    """The total, or with ``far`` the distance, in a unit that makes it large or small."""

    unit_size: float = 1.0
    far: bool = False

    def measure(self, candidate: Any) -> float:
        return self.unit_size * (Distance().measure(candidate) / 54 if self.far else super().measure(candidate) / 18)


def problem(units: tuple[float, float], algorithm: Algorithm | None = None, fails: tuple[int, ...] = (0,)) -> Problem:
    total, distance = units
    return Problem(
        space=Integers(),
        data=Digits(),
        objectives=(InUnit(unit_size=total), InUnit(unit_size=distance, far=True, label="far")),
        evaluator=Toy(fails=fails),  # with 0 four of five random genomes fail
        algorithm=algorithm or NSGA2(pop_size=POP, n_gen=8),
    )


def others() -> dict[str, Callable[[], PymooAlgorithm]]:
    """Algorithms of pymoo's that measure distances, angles, volumes or weighted values of F."""
    directions = get_reference_directions("das-dennis", 2, n_partitions=POP - 1)
    ways: dict[str, Any] = {
        "sampling": IntegerRandomSampling(),
        "crossover": TwoPointCrossover(),
        "mutation": PM(prob_var=0.3, eta=3, vtype=float, repair=RoundingRepair()),
    }
    return {
        "NSGA2": lambda: PymooNSGA2(POP, **ways),
        "NSGA3": lambda: PymooNSGA3(directions, POP, **ways),
        "SMSEMOA": lambda: SMSEMOA(POP, **ways),
        "SPEA2": lambda: SPEA2(POP, **ways),
        "MOEAD": lambda: MOEAD(directions, **ways),
        "CTAEA": lambda: CTAEA(directions, **ways),
    }


def survivors(adapted: SearchProblem, algorithm: PymooAlgorithm) -> tuple[list[str], int]:
    """Statuses of the last population, and how many architectures were measured."""
    with np.errstate(all="raise"):  # an overflow or NaN in an algorithm's arithmetic is an error here
        while algorithm.has_next():
            algorithm.next()
    measured = [e for e in adapted.evaluations.values() if e.status == "ok"]
    return [adapted.evaluation(x).status for x in algorithm.pop.get("X")], len(measured)


@in_units
@pytest.mark.parametrize("make", [NSGA2, NSGA3, RandomSearch], ids=lambda cls: cls.__name__)
def test_our_algorithms_keep_no_failure_where_enough_was_measured(
    make: type[Algorithm], units: tuple[float, float]
) -> None:
    declared = problem(units, make(pop_size=POP, n_gen=8))
    adapted = declared.to_pymoo(device="cpu", workers=1)
    statuses, measured = survivors(adapted, declared.algorithm.build(adapted))
    assert measured >= POP
    assert set(statuses) == {"ok"}


@in_units
@pytest.mark.parametrize("name", list(others()))
def test_nor_do_others(name: str, units: tuple[float, float]) -> None:
    adapted = problem(units).to_pymoo(device="cpu", workers=1)
    algorithm = others()[name]().setup(adapted, seed=1, termination=("n_gen", 25))
    statuses, measured = survivors(adapted, algorithm)
    assert measured >= POP
    assert set(statuses) == {"ok"}


@in_units
def test_a_failure_is_worse_than_all_that_is_measured_in_every_objective(units: tuple[float, float]) -> None:
    adapted = problem(units).to_pymoo(device="cpu", workers=1)
    failed, largest, smallest = adapted.evaluate(np.array([[0] * 6, [3] * 6, [1] * 6]))
    assert np.isfinite(failed).all()
    assert (failed > largest).all() and (failed > smallest).all()
    assert np.isfinite(failed**3 / 1e-6).all()  # volumes of three objectives, normalised


def test_what_is_measured_where_failures_rank_is_a_failure() -> None:
    adapted = problem((PENALTY, 1.0), fails=()).to_pymoo(device="cpu", workers=1)
    F = adapted.evaluate(np.array([[3] * 6, [1] * 6]))
    assert F[0].tolist() == [PENALTY, PENALTY]
    assert F[1, 0] == pytest.approx(PENALTY / 3)
    error = adapted.evaluation(np.array([3] * 6)).error
    assert error == "in_unit is 1e+30: expected less than 1e+30, the value of failures; use a larger unit"


def test_no_violation_is_worse_than_a_failure() -> None:
    limit = Constraint(of=Distance(), at_most=1e-40)
    declared = chz.replace(problem((1.0, 1.0)), constraints=(limit,))
    adapted = declared.to_pymoo(device="cpu", workers=1)
    out = adapted.evaluate(np.array([[0] * 6, [1] * 6]), return_as_dictionary=True)
    assert out["G"].tolist() == [[PENALTY], [PENALTY]]


def test_a_search_that_goes_on_ranks_as_a_straight_one(tmp_path: Path) -> None:
    short, straight = tmp_path / "short", tmp_path / "straight"
    for out, n_gen in ((short, 3), (short, 8), (straight, 8)):
        search(problem((1e18, 1.0), NSGA2(pop_size=POP, n_gen=n_gen)), out, device="cpu", workers=1)
    rows = [[(row["id"], row["architecture"]) for row in load_run(out).evaluations] for out in (short, straight)]
    assert rows[0] == rows[1]
