"""How well cheap figures rank architectures: Kendall's τ with the results of full training (the truth)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from evo_robust.analysis.study import LeftOut, Study, blank
from evo_robust.correlations import FEWEST, Kendall, kendall
from evo_robust.files import write_csv
from evo_robust.parts.base import UserError

Kind = Literal["evaluation", "size", "truth"]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A figure that may rank architectures as the truth does.

    Attributes:
        name: its name.
        kind: ``evaluation`` (a run's accuracy), ``size`` (the simple alternative) or ``truth`` (another truth, as the
            best that can be expected).
        scores: ``(n,)``; a larger score means that it ranks the architecture higher.
    """

    name: str
    kind: Kind
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well a predictor's ranking agrees with a truth.

    Attributes:
        predictor: the predictor.
        truth: name of the truth.
        kendall: τ between its scores and the truth's robust accuracy.
    """

    predictor: Predictor
    truth: str
    kendall: Kendall


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Predictors against truths, over the n architectures that all runs and truths have.

    Attributes:
        texts: notation of each architecture.
        left_out: number of architectures that some of them lack.
        truths: robust accuracy ``(n,)`` by name of the truth.
        main: name of the truth in pictures: the only one, or the mean of several.
        agreements: agreement of every predictor with every truth; truths as predictors come last.
    """

    texts: list[str]
    left_out: int
    truths: dict[str, np.ndarray]
    main: str
    agreements: list[Agreement]

    def against(self, truth: str) -> list[Agreement]:
        """The agreements with one truth."""
        return [a for a in self.agreements if a.truth == truth]

    @property
    def ceiling(self) -> float:
        """Mean τ between single truths, the best that can be expected; NaN with one truth."""
        taus = [a.kendall.tau for a in self.agreements if a.predictor.kind == "truth"]
        return float(np.mean(taus)) if taus else float("nan")


def ranking(runs: Sequence[Study], truths: Sequence[Study]) -> Ranking:
    """Rank the architectures that all ``runs`` and ``truths`` have by each predictor, and compare.

    Raises:
        UserError: they have no architecture in common.
        LeftOut: they have too few in common.
    """
    sets = [set(study.texts) for study in (*runs, *truths)]
    common = set.intersection(*sets)
    if not common:
        raise UserError(
            f"no architecture in common between {', '.join(s.name for s in runs)} and "
            f"{', '.join(s.name for s in truths)}: the truth must evaluate architectures of the run"
        )
    if len(common) < FEWEST:
        raise LeftOut(f"only {len(common)} architectures in common with the truth: expected {FEWEST} or more to rank")
    texts = [text for text in truths[0].texts if text in common]
    place = [_places(study, texts) for study in truths]
    accuracies = {study.name: study.accuracy()[i] for study, i in zip(truths, place, strict=True)}
    main = next(iter(accuracies))
    shown = dict(accuracies)
    if len(truths) > 1:
        main = f"mean of {len(truths)} truths"
        shown[main] = np.mean(list(accuracies.values()), axis=0)
    predictors = _predictors(runs, texts)
    found = [Agreement(p, name, kendall(p.scores, values)) for p in predictors for name, values in shown.items()]
    for (first, a), (second, b) in itertools.combinations(accuracies.items(), 2):
        found.append(Agreement(Predictor(first, "truth", a), second, kendall(a, b)))
    return Ranking(texts, len(set.union(*sets)) - len(common), shown, main, found)


def _places(study: Study, texts: Sequence[str]) -> np.ndarray:
    place = {text: i for i, text in enumerate(study.texts)}
    return np.array([place[text] for text in texts])


def _predictors(runs: Sequence[Study], texts: Sequence[str]) -> list[Predictor]:
    """Every run's accuracy, also before finetuning where recorded; then figures that need no training."""
    found = []
    for study in runs:
        i = _places(study, texts)
        if np.isfinite(study.error("inherited_robust")[i]).all():
            inherited = study.accuracy("inherited_robust")[i]
            found.append(Predictor(f"{study.name}: inherited weights", "evaluation", inherited))
        found.append(Predictor(study.name, "evaluation", study.accuracy()[i]))
    study, i = runs[0], _places(runs[0], texts)
    rivals = {"parameters": study.error("params")[i], "FLOPs": study.error("flops")[i]}
    if study.structures is not None:
        rivals["density"] = study.structural("density")[i]
        rivals["genome density"] = study.error("genome_density")[i]
    found += [Predictor(name, "size", values) for name, values in rivals.items() if np.isfinite(values).all()]
    return found


def write_ranking(found: Ranking, path: Path) -> None:
    """Write all agreements as CSV."""
    header = ["predictor", "kind", "truth", "n", "kendall_tau", "p", "low_95", "high_95"]
    rows = []
    for a in found.agreements:
        k = a.kendall
        rows.append([a.predictor.name, a.predictor.kind, a.truth, k.n, *map(blank, (k.tau, k.p, k.low, k.high))])
    write_csv(path, header, rows)


def write_scores(found: Ranking, path: Path) -> None:
    """Write a CSV line per architecture: every predictor's score and every truth's robust accuracy."""
    predictors = [a.predictor for a in found.against(found.main)]
    columns = [found.texts, *(p.scores for p in predictors), *found.truths.values()]
    header = ["architecture", *(f"score: {p.name}" for p in predictors), *(f"truth: {name}" for name in found.truths)]
    rows = [[cell if isinstance(cell, str) else float(cell) for cell in row] for row in zip(*columns, strict=True)]
    write_csv(path, header, rows)
