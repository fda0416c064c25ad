"""What the papers print, and what a judgement finds of it."""

from __future__ import annotations

import csv
import dataclasses
import functools
from pathlib import Path

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
from evo_robust.judging.report import caption, grid_of, latex, markdown, tables, write_figures
from evo_robust.judging.trained import recipe_words
from evo_robust.judging.transfer_report import caption as told_of_transfers
from evo_robust.judging.transfer_report import grids
from evo_robust.progress import output
from evo_robust.training.recipes import TRADES, MultiStrengthTraining, Standard

EIGHT = 8 / 255


def figure(trial: str, eps: float | None, right: int = 450) -> Figure:
    return Figure(trial, trial if eps is None else f"{trial} {eps:.3g}", "linf", eps, right, 1000, 1.0)


@functools.cache
def size(name: str) -> int:
    return sum(parameter.numel() for parameter in zoo.from_text(name).build(10, (3, 32, 32)).parameters())


def verdict(name: str, *figures: Figure, recipe: str = "PGDTraining eps=8/255, 120 epochs", **more: object) -> Verdict:
    means = {"PGD-20": 0.25} if more.pop("mean", False) else {}
    return Verdict(name, name, recipe, 0, name, size(name), 5.6e8, figures, means, {})


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


def test_the_csv_has_the_printed_figures_too(tmp_path: Path) -> None:
    told = verdict("wsr-basic", CLEAN, FGSM, *(figure("PGD-20", eps) for eps in (0.03, 0.10, 0.17, 0.25)), mean=True)
    write_figures(judgement(told), tmp_path / "judgement.csv")
    with (tmp_path / "judgement.csv").open(encoding="utf-8", newline="") as file:
        rows = {(row["trial"], row["eps"]): row for row in csv.DictReader(file)}
    found = rows["PGD-20", "0.1"]
    papers = printed_of(told, judgement(told))
    values = [value_of(paper, told.figures[3]) for paper in papers]
    shares = dict(zip(found["printed_in"].split("; "), map(float, found["printed"].split("; ")), strict=True))
    known = [(label, v / 100) for label, v in zip(labels_of(papers), values, strict=True) if v is not None]
    assert shares == pytest.approx(dict(known)) and len(known) > 1
    assert "Wsr-NAS" in rows["PGD-20 mean", ""]["printed_in"]
    assert rows["FGSM", str(EIGHT)]["printed_in"] != found["printed_in"]


def test_wsr_prints_strengths_and_their_mean() -> None:
    told = verdict("wsr-basic", *(figure("PGD-20", eps) for eps in (0.03, 0.1, 0.17, 0.25)), mean=True)
    found = printed_of(told, judgement(told))
    by_label = dict(zip(labels_of(found), found, strict=True))
    basic = by_label["Wsr-NAS, Table 2, WsrNet-B"]
    assert [value_of(basic, f) for f in told.figures] == [48.9, 22.3, 15.7, 12.4]
    assert mean_of(by_label["Wsr-NAS, Table 1, WsrNet-Basic"], "PGD-20", told.figures) == 24.8


def test_a_mean_over_other_strengths_is_not_wsrs() -> None:
    told = verdict("wsr-basic", *(figure("PGD-20", eps) for eps in (0.03, 0.1, 0.17)), mean=True)
    found = {printed.model: printed for printed in printed_of(told, judgement(told)) if printed.where == "Table 1"}
    assert found == {}
    table = next(p for p in published() if (p.where, p.zoo, p.training) == ("Table 1", "wsr-basic", "PGD-7"))
    assert mean_of(table, "PGD-20", told.figures) is None
    four = [figure("FGSM", eps) for eps in (0.03, 0.1, 0.17, 0.25)]
    assert mean_of(table, "FGSM", four) is None


@pytest.mark.parametrize(
    "trial", ["PGD-20 l2", "PGD-20+Square-5000", "PGD-20 (restarts=5)", "APGD-CE-100", "MIM-20+FMN"]
)
def test_other_attacks_are_not_taken_for_the_printed_one(trial: str) -> None:
    told = verdict("wsr-basic", dataclasses.replace(figure(trial, 0.03), norm="l2" if "l2" in trial else "linf"))
    assert printed_of(told, judgement(told)) == []


def test_the_length_of_a_step_may_stand_in_the_name() -> None:
    table = next(p for p in published() if (p.where, p.zoo, p.paper) == ("Table 1", "resnet-18", "RobNet"))
    assert value_of(table, figure("PGD-20 (step=2/255)", EIGHT)) == 45.60


def test_an_untold_strength_is_that_of_the_training() -> None:
    table = next(p for p in published() if (p.where, p.zoo, p.training) == ("Table 1", "wsr-basic", "PGD-7"))
    told = [value_of(table, figure("FGSM", eps)) is not None for eps in (0.01, 0.03, EIGHT, 0.1)]
    assert told == [False, True, True, False]


@pytest.mark.parametrize(
    ("recipe", "trainings"),
    [
        ("TRADES beta=1 eps=0.031, 200 epochs", {"TRADES-1"}),
        ("TRADES beta=6 eps=0.031, 200 epochs", set()),
        ("PGDTraining eps=0.031, 200 epochs", {"PGD-7"}),
        ("PGDTraining eps=16/255, 200 epochs", set()),
        ("PGDTraining, 200 epochs", {"PGD-7"}),
    ],
)
def test_only_the_same_training_is_compared(recipe: str, trainings: set[str]) -> None:
    told = verdict("racl", *(figure("PGD-20", eps) for eps in (0.03, 0.1, 0.17, 0.25)), recipe=recipe)
    assert {printed.training for printed in printed_of(told, judgement(told))} == trainings


def test_recipes_are_told_with_what_decides() -> None:
    named = [recipe_words(recipe) for recipe in (TRADES(beta=1.0), Standard(), MultiStrengthTraining())]
    assert named == ["TRADES beta=1 eps=8/255", "Standard", "MultiStrengthTraining eps=0.03..0.105"]


@pytest.mark.parametrize(
    ("name", "params", "shown"),
    [
        ("wsr-basic channels=74", 13_161_567, ["Wsr-NAS, Table 4"]),
        ("wsr-basic", 5_270_508, []),
        ("wsr-basic channels=74 denoise=mean", 13_200_000, []),
    ],
)
def test_a_network_of_chosen_channels_is_known_by_its_size(name: str, params: int, shown: list[str]) -> None:
    figures = (figure("clean", None), figure("PGD-20", 0.015))
    told = Verdict(name, name, "FastTraining eps=4/255, 90 epochs", 0, name, params, 1e9, figures, {}, {})
    assert [printed.source for printed in printed_of(told, judgement(told, data="imagenet"))] == shown


@pytest.mark.parametrize(
    ("name", "clean", "attacked", "label"),
    [
        ("resnet-18", 78.38, 45.10, "RobNet, Table 4"),
        ("resnet-18 denoise=gaussian", 78.75, 45.82, "RobNet, Table 4, ResNet-18 + Denoise (filter not told)"),
        ("robnet-large denoise=gaussian", 84.03, 49.97, "RobNet, Table 4, RobNet-large + Denoise (filter not told)"),
    ],
)
def test_denoised_networks_stand_beside_robnets_fourth_table(
    name: str, clean: float, attacked: float, label: str
) -> None:
    told = verdict(name, CLEAN, PGD100)
    found = [printed for printed in printed_of(told, judgement(told)) if printed.where == "Table 4"]
    assert labels_of(found) == [label]
    assert [value_of(found[0], f) for f in told.figures] == [clean, attacked]


@pytest.mark.parametrize(
    "name",
    [
        "resnet-18 denoise=mean",
        "resnet-18 denoise=gaussian denoise_after=stage-1",
        "robnet-large-v2 denoise=gaussian",
        "resnet-18 channels=8 denoise=gaussian",
    ],
)
def test_another_filter_place_or_network_is_not_robnets(name: str) -> None:
    told = verdict(name, CLEAN, PGD100)
    assert [printed for printed in printed_of(told, judgement(told)) if printed.paper == "RobNet"] == []


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
    for name in {p.zoo for p in published()} - {""}:
        assert zoo.from_text(name).text == name


def test_later_parts_of_a_table_have_no_rows_without_a_figure() -> None:
    attacks = [figure(name, EIGHT) for name in ("FGSM", "PGD-20", "PGD-100", "APGD-CE-50", "FMN", "Square-400")]
    told = verdict("resnet-18", CLEAN, *attacks)
    first, later = grid_of(judgement(told)).parts(4)
    assert later.heads[1:] == tuple(f.column for f in attacks[3:])
    assert len(first.rows) > 1 and [row[0] for row in later.rows] == ["resnet-18"]


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
