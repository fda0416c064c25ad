"""A pymoo algorithm that a program runs itself: its search is recorded, goes on, and its result becomes networks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from toys import Distance, Integers, Total, Toy

from evo_robust import (
    NSGA2,
    PGD,
    CleanError,
    Digits,
    Flops,
    FromScratch,
    NSGAPhases,
    Problem,
    RobustError,
    Standard,
    load_run,
    pymoo_problem,
    search,
)
from evo_robust.inference.predictions import clean_error
from evo_robust.parts.base import Fraction, UserError
from evo_robust.plot import draw_run
from evo_robust.record.ending import unfinished

SMALL = Problem(
    space=NSGAPhases(phases=1, nodes=3, channels=2),
    data=Digits(train_limit=200),
    objectives=(CleanError(), Flops()),
    evaluator=FromScratch(epochs=1, recipe=Standard(lr=0.1, batch_size=16)),
    algorithm=NSGA2(pop_size=40, n_gen=20),
)
TOY = Problem(
    space=Integers(), data=Digits(), objectives=(Total(), Distance()), evaluator=Toy(), algorithm=NSGA2(pop_size=4)
)


def algorithm(pop_size: int) -> PymooNSGA2:
    return PymooNSGA2(
        pop_size=pop_size,
        sampling=IntegerRandomSampling(),
        crossover=SBX(repair=RoundingRepair()),
        mutation=PM(repair=RoundingRepair()),
    )


def searched(problem: Problem, folder: Path, n_gen: int, pop_size: int = 8, **options: Any) -> Any:
    with pymoo_problem(problem, folder, workers=1, **options) as adapted:
        return minimize(adapted, algorithm(pop_size), ("n_gen", n_gen), seed=1)


def test_a_plain_search_leaves_a_run_folder_and_networks(tmp_path: Path) -> None:
    with pymoo_problem(SMALL, tmp_path / "run", device="cpu", workers=1) as problem:
        result = minimize(problem, algorithm(4), ("n_gen", 2), seed=1)
        models = problem.networks(result.X)
        names = problem.architectures(result.X)
    run = load_run(tmp_path / "run")
    errors = {row["architecture"]: row["objectives"]["clean_error"] for row in run.front}
    assert set(names) == set(errors)
    images = SMALL.data.load().val
    for name, model, F in zip(names, models, np.atleast_2d(result.F), strict=True):
        assert errors[name] == F[0]
        assert clean_error(model, images) == pytest.approx(F[0], abs=1e-9) and not model.training
    assert len((run.folder / "progress.csv").read_text().splitlines()) == 3
    assert json.loads((run.folder / "front.json").read_text())["front"][0]["id"] == run.front[0]["id"]
    assert draw_run(run.folder) and unfinished(run) is None
    assert clean_error(run.network("best:clean_error"), images) == pytest.approx(min(errors.values()), abs=1e-9)


def test_what_is_reported_is_measured_when_the_program_says_so(tmp_path: Path) -> None:
    reported = RobustError(attack=PGD(steps=2), eps=(Fraction(0.1),), limit=20, label="pgd")
    declared = chz.replace(SMALL, reported=(reported,))

    def told() -> list[bool]:
        return ["pgd" in row["reported"] for row in json.loads((tmp_path / "run" / "front.json").read_text())["front"]]

    with pymoo_problem(declared, tmp_path / "run", device="cpu", workers=1) as problem:
        minimize(problem, algorithm(4), ("n_gen", 2), seed=1)
        assert told() and not any(told())
        assert len(list((tmp_path / "run" / "weights").iterdir())) == len(told())  # the front's alone
        problem.report()
        assert all(told())
    lines = (tmp_path / "run" / "reported.jsonl").read_bytes()
    assert "pgd" in load_run(tmp_path / "run").table()[0] and not any((tmp_path / "run").glob("weights/*"))
    with pymoo_problem(declared, tmp_path / "run", device="cpu", workers=1) as problem:
        minimize(problem, algorithm(4), ("n_gen", 2), seed=1)
        problem.report()
    assert (tmp_path / "run" / "reported.jsonl").read_bytes() == lines
    # a folder that was made without them is still this search's, and gets them
    searched(SMALL, tmp_path / "plain", 1, pop_size=4)
    with pymoo_problem(declared, tmp_path / "plain", device="cpu", workers=1) as problem:
        minimize(problem, algorithm(4), ("n_gen", 1), seed=1)
        problem.report()
    assert "pgd" in load_run(tmp_path / "plain").table()[0]


def test_a_plain_search_goes_on(tmp_path: Path) -> None:
    searched(TOY, tmp_path / "run", 2)
    lines = (tmp_path / "run" / "evaluations.jsonl").read_bytes()
    with pymoo_problem(TOY, tmp_path / "run", workers=1) as problem:
        minimize(problem, algorithm(8), ("n_gen", 4), seed=1)
        asked = problem.session.asked
    assert (tmp_path / "run" / "evaluations.jsonl").read_bytes().startswith(lines)
    run = load_run(tmp_path / "run")
    assert len(asked) == len(run.evaluations) - lines.count(b"\n"), "measured again"
    searched(TOY, tmp_path / "straight", 4)
    straight = load_run(tmp_path / "straight")
    assert [row["architecture"] for row in run.evaluations] == [row["architecture"] for row in straight.evaluations]


def test_no_other_search_goes_on_in_its_folder(tmp_path: Path) -> None:
    searched(TOY, tmp_path / "run", 1)
    with pytest.raises(UserError, match="holds another search .*algorithm: PlainPymoo → NSGA2"):
        search(TOY, tmp_path / "run", workers=1)
    search(TOY, tmp_path / "other", workers=1)
    with pytest.raises(UserError, match="holds another search .*algorithm: NSGA2 → PlainPymoo"):
        searched(TOY, tmp_path / "other", 1)
    with pytest.raises(UserError, match="expected evo_robust.pymoo_problem"):
        search(load_run(tmp_path / "run").problem, tmp_path / "third", workers=1)
    assert not (tmp_path / "third").exists()
    searched(load_run(tmp_path / "run").problem, tmp_path / "run", 2)  # the same one does


def test_the_folder_is_given_back(tmp_path: Path) -> None:
    problem = pymoo_problem(TOY, tmp_path / "run", workers=1)
    with pytest.raises(UserError, match="is in use by process"):
        pymoo_problem(TOY, tmp_path / "run", workers=1)
    problem.close()
    problem.close()
    pymoo_problem(TOY, tmp_path / "run", workers=1).close()


def test_progress_is_told_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched(TOY, tmp_path / "silent", 2)
    assert capsys.readouterr().out == ""
    searched(TOY, tmp_path / "told", 2, progress=True)
    first, second = capsys.readouterr().out.splitlines()
    line = r"generation   1  evaluations +\d  own-box hypervolume 0\.\d+  front +\d  time 0:0\d$"
    assert re.match(line, first), first
    assert second.startswith("generation   2  evaluations ")
    search(TOY, tmp_path / "search", workers=1)
    assert capsys.readouterr().out == ""
    search(chz.replace(TOY, algorithm=NSGA2(pop_size=4, n_gen=1)), tmp_path / "two", workers=1, progress=True)
    assert capsys.readouterr().out.startswith("generation   1/1  evaluations    4  own-box hypervolume ")
    with pytest.raises(UserError, match="expected progress to be True or False, got 'yes'"):
        search(TOY, tmp_path / "three", progress="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("X", "said"),
    [
        (None, "expected genomes, got None: pymoo found no solution"),
        ([[1, 2]], r"expected genomes \(n, 6\), got an array of shape \(1, 2\)"),
        ([[1, 2, 3, 4, 5, float("nan")]], "expected genes from 0 to below n_choices"),
        ([[1, 2, 3, 0, 0, 4]], "expected genes from 0 to below n_choices"),
        ("text", r"expected genomes \(n, 6\), got 'text'"),
        ([0, 0, 0, 0, 0, 0], r"\[0, 0, 0, 0, 0, 0\] is no network: expected a gene that is not 0"),
        ([0, 0, 0, 0, 0, 1], "ToySession gives no networks"),
    ],
)
def test_what_is_no_genome_is_refused(X: Any, said: str) -> None:
    with (
        chz.replace(TOY, space=Integers(refused=True)).to_pymoo(device="cpu", workers=1) as problem,
        pytest.raises(UserError, match=said),
    ):
        problem.networks(X)
