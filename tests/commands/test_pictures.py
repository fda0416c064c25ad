"""Can a stranger read the pictures? Nothing is cut or overlaps, questions are answered, legends tell what is there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from clear import faults, watched
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from test_plot import NAMES, write_run

from evo_robust import plot
from evo_robust.algorithms.random import RandomSearch
from evo_robust.analysis.relations import relate
from evo_robust.correlations import Correlation
from evo_robust.final_training.pictures import draw_curve, draw_training
from evo_robust.final_training.settings import Result
from evo_robust.plotting import size
from evo_robust.plotting.answers import beats, who_leads
from evo_robust.plotting.groups import GroupStanding, Spread
from evo_robust.plotting.study.answers import denser, how_many_and_where, telling_cells
from evo_robust.training.epochs import EpochLog
from evo_robust.training.learning_picture import draw_learning

MANY = (0.01, 0.02, 0.03, 8 / 255, 0.05, 0.06, 0.1, 0.17, 0.25)
CURVES = {
    "close strengths": ((0.03, 8 / 255, 0.1, 0.17, 0.25), 0.02, (0.05, 0.05, 0.53, 1.0, 1.0)),
    "no better than guessing": ((0.03, 8 / 255, 0.1, 0.17, 0.25), 0.9, (0.9,) * 5),
    "many": (MANY, 0.02, (0.03, 0.04, 0.0472, 0.05, 0.12, 0.2, 0.5333, 1, 1)),
    "one": ((8 / 255,), 0.1, (0.5,)),
}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The pictures that a test draws, by the name of their file."""
    kept: dict[str, Figure] = {}

    def keep(figure: Figure, path: Path, **_: object) -> None:
        kept[Path(path).name.split(".")[1]] = figure
        Path(path).touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def said(figure: Figure) -> str:
    texts = figure.findobj(matplotlib.text.Text)
    return "\n".join(text.get_text() for text in texts)


def bars(figure: Figure) -> list[float]:
    return [bar.get_height() for bar in figure.axes[0].patches]


def result(curve: str = "close strengths") -> Result:
    eps, clean, error = CURVES[curve]
    return Result(
        "[0]", "digits", "Standard", 5, 100, 100, 10, 1000, 1.0, "PGD-20", "linf", clean, eps, error, None, {}
    )


# --- the checks themselves


def test_faults_are_found() -> None:
    figure = Figure()
    figure.text(0.5, 0.5, "one text")
    figure.text(0.52, 0.5, "another")
    figure.text(0.95, 0.1, "too far to the right")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], label="curve")
    axes.legend(loc="upper right")
    found = faults(figure)
    assert "overlap: 'one text' and 'another'" in found
    assert "cut: 'too far to the right'" in found and "legend on a curve" in found


# --- every picture of a run, and of several


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_pictures_of_a_run_are_clear(tmp_path: Path, m: int) -> None:
    with watched() as found:
        plot.draw_run(write_run(tmp_path / "a-run-with-quite-a-long-name", NAMES[:m]))
        # one network is best in everything, and so bears all titles at once
        best = {"clean_error": 0.01, "flops": 1e4, "transfer_error": 0.01, "params": 10.0, "robust_error": 0.1}
        plot.draw_run(write_run(tmp_path / "one", NAMES[:m], n=1, values=[best]))
        if m > 2:
            second = {**best, "clean_error": 0.005, "flops": 2e4, "params": 20.0}
            plot.draw_run(write_run(tmp_path / "two", NAMES[:m], n=2, values=[best, second]))
    assert found == []


def runs(tmp_path: Path, m: int = 3) -> Iterator[Path]:
    for s in range(3):
        yield write_run(tmp_path / f"search-{s}", NAMES[:m], seed=s, search_seed=s)
        other = {"seed": 9 + s, "search_seed": s, "algorithm": RandomSearch(), "weights": "e" * 8 + "f" * 16}
        yield write_run(tmp_path / f"random-{s}", NAMES[:m], **other)


@pytest.mark.parametrize("m", [1, 3])
def test_pictures_of_several_runs_are_clear(tmp_path: Path, m: int) -> None:
    folders = list(runs(tmp_path, m))
    with watched() as found:
        plot.draw_comparison(folders, tmp_path / "all")
        plot.draw_comparison(folders[:2], tmp_path / "both")
        plot.draw_baseline(*folders[:2], tmp_path / "beside")
    assert found == []


# --- legends tell of what is there


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 24), (2, 1), (3, 24)])
def test_a_legend_tells_of_dots_that_are_there(tmp_path: Path, figures: dict[str, Figure], m: int, n: int) -> None:
    plot.draw_run(write_run(tmp_path / "run", NAMES[:m], n=n))
    for name in ("front", "size"):
        for axes in figures[name].axes:
            for dots in axes.collections:
                if isinstance(dots, PathCollection):
                    assert len(dots.get_offsets()) > 0
    handles = figures["front"].axes[0].get_legend_handles_labels()[1]
    assert ("other networks" in handles) == (n > 1)
    assert n > 1 or m == 1 or handles == ["the only network on the front"]


def test_the_arrow_to_what_is_better_lies_on_no_dot(tmp_path: Path, figures: dict[str, Figure]) -> None:
    def folder(name: str, flops: float) -> Path:
        best = {"clean_error": 0.01, "flops": flops, "params": 10.0}
        rest = [{**best, "clean_error": 0.1 + 0.1 * i, "flops": 1e5} for i in range(3)]
        return write_run(tmp_path / name, NAMES[:2], n=4, values=[best, *rest])

    plot.draw_run(folder("in-the-corner", 1e4))
    assert "better" not in said(figures["front"])
    plot.draw_run(folder("elsewhere", 2e5))
    assert "better" in said(figures["front"])


def test_a_front_of_one_has_one_bar(tmp_path: Path, figures: dict[str, Figure]) -> None:
    best = {"clean_error": 0.01, "flops": 1e4, "transfer_error": 0.01, "params": 10.0}
    worse = [{**best, "clean_error": 0.1 + 0.1 * i, "flops": 1e5} for i in range(3)]
    one = write_run(tmp_path / "one", NAMES[:2], n=4, values=[best, *worse])
    many = [{**best, "clean_error": 0.5 - 0.1 * i, "flops": 1e4 * (i + 1)} for i in range(4)]
    other = write_run(tmp_path / "many", NAMES[:2], n=4, values=many)
    plot.draw_comparison([one, other], tmp_path / "out")
    # one bar of the front of one; of the other top-1, top-3 and its whole front of four
    assert bars(figures["compare_top"]) == pytest.approx([1.0, 50.0, 40.0, 35.0])
    assert "one has only 1, many has only 4" in said(figures["compare_top"])


# --- questions are answered


def test_a_verdict_fits_both_correlations() -> None:
    def verdict(spearman: float, spearman_p: float, pearson: float, pearson_p: float) -> str:
        return size.SizeRelation("e", Correlation(96, pearson, pearson_p, spearman, spearman_p)).verdict

    assert verdict(-0.20, 0.047, -0.35, 0.00044) == "partly size"
    assert verdict(-0.25, 0.01, -0.28, 0.01) == "a little of it is size"
    assert verdict(0.1, 0.5, 0.1, 0.4) == "no clear relation to size"
    assert verdict(0.95, 1e-9, 0.2, 0.2) == "almost only size"
    known = (("clean_error", -0.4), ("flops", 0.95))
    found = [size.SizeRelation(name, Correlation(96, r, 1e-9, r, 1e-9)) for name, r in known]
    assert size.answer(found) == "Partly size: clean error. Almost only size: FLOPs."


def standing(name: str, *values: float) -> GroupStanding:
    return GroupStanding(name, Spread(np.array(values)), Spread(np.array(values)))


def test_which_search_leads_is_said() -> None:
    low, high = standing("low", 0.1, 0.2, 0.3, 0.25, 0.15), standing("high", 0.6, 0.7, 0.8, 0.75, 0.65)
    assert re.fullmatch(
        r"high is ahead of low after 80 evaluations: .* That is unlikely to be chance .*", who_leads([low, high], 80)
    )
    assert who_leads([high, standing("other", 0.5, 0.9, 0.7)], 80).endswith("That may be chance (p = 1).")
    assert "With one run of each, that may be chance." in who_leads([standing("a", 0.1), standing("b", 0.2)], 9)
    assert who_leads([low], 80).startswith("From 0.100 to 0.300 after 80 evaluations")
    assert who_leads([standing("a", 0.2), standing("b", 0.2)], 9).startswith("None: a and b are equal")
    assert beats(low, high, 9).startswith("No: ") and beats(high, low, 9).startswith("Yes: ")


def test_a_study_answers_its_questions() -> None:
    x = np.linspace(0, 1, 40)
    noise = np.random.default_rng(0).normal(size=40)
    rising, falling = (relate("density", "robust accuracy", x, sign * x + 0.1 * noise) for sign in (1, -1))
    unclear = relate("parameters", "robust accuracy", x, noise)
    assert denser(rising, falling).startswith("Yes: r = +") and "Larger ones are less robust" in denser(rising, falling)
    assert denser(falling, None).startswith("No, they are less robust")
    assert denser(unclear, unclear).startswith("Not clearly") and "Larger" not in denser(unclear, unclear)
    where = dataclasses.replace(falling, where="small budget")
    assert "Better, small budget: off direct edges" in how_many_and_where(rising, [where, unclear])
    assert "makes no clear difference in any budget" in how_many_and_where(rising, [unclear])
    assert telling_cells([unclear, rising, falling]).startswith("In cells 1 (r = +")
    assert telling_cells([unclear]) == "In none: p ≥ 0.05 everywhere."


def test_a_question_in_a_title_is_answered_below_it(tmp_path: Path, figures: dict[str, Figure]) -> None:
    folders = list(runs(tmp_path, 2))[:2]
    plot.draw_run(folders[0])
    plot.draw_comparison(folders, tmp_path / "both")
    plot.draw_baseline(*folders, tmp_path / "beside")
    asking = {name: figure for name, figure in figures.items() if "?" in figure.get_suptitle()}
    assert set(asking) == {"size", "compare_hypervolume", "baseline_front", "baseline_hypervolume"}
    for figure in asking.values():
        assert any(text.get_fontweight() == "bold" and text.get_text() for text in figure.texts)


# --- trainings


@pytest.mark.parametrize("curve", CURVES)
def test_labels_of_a_curve_are_clear(tmp_path: Path, curve: str) -> None:
    with watched() as found:
        draw_curve(tmp_path / "curve.png", result(curve))
    assert found == []


@pytest.mark.parametrize("curve", CURVES)
def test_the_usual_strength_keeps_its_label(tmp_path: Path, figures: dict[str, Figure], curve: str) -> None:
    eps, clean, error = CURVES[curve]
    draw_curve(tmp_path / "curve.png", result(curve))
    text = said(figures["curve"])
    assert f"{100 * (1 - error[eps.index(8 / 255)]):.1f} % at 8/255" in text
    assert f"{100 * (1 - clean):.1f} % without attack" in text


@pytest.mark.parametrize("n", [1, 30])
def test_legends_of_trainings_are_clear(tmp_path: Path, n: int) -> None:
    logs = [EpochLog(i + 1, 2.0 / (i + 1), 0.9 / (i + 1), 0.1, 1.0) for i in range(n)]
    with watched() as found:
        draw_training(tmp_path / "training.png", result(), logs)
        for error in (0.02, 0.9):  # the curve runs along the lower or the upper edge
            flat = [dataclasses.replace(log, train_error=error) for log in logs]
            draw_learning(tmp_path / "learning.png", flat, "adversarial training error", 10, "a supernet")
    assert found == []
