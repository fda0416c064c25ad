"""What a search cost, by its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys import Distance, Integers, Total, Toy

from evo_robust import plot
from evo_robust.algorithms.evolution import NSGA2
from evo_robust.data.sets import Digits
from evo_robust.problem.value import Problem
from evo_robust.record.reading import load_run
from evo_robust.record.spent import spent
from evo_robust.search import search


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished search whose record says 1,800 and then 5,400 s, and 600 s for each candidate."""
    problem = Problem(
        space=Integers(),
        data=Digits(),
        objectives=(Total(), Distance()),
        evaluator=Toy(),
        algorithm=NSGA2(pop_size=4, n_gen=2),
    )
    search(problem, tmp_path / "run", device="cpu", workers=1)
    rows = [json.loads(line) for line in (tmp_path / "run/evaluations.jsonl").read_text().splitlines()]
    told = "".join(json.dumps(row | {"seconds": 600.0}) + "\n" for row in rows[:6])
    (tmp_path / "run/evaluations.jsonl").write_text(told)
    (tmp_path / "run/progress.csv").write_text("generation,evaluations,seconds\n1,4,1800\n2,8,5400\n")
    return tmp_path / "run"


def test_cost_is_the_last_generations_time_and_the_sum_of_candidates(folder: Path) -> None:
    found = spent(load_run(folder))
    assert (found.whole, found.candidates) == (5400.0, 3600.0)
    assert "1.5 hours (0.0625 days) from start to end" in found.words and "1 hours (0.0417 days)" in found.words


def test_a_record_without_progress_still_tells_of_candidates(folder: Path) -> None:
    (folder / "progress.csv").unlink()
    found = spent(load_run(folder))
    assert found.whole is None and found.words == (
        "search cost: its candidates' own times add up to 1 hours (0.0417 days)"
    )


def test_plot_tells_the_cost(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot.main([f"run={folder}"]) == 0
    assert spent(load_run(folder)).words in capsys.readouterr().out
