"""Runs that repeat one search with other seeds: which belong together, and what is said of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_plot import NAMES, check_picture, rows_of, write_run

from evo_robust import plot
from evo_robust.algorithms.evolution import NSGA2
from evo_robust.algorithms.random import RandomSearch
from evo_robust.data.sets import Digits
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.plotting import compare
from evo_robust.plotting.groups import GroupStanding, Spread, _common_name, best_of, groups_of, p_value, smallest_p
from evo_robust.plotting.progress import HypervolumeCurve, common_curves, mean_curve
from evo_robust.record.indicators import nondominated
from evo_robust.record.reading import load_run
from evo_robust.record.view import names_of, view_of


def views_of(folders):
    return [view_of(load_run(folder), name) for folder, name in zip(folders, names_of(folders), strict=True)]


def found(folders):
    return [(group.name, [view.name for view in group.views]) for group in groups_of(views_of(folders))]


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["random-0", "random-1"], "random"),
        (["share0-0", "share0-1"], "share0"),
        (["share0-10", "share0-11"], "share0"),
        (["a_seed1", "a_seed12"], "a"),
        (["nets-0", "nets-1"], "nets"),
        (["wsr", "wsr-1"], "wsr"),
        (["s1", "s2"], "s1"),
        (["here", "there"], "here"),
        (["run-7"], "run-7"),
    ],
)
def test_what_a_group_is_called(names, name):
    assert _common_name(names) == name


def test_what_belongs_together(tmp_path):
    runs = [
        write_run(tmp_path / "a-0", n=3),
        write_run(tmp_path / "b-0", n=3, algorithm=RandomSearch()),
        write_run(tmp_path / "a-1", n=3, search_seed=1, evaluator=FromScratch(seed=7)),
        write_run(tmp_path / "b-1", n=3, algorithm=RandomSearch(n_gen=30), search_seed=1),
        # other images, and a part that may decide figures: no repeats
        write_run(tmp_path / "c", n=3, search_seed=2, data=Digits(split_seed=1)),
        write_run(tmp_path / "d", n=3, search_seed=3, algorithm=NSGA2(crossover_prob=0.5)),
    ]
    assert found(runs) == [("a", ["a-0", "a-1"]), ("b", ["b-0", "b-1"]), ("c", ["c"]), ("d", ["d"])]


def test_a_run_with_the_same_seeds_is_no_repeat(tmp_path):
    short = [write_run(tmp_path / f"short-{s}", n=3, search_seed=s, algorithm=NSGA2(n_gen=5)) for s in range(2)]
    long = [write_run(tmp_path / f"long-{s}", n=3, search_seed=s) for s in range(2)]
    assert found([short[0], long[0]]) == [("short-0", ["short-0"]), ("long-0", ["long-0"])]
    expected = [("short", ["short-0", "short-1"]), ("long", ["long-0", "long-1"])]
    assert found([*short, *long]) == found([short[0], long[0], short[1], long[1]]) == expected


def test_names_of_groups_differ(tmp_path):
    runs = [
        write_run(tmp_path / f"x{i}", n=3, search_seed=i, algorithm=RandomSearch() if i > 1 else None) for i in range(4)
    ]
    assert [name for name, _ in found(runs)] == ["x0", "x2"]


def test_mean_of_steps():
    a, b = HypervolumeCurve(np.array([2, 4]), np.array([0.2, 0.6])), HypervolumeCurve(np.array([3]), np.array([0.4]))
    mean = mean_curve([a, b], end=6, before=0.0)
    assert mean.evaluations.tolist() == [2, 3, 4, 6]
    assert mean.values == pytest.approx([0.1, 0.3, 0.5, 0.5])
    assert math.isnan(mean_curve([a, b], end=6, before=math.nan).values[0])


def test_what_half_of_the_runs_reach():
    lines = [([1.0, 3.0], [9.0, 2.0]), ([2.0], [5.0]), ([4.0], [1.0])]
    x, y = compare.half_reach([(np.array(x), np.array(y)) for x, y in lines])
    # at 2 two of three runs have a network so small: the worse of them counts; at 4 the second best of 2, 5 and 1
    assert (x.tolist(), y.tolist()) == ([2.0, 3.0, 4.0], [9.0, 5.0, 2.0])


def test_how_sure_a_difference_is():
    def group(name, values):
        return GroupStanding(name, Spread(np.array(values)), Spread(np.array(values)))

    low, high = group("low", [0.1, 0.2, 0.3, 0.4, 0.5]), group("high", [0.6, 0.7, 0.8, 0.9, 1.0])
    two = group("two", [2.0, 3.0])
    assert p_value(low, high) == p_value(high, low) == pytest.approx(smallest_p(5, 5)) == pytest.approx(2 / 252)
    assert math.isnan(p_value(low, two)) and best_of([low, two, high]) is high and best_of([two]) is two
    assert Spread(np.array([0.5, 0.7])).text == "0.600 ± 0.141" and Spread(np.array([0.5])).text == "0.500"


@pytest.fixture
def legends(monkeypatch):
    """Legends of the pictures that a test draws, in their order."""
    kept = []
    save = Figure.savefig

    def keep(figure, path, **options):
        shown = figure.legends or [figure.axes[0].get_legend()]
        kept.append([text.get_text() for text in shown[0].get_texts()])
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


@pytest.mark.parametrize("m", [1, 2, 3])
def test_searches_over_seeds(tmp_path, capsys, legends, m):
    runs = [write_run(tmp_path / f"search-{s}", NAMES[:m], seed=s, search_seed=s) for s in range(3)]
    # generations with weights of their own, and other budgets
    runs += [
        write_run(tmp_path / f"random-{s}", NAMES[:m], n=22 + s, seed=9 + s, search_seed=s, algorithm=RandomSearch(),
                  weights="e" * 8 + "f" * 8 + "g" * 8)
        for s in range(3)
    ]  # fmt: skip
    runs.append(write_run(tmp_path / "other", NAMES[:m], seed=20, algorithm=NSGA2(crossover_prob=0.5)))
    out = tmp_path / "both"
    assert plot.main([f"run={','.join(map(str, runs))}", f"out={out}"]) == 0
    for name in ("fronts", "hypervolume", "top"):
        check_picture(out / f"compare_{name}.png")
    views = views_of(runs)
    ends = [curve.values[-1] for curve in common_curves(views, NAMES[:m])]
    early = [curve.at(22) for curve in common_curves(views, NAMES[:m])]
    table = {row["group"]: row for row in rows_of(out / "compare_groups.csv")}
    assert [(name, row["runs"]) for name, row in table.items()] == [("search", "3"), ("random", "3"), ("other", "1")]
    assert float(table["search"]["common_box_hypervolume_mean"]) == pytest.approx(np.mean(ends[:3]))
    assert float(table["random"]["common_box_hypervolume_sd"]) == pytest.approx(np.std(ends[3:6], ddof=1))
    assert float(table["random"]["common_box_hypervolume_at_equal_budget_max"]) == pytest.approx(max(early[3:6]))
    assert (
        table["other"]["common_box_hypervolume_sd"] == table["other"]["p_search"] == table["search"]["p_search"] == ""
    )
    assert table["search"]["p_random"] == table["random"]["p_search"] != ""
    assert legends[1] == [
        f"search, 3 seeds: {np.mean(ends[:3]):.3f} ± {np.std(ends[:3], ddof=1):.3f}",
        f"random, 3 seeds: {np.mean(ends[3:6]):.3f} ± {np.std(ends[3:6], ddof=1):.3f}",
        f"other: {ends[6]:.4f} after 24",
    ]
    assert len(legends[0]) == len(legends[2]) == 3
    assert [row["run"] for row in rows_of(out / "compare_table.csv")] == [view.name for view in views]
    text = capsys.readouterr().out
    assert "note: unequal budgets: search 24 evaluations, random 22 to 24 evaluations, other 24 evaluations" in text
    assert (
        "Common-box hypervolume of these searches, over seeds" in text
        and "Mann–Whitney" in text
        and "compare_groups.csv" in text
    )


def test_one_search_over_seeds(tmp_path, capsys):
    runs = [write_run(tmp_path / f"search-{s}", NAMES[:2], seed=s, search_seed=s) for s in range(2)]
    assert plot.main([f"run={','.join(map(str, runs))}"]) == 0
    assert "Mann–Whitney" not in capsys.readouterr().out
    (row,) = rows_of(runs[0] / "compare_groups.csv")
    assert (row["group"], row["runs"]) == ("search", "2")
    check_picture(runs[0] / "compare_fronts.png")


def test_runs_that_nothing_repeats_stand_alone(tmp_path, capsys, legends):
    runs = [write_run(tmp_path / name, seed=s) for s, name in enumerate("ab")]
    files = plot.draw_comparison(runs, tmp_path / "both")
    assert "compare_groups.csv" not in {file.name for file in files}
    assert legends[0] == ["front of a", "front of b"] and legends[2] == ["a", "b"]
    assert [text.partition(":")[0] for text in legends[1]] == ["a", "b"]
    # beside a baseline a run stays itself, whatever the baseline is
    other = write_run(tmp_path / "c", seed=3, search_seed=1)
    plot.draw_baseline(runs[0], other, tmp_path / "beside")
    assert [text.partition(":")[0] for text in legends[-1]] == ["a", "c"]


def test_line_of_a_run_is_its_front_in_two_objectives(tmp_path):
    (view,) = views_of([write_run(tmp_path / "run", NAMES[:2])])
    x, y = view.column("flops"), view.column("clean_error")
    edge = nondominated(np.column_stack([x, y]))
    corners = sorted(zip(x[edge], y[edge], strict=True))
    alone_x, alone_y = compare.half_reach([tuple(np.array(corners).T)])
    assert list(zip(alone_x, alone_y, strict=True)) == corners
