"""Tables of RoCo-NAS from judged networks."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from evo_robust.judging.judgement import Figure, Judgement, Verdict
from evo_robust.judging.report import write_report
from evo_robust.judging.tops import pairs, tops


def network(name: str, flops: float, right: int, group: str | None) -> Verdict:
    figures = (
        Figure("clean", "clean", "", None, right, 100, 0.0),
        Figure("PGD-20", "PGD-20 0.1", "linf", 0.1, right - 40, 100, 1.0),
    )
    return Verdict(name, name, "Standard", 0, None, int(flops / 10), flops, figures, {}, {}, group=group)


def judged() -> Judgement:
    roco = [network(f"roco {k}", 1e6 * (k + 1), 80 + k, "roco") for k in range(4)]
    other = [network(f"base {k}", 1.01e6 * (k + 1), 70 + k, "base") for k in range(2)]
    return Judgement("digits", 100, 0, (*reversed(roco), *other, network("alone", 1e6, 99, None)))


def test_tops_are_means_over_the_lightest() -> None:
    found = {(top.group, top.n): top for top in tops(judged())}
    assert found["roco", 1].accuracy == {"clean": 0.8, "PGD-20 0.1": 0.4}
    assert found["roco", 3].accuracy["clean"] == pytest.approx((0.80 + 0.81 + 0.82) / 3)
    assert found["roco", 3].flops == pytest.approx(2e6)
    assert (found["base", 5].networks, found["base", 5].n) == (2, 5)
    assert {top.group for top in tops(judged())} == {"roco", "base"}


def test_pairs_have_nearly_equal_flops() -> None:
    assert {(one.name, two.name) for one, two in pairs(judged())} == {("roco 0", "base 0"), ("roco 1", "base 1")}
    assert pairs(judged(), tolerance=0.001) == []


def test_tables_say_whether_networks_were_trained_again() -> None:
    searched = [dataclasses.replace(verdict, recipe="as in the search") for verdict in judged().verdicts]
    assert {top.training for top in tops(dataclasses.replace(judged(), verdicts=tuple(searched)))} == {
        "as in the search"
    }
    mixed = (*searched[:1], *judged().verdicts[1:])
    found = {(t.group, t.n): t.training for t in tops(dataclasses.replace(judged(), verdicts=mixed))}
    assert (found["roco", 5], found["base", 5]) == ("in several ways", "Standard")


def test_they_are_written_beside_the_judgement(tmp_path: Path) -> None:
    write_report(judged(), tmp_path)
    with (tmp_path / "tops.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert {row["measured"] for row in rows} == {"judge"}
    assert {row["training"] for row in rows} == {"Standard"}
    with (tmp_path / "pairs.csv").open(encoding="utf-8") as file:
        assert [row["network"] for row in csv.DictReader(file)].count("roco 0") == 1
