"""The study of a run's record: statistics, pictures, tables, and the command."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import chz
import matplotlib
import matplotlib.figure
import numpy as np
import pytest
from clear import watched
from matplotlib.image import imread
from scipy import stats
from sklearn.linear_model import SGDClassifier
from toys import Distance, Integers, Total, Toy

from evo_robust import analyze
from evo_robust.algorithms.evolution import NSGA2
from evo_robust.algorithms.random import RandomSearch
from evo_robust.analysis.finetuning import finetuning_changes
from evo_robust.analysis.places import curves_of
from evo_robust.analysis.ranking import ranking
from evo_robust.analysis.relations import density_relations, fsp_relations, relate
from evo_robust.analysis.separation import features, separation
from evo_robust.analysis.study import Study, accuracy_words, study_of
from evo_robust.correlations import bootstrap_tau, correlate, kendall, p_text
from evo_robust.data.sets import Digits
from evo_robust.evaluators.base import Evaluation, Evaluator, Session
from evo_robust.objectives.base import Context, Objective
from evo_robust.objectives.constraints import Constraint
from evo_robust.objectives.errors import CleanError, RobustError
from evo_robust.parts.base import UserError, seed_from
from evo_robust.parts.facts import FINETUNING, Fact
from evo_robust.plotting.study import relations as pictures
from evo_robust.plotting.study.panel import scatter
from evo_robust.plotting.study.places import where_it_helps
from evo_robust.problem.value import Problem
from evo_robust.record.reading import load_run
from evo_robust.record.view import view_of
from evo_robust.search import search
from evo_robust.spaces.base import SearchSpace
from evo_robust.spaces.nsga.space import NSGAPhases
from evo_robust.spaces.robnet.space import RobNet

SPACE = RobNet(channels=2, layers=3, nodes=4)
FREE = RobNet(channels=2, layers=4, nodes=2, cells="free")
CELLS = 4


@chz.chz
class Deep(Objective):
    """Stands for FSPDistance, whose figures the evaluator pretends."""

    label: str | None = "fsp_distance"

    @property
    def unit(self) -> str:
        return "squared norm"

    def measure(self, candidate: Any) -> float:
        raise AssertionError("the evaluator pretends its figures, so nobody measures it")


@chz.chz
class Share(Total):
    """Calls itself a share, and is none."""

    @property
    def unit(self) -> str:
        return "fraction"


@chz.chz
class Pretended(Evaluator):
    """Figures that follow from an architecture's structure, and noise: what the study must find again."""

    noise: float = 0.01
    finetuned: bool = True
    fsp: bool = True
    strength: float = 0.3
    compare: bool = True

    @property
    def provides(self) -> frozenset[Fact]:
        return frozenset({FINETUNING} if self.finetuned else ())

    def start(self, context: Context, objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> Session:
        return PretendedSession(self, context, [o.name for o in objectives])


class PretendedSession(Session):
    def __init__(self, pretended: Pretended, context: Context, names: list[str]) -> None:
        self.pretended, self.context, self.names = pretended, context, names
        self.fingerprint = f"pretended-{pretended.noise}"

    def evaluate(self, architectures: Sequence[Any]) -> Iterator[tuple[int, Evaluation]]:
        for index, architecture in enumerate(architectures):
            yield index, self.pretend(architecture)

    def pretend(self, architecture: Any) -> Evaluation:
        p, space = self.pretended, self.context.space
        text = space.to_text(architecture)
        rng = np.random.default_rng(seed_from(self.context.seed, text))
        structure = space.structure(architecture)
        genome = space.encode(architecture)
        density = structure.density if structure else float((genome / (space.n_choices - 1)).mean())
        robust = 0.7 - p.strength * density + p.noise * float(rng.normal())
        gap = 0.2 + 0.05 * float(rng.normal())
        errors = {"robust_error": robust, "clean_error": robust - gap}
        # the last cells' distances follow the gap, the first ones' do not
        cells = [float(np.exp(4 * i * gap + rng.normal())) if i else None for i in range(CELLS)]
        figures: dict[str, Any] = {"robust_error": {"0.03": robust, "0.1": robust / 2, "estimated": []}}
        if structure:
            figures["params"] = 1000 + 400 * len(structure.operations) + int(rng.integers(300))
            figures["flops"] = 1e6 * (1 + structure.convolutions)
        if p.finetuned and p.compare:
            before = {k: v + 0.1 + 3 * p.noise * float(rng.normal()) for k, v in errors.items()}
            figures["inherited"] = before | {"robust_error.0.1": before["robust_error"] / 2}
        if p.fsp:
            figures["fsp_distance"] = {"cells": cells, "n": 64}
        return Evaluation(
            architecture=text,
            status="ok",
            objectives={n: errors[n] for n in self.names},
            recorded={o.name: errors.get(o.name, 0.5) for o in self.context.recorded},
            figures=figures,
        )


def run(
    folder: Path,
    n: int = 60,
    space: SearchSpace = SPACE,
    *,
    recorded: tuple[Objective, ...] = (CleanError(),),
    algorithm: Any = None,
    **given: Any,
) -> Path:
    """A run folder of ``n`` random architectures, the same ones whatever the evaluator."""
    problem = Problem(
        space=space,
        data=Digits(),
        objectives=(RobustError(),),
        recorded=recorded,
        evaluator=Pretended(**given),
        algorithm=algorithm or RandomSearch(pop_size=n, n_gen=1),
    )
    search(problem, folder, device="cpu", workers=1)
    return folder


def noisy(source: Path, folder: Path, noise: float, seed: int = 1, **changes: Any) -> Path:
    """The same architectures with other robust errors: a second evaluation of them."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    (folder / "problem.json").write_text((source / "problem.json").read_text())
    rows = [json.loads(line) for line in (source / "evaluations.jsonl").read_text().splitlines()]
    for row in rows:
        row["objectives"]["robust_error"] += noise * float(rng.normal())
        row["figures"].pop("inherited", None)
        row.update(changes)
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def study(folder: Path, objective: str = "robust_error") -> Study:
    return study_of(view_of(load_run(folder)), objective)


def check_picture(path: Path) -> None:
    pixels = imread(path)
    assert pixels.shape[1] >= 1000
    assert pixels[..., :3].std() > 0.05, f"{path.name} is blank"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs") / "shared", n=80)


@pytest.fixture(scope="module")
def drawn(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[analyze.Analysis, Path]:
    """Every picture of one run beside two truths."""
    folder = tmp_path_factory.mktemp("truths")
    truths = [noisy(shared, folder / name, 0.02, seed) for seed, name in enumerate(("first", "second"), 1)]
    before = dict(matplotlib.rcParams)
    with watched(written=True) as faults:
        found = analyze.analyze([shared], truths, out=folder / "out")
    assert dict(matplotlib.rcParams) == before
    assert faults == []
    return found, folder / "out"


# statistics


def test_correlations_are_scipys() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = 3 + 2 * x + rng.normal(size=50)
    found = correlate(x, y)
    line, rank, fit = stats.pearsonr(x, y), stats.spearmanr(x, y), stats.linregress(x, y)
    assert (found.pearson, found.pearson_p) == pytest.approx((line.statistic, line.pvalue))
    assert (found.spearman, found.spearman_p) == pytest.approx((rank.statistic, rank.pvalue))
    assert (found.slope, found.intercept, found.n) == pytest.approx((fit.slope, fit.intercept, 50))
    assert correlate(np.append(x, [np.nan, 1]), np.append(y, [0, np.nan])) == found
    assert correlate(x, -y).pearson == pytest.approx(-found.pearson)


@pytest.mark.parametrize(
    "x, y",
    [([], []), ([1.0], [2.0]), ([1.0, 2.0], [1.0, 2.0]), ([1.0, 2, 3], [5.0, 5, 5]), ([0.0] * 4, [0.0] * 4),
     ([1.0, 2, 3, 4], [0.1, 0.1 + 1e-17, 0.1, np.nextafter(0.1, 1)]), ([np.nan] * 5, [1.0] * 5)],
)  # fmt: skip
def test_what_has_no_correlation_says_so(x: list[float], y: list[float]) -> None:
    # warnings are errors here
    found, ranked = correlate(np.array(x), np.array(y)), kendall(np.array(x), np.array(y))
    assert not found.known and math.isnan(found.spearman_p) and math.isnan(ranked.tau) and math.isnan(ranked.low)
    assert "no correlation to tell" in found.text and "–" in ranked.text


def test_few_ranks_show_little() -> None:
    # scipy's test for large n calls a perfect order of four p = 0; one in twelve orders is as good
    assert correlate(np.arange(4.0), np.arange(4.0) ** 2).spearman_p == pytest.approx(2 / 24)
    assert [p_text(p) for p in (0.0, 2e-4, 0.0123, 0.2, 1.0, math.nan)] == [
        "p < 0.001", "p < 0.001", "p = 0.012", "p = 0.2", "p = 1", "p –"]  # fmt: skip


def test_kendall_is_scipys_with_ties_and_its_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 8, 40).astype(float)
    y = x + rng.integers(0, 8, 40)
    found = kendall(x, y)
    expected = stats.kendalltau(x, y)
    assert (found.tau, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.low < found.tau < found.high and found == kendall(x, y)
    # sums over pairs against scipy on the very rows that were drawn
    taus = bootstrap_tau(x, y, np.random.default_rng(5), 20)
    counts = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), size=20)
    rows = [np.repeat(np.arange(40), c) for c in counts]
    assert taus == pytest.approx([stats.kendalltau(x[i], y[i]).statistic for i in rows])
    # of two unrelated columns, the interval holds 0 about as often as it claims
    hits = 0
    for _ in range(60):
        k = kendall(rng.normal(size=30), rng.normal(size=30), resamples=300)
        hits += k.low <= 0 <= k.high
    assert 50 <= hits <= 60


def test_names_of_accuracies() -> None:
    assert accuracy_words("robust_error") == "robust accuracy"
    assert accuracy_words("robust_error.0.0313725") == "robust accuracy at ε = 0.0314"
    assert accuracy_words("fooled") == "fooled accuracy"


# what is found


def test_density_is_found_again(drawn: tuple[analyze.Analysis, Path], shared: Path) -> None:
    found, out = drawn
    rows = {(r["x"], r["y"]): r for r in rows_of(out / "density.csv")}
    explaining = ("density", "genome density", "parameters")
    assert set(rows) == {(x, y) for x in explaining for y in ("robust accuracy", "clean accuracy")}
    one = study(shared)
    direct = stats.pearsonr([s.density for s in one.known_structures()], 1 - one.error("robust"))
    found_row = rows["density", "robust accuracy"]
    assert float(found_row["pearson"]) == pytest.approx(direct.statistic) and direct.statistic > 0.6
    assert float(found_row["pearson_p"]) == pytest.approx(direct.pvalue)
    assert float(found_row["slope"]) == pytest.approx(0.3, abs=0.06) and found_row["n"] == "80"
    assert float(rows["density", "clean accuracy"]["pearson"]) < direct.statistic


def test_both_densities_stand_side_by_side(drawn: tuple[analyze.Analysis, Path], shared: Path) -> None:
    """The paper's Σα/28 counts edges that carry nothing, which the network's own density does not."""
    rows = load_run(shared).evaluations
    told = {r["architecture"]: r for r in rows_of(drawn[1] / "study.csv")}
    assert len(told) == len(rows) == 80
    for row in rows:
        own, live = float(told[row["architecture"]]["genome_density"]), float(told[row["architecture"]]["density"])
        assert own == sum(row["genome"]) / 28 and live <= own
        assert (live == own) == (SPACE.encode(SPACE.from_text(row["architecture"])).tolist() == row["genome"])
    differ = sum(r["density"] != r["genome_density"] for r in told.values())
    assert 0 < differ < 20, "a few genomes in a hundred hold edges that carry nothing"
    found = rows_of(drawn[1] / "density.csv")
    pearson = {r["x"]: float(r["pearson"]) for r in found if r["y"] == "robust accuracy"}
    direct = stats.pearsonr([sum(r["genome"]) / 28 for r in rows], [1 - r["objectives"]["robust_error"] for r in rows])
    assert pearson["genome density"] == pytest.approx(direct.statistic) != pearson["density"]


def test_the_papers_classifier_stands_beside_ours(drawn: tuple[analyze.Analysis, Path], shared: Path) -> None:
    found, one = drawn[0].separation, study(shared)
    assert found is not None
    order = np.argsort(one.error("robust"), kind="stable")
    genomes = one.genomes[np.concatenate([order[:24], order[-24:]])]
    model = SGDClassifier(random_state=0).fit(genomes, found.best)
    assert found.published.accuracy == model.score(genomes, found.best) > 0.8
    assert found.published.positive == (model.coef_ > 0).mean()
    rows = {r["name"]: r["value"] for r in rows_of(drawn[1] / "separation.csv")}
    assert float(rows["the paper's classifier: training accuracy"]) == found.published.accuracy


def test_convolutions_by_budget(drawn: tuple[analyze.Analysis, Path], shared: Path) -> None:
    rows = rows_of(drawn[1] / "convolutions.csv")
    assert [r["architectures"] for r in rows] == ["all", "small budget", "medium budget", "large budget"]
    assert float(rows[0]["spearman"]) > 0.3
    structures = study(shared).known_structures()
    for row, budget in zip(rows[1:], ("small", "medium", "large"), strict=True):
        assert int(row["n"]) == sum(s.budget == budget and s.convolutions > 0 for s in structures)
    # rare budgets leave cells empty instead of a figure that means nothing
    assert (rows[3]["pearson"] == "") == (int(rows[3]["n"]) < 3)


def test_curves_tell_what_either_kind_of_edge_brings(shared: Path) -> None:
    """A direct convolution is planted to bring 5 points, one on a skip edge 2."""
    one = study(shared)
    structures = one.known_structures()
    direct = np.array([s.direct_convolutions for s in structures])
    skip = np.array([s.convolutions for s in structures]) - direct
    rng = np.random.default_rng(3)
    errors = 0.7 - 0.05 * direct - 0.02 * skip + 0.01 * rng.normal(size=len(direct))
    planted = dataclasses.replace(one, columns={**one.columns, "robust": errors})
    found = curves_of(planted)
    assert [c.where for c in found] == ["all edges", "direct edges", "skip edges"]
    for curve, truth in zip(found[1:], (0.05, 0.02), strict=True):
        assert abs(curve.slope - truth) <= curve.slope_half < 0.01
    # against the statistics of another hand
    line = stats.linregress(direct + skip, 1 - errors)
    assert found[0].slope == pytest.approx(line.slope)
    assert found[0].slope_half == pytest.approx(stats.t.ppf(0.975, len(direct) - 2) * line.stderr)
    for curve, counts in zip(found, (direct + skip, direct, skip), strict=True):
        assert curve.networks.sum() == 80
        chosen = [(1 - errors)[counts == number] for number in curve.numbers]
        assert curve.means == pytest.approx([c.mean() for c in chosen])
        assert np.isnan(curve.half).tolist() == [len(c) == 1 for c in chosen]
    assert f"on direct edges +{100 * found[1].slope:.2f} ± " in where_it_helps(found)


def test_curves_without_spread_tell_no_slope(shared: Path) -> None:
    one = study(shared)
    assert one.structures is not None
    few = dataclasses.replace(
        one,
        texts=one.texts[:2],
        structures=one.structures[:2],
        columns={name: values[:2] for name, values in one.columns.items()},
    )
    assert "cannot be told" in where_it_helps(curves_of(few))


@pytest.mark.parametrize(("name", "scale"), [("convolutions per cell", "linear"), ("fsp_distance", "log")])
def test_counts_are_shown_on_a_straight_axis(name: str, scale: str) -> None:
    axes = matplotlib.figure.Figure().add_subplot()
    values = np.linspace(1, 14, 8)
    scatter(axes, relate(name, "robust accuracy", values, values / 100), "title")
    assert axes.get_xscale() == scale
    assert len(axes.lines) == (scale == "linear"), "the regression line is straight on a straight axis alone"


def test_weights_of_genes_are_those_of_the_rule(drawn: tuple[analyze.Analysis, Path], tmp_path: Path) -> None:
    found = drawn[0].separation
    assert found is not None and found.each == 24 and found.points.shape == (48, 2)
    # robustness rises with every operation
    assert found.positive > 0.75 and 0.6 < found.accuracy <= found.training_accuracy
    rows = rows_of(drawn[1] / "separation.csv")
    assert {r["name"] for r in rows if r["kind"] == "weight"} <= set(SPACE.gene_names)
    best = [r["architecture"] for r in rows_of(drawn[1] / "separation_points.csv") if r["group"] == "best"]
    density = {t: s.density for t in best for s in [SPACE.structure(SPACE.from_text(t))]}
    assert np.mean(list(density.values())) > 0.5


def test_chance_is_called_chance(tmp_path: Path) -> None:
    one = study(run(tmp_path / "run", strength=0.0, noise=0.05))
    found = separation(one)
    # fitted to its own noise a classifier looks fine; on unseen networks it guesses
    assert found.training_accuracy > 0.7 and 0.25 < found.accuracy < 0.75
    assert abs(density_relations(one)[0].correlation.pearson) < 0.3


def test_genes_of_many_choices_become_columns_of_each() -> None:
    genomes = np.array([[0, 2, 0, 1], [1, 0, 0, 1], [1, 2, 0, 0]])
    names, columns, binary = features(genomes, np.array([2, 3, 1, 2]), ("a", "b", "c", "d"))
    assert names == ["a", "b = 0", "b = 2", "d"] and binary.tolist() == [True, False, False, True]
    assert columns.T.tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 1], [1, 1, 0]]


def test_fsp_goes_with_the_gap_in_deep_cells(drawn: tuple[analyze.Analysis, Path]) -> None:
    rows = rows_of(drawn[1] / "fsp.csv")
    assert [r["architectures"] for r in rows] == [f"cell {i}" for i in range(CELLS)]
    assert rows[0]["n"] == "0" and rows[0]["spearman"] == ""  # an empty cell
    assert float(rows[3]["spearman"]) > 0.25 and float(rows[3]["spearman_p"]) < 0.05


def test_gap_is_that_of_the_network_fsp_was_measured_on(tmp_path: Path) -> None:
    def gap(folder: Path) -> np.ndarray:
        return fsp_relations(study(folder))[3].y

    before = study(run(tmp_path / "gate", n=12))  # a gate's FSP distance: measured with inherited weights
    after = study(run(tmp_path / "judged", n=12, recorded=(CleanError(), Deep())))
    assert before.fsp_inherited and not after.fsp_inherited
    inherited = before.error("inherited_robust") - before.error("inherited_clean")
    assert gap(tmp_path / "gate") == pytest.approx(inherited)
    assert gap(tmp_path / "judged") == pytest.approx(after.error("robust") - after.error("clean"))
    assert not study(run(tmp_path / "one-shot", n=12, finetuned=False)).fsp_inherited


def test_what_was_not_recorded_before_finetuning_is_not_taken_from_after_it(shared: Path, tmp_path: Path) -> None:
    for folder, objective, words in (
        (run(tmp_path / "gate", n=12, compare=False), "robust_error", "no robust accuracy"),
        (shared, "robust_error.0.03", "no robust accuracy at ε = 0.03"),  # this strength's is not there
    ):
        found = analyze.analyze([folder], objective=objective, out=tmp_path / "out")
        assert "a gate measured FSP distances before finetuning" in found.left_out["fsp"]
        for name in ("fsp", "finetuning"):
            assert words in found.left_out[name] and "evaluator.compare=true" in found.left_out[name]
            assert "nothing was finetuned" not in found.left_out[name]


def test_which_of_several_fsp_distances_is_shown_is_said(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study(shared).fsp_choice == ""
    folder = noisy(shared, tmp_path / "several", 0.0)
    path = folder / "evaluations.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["recorded"]["later"] = 1.0
        row["figures"]["later"] = {"cells": [2.0] * CELLS, "n": 64}
        row["figures"]["inherited"] = {"robust_error": row["id"] / 100, "clean_error": 0.1}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes: list[str] = []
    monkeypatch.setattr(pictures, "note", lambda figure, text: notes.append(text))
    analyze.analyze([folder], out=tmp_path / "out")
    assert ["Shown is fsp_distance; recorded too: later." in text for text in notes].count(True) == 1
    assert study(folder).fsp == pytest.approx(study(shared).fsp, nan_ok=True) and study(folder).fsp_inherited


def test_finetuning(drawn: tuple[analyze.Analysis, Path]) -> None:
    robust, clean = rows_of(drawn[1] / "finetuning.csv")
    assert (robust["accuracy"], clean["accuracy"], robust["n"]) == ("robust accuracy", "clean accuracy", "80")
    assert float(robust["mean_gain"]) == pytest.approx(0.1, abs=0.02)
    assert float(robust["mean_after"]) - float(robust["mean_before"]) == pytest.approx(float(robust["mean_gain"]))


def test_every_picture_has_its_table(drawn: tuple[analyze.Analysis, Path]) -> None:
    found, out = drawn
    study_names = ("finetuning", "separation", "density", "convolutions", "convolution_places", "fsp")
    names = (*study_names, "ranking", "ranking_scores")
    assert {f.name for f in found.files} >= {f"{n}.{s}" for n in names for s in ("png", "csv")}
    assert not found.left_out and {p.name for p in out.iterdir()} == {f.name for f in found.files}
    for path in found.files:
        if path.suffix == ".png":
            check_picture(path)
    rows = rows_of(out / "study.csv")
    assert len(rows) == 80 and all(0 < float(r["robust_error"]) < 1 for r in rows)


# ranking


def test_ranking_beside_truths(drawn: tuple[analyze.Analysis, Path], shared: Path) -> None:
    found = drawn[0].ranking
    assert found is not None and found.main == "mean of 2 truths" and len(found.texts) == 80
    tau = {a.predictor.name: a.kendall for a in found.against(found.main)}
    assert list(tau) == ["shared: inherited weights", "shared", "parameters", "FLOPs", "density", "genome density"]
    # positive where the larger figure goes with the more robust network; noise costs order
    assert tau["shared"].tau > tau["shared: inherited weights"].tau > 0 and tau["density"].tau > 0.3
    truth = np.mean([found.truths[name] for name in ("first", "second")], axis=0)
    expected = stats.kendalltau(study(shared).accuracy(), truth)
    assert (tau["shared"].tau, tau["shared"].p) == pytest.approx((expected.statistic, expected.pvalue))
    ceiling = stats.kendalltau(found.truths["first"], found.truths["second"]).statistic
    assert found.ceiling == pytest.approx(ceiling)
    rows = rows_of(drawn[1] / "ranking.csv")
    assert len(rows) == 6 * 3 + 1 and rows[-1]["kind"] == "truth"
    assert all(float(r["low_95"]) <= float(r["kendall_tau"]) <= float(r["high_95"]) for r in rows)


def test_several_runs_on_the_architectures_that_all_have(shared: Path, tmp_path: Path, capsys: Any) -> None:
    weak = noisy(shared, tmp_path / "weak", 0.1, seed=7)
    truth = run(tmp_path / "truth", n=60)  # the same draws, fewer of them
    out = tmp_path / "out"
    assert analyze.main([f"run={shared},{weak}", f"truth={truth}", f"out={out}"]) == 0
    text = capsys.readouterr().out
    assert "ranks 60 networks" in text and "left out: 20" in text
    tau = {r["predictor"]: float(r["kendall_tau"]) for r in rows_of(out / "ranking.csv")}
    assert tau["shared"] > 0.99 and 0 < tau["weak"] < 0.6 and "weak: inherited weights" not in tau
    assert {p.name for p in out.iterdir()} == {f"ranking{s}.{e}" for s in ("", "_scores") for e in ("png", "csv")}


def test_ranks_follow_the_text_not_the_order(shared: Path, tmp_path: Path) -> None:
    turned = noisy(shared, tmp_path / "turned", 0.0)
    path = turned / "evaluations.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    ids = [row["id"] for row in rows]
    for row, other in zip(rows, reversed(ids), strict=True):
        row["id"] = other
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = ranking([study(shared)], [study(turned)])
    assert next(a for a in found.agreements if a.predictor.name == "shared").kendall.tau == pytest.approx(1)


# what is missing


def test_spaces_that_cannot_tell_structure(tmp_path: Path) -> None:
    found = analyze.analyze([run(tmp_path / "run", n=50, space=Integers(genes=8, choices=3), finetuned=False)])
    assert {f.stem for f in found.files} == {"separation", "separation_points", "fsp", "study"}
    assert "Integers cannot tell what its architectures are made of" in found.left_out["density"]
    assert "nothing was finetuned" in found.left_out["finetuning"]
    assert found.separation is not None and math.isnan(found.separation.positive)
    assert "gene 0 = 0" in found.separation.names


@pytest.mark.parametrize("space", [FREE, NSGAPhases(phases=2, nodes=4)], ids=["cell-free", "phases"])
def test_other_spaces(space: SearchSpace, tmp_path: Path) -> None:
    found = analyze.analyze([run(tmp_path / "run", n=34, space=space, fsp=False)])
    told = space.structure(space.decode(space.sample(np.random.default_rng(0)))) is not None
    assert ("density" in found.left_out) == ("convolutions" in found.left_out) == (not told)
    assert found.separation is not None and "finetuning.png" in {f.name for f in found.files}


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_networks(n: int, tmp_path: Path, capsys: Any) -> None:
    folder = run(tmp_path / "run", n=n)
    assert analyze.main([f"run={folder}"]) == 0
    assert f"of {n} architectures are {int(0.3 * n)} each" in capsys.readouterr().out
    density = rows_of(folder / "density.csv")[0]
    assert density["n"] == str(n) and (density["pearson"] == "") == (n < 3)
    check_picture(folder / "density.png")


def test_networks_that_are_all_alike(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", n=50, strength=0.0, noise=0.0)
    found = analyze.analyze([folder], [noisy(folder, tmp_path / "truth", 0.01)])
    assert "have the same robust accuracy" in found.left_out["separation"]
    assert not any(r.correlation.known for r in found.relations if r.y_name == "robust accuracy")
    check_picture(folder / "density.png")
    assert found.ranking is not None and math.isnan(found.ranking.against("truth")[0].kendall.tau)


def test_no_clean_error_no_gap(tmp_path: Path) -> None:
    found = analyze.analyze([run(tmp_path / "run", n=20, recorded=(), finetuned=False)])
    assert "no clean error in the record" in found.left_out["fsp"]
    assert {r.y_name for r in found.relations} == {"robust accuracy"}
    assert "no FSP distances" in analyze.analyze([run(tmp_path / "no", n=5, fsp=False)]).left_out["fsp"]


def test_rows_of_one_fingerprint_only(shared: Path, tmp_path: Path) -> None:
    folder = noisy(shared, tmp_path / "run", 0.0)
    path = folder / "evaluations.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for row in lines[:30]:
        row["fingerprint"] = "of an older supernet"
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    assert len(study(folder).texts) == 50
    assert study(folder).caution == "30 measurements with earlier settings do not compare, and are left out."


def test_cautions(tmp_path: Path, shared: Path) -> None:
    assert study(shared).caution == ""
    assert "not independent" in study(run(tmp_path / "nsga", algorithm=NSGA2(pop_size=8, n_gen=2))).caution


def test_strengths_are_errors_too(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", n=12)
    found = study(folder, "robust_error.0.1")
    assert found.error("robust") == pytest.approx(study(folder).error("robust") / 2)
    assert found.robust_words == "robust accuracy at ε = 0.1"
    assert found.error("inherited_robust") == pytest.approx(study(folder).error("inherited_robust") / 2)
    robust = finetuning_changes(found)[0]
    assert robust.name == found.robust_words and robust.before.mean() < robust.after.mean()


# what a user gets wrong


def test_usage_and_help(capsys: Any) -> None:
    assert analyze.main([]) == 0
    text = capsys.readouterr().out
    assert "truth=DIR" in text and "evaluator.seed=1" in text
    assert analyze.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(key in text for key in ("run", "truth", "objective", "out"))


def test_bad_input_is_one_message_and_writes_nothing(shared: Path, tmp_path: Path, capsys: Any) -> None:
    stranger = run(tmp_path / "stranger", n=6, space=FREE)
    toy = Problem(space=Integers(), data=Digits(), objectives=(Total(), Distance()), evaluator=Toy(),
                  algorithm=RandomSearch(pop_size=6, n_gen=1))  # fmt: skip
    search(toy, tmp_path / "toy", device="cpu", workers=1)
    search(chz.replace(toy, objectives=(Share(label="total"),)), tmp_path / "beyond", device="cpu", workers=1)
    pair = run(tmp_path / "pair", n=2, recorded=(), finetuned=False)
    failed = noisy(shared, tmp_path / "failed", 0.0, status="failed", objectives={}, error="loss is NaN")
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    out = f"out={tmp_path / 'new'}"
    cases = [
        (["objective=robust_error"], "expected run=DIR"),
        ([f"run={tmp_path / 'nowhere'}", out], "is no run folder"),
        ([f"run={failed}", out], "the first reason: loss is NaN"),
        ([f"run={shared}", "objective=robust_eror", out], "did you mean 'robust_error'"),
        ([f"run={shared}", "objective=params", out], "expected an error, got params"),
        ([f"run={tmp_path / 'toy'}", out], "no 'robust_error' in its record"),
        ([f"run={tmp_path / 'toy'}", "objective=total", out], "expected an error, got total (toy): none of its"),
        ([f"run={tmp_path / 'beyond'}", "objective=total", out], "expected an error in [0, 1]"),
        ([f"run={shared}", f"truth={stranger}", out], "no architecture in common between shared and stranger"),
        ([f"run={shared}", f"truth={shared}", out], "the same folder twice"),
        ([f"run={shared},{stranger}", out], "expected truth=DIR beside several runs"),
        ([f"run={shared},{pair}", f"truth={stranger}", out], "no architecture in common"),
        ([f"run={pair},{tmp_path / 'shared-again'}", f"truth={stranger}", out], "is no run folder"),
        ([f"run={shared},", out], "expected run=DIR"),
        ([f"run={shared}", "thruth=x", out], "did you mean 'truth'"),
        ([f"run={shared}", f"out={shared / 'problem.json'}"], "expected a folder, got a file"),
    ]
    for arguments, message in cases:
        assert analyze.main(arguments) == 2, arguments
        text, err = capsys.readouterr()
        assert text == "" and err.count("\n") == 1 and message in err, err
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_nothing_to_draw_is_said(shared: Path, tmp_path: Path) -> None:
    two = run(tmp_path / "two", n=2)
    with pytest.raises(UserError, match="nothing to draw: only 2 architectures in common"):
        analyze.analyze([shared, two], [noisy(shared, tmp_path / "truth", 0.01)])
    plain = run(tmp_path / "plain", n=5, space=Integers(), recorded=(), finetuned=False, fsp=False)
    with pytest.raises(UserError, match="nothing to draw: .*nothing was finetuned.*cannot tell"):
        analyze.analyze([plain])
