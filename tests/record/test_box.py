"""One hypervolume: what a search says last, its tables and its pictures agree, also after going on."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import chz
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from small import small_supernet

from evo_robust import DARTS, NSGA2, CleanError, Digits, FromScratch, NSGAPhases, Params, Problem, plot, search
from evo_robust.algorithms.hybrid import GradientHybrid
from evo_robust.gradients import SupernetLoss
from evo_robust.parts.base import UserError
from evo_robust.parts.facts import CO_TRAINED_WEIGHTS
from evo_robust.plotting.progress import own_curve
from evo_robust.progress import Printed
from evo_robust.record.box import BOX_FILE
from evo_robust.record.indicators import common_box, first_box, hypervolume, objective_matrix
from evo_robust.record.reading import Run, load_run
from evo_robust.record.view import view_of
from evo_robust.training.recipes import Standard

STEADY = Problem(
    space=NSGAPhases(phases=2, nodes=3, channels=4),
    data=Digits(train_limit=100),
    objectives=(CleanError(), Params()),
    evaluator=FromScratch(epochs=1, recipe=Standard(lr=0.1, batch_size=50)),
    algorithm=NSGA2(pop_size=4, n_gen=3),
)
CO_TRAINED = Problem(
    space=DARTS(channels=4, layers=2, nodes=2),
    data=Digits(train_limit=200),
    objectives=(CleanError(), Params()),
    evaluator=small_supernet(3, warmup=1),
    algorithm=GradientHybrid(pop_size=4, n_gen=3, gradient=SupernetLoss(lr=0.05, batch_size=50)),
)
PROBLEMS = {"steady": STEADY, "co-trained": CO_TRAINED}


def told(problem: Problem, folder: Path) -> tuple[Run, list[str]]:
    """The run, and the lines of its generations."""
    file = io.StringIO()
    run = search(problem, folder, device="cpu", workers=1, reporter=Printed(Console(file=file, width=200)))
    return run, [line for line in file.getvalue().splitlines() if line.startswith("generation")]


@pytest.fixture(scope="module", params=PROBLEMS)
def searched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    return told(PROBLEMS[request.param], tmp_path_factory.mktemp("box") / "run")


def volumes(path: Path, column: str = "own_box_hypervolume") -> list[float]:
    with path.open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def test_one_search_has_one_hypervolume(
    searched: tuple[Run, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, lines = searched
    kept = volumes(run.folder / "progress.csv")
    last = f"{kept[-1]:.4f}"
    assert 0 < kept[-1] < 1
    assert [re.findall(r"own-box hypervolume ([\d.]+)", line) for line in lines] == [[f"{value:.4f}"] for value in kept]
    view = view_of(run)
    assert view.hypervolume == pytest.approx(kept[-1], rel=1e-5)
    # picture: the value of every generation, and the legend of the last
    curve = own_curve(view)
    ends = [[row["generation"] for row in run.evaluations].count(g + 1) for g in range(3)]
    assert curve.at(np.cumsum(ends)) == pytest.approx(kept, rel=1e-5)
    legends: list[str] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: object, **options: object) -> None:
        legends.extend(text.get_text() for legend in figure.legends for text in legend.get_texts())
        save(figure, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    assert plot.main([f"run={run.folder}", f"out={tmp_path / 'pictures'}"]) == 0
    assert f"run: {last} after {view.n_asked}" in legends
    # table
    title = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Front of run"))
    assert title.endswith(f"own-box hypervolume {last}")


def test_a_comparison_tells_its_common_box_from_the_run_s_own(
    searched: tuple[Run, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = searched
    problem = CO_TRAINED if CO_TRAINED_WEIGHTS in run.problem.evaluator.provides else STEADY
    other, _ = told(chz.replace(problem, seed=1), tmp_path / "other")
    plot.main([f"run={run.folder},{other.folder}", f"out={tmp_path / 'both'}"])
    own = [volumes(folder / "progress.csv")[-1] for folder in (run.folder, other.folder)]
    table = tmp_path / "both" / "compare_table.csv"
    assert volumes(table, "own_box_hypervolume") == pytest.approx(own, rel=1e-5)
    common = volumes(table, "common_box_hypervolume")
    assert common != pytest.approx(own, rel=1e-3)
    curve = volumes(tmp_path / "both" / "compare_hypervolume.csv", "common_box_hypervolume")
    assert curve[-1] == pytest.approx(common[-1])
    for path in (tmp_path / "both").glob("*.csv"):  # no bare word that could be quoted for a run
        assert "hypervolume" not in path.read_text().splitlines()[0].split(",")
    said = " ".join(capsys.readouterr().out.split())
    for value in (*own, *common):
        assert f"{value:.4f}" in said
    assert "Common box: from the best" in said and "own-box figures do not compare" in said


def test_the_box_is_kept_and_readable(searched: tuple[Run, list[str]]) -> None:
    run, _ = searched
    content = json.loads((run.folder / BOX_FILE).read_text())
    first = [row for row in run.evaluations if row["generation"] == 1]
    worst = objective_matrix(first, run.objectives).max(axis=0)
    assert content["ideal"] == {"clean_error": 0.0, "params": 0.0}
    assert list(content["reference"]) == run.objectives
    assert list(content["reference"].values()) == pytest.approx(1.1 * worst)


def test_what_goes_on_keeps_its_box(searched: tuple[Run, list[str]], tmp_path: Path) -> None:
    run, _ = searched
    problem = CO_TRAINED if CO_TRAINED_WEIGHTS in run.problem.evaluator.provides else STEADY
    longer = chz.replace(problem, algorithm=chz.replace(problem.algorithm, n_gen=4))
    before, box = volumes(run.folder / "progress.csv"), (run.folder / BOX_FILE).read_bytes()
    found = {}
    for name in ("with", "without"):  # early versions kept none
        folder = tmp_path / name / "run"
        shutil.copytree(run.folder, folder)
        if name == "without":
            (folder / BOX_FILE).unlink()
            assert view_of(load_run(folder)).hypervolume == pytest.approx(before[-1], rel=1e-5)
        told(longer, folder)
        assert (folder / BOX_FILE).read_bytes() == box
        found[name] = volumes(folder / "progress.csv")
        assert found[name][:3] == before
    assert found["with"] == found["without"]


def test_a_kept_box_counts_whatever_the_ledger_says(tmp_path: Path) -> None:
    run, _ = told(STEADY, tmp_path / "run")
    content = json.loads((run.folder / BOX_FILE).read_text())
    content["reference"]["params"] *= 2
    (run.folder / BOX_FILE).write_text(json.dumps(content))
    assert run.box is not None
    reference = run.box.reference * [1, 2]
    wider = load_run(run.folder).box
    assert wider is not None and wider.reference == pytest.approx(reference)
    told(STEADY, run.folder)  # nothing left to do: the table is written again
    expected = hypervolume(objective_matrix(run.front, run.objectives), wider)
    assert volumes(run.folder / "progress.csv")[-1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: "{", "it is not JSON"),
        (lambda content: {**content, "schema": 9}, "of schema 1"),
        (lambda content: {**content, "ideal": {"clean_error": 0.0}}, "expected clean_error, params as 'ideal'"),
        (lambda content: {**content, "reference": content["ideal"]}, "expected a reference above the ideal"),
        (
            lambda content: {
                **content,
                "ideal": dict.fromkeys(content["ideal"], -1e308),
                "reference": dict.fromkeys(content["ideal"], 1e308),
            },
            "expected a reference above",
        ),
        (lambda content: {**content, "reference": 3}, "finite numbers by objective"),
    ],
)
def test_a_damaged_box_is_named_and_the_advice_works(tmp_path: Path, change: object, message: str) -> None:
    problem = chz.replace(STEADY, algorithm=NSGA2(pop_size=2, n_gen=1))
    run, _ = told(problem, tmp_path / "run")
    path = run.folder / BOX_FILE
    good = path.read_bytes()
    wrong = change(json.loads(good))  # type: ignore[operator]
    path.write_text(wrong if isinstance(wrong, str) else json.dumps(wrong))
    for read in (load_run, lambda folder: told(problem, folder)):
        with pytest.raises(UserError, match=message) as error:
            read(run.folder)
        assert str(path) in str(error.value) and "Remove the file" in str(error.value)
    path.unlink()
    told(problem, run.folder)
    assert path.read_bytes() == good


def test_objectives_without_a_zero_or_a_range_have_a_box() -> None:
    box = first_box(np.array([[-3.0, 0.0, 5.0], [-1.0, 0.0, 5.0]]))
    assert box.ideal == pytest.approx([-5.0, 0.0, 0.0])
    assert box.reference == pytest.approx([-5.0 + 1.1 * 4, 1.1, 5.5])
    for F in ([[-1e30, 1e-320]], [[-1e308, 1.0], [1e308, 1.0]], [[1e308, -1e308]]):
        for box in (first_box(np.array(F)), common_box(np.array(F))):
            assert (box.reference > box.ideal).all()
            assert 0 <= hypervolume(np.array([[1.0, 1.0], *F]), box) <= 1
