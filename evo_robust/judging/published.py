"""The figures that the four papers print, beside those of the judge.

``published.csv`` has a line for each printed figure: paper, table, model, its name in the zoo (empty where the zoo has
no such network), data set, training, attack, strength, what was measured, its value, and what to know of it.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from evo_robust.judging.judgement import Figure, Judgement, Transfer, Verdict
from evo_robust.parts.base import Fraction

FILE = Path(__file__).with_name("published.csv")

TRANSFER = "transfer"
"""How the file's names of attacks begin where the images were made on another network."""

PAPERS = {"robnet": "RobNet", "wsr": "Wsr-NAS", "racl": "RACL", "roco": "RoCo-NAS"}
"""Papers by the name that the file has for them."""


@dataclasses.dataclass(frozen=True)
class Printed:
    """What one table of a paper says of one network.

    Attributes:
        paper: such as ``RobNet``.
        where: such as ``Table 1``.
        model: the paper's name of the network.
        zoo: its name in the zoo; empty where it has none.
        data: lower-case name of the data set.
        training: such as ``PGD-7`` or ``standard``.
        params: number of parameters; None where the table has none.
        accuracy: accuracy in percent by attack and strength; None stands for a strength that is not told.
    """

    paper: str
    where: str
    model: str
    zoo: str
    data: str
    training: str
    params: float | None
    accuracy: dict[tuple[str, float | None], float]

    @property
    def source(self) -> str:
        """Paper and table."""
        return f"{self.paper}, {self.where}"


@functools.cache
def published() -> tuple[Printed, ...]:
    """Everything that the papers print of networks, in the order of the file."""
    rows: dict[tuple[str, ...], Printed] = {}
    with FILE.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["metric"] not in ("accuracy_percent", "params_millions"):
                continue
            paper, where, model, zoo = PAPERS[line["paper"]], line["where"], line["model"], line["zoo_name"]
            key = (paper, where, model, zoo, line["dataset"], line["training"])
            found = rows.setdefault(key, Printed(paper, where, model, zoo, line["dataset"], line["training"], None, {}))
            value = float(line["value"])
            if line["metric"] == "params_millions":
                rows[key] = dataclasses.replace(found, params=1e6 * value)
            else:
                eps = float(Fraction.read(line["eps"])) if line["eps"] else None
                found.accuracy[line["attack"], eps] = value
    # a table may give parameters once for several trainings
    sizes = {(p.paper, p.where, p.model, p.data): p.params for p in rows.values() if p.params is not None}
    return tuple(
        dataclasses.replace(p, params=p.params or sizes.get((p.paper, p.where, p.model, p.data)))
        for p in rows.values()
        if p.accuracy
    )


def printed_of(verdict: Verdict, judgement: Judgement) -> list[Printed]:
    """What papers print of this network on these images after such a training, where a column of it is here."""
    if verdict.zoo is None:
        return []
    trainings = _trainings(verdict.recipe)
    known = [p for p in published() if (p.zoo, p.data) == (verdict.zoo, judgement.data)]
    return [p for p in known if p.training in trainings and _tells(p, verdict.figures, bool(verdict.means))]


def labels_of(shown: Sequence[Printed]) -> list[str]:
    """What tables call each of them: paper and table; with the paper's own name where a table has two of them."""
    sources = [p.source for p in shown]
    return [f"{p.source}, {p.model}" if sources.count(p.source) > 1 else p.source for p in shown]


def others_of(shown: Iterable[Printed], judgement: Judgement) -> list[Printed]:
    """Networks that this package does not build, from the tables of those that are shown."""
    tables = {(p.paper, p.where, p.data, p.training) for p in shown}
    figures = [figure for verdict in judgement.verdicts for figure in verdict.figures]
    return [
        p
        for p in published()
        if not p.zoo and (p.paper, p.where, p.data, p.training) in tables and _tells(p, figures, bool(judgement.means))
    ]


def _tells(printed: Printed, figures: Sequence[Figure], means: bool) -> bool:
    """Whether it has a value for one of the figures, or the mean where there are means."""
    return any(value_of(printed, f) is not None for f in figures) or (means and mean_of(printed) is not None)


def value_of(printed: Printed, figure: Figure) -> float | None:
    """The printed accuracy in percent that belongs to a figure; None where there is none."""
    values = (_at(printed, name, figure.eps) for name in _attack_names(figure.trial))
    return next((value for value in values if value is not None), None)


def _at(printed: Printed, name: str, strength: float | None) -> float | None:
    """The printed accuracy in percent under the attack that the file calls so; None where there is none."""
    for (attack, eps), value in printed.accuracy.items():
        # a table may leave the strength untold
        if attack == name and (eps is None or (strength is not None and abs(eps - strength) < 1e-6)):
            return value
    return None


def printed_transfer(transfer: Transfer, judgement: Judgement) -> tuple[str, float] | None:
    """Paper and table, and accuracy in percent, where one prints this transfer after such a training; else None."""
    verdict = next(verdict for verdict in judgement.verdicts if verdict.name == transfer.target)
    sources = [transfer.zoo] if transfer.kinship == "other" else ["same-architecture-copy", transfer.zoo]
    if verdict.zoo is None or transfer.kinship == "same":
        return None
    names = itertools.product(sources, _attack_names(transfer.figure.trial))
    attacks, trainings = [f"{TRANSFER}:{source}:{attack}" for source, attack in names], _trainings(verdict.recipe)
    for printed in published():
        if (printed.zoo, printed.data) == (verdict.zoo, judgement.data) and printed.training in trainings:
            values = [_at(printed, attack, transfer.figure.eps) for attack in attacks]
            if (value := next((v for v in values if v is not None), None)) is not None:
                return printed.source, value
    return None


def mean_of(printed: Printed) -> float | None:
    """The mean over strengths in percent, which Wsr-NAS prints."""
    return printed.accuracy.get(("average", None))


def _attack_names(trial: str) -> Sequence[str]:
    """Names that the file has for a trial, the most exact one first."""
    lower = trial.lower()
    if trial == "clean":
        return ("none",)
    kind = lower.partition("-")[0]
    if kind == "pgd":
        return (lower, "pgd")
    return {"mim": ("mim",), "fgsm": ("fgsm",), "deepfool": ("deepfool",), "c&w": ("cw",)}.get(kind, (lower,))


def _trainings(recipe: str) -> tuple[str, ...]:
    """The papers' words for a training that our class of recipe begins with."""
    kind = recipe.partition(",")[0]
    return {
        "Standard": ("standard",),
        "PGDTraining": ("PGD-7", "PGD-AT", ""),
        "TRADES": ("TRADES", "TRADES-1"),
        "MultiStrengthTraining": ("Multi-Adv",),
        "FastTraining": ("fast",),
    }.get(kind, ())
