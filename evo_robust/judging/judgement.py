"""What a judge found: accuracies with their intervals, and where the numbers come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from evo_robust.judging.intervals import wilson
from evo_robust.judging.trials import Trial, shown

WORST = "worst case"
"""Name of the pointwise worst case over all trials of one norm and strength."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """Accuracy of one network under one trial at one strength.

    Attributes:
        trial: name of the trial; ``clean`` without attack.
        column: trial and strength, as the head of a column.
        norm: of the ball; empty without attack.
        eps: its radius, or the number of pixels or grey steps; None without attack.
        right: images that it still classifies correctly.
        n: number of images.
        seconds: time that the trial took, at all its strengths.
    """

    trial: str
    column: str
    norm: str
    eps: float | None
    right: int
    n: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of the images, in [0, 1]."""
        return self.right / self.n

    @property
    def strength(self) -> str:
        """Its strength as columns show it, such as ``8/255``; empty without attack."""
        return "" if self.eps is None else self.column.removeprefix(f"{self.trial} ").removesuffix(" l2")

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval, see :func:`wilson`."""
        return wilson(self.right, self.n)


def _with_shares(figure: Figure) -> dict[str, Any]:
    """A figure as JSON values, with its accuracy and interval as shares in [0, 1]."""
    low, high = figure.interval
    return {**dataclasses.asdict(figure), "accuracy": figure.accuracy, "low": low, "high": high}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One network's figures.

    Attributes:
        name: of the network.
        origin: where it is from.
        recipe: how it was trained; empty where that is not known.
        seed: of its training; None where that is not known.
        zoo: its name in the zoo; None where it has none.
        params: number of its parameters.
        flops: multiply-accumulates of one image (thop); None where they cannot be counted.
        figures: accuracies; the clean one first.
        means: mean accuracy over strengths, by trial, where the trial asks for it.
        searched: what a search measured of it, by name.
        group: the search that it is from, where several networks are from one.
        signs: sentences on signs that its gradients mislead attacks; None where nobody looked.
        without: columns of attacks that cannot be made on it, since it has no gradient.
        search_hours: hours that its search took on its device; None where that is not known.
        searched_on: that device; empty where it is not known.
        repeats: the search of a paper that its search repeats, see :func:`evo_robust.judging.searches.repeated`.
    """

    name: str
    origin: str
    recipe: str
    seed: int | None
    zoo: str | None
    params: int
    flops: float | None
    figures: tuple[Figure, ...]
    means: dict[str, float]
    searched: dict[str, float]
    signs: tuple[str, ...] | None = None
    group: str | None = None
    without: tuple[str, ...] = ()
    search_hours: float | None = None
    searched_on: str = ""
    repeats: str = ""

    def figure(self, column: str) -> Figure:
        """The figure of a column."""
        return next(figure for figure in self.figures if figure.column == column)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values; accuracies and intervals are shares in [0, 1]."""
        figures = [_with_shares(figure) for figure in self.figures]
        return {**dataclasses.asdict(self), "figures": figures}


Kinship = Literal["same", "copy", "other"]
"""What the network that images were made on is to the one that they judge: the same weights, which is white-box; a copy
(the same layers with other weights); or another network."""


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Accuracy of one network on adversarial images that were made on a network.

    Attributes:
        source: name of the network that they were made on.
        origin: where that one is from.
        zoo: its name in the zoo; None where it has none.
        target: name of the network that they judge.
        kinship: what the source is to the target.
        figure: share of all test images that the target classifies right.
    """

    source: str
    origin: str
    zoo: str | None
    target: str
    kinship: Kinship
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a judge found out about several networks on the same images.

    Attributes:
        data: name of the data set.
        n: number of test images.
        seed: of all random numbers.
        verdicts: one for each network.
        transfers: what images that were made on one network do to another, see
            :func:`evo_robust.judging.transfer.transfers`; empty where no sources were given.
    """

    data: str
    n: int
    seed: int
    verdicts: tuple[Verdict, ...]
    transfers: tuple[Transfer, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Columns of all figures, in order."""
        found = [column for v in self.verdicts for column in (*(figure.column for figure in v.figures), *v.without)]
        return list(dict.fromkeys(found))

    @property
    def means(self) -> list[str]:
        """Trials that have a mean over strengths."""
        return list(dict.fromkeys(name for verdict in self.verdicts for name in verdict.means))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Judgement:
        """The judgement that :meth:`to_json` wrote.

        Raises:
            ValueError: something is missing or of another kind.
        """
        try:
            verdicts = tuple(_verdict(entry) for entry in content["networks"])
            crossed = tuple(
                Transfer(**{**entry, "figure": _figure(entry["figure"])}) for entry in content.get("transfers", ())
            )
            return cls(str(content["data"]), int(content["n"]), int(content["seed"]), verdicts, crossed)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it lacks {error}") from None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        found = {"data": self.data, "n": self.n, "seed": self.seed, "networks": [v.to_json() for v in self.verdicts]}
        if self.transfers:
            crossed = [{**dataclasses.asdict(t), "figure": _with_shares(t.figure)} for t in self.transfers]
            return {**found, "transfers": crossed}
        return found


def _figure(entry: Mapping[str, Any]) -> Figure:
    """A figure from the values that ``to_json`` wrote, without what follows from them."""
    return Figure(**{field.name: entry[field.name] for field in dataclasses.fields(Figure)})


def _verdict(entry: Mapping[str, Any]) -> Verdict:
    """A verdict from the values that :meth:`Verdict.to_json` wrote."""
    known = {field.name: entry[field.name] for field in dataclasses.fields(Verdict) if field.name in entry}
    figures = tuple(map(_figure, entry["figures"]))
    signs, without = entry.get("signs"), tuple(entry.get("without", ()))
    more = {"figures": figures, "signs": None if signs is None else tuple(signs), "without": without}
    return Verdict(**{**known, **more})


def figures_of_trial(trial: Trial, level: Tensor, seconds: float) -> list[Figure]:
    """The figures of a trial, one for each strength, in the trial's order.

    Args:
        trial: what was done.
        level: of every image, int64 ``(n,)``, see :class:`evo_robust.judging.store.Kept`.
        seconds: that the trial took, at all strengths together.
    """
    return [
        Figure(trial.name, trial.column(eps), trial.norm, eps, int((level > k).sum()), len(level), seconds)
        for k, eps in enumerate(trial.eps)
    ]


def worst_cases(found: Sequence[tuple[Trial, Tensor]]) -> list[Figure]:
    """The pointwise worst case in each ball that two or more trials share, see :meth:`Trial.ball`.

    An image counts as right only where no trial breaks it; this is at most the lowest accuracy of all.

    Args:
        found: trials, and the level of each of the same images under them, int64 ``(n,)``.
    """
    alive: dict[tuple[str, float], list[Tensor]] = {}
    for trial, level in found:
        for k, eps in enumerate(trial.eps):
            alive.setdefault(trial.ball(eps), []).append(level > k)
    made = []
    for (norm, eps), masks in alive.items():
        if len(masks) > 1:
            right = torch.stack(masks).all(0)
            column = f"{WORST} {shown(eps, norm, norm == 'l0')}{' l2' if norm == 'l2' else ''}"
            made.append(Figure(WORST, column, norm, eps, int(right.sum()), len(right), 0.0))
    return made
