"""The figures that the four papers print, beside those of the judge.

``published.csv`` has a line for each printed figure: paper, table, model, its name in the zoo (empty where the zoo has
no such network), data set, training, attack, strength, what was measured, its value, and what to know of it.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from evo_robust.judging.judgement import Figure, Judgement, Transfer, Verdict
from evo_robust.parts.base import Fraction

FILE = Path(__file__).with_name("published.csv")

TRANSFER = "transfer"
"""How the file's names of attacks begin where the images were made on another network."""

UNTOLD = (0.03, 8 / 255)
"""Smallest and largest strength at which a figure stands whose table tells none: those of the training."""

TRAINED = {"imagenet": 4 / 255, "mnist": 76.5 / 255}
"""Strength of the papers' training by data set; 8/255, or .031, on all others."""

AVERAGED = {"cifar10": (0.03, 0.10, 0.17, 0.25), "imagenet": (0.015, 0.03, 0.045, 0.06, 0.075, 0.09)}
"""Strengths of PGD over which Wsr-NAS takes its mean, by data set."""

SIZE = 0.15
"""Largest relative difference of the parameters printed and ours: heads have 10 or 100 classes, ImageNet's more."""

DAY = 24.0
"""Hours of a GPU-day."""

PAPERS = {"robnet": "RobNet", "wsr": "Wsr-NAS", "racl": "RACL", "roco": "RoCo-NAS"}
"""Papers by the name that the file has for them."""


@dataclasses.dataclass(frozen=True)
class Printed:
    """What one table of a paper says of one network.

    Attributes:
        paper: such as ``RobNet``.
        where: such as ``Table 1``.
        model: the paper's name of the network.
        zoo: its name in the zoo, with what is chosen beside it; empty where it has none.
        data: lower-case name of the data set.
        training: such as ``PGD-7`` or ``standard``.
        params: number of parameters; None where the table has none.
        accuracy: accuracy in percent by attack and strength; None stands for a strength that is not told.
        search_hours: GPU-hours of the search that found the network; None where the table has none.
        estimated: whether the paper estimates them.
    """

    paper: str
    where: str
    model: str
    zoo: str
    data: str
    training: str
    params: float | None
    accuracy: dict[tuple[str, float | None], float]
    search_hours: float | None = None
    estimated: bool = False

    @property
    def source(self) -> str:
        """Paper and table."""
        return f"{self.paper}, {self.where}"

    @property
    def search(self) -> str:
        """Paper, place and name of the search or network: what :func:`evo_robust.judging.searches.repeated` gives."""
        return f"{self.source}, {self.model}"

    @property
    def chosen(self) -> str:
        """What the paper does not tell of the network, and we chose, in a few words; empty where it tells all."""
        return "filter not told" if "denoise=" in self.zoo else ""


@functools.cache
def published() -> tuple[Printed, ...]:
    """Everything that the papers print of networks, in the order of the file."""
    rows: dict[tuple[str, ...], Printed] = {}
    with FILE.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["metric"] not in ("accuracy_percent", "params_millions", "gpu_days"):
                continue
            paper, where, model, zoo = PAPERS[line["paper"]], line["where"], line["model"], line["zoo_name"]
            key = (paper, where, model, zoo, line["dataset"], line["training"])
            found = rows.setdefault(key, Printed(paper, where, model, zoo, line["dataset"], line["training"], None, {}))
            value = float(line["value"])
            if line["metric"] == "params_millions":
                rows[key] = dataclasses.replace(found, params=1e6 * value)
            elif line["metric"] == "gpu_days":
                rows[key] = dataclasses.replace(found, search_hours=DAY * value, estimated="estimated" in line["note"])
            else:
                eps = float(Fraction.read(line["eps"])) if line["eps"] else None
                found.accuracy[line["attack"], eps] = value
    # a table may give parameters once for several trainings
    sizes = {(p.paper, p.where, p.model, p.data): p.params for p in rows.values() if p.params is not None}
    return tuple(
        dataclasses.replace(p, params=p.params or sizes.get((p.paper, p.where, p.model, p.data)))
        for p in rows.values()
        if p.accuracy or p.search_hours is not None
    )


def printed_of(verdict: Verdict, judgement: Judgement) -> list[Printed]:
    """What papers print of this network on these images after such a training, where a column of it is here."""
    return [p for p in _of(verdict, judgement) if _tells(p, verdict.figures, verdict.means)]


def _of(verdict: Verdict, judgement: Judgement) -> list[Printed]:
    """Everything that papers print of this network on these images after such a training."""
    trainings = _trainings(verdict.recipe, judgement.data)
    return [p for p in published() if p.data == judgement.data and p.training in trainings and _is(p, verdict)]


def _is(printed: Printed, verdict: Verdict) -> bool:
    """Whether a paper's network is this one: by its name, and by its size where channels or layers can be chosen."""
    words = (verdict.zoo or "").split()
    name = " ".join(word for word in words if not word.startswith(("channels=", "layers=", "stem=")))
    if not printed.zoo or name != printed.zoo:
        return False
    if printed.params is None:
        return name == verdict.zoo
    return abs(verdict.params - printed.params) <= SIZE * printed.params


def labels_of(shown: Sequence[Printed]) -> list[str]:
    """What tables call each of them: paper and table.

    The paper's own name stands there too where a table has two of them, or where we chose what the paper does not say.
    """
    sources = [p.source for p in shown]
    labels = [f"{p.source}, {p.model}" if sources.count(p.source) > 1 or p.chosen else p.source for p in shown]
    return [f"{label} ({p.chosen})" if p.chosen else label for label, p in zip(labels, shown, strict=True)]


def others_of(shown: Sequence[Printed], judgement: Judgement) -> list[Printed]:
    """Networks that this package does not build, from the tables of those that are shown."""
    tables = {(p.paper, p.where, p.data, p.training) for p in shown}
    figures = [figure for verdict in judgement.verdicts for figure in verdict.figures]
    known = [p for p in shown if not p.zoo]
    return [
        p
        for p in published()
        if not p.zoo
        and p not in known
        and (p.paper, p.where, p.data, p.training) in tables
        and (p.search_hours is not None or _tells(p, figures, judgement.means))
    ]


def _tells(printed: Printed, figures: Sequence[Figure], means: Iterable[str]) -> bool:
    """Whether it has a value for one of the figures, or for the mean of one of the trials ``means``."""
    values = itertools.chain(
        (value_of(printed, figure) for figure in figures), (mean_of(printed, trial, figures) for trial in means)
    )
    return any(value is not None for value in values)


def value_of(printed: Printed, figure: Figure) -> float | None:
    """The printed accuracy in percent that belongs to a figure; None where there is none."""
    if figure.norm == "l2":  # all balls of the papers are in linf
        return None
    values = (_at(printed, name, figure.eps) for name in _attack_names(figure.trial))
    return next((value for value in values if value is not None), None)


def _at(printed: Printed, name: str, strength: float | None) -> float | None:
    """The printed accuracy in percent under the attack that the file calls so; None where there is none."""
    for (attack, eps), value in printed.accuracy.items():
        low, high = UNTOLD if eps is None else (eps, eps)
        if attack == name and ((eps is strength is None) or _between(low, strength, high)):
            return value
    return None


def _between(low: float, strength: float | None, high: float) -> bool:
    return strength is not None and low - 1e-6 < strength < high + 1e-6


def printed_transfer(transfer: Transfer, judgement: Judgement) -> tuple[str, float] | None:
    """Paper and table, and accuracy in percent, where one prints this transfer after such a training; else None."""
    verdict = next(verdict for verdict in judgement.verdicts if verdict.name == transfer.target)
    sources = [transfer.zoo] if transfer.kinship == "other" else ["same-architecture-copy", transfer.zoo]
    if transfer.kinship == "same" or transfer.figure.norm == "l2":
        return None
    names = itertools.product(sources, _attack_names(transfer.figure.trial))
    attacks = [f"{TRANSFER}:{source}:{attack}" for source, attack in names]
    for printed in _of(verdict, judgement):
        values = [_at(printed, attack, transfer.figure.eps) for attack in attacks]
        if (value := next((v for v in values if v is not None), None)) is not None:
            return printed.source, value
    return None


def mean_of(printed: Printed, trial: str, figures: Iterable[Figure]) -> float | None:
    """The mean over strengths in percent, which Wsr-NAS prints; None for another attack or other strengths."""
    strengths = [figure.eps for figure in figures if figure.trial == trial]
    expected = AVERAGED.get(printed.data, ())
    same = len(strengths) == len(expected) and all(map(_between, expected, strengths, expected))
    return printed.accuracy.get(("average", None)) if same and "pgd" in _attack_names(trial) else None


def _attack_names(trial: str) -> Sequence[str]:
    """Names that the file has for a trial, the most exact one first; none for attacks that the papers do not make."""
    if trial == "clean":
        return ("none",)
    # a number of steps, and the length of a step where the name tells it
    found = re.fullmatch(r"([a-z&]+)(-\d+)?(?: \(step=[^,]*\))?", trial.lower())
    if found is None:
        return ()
    kind = {"c&w": "cw"}.get(found[1], found[1])
    return (f"pgd{found[2]}", "pgd") if kind == "pgd" else (kind,)


def _trainings(recipe: str, data: str) -> tuple[str, ...]:
    """The papers' words for a training, see :func:`evo_robust.judging.trained.recipe_words`."""
    kind, *settings = recipe.partition(",")[0].split() or [""]
    told = dict(setting.split("=", 1) for setting in settings if "=" in setting)
    usual = TRAINED.get(data, 8 / 255)
    eps = float(Fraction.read(told["eps"])) if "eps" in told and kind != "MultiStrengthTraining" else usual
    if abs(eps - usual) > 0.05 * usual:  # .03 and .031 are near enough to 8/255
        return ()
    return {
        "Standard": ("standard",),
        "PGDTraining": ("PGD-7", "PGD-AT", ""),
        "TRADES": ("TRADES-1",) if told.get("beta") == "1" else ("TRADES",),
        "MultiStrengthTraining": ("Multi-Adv",),
        "FastTraining": ("fast",),
    }.get(kind, ())
