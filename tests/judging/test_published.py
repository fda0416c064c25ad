"""What the papers print, and what a judgement finds of it."""

from __future__ import annotations

import dataclasses

import pytest

from evo_robust import zoo
from evo_robust.judging.judgement import Figure, Judgement, Kinship, Transfer, Verdict
from evo_robust.judging.published import (
    labels_of,
    mean_of,
    others_of,
    printed_of,
    printed_transfer,
    published,
    value_of,
)
from evo_robust.judging.report import caption, grid_of, latex, markdown, tables
from evo_robust.judging.transfer_report import caption as told_of_transfers
from evo_robust.judging.transfer_report import grids
from evo_robust.progress import output

EIGHT = 8 / 255


def figure(trial: str, eps: float | None, right: int = 450) -> Figure:
    return Figure(trial, trial if eps is None else f"{trial} {eps:.3g}", "linf", eps, right, 1000, 1.0)


def verdict(name: str, *figures: Figure, recipe: str = "PGDTraining, 120 epochs", **more: object) -> Verdict:
    means = {"PGD-20": 0.25} if more.pop("mean", False) else {}
    return Verdict(name, name, recipe, 0, name, 11_170_000, 5.6e8, figures, means, {})


CLEAN, FGSM, PGD20, PGD100, MIM, FOOL = (
    figure("clean", None),
    *(figure(name, EIGHT) for name in ("FGSM", "PGD-20", "PGD-100", "MIM-20", "DeepFool")),
)


def judgement(*verdicts: Verdict, data: str = "cifar10") -> Judgement:
    return Judgement(data, 1000, 0, verdicts)


def test_robnets_first_table_stands_beside_ours() -> None:
    told = verdict("resnet-18", CLEAN, FGSM, PGD20, PGD100, FOOL, MIM)
    found = {printed.source: printed for printed in printed_of(told, judgement(told))}
    table = found["RobNet, Table 1"]
    values = [value_of(table, f) for f in told.figures]
    assert values == [78.38, 49.81, 45.60, 45.10, 47.64, 45.23]
    assert table.params == pytest.approx(11.17e6)


def test_wsr_prints_strengths_and_their_mean() -> None:
    told = verdict("wsr-basic", *(figure("PGD-20", eps) for eps in (0.03, 0.1, 0.17, 0.25)), mean=True)
    found = printed_of(told, judgement(told))
    by_label = dict(zip(labels_of(found), found, strict=True))
    basic = by_label["Wsr-NAS, Table 2, WsrNet-B"]
    assert [value_of(basic, f) for f in told.figures] == [48.9, 22.3, 15.7, 12.4]
    assert mean_of(by_label["Wsr-NAS, Table 1, WsrNet-Basic"]) == 24.8


@pytest.mark.parametrize(
    ("name", "recipe", "data"),
    [
        ("resnet-18", "Standard, 120 epochs", "cifar10"),
        ("resnet-18", "PGDTraining, 120 epochs", "digits"),
        ("resnet", "PGDTraining, 120 epochs", "cifar10"),
        ("resnet-18", "", "cifar10"),
    ],
)
def test_nothing_is_printed_of_another_training_or_network(name: str, recipe: str, data: str) -> None:
    told = verdict(name, PGD20, recipe=recipe)
    assert printed_of(told, judgement(told, data=data)) == []


def test_figures_at_another_strength_are_not_compared() -> None:
    told = verdict("resnet-18", figure("PGD-20", 0.1))
    assert [p for p in printed_of(told, judgement(told)) if p.paper == "RobNet"] == []


def test_networks_that_only_papers_have_are_marked() -> None:
    told = verdict("racl", CLEAN, FGSM)
    whole = judgement(told)
    shown = printed_of(told, whole)
    assert {p.model for p in others_of(shown, whole)} >= {"AmoebaNet", "NasNet"}
    text = markdown(grid_of(whole, others=True), caption(whole))
    assert "AmoebaNet (printed: RACL, Table 1)" in text
    assert "57.44" in text
    assert r"printed: RACL" in latex(grid_of(whole), caption(whole))


def test_every_name_of_the_zoo_in_the_file_is_in_the_zoo() -> None:
    assert {p.zoo for p in published()} - {""} <= set(zoo.names())


def test_tables_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    told = [verdict(name, CLEAN, FGSM, PGD20, PGD100, FOOL, MIM) for name in ("resnet-18", "resnet-50")]
    for shown in tables(judgement(*told)):
        output().print(shown)
    text = capsys.readouterr().out
    assert "printed: RobNet, Table 1" in text
    assert max(map(len, text.splitlines())) <= 120
    for shown in tables(judgement(told[0])):
        output().print(shown)
    assert "45.60 %" in capsys.readouterr().out


def crossed(source: str, target: str, kinship: Kinship, trial: str, eps: float) -> Transfer:
    figure = Figure(trial, f"{trial} 8/255", "linf", eps, 60, 100, 1.0)
    return Transfer(source, source, source, target, kinship, figure)


@pytest.mark.parametrize(
    ("transfer", "expected"),
    [
        (crossed("darts", "pc-darts", "other", "PGD-10", 8 / 255), ("RACL, Table 3", 64.65)),
        (crossed("vgg-19", "racl", "other", "MIM-20", 8 / 255), ("RACL, Table 2", 82.5)),
        (crossed("resnet-50", "resnet-50", "copy", "PGD-100", 8 / 255), ("RobNet, Table 2", 55.89)),
        (crossed("resnet-50", "resnet-50", "same", "PGD-100", 8 / 255), None),
        (crossed("resnet-50", "resnet-50", "copy", "PGD-100", 4 / 255), None),
        (crossed("resnet-18", "resnet-50", "other", "PGD-100", 8 / 255), None),
    ],
)
def test_transfers_stand_beside_the_printed_ones(transfer: Transfer, expected: tuple[str, float] | None) -> None:
    whole = dataclasses.replace(judgement(verdict(transfer.target, CLEAN)), transfers=(transfer,))
    assert printed_transfer(transfer, whole) == expected
    ((_, grid),) = grids(whole)
    cell, below = grid.rows[0][-1], told_of_transfers(whole)
    if expected:
        assert cell == f"60.00 ±9.43 ({expected[1]:.2f})"
        assert below.endswith(f"In brackets: as printed ({expected[0]}).")
    else:
        assert cell.removeprefix("* ") == "60.00 ±9.43"
        assert "printed" not in below
