"""A run in Python: one line of text, a table of plain records, a pandas frame, networks with their weights."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from toys import Distance, Integers, Total, Toy

import evo_robust
from evo_robust import (
    NSGA2,
    PGD,
    CleanError,
    Constraint,
    Digits,
    Flops,
    FromScratch,
    NSGAPhases,
    Problem,
    RobustError,
    Run,
    Standard,
    load_run,
    search,
)
from evo_robust.inference.predictions import clean_error
from evo_robust.parts.base import Fraction, UserError

SMALL = Problem(
    space=NSGAPhases(phases=1, nodes=3, channels=2),
    data=Digits(train_limit=200),
    objectives=(CleanError(), Flops()),
    recorded=(RobustError(attack=PGD(steps=1), eps=(Fraction(0.05), Fraction(0.1)), limit=20),),
    evaluator=FromScratch(epochs=1, recipe=Standard(lr=0.1, batch_size=16)),
    algorithm=NSGA2(pop_size=4, n_gen=2),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return search(SMALL, tmp_path_factory.mktemp("runs") / "x", device="cpu", workers=1)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with failures, constraints, and an objective that is called like a column."""
    problem = Problem(
        space=Integers(), data=Digits(), objectives=(Total(label="id"), Distance()), evaluator=Toy(fails=(2,)),
        constraints=(Constraint(of=Total(label="sum"), at_most=9.0),), algorithm=NSGA2(pop_size=12, n_gen=1),
    )  # fmt: skip
    return search(problem, tmp_path_factory.mktemp("toys") / "toy", info={"problem": "toy", "scale": "demo"})


def test_a_run_is_one_line(run: Run, toy: Run) -> None:
    assert repr(run) == f"Run(NSGAPhases on digits: 8 evaluations, {len(run.front)} on the front, {run.folder})"
    assert repr(toy) == f"Run(toy demo: 12 evaluations, {len(toy.front)} on the front, {toy.folder})"
    assert repr(dataclasses.replace(toy, folder=Path("a\nb"))).endswith(", a\\nb)")


def test_the_front_is_a_table_of_plain_records(run: Run) -> None:
    table = run.table()
    assert table == json.loads(json.dumps(table, allow_nan=False))
    assert [record["index"] for record in table] == list(range(len(run.front)))
    assert [record["id"] for record in table] == [row["id"] for row in run.front]
    first, row = table[0], run.front[0]
    assert first["architecture"] == row["architecture"] and first["status"] == "ok" and first["error"] is None
    assert first["clean_error"] == row["objectives"]["clean_error"]
    assert first["robust_error"] == row["recorded"]["robust_error"]
    assert first["robust_error.0.05"] == row["figures"]["robust_error"]["0.05"]
    assert first["params"] == row["figures"]["params"]


def test_all_evaluations_have_the_same_keys(toy: Run) -> None:
    table = toy.table("all")
    assert [record["id"] for record in table] == list(range(12))
    assert {tuple(record) for record in table} == {tuple(table[0])}
    failed = [record for record in table if record["status"] == "failed"]
    assert failed and all(record["distance"] is None and "holds 2" in record["error"] for record in failed)
    places = {record["index"] for record in table} - {None}
    assert places == set(range(len(toy.front))) and len(toy.front) < 12
    # an objective does not hide a column of its name, nor the other way round
    row = toy.front[0]
    record = toy.table()[0]
    assert (record["id"], record["figures.id"]) == (row["id"], row["objectives"]["id"])
    assert record["constraints.sum_at_most"] == row["constraints"]["sum_at_most"] <= 0
    with pytest.raises(UserError, match="expected which='front' or which='all', got 'best'"):
        toy.table("best")  # type: ignore[arg-type]


def test_a_run_becomes_a_pandas_frame(toy: Run) -> None:
    pandas = pytest.importorskip("pandas")
    frame = toy.to_pandas("all")
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 12
    assert (
        frame["distance"].dtype == float and frame["distance"].isna().sum() == (frame["status"] == "failed").sum() > 0
    )
    assert list(toy.to_pandas()["id"]) == [row["id"] for row in toy.front]


def test_without_pandas_the_message_says_what_to_install(toy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not there
    with pytest.raises(UserError, match="to_pandas needs pandas: pip install pandas"):
        toy.to_pandas()


def test_a_network_has_the_weights_it_was_judged_by(run: Run) -> None:
    images = SMALL.data.load().val
    for pick in ("knee", 0, str(len(run.front) - 1), "best:clean_error"):
        model = run.network(pick)
        assert not any(module.training for module in model.modules())
        assert next(model.parameters()).device.type == "cpu"
        assert clean_error(model, images) == pytest.approx(run.chosen(pick)["objectives"]["clean_error"], abs=1e-9)
    best = min(row["objectives"]["clean_error"] for row in run.front)
    assert run.chosen("best:clean_error")["objectives"]["clean_error"] == best
    one, again = run.network("knee").state_dict(), load_run(run.folder).network().state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)


@pytest.mark.parametrize(
    ("pick", "said"),
    [
        ("nee", r"expected pick=knee, pick=INDEX \(0 to \d+\), pick=best:OBJECTIVE or pick=derived, got pick=nee"),
        (99, "pick=99: the front has"),
        (-1, "got pick=-1"),
        (True, "expected pick to be 'knee', an index or 'best:OBJECTIVE', got True"),
        ("best:flop", "did you mean 'flops'"),
        ("derived", "expected a search whose algorithm moves a distribution"),
    ],
)
def test_a_pick_that_names_nothing_is_refused(run: Run, pick: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        run.network(pick)  # type: ignore[arg-type]


def test_a_run_without_networks_says_so(toy: Run) -> None:
    with pytest.raises(UserError, match="Toy gives no weights"):
        toy.network()


def test_what_the_front_page_shows_is_public() -> None:
    assert {"load", "load_run", "pymoo_problem", "search", "Run", "__version__"} <= set(evo_robust.__all__)
    assert evo_robust.__version__[0].isdigit()
