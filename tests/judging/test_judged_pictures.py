"""Pictures of judgements, and how well a search's figures order networks as the judge does."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import matplotlib.image
import pytest
from scipy.stats import kendalltau

from evo_robust.judging.intervals import wilson
from evo_robust.judging.judgement import Figure, Judgement, Verdict
from evo_robust.judging.pictures import agreements, by_search, draw, hardest, steps_of, strengths_of
from evo_robust.judging.ranking import answer, ranked
from evo_robust.judging.report import write_report


def network(k: int, **searched: float) -> Verdict:
    """One of several networks that grow with k, and the more so the more they keep under attack."""
    figures = [Figure("clean", "clean", "", None, 900 + k, 1000, 0.0)]
    for steps in (5, 50):
        for eps in (0.05, 0.1):
            right = 800 - int(4000 * eps) - steps + 20 * k
            figures.append(Figure(f"PGD-{steps}", f"PGD-{steps} {eps}", "linf", eps, right, 1000, 1.0))
    figures += [Figure("worst case", f"worst case {e}", "linf", e, 300 + 20 * k, 1000, 0.0) for e in (0.05, 0.1)]
    return Verdict(f"net-{k}", "here", "PGDTraining", 0, None, 1000 * 2**k, 1e6 * 2**k, tuple(figures), {}, searched)


def judged(n: int, **searched: list[float]) -> Judgement:
    return Judgement(
        "digits", 1000, 0, tuple(network(k, **{name: values[k] for name, values in searched.items()}) for k in range(n))
    )


def test_tau_says_whether_the_search_orders_as_the_judge() -> None:
    errors, flops = [0.5, 0.3, 0.4, 0.2, 0.1], [1.0, 2.0, 3.0, 4.0, 5.0]
    found = {(a.figure, a.column): a.tau.tau for a in agreements(judged(5, robust_error=errors, flops=flops))}
    accuracy = [320 + 20 * k for k in range(5)]
    assert found["robust_error", "worst case 0.1"] == pytest.approx(
        kendalltau([-e for e in errors], accuracy).statistic
    )
    # the largest network is the most robust one here, so few FLOPs order them the other way round
    assert found["flops", "worst case 0.1"] == pytest.approx(-1)
    assert found["parameters", "worst case 0.1"] == pytest.approx(1)


def test_figures_of_one_search_alone_are_compared_within_it(tmp_path: Path) -> None:
    bound, error = ([0.5, 0.4, 0.3, 0.2, 0.1] for _ in range(2))
    one, other = judged(5, lipschitz_bound=bound), judged(5, robust_error=error)
    verdicts = [
        dataclasses.replace(verdict, group=group)
        for group, part in (("racl", one), ("robnet", other))
        for verdict in part.verdicts
    ]
    both = Judgement("digits", 1000, 0, tuple(verdicts))
    assert agreements(both) == []  # no figure is known of all
    found = by_search(both)
    assert {name: {a.figure for a in mine} for name, mine in found.items()} == {
        "racl": {"lipschitz_bound", "parameters"},
        "robnet": {"robust_error", "parameters"},
    }
    assert all(a.tau.tau == pytest.approx(1) for a in found["racl"])
    write_report(both, tmp_path)
    with (tmp_path / "searched-judged.csv").open(encoding="utf-8") as file:
        assert {(row["search"], row["figure"]) for row in csv.DictReader(file)} == {
            (name, a.figure) for name, mine in found.items() for a in mine
        }


def test_few_networks_have_no_order_to_compare() -> None:
    assert agreements(judged(3, robust_error=[0.1, 0.2, 0.3])) == []
    assert agreements(judged(6)) == []


def test_strengths_and_steps_are_found_by_the_names_of_trials() -> None:
    one = network(0)
    assert {name: [f.eps for f in found] for name, found in strengths_of(one).items()} == {
        "PGD-5": [0.05, 0.1],
        "PGD-50": [0.05, 0.1],
    }
    assert {name: [steps for steps, _ in found] for name, found in steps_of(one).items()} == {
        "PGD at 0.05": [5, 50],
        "PGD at 0.1": [5, 50],
    }


@pytest.mark.parametrize("n", [1, 5, 12])
def test_pictures_are_drawn_for_what_there_is(n: int, tmp_path: Path) -> None:
    searched = {"robust_error": [0.5 - 0.01 * k for k in range(n)]}
    made = {path.name for path in draw(judged(n, **searched), tmp_path)}
    expected = {"accuracy-strength.png", "accuracy-steps.png"}
    several = {"ranking.png", "accuracy-size.png", "searched-judged.png", "front-judged.png"}
    assert made == expected | (several if n > 1 else set())
    for name in made:
        assert matplotlib.image.imread(tmp_path / name).shape[0] > 400


def test_the_ranking_is_by_the_hardest_attack_and_says_what_the_images_cannot_tell_apart() -> None:
    judgement, column = judged(12), "worst case 0.1"
    order = [verdict.name for verdict in ranked(judgement, column)]
    assert order == [f"net-{k}" for k in reversed(range(12))]
    figures = [verdict.figure(column) for verdict in ranked(judgement, column)]
    # 52 % of 1,000 images: 48.9 to 55.1 %; with 50 % the interval still reaches 53.1, with 46 % only 49.1, with 44 47.1
    assert answer(figures, "net-11") == "net-11 keeps 52.0 %; the intervals of 3 others overlap its own."
    assert answer(figures[:2], "net-11").endswith("the interval of 1 other overlaps its own.")
    assert answer([figures[0], figures[9]], "net-11") == "net-11 keeps 52.0 %, clearly more than all others."


def test_the_hardest_columns_fit_a_picture() -> None:
    assert hardest(judged(2)) == ["clean", "worst case 0.05", "worst case 0.1"]


def test_a_strength_of_one_attack_alone_is_no_less_hard() -> None:
    def alike(k: int) -> Verdict:
        figures = [Figure("clean", "clean", "", None, 900, 1000, 0.0)]
        for eps, right in ((0.03, 800), (0.1, 500 + 20 * k), (0.17, 200), (0.25, 0)):
            figures.append(Figure("PGD-20", f"PGD-20 {eps}", "linf", eps, right, 1000, 1.0))
        figures.append(Figure("FGSM", "FGSM 0.03", "linf", 0.03, 800, 1000, 0.1))
        figures.append(Figure("worst case", "worst case 0.03", "linf", 0.03, 790, 1000, 0.0))
        return Verdict(f"net-{k}", "here", "PGDTraining", 0, None, 1000, 1e6, tuple(figures), {}, {})

    judgement = Judgement("digits", 1000, 0, (alike(0), alike(1)))
    # the set wsr: two attacks at .03 alone
    assert hardest(judgement) == ["clean", "PGD-20 0.1", "PGD-20 0.25"]
    lone = dataclasses.replace(alike(0), figures=alike(0).figures[:2])
    assert hardest(Judgement("digits", 1000, 0, (lone,))) == ["clean", "PGD-20 0.03"]


def test_a_share_lies_in_its_interval() -> None:
    for n in range(1, 400):
        for right in {0, 1, n // 2, n - 1, n}:
            low, high = wilson(right, n)
            assert 0 <= low <= right / n <= high <= 1 and low < high


def test_networks_without_an_error_are_drawn(tmp_path: Path) -> None:
    figures = (
        Figure("clean", "clean", "", None, 60, 60, 0.0),
        *(Figure("FGSM", f"FGSM {e}", "linf", e, r, 60, 0.0) for e, r in ((0.1, 60), (0.2, 0))),
    )
    verdicts = [Verdict(name, "here", "Standard", 0, None, 1000, 1e6, figures, {}, {}) for name in ("one", "two")]
    assert "ranking.png" in {path.name for path in draw(Judgement("digits", 60, 0, tuple(verdicts)), tmp_path)}


def test_strengths_stand_as_columns_show_them() -> None:
    figures = [
        Figure("PGD-20 l2", "PGD-20 l2 0.5", "l2", 0.5, 1, 2, 0.0),
        Figure("worst case", "worst case 0.5 l2", "l2", 0.5, 1, 2, 0.0),
        Figure("clean", "clean", "", None, 1, 2, 0.0),
    ]
    assert [figure.strength for figure in figures] == ["0.5", "0.5", ""]
