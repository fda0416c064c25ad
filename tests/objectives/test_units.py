"""Units of figures: an objective says its own, and nothing is a percentage that does not say so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
from toys import Distance, Integers, Total, Toy

from evo_robust import (
    NSGA2,
    CleanError,
    Digits,
    Flops,
    FSPDistance,
    LipschitzBound,
    LipschitzConfidence,
    Params,
    Problem,
    RobustError,
    RobustLoss,
    TransferError,
    WeightedSum,
    plot,
    search,
)
from evo_robust.export import genotype_of
from evo_robust.networks.model_card import _objective_lines
from evo_robust.objectives.base import Objective
from evo_robust.parts.base import subclasses
from evo_robust.plotting.compare import shown_columns
from evo_robust.record.quantity import quantity
from evo_robust.record.reading import Run, load_run
from evo_robust.record.view import view_of

UNITS = [
    (CleanError(), "fraction"),
    (RobustError(), "fraction"),
    (TransferError(), "fraction"),
    (WeightedSum(of=(CleanError(), RobustError())), "sum of fractions"),
    (WeightedSum(of=(CleanError(), RobustError()), weights=(1.0, 2.0)), "weighted sum"),
    (WeightedSum(of=(CleanError(), Params())), "weighted sum"),
    (WeightedSum(of=(Total(), Distance())), ""),
    (Flops(), "operations counted by thop"),
    (Params(), "parameters"),
    (FSPDistance(), "squared norm"),
    (LipschitzBound(), "ln of L2 gain"),
    (LipschitzConfidence(), "ln of L2 gain"),
    (RobustLoss(), "nats"),
]


@chz.chz
class CountOfErrors(Total):
    """A count whose name ends as that of an error: 6 genes of 0..3, at most 18."""


@chz.chz
class Missed(Total):
    """A share whose name does not tell."""

    @property
    def unit(self) -> str:
        return "fraction"

    def measure(self, candidate: Any) -> float:
        return super().measure(candidate) / 18


@pytest.mark.parametrize(("objective", "unit"), UNITS, ids=lambda value: getattr(value, "name", value))
def test_every_shipped_objective_says_its_unit(objective: Objective, unit: str) -> None:
    assert objective.unit == unit
    shown = quantity(objective.name, objective.unit, np.array([0.25, 0.5]))
    assert shown.text(0.25) == ("25.00 %" if unit == "fraction" else "0.25")


def test_no_shipped_objective_is_missing_above() -> None:
    shipped = {cls for cls in subclasses(Objective).values() if cls.__module__.startswith("evo_robust.objectives")}
    assert shipped == {type(objective) for objective, _ in UNITS} - {Total, Distance}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    problem = Problem(
        space=Integers(),
        data=Digits(),
        objectives=(CountOfErrors(label="count_error"), Missed()),
        recorded=(Missed(label="seen"), Distance()),
        evaluator=Toy(),
        algorithm=NSGA2(pop_size=8, n_gen=2),
    )
    return search(problem, tmp_path_factory.mktemp("units") / "run", device="cpu", workers=1)


def test_a_count_is_shown_as_it_is_and_a_share_in_percent(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    view = view_of(run)
    count, share = view.quantities()
    assert (count.label, count.text(3.0)) == ("count error", "3")
    assert (share.label, share.text(0.5)) == ("missed (%)", "50.00 %")
    assert [view.unit(name) for name in ("seen", "distance", "flops", "nowhere")] == ["fraction", "", "thop", ""]
    assert [q.label for q in shown_columns([view, view], ["count_error", "missed"])] == ["count error", "missed (%)"]
    assert plot.main([f"run={run.folder}"]) == 0
    table = capsys.readouterr().out
    lowest = min(row["objectives"]["count_error"] for row in run.front)
    assert f" {lowest:g} " in table and f"{100 * lowest:.2f}" not in table
    assert (run.folder / "front.png").stat().st_size > 0 and (run.folder / "parallel.png").stat().st_size > 0


def test_a_genotype_and_its_card_hold_no_unit_where_there_is_none(run: Run) -> None:
    genotype = genotype_of(run, run.front[0])
    assert genotype.units == {"missed": "fraction"}
    count, missed = _objective_lines(genotype)
    assert count == f"count_error  {genotype.objectives['count_error']:g}" and missed.endswith(" fraction")


def test_a_run_from_when_fraction_was_the_default_is_shown_by_what_its_objectives_say_now(
    run: Run, tmp_path: Path
) -> None:
    for name in ("problem.json", "evaluations.jsonl"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    info = json.loads((tmp_path / "problem.json").read_text())
    info["objectives"][0]["unit"] = "fraction"
    (tmp_path / "problem.json").write_text(json.dumps(info))
    assert view_of(load_run(tmp_path)).quantities()[0].text(3.0) == "3"


def test_an_old_count_whose_class_is_not_at_hand_is_no_percentage(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import chz\nfrom evo_robust import *\n@chz.chz\nclass Depth(Objective):\n    needs_weights = False\n"
        "    @property\n    def unit(self): return 'fraction'\n"  # what every objective said that said nothing
        "    def measure(self, candidate): return float(len(candidate.text))\n"
        "tiny = Problem(space=NSGAPhases(phases=1, nodes=3, channels=2), data=Digits(train_limit=40),\n"
        "    objectives=(Params(), Depth()), evaluator=FromScratch(epochs=1, recipe=Standard(batch_size=16)),\n"
        "    algorithm=NSGA2(pop_size=2, n_gen=1))\n"
        "if __name__ == '__main__':\n    search(tiny, 'run', workers=1)\n"
    )
    subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, check=True)
    view = view_of(load_run(tmp_path / "run"))
    assert view.run.missing and view.unit("depth") == ""
    assert not view.quantities()[1].text(10.0).endswith("%")
