"""Which properties of an architecture correlate with accuracy: density, size, convolutions, FSP distance by depth."""

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
"""Name of the density of genomes, which includes operations that carry nothing."""


@dataclasses.dataclass(frozen=True)
class Relation:
    """Two columns over the same architectures, and their correlation.

    Attributes:
        x_name: name of the explaining property.
        y_name: name of the property to explain.
        where: which architectures are included, such as ``small budget`` or ``all``.
        x: values ``(n,)``.
        y: values ``(n,)``, accuracies in [0, 1].
        correlation: correlation of x and y.
    """

    x_name: str
    y_name: str
    where: str
    x: np.ndarray
    y: np.ndarray
    correlation: Correlation


def relate(x_name: str, y_name: str, x: np.ndarray, y: np.ndarray, where: str = "all") -> Relation:
    """The relation of two columns ``(n,)``; rows that lack a value are left out."""
    known = np.isfinite(x) & np.isfinite(y)
    return Relation(x_name, y_name, where, x[known], y[known], correlate(x[known], y[known]))


def density_relations(study: Study) -> list[Relation]:
    """Density and number of parameters against robust accuracy and, where recorded, clean accuracy (Fig. 5).

    The number of parameters is the simple alternative to density. Density counts operations that carry something. Where
    a space gives it, the genome's own density (RobNet's D = Σα/28, eq. 2, which counts all) is added.

    Raises:
        LeftOut: the space gives no density.
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
        LeftOut: the space gives no number of convolutions.
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

    The gap belongs to the network on which FSP was measured: with inherited weights, where a gate measured it.

    Raises:
        LeftOut: the record has no FSP distances, no such errors, or too few of them.
    """
    if study.fsp.shape[1] == 0:
        raise LeftOut("no FSP distances in the record: add FSPDistance as an objective, gate or recorded figure")
    clean, robust = ("inherited_clean", "inherited_robust") if study.fsp_inherited else ("clean", "robust")
    if study.fsp_inherited and not study.has(robust):
        raise LeftOut(
            f"a gate measured FSP distances before finetuning, but the record has no {study.robust_words} from before "
            "finetuning (evaluator.compare=true records it)"
        )
    if not study.has(clean):
        raise LeftOut("no clean error in the record, so no gap between clean and robust accuracy: record CleanError")
    gap = study.accuracy(clean) - study.accuracy(robust)
    found = [
        relate("FSP distance", "accuracy gap", distance, gap, f"cell {depth}")
        for depth, distance in enumerate(study.fsp.T)
    ]
    if not any(r.correlation.known for r in found):
        raise LeftOut("FSP distances and gaps of fewer than three networks, or all equal: no correlation to draw")
    return found


def shown_depths(found: Sequence[Relation]) -> list[int]:
    """The first, a middle and the last of the cells with a correlation; fewer if there are fewer cells."""
    known = [i for i, r in enumerate(found) if r.correlation.known]
    if not known:
        return []
    places = np.linspace(0, len(known) - 1, min(SHOWN_DEPTHS, len(known))).round().astype(int)
    return [known[i] for i in places]


def write_relations(found: Sequence[Relation], path: Path) -> None:
    """Write the correlations as CSV; accuracies are in [0, 1]."""
    fields = [field.name for field in dataclasses.fields(Correlation)]
    rows = [[r.x_name, r.y_name, r.where, *(blank(v) for v in dataclasses.astuple(r.correlation))] for r in found]
    write_csv(path, ["x", "y", "architectures", *fields], rows)
