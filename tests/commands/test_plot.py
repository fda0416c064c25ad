"""Pictures and tables of runs, and the indicators they share with the search."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.image import imread

from evo_robust import plot
from evo_robust.algorithms.evolution import NSGA2
from evo_robust.algorithms.random import RandomSearch
from evo_robust.data.sets import Digits
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.objectives.cost import Flops, Params
from evo_robust.objectives.errors import CleanError
from evo_robust.parts.base import UserError
from evo_robust.plotting import size, tables
from evo_robust.plotting.progress import history
from evo_robust.problem.files import problem_to_dict
from evo_robust.problem.value import Problem
from evo_robust.record.indicators import Box, common_box, hypervolume, hypervolume_curve, knee, nondominated, pick
from evo_robust.record.quantity import quantity
from evo_robust.record.reading import load_run
from evo_robust.record.view import view_of
from evo_robust.spaces.nsga.space import NSGAPhases

SPACE = NSGAPhases(phases=2, nodes=3)
NAMES = ("clean_error", "flops", "transfer_error", "params", "robust_error")
RUN_FILES = {"front.png", "parallel.png", "hypervolume.png", "networks.png", "size.png", "size.csv"}


def objective(name, rule="thop"):
    # a record's figures are what is drawn: any objective of that name will do
    if name in ("flops", "params"):
        return Flops(rule=rule) if name == "flops" else Params()
    return CleanError(label=name) if name.endswith("error") else Params(label=name)


def architectures(n):
    rng, found = np.random.default_rng(0), {}
    while len(found) < n:
        genome = SPACE.sample(rng)
        found.setdefault(SPACE.to_text(SPACE.decode(genome)), genome.tolist())
    return list(found.items())


def figures(rng):
    size_ = float(np.exp(rng.uniform(0, 5)))
    return {
        "clean_error": 0.02 + 0.3 / (1 + size_) + 0.05 * rng.random(),
        "transfer_error": 0.1 + 0.2 * rng.random(),
        "robust_error": 0.4 + 0.3 * rng.random(),
        "flops": 1e5 * size_,
        "params": float(round(2e3 * size_)),
    }


def write_run(
    folder,
    names=NAMES[:3],
    n=24,
    seed=0,
    *,
    values=None,
    failed=(),
    rule="thop",
    algorithm=None,
    weights=(),
    search_seed=0,
    **more,
):
    """A run folder as the search leaves it when it is killed: problem and ledger alone.

    ``weights`` are the rows' fingerprints; by default all are equal. ``more`` goes to the problem.
    """
    rng = np.random.default_rng(seed)
    problem = Problem(
        space=SPACE,
        objectives=tuple(objective(name, rule) for name in names),
        algorithm=algorithm or NSGA2(),
        seed=search_seed,
        **{"data": Digits(), "evaluator": FromScratch(), **more},
    )
    lines = []
    for i, (text, genome) in enumerate(architectures(n)):
        given = values[i] if values else figures(rng)
        ok = i not in failed
        row = {
            "id": i, "generation": i // 8, "genome": genome, "architecture": text, "constraints": {},
            "objectives": {name: given[name] for name in names} if ok else {},
            "figures": {k: v for k, v in given.items() if k not in names} if ok else {},
            "seconds": 1.0, "seed": i, "status": "ok" if ok else "failed",
            "error": None if ok else "loss is NaN", "fingerprint": weights[i] if weights else "f",
        }  # fmt: skip
        lines.append(json.dumps(row) + "\n")
    folder.mkdir(parents=True)
    (folder / "problem.json").write_text(json.dumps({"schema": 1, "problem": None, **problem_to_dict(problem)}))
    (folder / "evaluations.jsonl").write_text("".join(lines))
    return folder


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_picture(path):
    pixels = imread(path)
    assert pixels.shape[1] >= 1200
    assert pixels[..., :3].std() > 0.05, f"{path.name} is blank"


# indicators


def dominated(F, f):
    return ((f - F >= 0).all(axis=1) & (f - F > 0).any(axis=1)).any()


@given(arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.integers(0, 4).map(float)))
@settings(max_examples=60, deadline=None)
def test_front_and_curve_agree_with_their_definitions(F):
    assert nondominated(F).tolist() == [i for i, f in enumerate(F) if not dominated(F, f)]
    box = common_box(F)
    curve = hypervolume_curve(F, box)
    assert curve == pytest.approx([hypervolume(F[: i + 1], box) for i in range(len(F))])
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == pytest.approx(hypervolume(F[nondominated(F)], box))
    assert 0 <= knee(F) < len(F)


def test_hypervolume_by_hand():
    box = Box(np.zeros(2), np.array([11.0, 2.2]))
    assert hypervolume(np.array([[0.0, 0.0]]), box) == pytest.approx(1.0)
    # all of 11 x 2.2 but a corner that neither of the two points dominates
    F = np.array([[5.0, 0.0], [0.0, 1.0]])
    assert hypervolume(F, box) == pytest.approx(1 - 5.0 * 1.0 / (11.0 * 2.2))
    assert hypervolume(np.array([[12.0, 0.0]]), box) == hypervolume(np.array([[11.0, 0.0]]), box) == 0.0
    assert hypervolume(np.array([[-5.0, -5.0]]), box) == pytest.approx(1.0)
    assert hypervolume(np.zeros((0, 2)), box) == 0.0
    with pytest.raises(ValueError, match="finite"):
        hypervolume(np.array([[np.nan, 0.0]]), box)
    with pytest.raises(ValueError, match="at least one point"):
        common_box(np.zeros((0, 2)))


def test_knee_is_the_bend():
    x = np.linspace(0.1, 1, 10)
    F = np.column_stack([x, 1e8 * 0.01 / x])  # scales of the objectives do not matter
    assert 0 < knee(F) < 5
    assert knee(np.array([[3.0, 4.0]])) == 0
    assert knee(np.array([[1.0, 2.0], [1.0, 2.0]])) == 0
    assert knee(np.array([[0.0, 1.0, 7.0], [0.4, 0.3, 7.0], [1.0, 0.0, 7.0]])) == 1


def test_pick():
    points = [(0.1, 9.0), (0.2, 3.0), (0.9, 1.0)]
    run = SimpleNamespace(objectives=["clean_error", "flops"], front=[
        {"objectives": {"clean_error": e, "flops": f}} for e, f in points])  # fmt: skip
    assert [pick(s, run) for s in ("knee", "2", "best:clean_error", "best:flops")] == [1, 2, 0, 2]
    for spec, message in [("best:flop", "did you mean 'flops'"), ("3", "0 to 2"), ("-1", "expected pick"),
                          ("middle", "best:OBJECTIVE"), ("best", "expected pick")]:  # fmt: skip
        with pytest.raises(UserError, match=message):
            pick(spec, run)
    with pytest.raises(UserError, match="no front"):
        pick("knee", SimpleNamespace(objectives=["flops"], front=[]))


# one run


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_every_number_of_objectives_is_drawn(tmp_path, capsys, m):
    folder = write_run(tmp_path / "run", NAMES[:m], failed={3})
    before = dict(matplotlib.rcParams)
    files = plot.draw_run(folder)
    assert {f.name for f in files} == (RUN_FILES if m > 1 else RUN_FILES - {"parallel.png"})
    for path in files:
        assert path.parent == folder and path.is_file()
        if path.suffix == ".png":
            check_picture(path)
    assert capsys.readouterr() == ("", "")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("n, same", [(1, False), (2, False), (6, True)], ids=["one network", "two", "all equal"])
def test_smallest_runs_are_drawn(tmp_path, n, same):
    values = [figures(np.random.default_rng(0 if same else i)) for i in range(n)]
    folder = write_run(tmp_path / "run", n=n, values=values)
    out = tmp_path / "pictures"
    out.mkdir()
    (out / "parallel.png").touch()  # of an earlier, larger front
    files = RUN_FILES - {"parallel.png"} if n == 1 else RUN_FILES  # one network is no trade-off
    assert {f.name for f in plot.draw_run(folder, out)} == files
    assert {p.name for p in out.iterdir()} == files
    assert rows_of(out / "size.csv")[0]["spearman"] == ""  # so few networks tell nothing


def test_large_front_names_only_what_stands_out(tmp_path):
    values = [{"clean_error": 0.5 - 0.01 * i, "flops": 1e6 + 1e5 * i, "params": 100.0 + i} for i in range(40)]
    folder = write_run(tmp_path / "run", NAMES[:2], n=40, values=values)
    view = view_of(load_run(folder))
    assert len(view.front) == 40 and len(view.roles()) == 3
    check_picture(next(f for f in plot.draw_run(folder) if f.name == "front.png"))


def test_killed_in_the_middle_of_a_line(tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "evaluations.jsonl").open("a") as ledger:
        ledger.write('{"id": 24, "gener')
    assert view_of(load_run(folder)).n_asked == 24
    assert len(plot.draw_run(folder)) == len(RUN_FILES)


def test_without_parameter_counts_size_is_left_out(tmp_path, capsys):
    values = [{k: v for k, v in figures(np.random.default_rng(i)).items() if k != "params"} for i in range(24)]
    folder = write_run(tmp_path / "run", values=values)
    assert plot.main([f"run={folder}"]) == 0
    assert "no parameter counts" in capsys.readouterr().out
    assert not (folder / "size.png").exists()


def test_table_in_the_terminal(tmp_path, capsys):
    folder = write_run(tmp_path / "run", failed={0, 5})
    assert plot.main([f"run={folder}"]) == 0
    out = capsys.readouterr().out
    run = load_run(folder)
    assert f"24 networks evaluated, 2 failed, rejected or outside the constraints, {len(run.front)} on the front" in out
    first = run.front[0]["objectives"]
    assert f"{100 * first['clean_error']:.2f}" in out and "clean error" in out
    assert view_of(run).quantities()[1].words in out and "best compromise" in out
    assert str(folder / "front.png") in out


def test_roles_name_the_ends_and_the_compromise(tmp_path):
    points = [(0.05, 9e6), (0.06, 2e6), (0.5, 1e6), (0.5, 9e6)]
    values = [{"clean_error": e, "flops": f, "params": 10.0} for e, f in points]
    view = view_of(load_run(write_run(tmp_path / "run", NAMES[:2], n=4, values=values)))
    assert view.roles() == {1: "best compromise", 0: "lowest clean error", 2: "lowest FLOPs"}


def test_correlation_with_size():
    x = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 500])
    falling = size.correlation("e", -(x**0.5), x)
    assert falling.found.spearman == pytest.approx(-1) and -1 < falling.found.pearson < 0 and falling.found.n == 11
    assert falling.verdict == "almost only size"
    assert size.correlation("e", 3 - 2 * x, x).found.pearson == pytest.approx(-1)
    noise = np.random.default_rng(0).random(40)
    assert size.correlation("e", noise, np.arange(40.0)).verdict == "no clear relation to size"
    flat, few = size.correlation("e", np.ones(11), x), size.correlation("e", x[:3], x[:3])
    assert math.isnan(flat.found.spearman) and flat.verdict == "unknown: all values are equal"
    assert math.isnan(few.found.spearman) and few.verdict == "too few networks to tell"
    holes = np.where(np.arange(11) == 3, np.nan, x)
    assert size.correlation("e", holes, x).found.n == 10


def test_how_quantities_read():
    error = quantity("clean_error", "fraction", np.array([0.02, 0.5]))
    assert (error.label, error.text(0.0425), error.log) == ("clean error (%)", "4.25 %", False)
    flops = quantity("flops", "nsga", np.array([1e6, 3.2e7]))
    assert (flops.label, flops.text(32_223_744), flops.log) == ("FLOPs (M, nsga)", "32.2 M", True)
    assert not quantity("flops", "nsga", np.array([1e6, 2e6])).log
    assert quantity("fsp_distance", "", np.array([0.5, 2.0])).label == "fsp distance"
    depth = quantity("depth_error", "", np.array([2.0, 3.0]))  # a name says nothing of the unit
    assert (depth.label, depth.text(3.0)) == ("depth error", "3")


# several runs


def known(clean, flops):
    return {"clean_error": clean, "flops": flops, "params": flops / 10, "transfer_error": 0.5}


A = [known(0.10, 4e6), known(0.20, 2e6), known(0.40, 1e6), known(0.45, 3e6)]
B = [known(0.30, 1.01e6), known(0.15, 5e6), known(0.35, 6e6)]


@pytest.fixture
def pair(tmp_path):
    first = write_run(tmp_path / "a", NAMES[:3], n=4, values=A)
    second = write_run(tmp_path / "b", NAMES[:2], n=3, values=B)
    return first, second


def test_what_one_objective_cannot_compare_is_said(tmp_path, capsys):
    def folder(name, *names):
        keep = (*names, "params", "flops")
        values = [{k: v for k, v in figures(np.random.default_rng(i)).items() if k in keep} for i in range(24)]
        return write_run(tmp_path / name, names, values=values)

    one, other = folder("one", "clean_error", "flops"), folder("other", "transfer_error", "flops")
    assert plot.main([f"run={one},{other}", f"out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "note: FLOPs alone compares these runs: hypervolume and dominance say how low it gets, no more" in said
    assert "left out: clean_error, transfer_error" in said


def test_runs_that_were_not_measured_alike_are_said_to_be(tmp_path, capsys):
    one = write_run(tmp_path / "one", evaluator=FromScratch(seed=1))
    other = write_run(tmp_path / "other", evaluator=FromScratch(epochs=9, seed=2), data=Digits(train_limit=50))
    out = f"out={tmp_path / 'out'}"
    assert plot.main([f"run={one},{other}", out]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "not measured alike, so that figures compare with care: data.train_limit: None → 50; evaluator.epochs:" in said
    )
    assert plot.main([f"run={one},{write_run(tmp_path / 'again', evaluator=FromScratch(seed=3))}", out]) == 0
    assert "not measured alike" not in capsys.readouterr().out, "seeds are no other way to measure"


def test_networks_that_meet_no_constraint_have_not_failed(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    ledger = folder / "evaluations.jsonl"
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    for row in rows:
        row["constraints"] = {"params_at_most": 0.25 + row["id"], "flops_at_most": -1.0}
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot.main([f"run={folder}"]) == 2
    said = capsys.readouterr().err
    assert "none of 24 networks meets the constraints; the nearest one breaks params_at_most by 0.25" in said


def test_two_runs_over_each_other(pair, tmp_path, capsys):
    out = tmp_path / "both"
    assert plot.main([f"run={pair[0]},{pair[1]}", f"out={out}", "tolerance=0.02"]) == 0
    for name in ("fronts", "hypervolume", "top"):
        check_picture(out / f"compare_{name}.png")
    top = rows_of(out / "compare_top.csv")
    assert [(r["top"], r["run"], r["networks"]) for r in top[:4]] == [
        ("1", "a", "1"), ("1", "b", "1"), ("3", "a", "3"), ("3", "b", "2")]  # fmt: skip
    # networks of a's front by FLOPs: .40, .20, .10; of b's: .30, .15
    assert [float(r["clean_error"]) for r in top[:4]] == pytest.approx([0.4, 0.3, 0.7 / 3, 0.225])
    assert float(top[2]["flops"]) == pytest.approx(7e6 / 3) and float(top[2]["params"]) == pytest.approx(7e5 / 3)
    pairs = rows_of(out / "compare_pairs.csv")
    assert [(r["pair"], r["run"], float(r["clean_error"])) for r in pairs] == [("1", "a", 0.4), ("1", "b", 0.3)]
    text = capsys.readouterr().out
    assert "unequal budgets: a 4 evaluations, b 3 evaluations" in text
    assert "Networks of nearly equal FLOPs, as the search measured them" in text
    # no table of the paper, which trains what it found before it measures
    assert " ".join(text.split()).count(tables.SEARCH_TIME) == 2
    assert {r["measured"] for r in (*top, *pairs)} == {"search"}


def test_hypervolume_of_several_runs_shares_one_scale(pair, tmp_path):
    plot.draw_comparison(pair, tmp_path / "both")
    found = {r["run"]: r for r in rows_of(tmp_path / "both" / "compare_table.csv")}
    columns = [[[v[n] for n in NAMES[:3]] for v in run] for run in (A, B)]
    box = common_box(np.array(columns[0] + columns[1]))
    for name, F in zip("ab", columns, strict=True):
        assert float(found[name]["common_box_hypervolume"]) == pytest.approx(hypervolume(np.array(F), box))
    assert float(found["a"]["common_box_hypervolume_at_equal_budget"]) <= float(found["a"]["common_box_hypervolume"])
    # b's .15 at 5e6 is beaten by a's .10 at 4e6; of a nothing is beaten but .40 at 1e6 costs less than b's .30
    assert float(found["b"]["dominated"]) == 0.5 and float(found["a"]["dominated"]) == 0.0


def test_generations_that_do_not_compare_have_a_value_each(tmp_path, capsys):
    # the second generation (8 to 15) begins with the first one's weights; earlier rows may lack a column
    rng = np.random.default_rng(2)
    values = [figures(rng) for _ in range(24)]
    del values[0]["transfer_error"]
    changed = write_run(tmp_path / "changed", NAMES[:2], values=values, failed={3, 23}, weights="e" * 12 + "f" * 12)
    steady = write_run(tmp_path / "steady", NAMES[:3], n=10, values=values[10:20])
    out = tmp_path / "both"
    assert plot.main([f"run={changed},{steady}", f"out={out}"]) == 0
    usable = [i for i in range(1, 23) if i != 3]
    F = np.array([[v.get(name, np.nan) for name in NAMES[:3]] for v in values])
    box = common_box(F[usable])
    parts = [[i for i in usable if first <= i < end] for first, end in ((0, 8), (12, 16), (12, 24))]
    expected = [hypervolume(F[part][nondominated(F[part])], box) for part in parts]
    assert expected[1] < expected[0], "the figures of this test fall"
    found = [r for r in rows_of(out / "compare_hypervolume.csv") if r["run"] == "changed"]
    assert [int(r["evaluations"]) for r in found] == [8, 16, 24]
    assert [float(r["common_box_hypervolume"]) for r in found] == pytest.approx(expected)
    table = {r["run"]: r for r in rows_of(out / "compare_table.csv")}
    assert float(table["changed"]["common_box_hypervolume_at_equal_budget"]) == pytest.approx(expected[0])
    assert float(table["changed"]["common_box_hypervolume"]) == pytest.approx(expected[2])
    assert len(rows_of(out / "compare_hypervolume.csv")) == 3 + 10
    check_picture(out / "compare_hypervolume.png")
    capsys.readouterr()
    assert plot.main([f"run={changed}"]) == 0
    front = f"{len(load_run(changed).front)} on the front"
    assert (
        "24 networks evaluated 24 times, 11 times with earlier settings, "
        f"2 failed, rejected or outside the constraints, {front}"
    ) in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("several", [False, True])
def test_one_objective_whose_generations_do_not_compare(tmp_path, several):
    values = [known(0.5 - 0.01 * i + 0.1 * (i // 8), 1e6 + i) for i in range(24)]
    weights = "e" * 8 + "f" * 8 + "g" * 8
    folder = write_run(tmp_path / "run", NAMES[:1], values=values, weights=weights)
    other = write_run(tmp_path / "other", NAMES[:1], values=values)
    files = plot.draw_comparison([folder, other], tmp_path / "both") if several else plot.draw_run(folder)
    check_picture(files[0])
    best = history(view_of(load_run(folder)), NAMES[:1], lambda F: np.minimum.accumulate(F[:, 0]))
    assert best.evaluations.tolist() == [8, 16, 24]
    assert best.values == pytest.approx([values[i]["clean_error"] for i in (7, 15, 23)])


def test_beside_a_random_search(tmp_path, capsys):
    run = write_run(tmp_path / "search", seed=1)
    random = write_run(tmp_path / "random", seed=2, algorithm=RandomSearch())
    assert plot.main([f"run={run}", f"baseline={random}"]) == 0
    assert "note" not in capsys.readouterr().out
    names = {"baseline_front.png", "baseline_hypervolume.png", "baseline_hypervolume.csv", "baseline_table.csv"}
    assert names | RUN_FILES <= {p.name for p in run.iterdir()}
    assert len(rows_of(run / "baseline_hypervolume.csv")) == 48
    short = write_run(tmp_path / "short", n=10, seed=3)
    assert plot.main([f"run={run}", f"baseline={short}", f"out={tmp_path / 'x'}"]) == 0
    text = capsys.readouterr().out
    assert "unequal budgets: search 24 evaluations, short 10 evaluations" in text
    assert "made by NSGA2, not by a random search" in text


def test_no_pair_within_tolerance(pair, tmp_path, capsys):
    assert plot.main([f"run={pair[0]},{pair[1]}", f"out={tmp_path / 'both'}", "tolerance=0"]) == 0
    assert "no two networks" in capsys.readouterr().out


def test_each_network_is_paired_once(tmp_path):
    a = [known(0.5, 1.00e6), known(0.4, 1.01e6), known(0.3, 5e6)]
    b = [known(0.5, 1.011e6), known(0.6, 1.009e6)]
    views = [view_of(load_run(write_run(tmp_path / n, NAMES[:2], n=len(v), values=v))) for n, v in (("a", a), ("b", b))]
    found = tables.equal_flops_pairs(views, 0.02)
    flops = [[view.column("flops")[view.front[i]] for view, i in (p.first, p.second)] for p in found]
    assert flops == [[1.00e6, 1.009e6], [1.01e6, 1.011e6]] or flops == [[1.01e6, 1.011e6], [1.00e6, 1.009e6]]


# what a user gets wrong


def refused(capsys, arguments, message):
    assert plot.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err, err


def snapshot(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_without_arguments_usage_and_with_help_every_key(capsys):
    assert plot.main([]) == 0
    assert "run=DIR baseline=DIR" in capsys.readouterr().out
    assert plot.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(key in text for key in ("run", "baseline", "out", "tolerance"))


def test_bad_input_is_one_message_and_writes_nothing(tmp_path, capsys, pair):
    empty = tmp_path / "empty"
    empty.mkdir()
    failed = write_run(tmp_path / "failed", n=3, failed={0, 1, 2})
    begun = write_run(tmp_path / "begun", n=0)
    good = str(pair[0])
    other_rule = write_run(tmp_path / "rule", n=4, rule="nsga")
    bare = [{"robust_error": 0.5}] * 3
    stranger = write_run(tmp_path / "stranger", ("robust_error",), n=3, values=bare)
    no_flops = write_run(tmp_path / "no_flops", ("clean_error",), n=1, values=[{"clean_error": 0.5}])
    before = snapshot(tmp_path)
    out = f"out={tmp_path / 'new'}"
    cases = [
        (["tolerance=0.1"], "expected run=DIR"),
        ([f"run={tmp_path / 'nowhere'}", out], "is no run folder"),
        ([f"run={empty}", out], "is no run folder"),
        ([f"run={failed}", out], "none of 3 evaluations succeeded; the first reason: loss is NaN"),
        ([f"run={begun}", out], "no candidate has been evaluated yet"),
        ([f"run={good},{failed}", out], "none of 3"),
        ([f"run={good},{good}", out], "the same folder twice"),
        ([f"run={good},", out], "expected run=DIR"),
        ([f"run={good},{other_rule}", out], "counted differently"),
        ([f"run={good},{stranger}", out], "no objective in common"),
        ([f"run={good},{no_flops}", out], "top-N tables need FLOPs"),
        ([f"run={good}", f"baseline={stranger}", out], "no objective in common"),
        ([f"run={good},{pair[1]}", f"baseline={good}", out], "one run beside a baseline"),
        ([f"run={good}", "tolerance=2", out], "expected tolerance in [0, 1)"),
        ([f"run={good}", "tolerance=much", out], "tolerance"),
        ([f"run={good}", "basline=x", out], "did you mean 'baseline'"),
        ([f"run={good}", f"out={Path(good) / 'problem.json'}"], "expected a folder, got a file"),
        ([f"run={good}", f"out={Path(good) / 'problem.json' / 'x'}"], "the folder cannot be made"),
    ]
    for arguments, message in cases:
        refused(capsys, arguments, message)
    assert snapshot(tmp_path) == before
