"""Resume of searches by gradient whose weights are nobody's: the learner is replayed from measurements alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chz
import pytest

from evo_robust import (
    DARTS,
    PGD,
    Digits,
    EstimatedLoss,
    FromScratch,
    GradientHybrid,
    GumbelSoftmax,
    LossTraining,
    OneShot,
    Params,
    Problem,
    RobustLoss,
    Standard,
    SupernetTraining,
    search,
)
from evo_robust.evaluators.base import Evaluator

RECIPE = Standard(lr=0.1, batch_size=50)
EVALUATORS = {
    "from scratch": FromScratch(epochs=1, recipe=RECIPE),
    "one shot": OneShot(
        supernet=SupernetTraining(epochs=1, recipe=RECIPE, threads=1), recalibration="clean", recalibration_batches=2
    ),
}


def problem(evaluator: Evaluator, n_gen: int = 3) -> Problem:
    return Problem(
        space=DARTS(channels=4, layers=2, nodes=2),
        data=Digits(train_limit=150),
        objectives=(RobustLoss(attack=PGD(steps=1), limit=40), Params()),
        evaluator=evaluator,
        algorithm=GradientHybrid(
            pop_size=4,
            n_gen=n_gen,
            distribution=GumbelSoftmax(),
            gradient=EstimatedLoss(lr=0.1, steps=10, losses=LossTraining(passes=20)),
        ),
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module", params=EVALUATORS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluator, Path]:
    """A search that nothing interrupted."""
    evaluator, folder = EVALUATORS[request.param], tmp_path_factory.mktemp("whole") / "run"
    search(problem(evaluator), folder, workers=1)
    return evaluator, folder


def went_on(whole: tuple[Evaluator, Path], folder: Path) -> None:
    """Goes on with the search in ``folder`` and compares what it ends with."""
    evaluator, straight = whole
    resumed = search(problem(evaluator), folder, workers=1)
    assert rows(folder) == rows(straight) and len(rows(folder)) == 12
    again = search(problem(evaluator), straight, workers=1)
    assert [row["id"] for row in resumed.front] == [row["id"] for row in again.front]
    assert [row["objectives"] for row in resumed.front] == [row["objectives"] for row in again.front]
    tables = [(path / "distribution.csv").read_text() for path in (folder, straight)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("kept", [2, 10])
def test_killed_while_candidates_are_measured_it_ends_with_the_same_record(
    kept: int, whole: tuple[Evaluator, Path], tmp_path: Path
) -> None:
    """In the first generation and in the last; the last line is cut in two."""
    folder = tmp_path / "run"
    search(problem(whole[0], n_gen=1), folder, workers=1)
    lines = (whole[1] / "evaluations.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "evaluations.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:40])
    went_on(whole, folder)


def test_a_finished_search_goes_on_to_more_generations(whole: tuple[Evaluator, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    search(problem(whole[0], n_gen=2), folder, workers=1)
    went_on(whole, folder)


def test_what_the_learner_knows_is_part_of_what_comes_next(whole: tuple[Evaluator, Path], tmp_path: Path) -> None:
    """Another rate of learning leads elsewhere, so that equal records above are no accident."""
    other = problem(whole[0])
    gradient = chz.replace(other.algorithm.gradient, lr=1.0)  # type: ignore[attr-defined]
    other = chz.replace(other, algorithm=chz.replace(other.algorithm, gradient=gradient))
    search(other, tmp_path / "run", workers=1)
    first, straight = rows(tmp_path / "run"), rows(whole[1])
    assert [row["architecture"] for row in first[:4]] == [row["architecture"] for row in straight[:4]]
    assert [row["architecture"] for row in first] != [row["architecture"] for row in straight]
