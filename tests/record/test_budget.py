"""Choosing networks within a budget: what can be typed, the front within it, and the export command."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from toys import Distance, Integers, Total, Toy

from evo_robust import export
from evo_robust.algorithms.random import RandomSearch
from evo_robust.data.sets import Digits
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.final_training.settings import SETTINGS_FILE
from evo_robust.networks.genotype import load_genotype
from evo_robust.objectives.cost import Flops, Params
from evo_robust.objectives.errors import CleanError
from evo_robust.objectives.figures import figures_of
from evo_robust.parts.base import UserError
from evo_robust.problem.value import Problem
from evo_robust.record.budget import Limit, parse_budget, structure_of, within
from evo_robust.record.indicators import nondominated, objective_matrix, pick
from evo_robust.record.reading import Run, front_of
from evo_robust.search import search
from evo_robust.spaces.robnet.space import RobNet
from evo_robust.spaces.structure import BUDGETS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four RobNet networks of each class, measured with the weights they begin with."""
    problem = Problem(
        space=RobNet(channels=4, layers=2),
        data=Digits(train_limit=200),
        objectives=(CleanError(), Flops(rule="macs", label="macs")),
        recorded=(Params(label="size"),),
        evaluator=FromScratch(epochs=0),
        algorithm=RandomSearch(pop_size=12, n_gen=1, budgets=BUDGETS),
    )
    return search(problem, tmp_path_factory.mktemp("search") / "run", device="cpu", workers=1, info={"problem": "mine"})


def exported(run: Run, *arguments: str) -> int:
    return export.main([f"run={run.folder}", "weights=false", *arguments])


@pytest.mark.parametrize(
    ("text", "size", "limits", "label"),
    [
        ("small", "small", (), "small"),
        ("params<5e6", None, (Limit("params", 5e6, False),), "params-below-5e6"),
        ("flops <= 1.5e9", None, (Limit("flops", 1.5e9, True),), "flops-up-to-1.5e9"),
        (
            "large, robust_error<8/255,params<=10",
            "large",
            (Limit("robust_error", 8 / 255, False), Limit("params", 10, True)),
            "large-robust_error-below-8-255-params-up-to-10",
        ),
    ],
)
def test_a_budget_is_read(text: str, size: str | None, limits: tuple[Limit, ...], label: str) -> None:
    budget = parse_budget(text)
    assert (budget.size, budget.limits, budget.label) == (size, limits, label)
    assert budget.text == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("smal", "'smal' is neither a class nor a condition such as params<5e6 or flops<=1e9.*did you mean 'small'"),
        ("params", "'params' is neither a class.*expected one of: large, medium, small"),
        ("params>5e6", "'params>5e6' is neither a class nor a condition"),
        ("1<params<5", "'1<params<5' is neither a class nor a condition"),
        ("small,", "'' is neither a class nor a condition"),
        ("<5", "'<5' is neither a class nor a condition"),
        ("params<5 mio", "expected a number such as 0.03 or 8/255, got '5mio'"),
        ("params<inf", "expected a finite number, got inf"),
        ("params<nan", "expected a finite number, got nan"),
        ("small,large", "expected one class, got small and large"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse_budget(text)
    assert str(caught.value).startswith("budget=")


@pytest.mark.parametrize("size", BUDGETS)
def test_the_front_within_a_class_is_that_of_all_its_networks(run: Run, size: str) -> None:
    limited = within(run, parse_budget(size))
    inside = [row for row in run.evaluations if structure_of(run, row).budget == size]
    assert len(inside) == 4 and limited.evaluations == inside
    F = objective_matrix(inside, run.objectives)
    assert {row["id"] for row in limited.front} == {inside[i]["id"] for i in nondominated(F)}
    best = limited.front[pick("best:clean_error", limited)]["objectives"]["clean_error"]
    assert best == F[:, 0].min()


def test_networks_off_the_front_of_the_run_can_be_picked(run: Run) -> None:
    front = {row["id"] for row in run.front}
    fronts = [row["id"] for size in BUDGETS for row in within(run, parse_budget(size)).front]
    assert set(fronts) - front
    # a network of the whole front stays on the front of its own class
    assert front <= set(fronts)


@pytest.mark.parametrize("name", ["macs", "clean_error", "size", "params", "flops"])
def test_conditions_hold_for_objectives_recorded_values_and_figures(run: Run, name: str) -> None:
    values = sorted(figures_of(row)[name] for row in run.evaluations)
    middle = values[len(values) // 2]
    for sign, expected in (("<", [v for v in values if v < middle]), ("<=", [v for v in values if v <= middle])):
        limited = within(run, parse_budget(f"{name}{sign}{middle!r}"))
        assert sorted(figures_of(row)[name] for row in limited.evaluations) == expected


def test_several_conditions_hold_together(run: Run) -> None:
    limit = sorted(row["figures"]["params"] for row in run.evaluations)[8]
    limited = within(run, parse_budget(f"medium,params<{limit},clean_error<=1"))
    assert 0 < len(limited.evaluations) <= 4
    for row in limited.evaluations:
        assert structure_of(run, row).budget == "medium" and row["figures"]["params"] < limit


def test_only_rows_of_the_latest_fingerprint_count(run: Run) -> None:
    old = {**run.evaluations[0], "id": -1, "fingerprint": "old", "objectives": {"clean_error": 0.0, "macs": 1.0}}
    rows = [old, *run.evaluations]
    mixed = dataclasses.replace(run, evaluations=rows, front=front_of(rows, run.objectives))
    with pytest.raises(UserError, match=r"0 of 12 meet the condition on macs"):
        within(mixed, parse_budget("macs<=1"))


class TestErrors:
    def test_an_unknown_figure_names_the_nearest(self, run: Run) -> None:
        with pytest.raises(UserError, match=r"budget=param<5: no figure 'param' in this run; did you mean 'params'"):
            within(run, parse_budget("param<5"))

    def test_nothing_within_tells_how_near_the_networks_come(self, run: Run) -> None:
        smallest = min(run.evaluations, key=lambda row: row["figures"]["params"])
        said = rf"budget=params<10: 0 of 12 .* smallest is {smallest['figures']['params']:,} \(evaluation "
        with pytest.raises(UserError, match=said + str(smallest["id"])):
            within(run, parse_budget("params<10"))
        with pytest.raises(UserError, match=r"of its 12 networks 4 small, 4 medium, 4 large; 0 of 12 meet .* on macs"):
            within(run, parse_budget("large,macs<1"))

    def test_a_space_that_tells_no_classes_is_named(self, tmp_path: Path) -> None:
        toy = Problem(
            space=Integers(),
            data=Digits(),
            objectives=(Total(), Distance()),
            evaluator=Toy(),
            algorithm=RandomSearch(pop_size=4, n_gen=1),
        )
        found = search(toy, tmp_path / "run", device="cpu", workers=1)
        with pytest.raises(UserError, match=r"Integers knows no classes small, medium, large: expected budget=params<"):
            within(found, parse_budget("small"))
        largest = max(row["objectives"]["total"] for row in found.evaluations)
        assert len(within(found, parse_budget(f"total<{largest}")).evaluations) < 4

    def test_a_run_without_a_front_says_so(self, run: Run) -> None:
        rows = [{**row, "status": "failed"} for row in run.evaluations]
        empty = within(dataclasses.replace(run, evaluations=rows, front=[]), parse_budget("params<5"))
        with pytest.raises(UserError, match="the run has no front yet"):
            pick("knee", empty)


class TestExport:
    def test_writes_the_best_of_each_class_to_a_folder_of_its_own(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for size in BUDGETS:
            assert exported(run, "pick=best:clean_error", f"budget={size}") == 0
            said = capsys.readouterr().out
            assert f"within budget={size}: 4 of 12 networks" in said and "convolutions" in said
            g = load_genotype(run.folder / "export" / f"best-clean_error-{size}")
            assert g.provenance["pick"] == "best:clean_error" and g.provenance["budget"] == size
            errors = {r["architecture"]: r["objectives"]["clean_error"] for r in run.evaluations}
            inside = [a for a in errors if run.problem.space.structure(run.problem.space.from_text(a)).budget == size]
            assert g.text in inside and g.objectives["clean_error"] == min(errors[a] for a in inside)

    def test_shows_figures_that_the_budget_limits(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        sizes = sorted(row["figures"]["params"] for row in run.evaluations)
        limit = sizes[5]
        assert exported(run, "pick=knee,0", f"budget=params<={limit}") == 0
        said = capsys.readouterr().out
        inside = sum(size <= limit for size in sizes)
        assert f"within budget=params<={limit}: {inside} of 12 networks" in said
        assert "parameters" in said
        for label in ("knee", "front-0"):
            g = load_genotype(run.folder / "export" / f"{label}-params-up-to-{limit}")
            assert g.figures["params"] <= limit

    def test_without_a_budget_nothing_is_said_of_one(self, run: Run, tmp_path: Path) -> None:
        assert exported(run, f"out={tmp_path / 'out'}") == 0
        assert "budget" not in json.loads((tmp_path / "out" / "genotype.json").read_text())["provenance"]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["budget=tiny"], "'tiny' is neither a class"),
            (["budget=param<5"], "did you mean 'params'"),
            (["budget=params<5"], "is within budget=params<5: 0 of 12"),
            (["budget=small", "pick=4"], "pick=4: the front has"),
            (["budget=small", "pick=best:clean"], "did you mean 'clean_error'"),
        ],
    )
    def test_bad_input_is_one_message_and_nothing_is_written(
        self, run: Run, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert exported(run, f"out={tmp_path / 'out'}", *arguments) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
        assert os.listdir(tmp_path) == []

    def test_a_retrained_network_takes_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / SETTINGS_FILE).write_text("{}")
        assert export.main([f"run={tmp_path}", "budget=small"]) == 2
        assert "holds one retrained network: expected no budget, got budget=small" in capsys.readouterr().err

    def test_help_tells_of_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert export.main([]) == 0 and "budget=small|medium|large" in capsys.readouterr().out
        assert export.main(["--help"]) == 0 and "convolutions" in capsys.readouterr().out


def test_a_row_that_lacks_a_figure_is_outside_its_conditions(run: Run) -> None:
    rows = [dict(row) for row in run.evaluations]
    del rows[0]["figures"]
    limited = within(dataclasses.replace(run, evaluations=rows), parse_budget("flops<1e12"))
    assert [row["id"] for row in limited.evaluations] == [row["id"] for row in rows[1:]]


def test_parts_of_figures_bear_dotted_names_and_what_is_no_number_is_not_offered(run: Run) -> None:
    figures = {
        "curve": {"0.03": 0.5, "estimated": []},
        "cells": [None, 3],
        "exact": True,
        "params": 7,
        "macs": {"of": 1},
    }
    found = figures_of({**run.evaluations[0], "figures": figures})
    assert set(found) == {"clean_error", "macs", "size", "params", "curve.0.03", "cells.1", "macs.of"}
    assert (found["curve.0.03"], found["cells.1"]) == (0.5, 3.0)
    assert found["macs"] == run.evaluations[0]["objectives"]["macs"]


def test_a_strength_of_an_error_can_be_limited(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (run.folder / "evaluations.jsonl").read_text().splitlines()]
    for row in rows:
        row["figures"]["robust_error"] = {"0.05": row["id"] / len(rows), "estimated": []}
    (tmp_path / "problem.json").write_text((run.folder / "problem.json").read_text())
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert export.main([f"run={tmp_path}", "weights=false", "budget=robust_error.0.05<0.5"]) == 0
    said = capsys.readouterr().out
    assert "within budget=robust_error.0.05<0.5: 6 of 12 networks" in said and "at 0.05" in said
    chosen = load_genotype(tmp_path / "export" / "knee-robust_error.0.05-below-0.5")
    assert chosen.figures["robust_error"]["0.05"] < 0.5
