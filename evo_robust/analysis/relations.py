"""Which property of an architecture goes with its accuracy: density, size, convolutions, FSP distance by depth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evo_robust.analysis.study import LeftOut, Study, blank
from evo_robust.correlations import Correlation, correlate
from evo_robust.files import write_csv
from evo_robust.spaces.structure import BUDGETS

SHOWN_DEPTHS = 3

GENOME_DENSITY = "genome density"
"""What the density of genomes as they were asked for is called, operations that carry nothing among them."""


@dataclasses.dataclass(frozen=True)
class Relation:
    """Two columns over the same architectures, and how they go together.

    Attributes:
        x_name: what may explain, in words.
        y_name: what it may explain, in words.
        where: which architectures count, such as ``small budget``; ``all`` for all.
        x: values ``(n,)``.
        y: values ``(n,)``, accuracies in [0, 1].
        correlation: of both.
    """

    x_name: str
    y_name: str
    where: str
    x: np.ndarray
    y: np.ndarray
    correlation: Correlation


def relate(x_name: str, y_name: str, x: np.ndarray, y: np.ndarray, where: str = "all") -> Relation:
    """The relation of two columns ``(n,)``, rows without either left out."""
    known = np.isfinite(x) & np.isfinite(y)
    return Relation(x_name, y_name, where, x[known], y[known], correlate(x[known], y[known]))


def density_relations(study: Study) -> list[Relation]:
    """Density, and parameters as its plain rival, against robust accuracy and, where recorded, clean accuracy (Fig. 5).

    Density is that of the operations that carry something. Where a space can tell it, the genome's own (RobNet's D =
    Σα/28, eq. 2, which counts all) stands beside.

    Raises:
        LeftOut: the space tells no density.
    """
    explaining = {"density": study.structural("density")}
    if study.has("genome_density"):
        explaining[GENOME_DENSITY] = study.error("genome_density")
    if study.has("params"):
        explaining["parameters"] = study.error("params")
    explained = {study.robust_words: study.accuracy()}
    if study.has("clean"):
        explained["clean accuracy"] = study.accuracy("clean")
    return [relate(xn, yn, x, y) for yn, y in explained.items() for xn, x in explaining.items()]


def convolution_relations(study: Study) -> list[Relation]:
    """Convolutions per cell, then their share on direct edges within each budget, against robust accuracy (Fig. 6).

    Raises:
        LeftOut: the space tells no convolutions.
    """
    structures, accuracy = study.known_structures(), study.accuracy()
    found = [relate("convolutions per cell", study.robust_words, study.structural("convolutions"), accuracy)]
    share = study.structural("direct_share")
    budgets = np.array([s.budget for s in structures])
    for budget in BUDGETS:
        inside = budgets == budget
        where = f"{budget} budget"
        found.append(relate("share on direct edges", study.robust_words, share[inside], accuracy[inside], where))
    return found


def fsp_relations(study: Study) -> list[Relation]:
    """FSP distance of each cell, first to last, against the gap between clean and robust accuracy (Fig. 7).

    The gap is that of the network that FSP was measured on: with inherited weights where a gate measured it.

    Raises:
        LeftOut: no FSP distances or no such errors in the record, or too few to correlate.
    """
    if study.fsp.shape[1] == 0:
        raise LeftOut("no FSP distances in the record: add FSPDistance as an objective, gate or recorded figure")
    clean, robust = ("inherited_clean", "inherited_robust") if study.fsp_inherited else ("clean", "robust")
    if study.fsp_inherited and not study.has(robust):
        raise LeftOut(
            f"a gate measured FSP distances before finetuning, and no {study.robust_words} of then is in the record "
            "(evaluator.compare=true records it)"
        )
    if not study.has(clean):
        raise LeftOut("no clean error in the record, so no gap between clean and robust accuracy: record CleanError")
    gap = study.accuracy(clean) - study.accuracy(robust)
    found = [
        relate("FSP distance", "accuracy gap", distance, gap, f"cell {depth}")
        for depth, distance in enumerate(study.fsp.T)
    ]
    if not any(r.correlation.known for r in found):
        raise LeftOut("FSP distances and gaps of fewer than three networks, or all alike: no correlation to draw")
    return found


def shown_depths(found: Sequence[Relation]) -> list[int]:
    """The first, a middle and the last of the cells with a correlation; fewer where there are fewer."""
    known = [i for i, r in enumerate(found) if r.correlation.known]
    if not known:
        return []
    places = np.linspace(0, len(known) - 1, min(SHOWN_DEPTHS, len(known))).round().astype(int)
    return [known[i] for i in places]


def write_relations(found: Sequence[Relation], path: Path) -> None:
    """The correlations as CSV; accuracies count as shares in [0, 1]."""
    fields = [field.name for field in dataclasses.fields(Correlation)]
    rows = [[r.x_name, r.y_name, r.where, *(blank(v) for v in dataclasses.astuple(r.correlation))] for r in found]
    write_csv(path, ["x", "y", "architectures", *fields], rows)
