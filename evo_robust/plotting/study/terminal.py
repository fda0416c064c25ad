"""The study's numbers for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from evo_robust.analysis.ranking import Ranking
from evo_robust.analysis.relations import Relation
from evo_robust.correlations import p_text, signed
from evo_robust.progress import table


def relations_table(found: Sequence[Relation]) -> Table:
    """One line per correlation."""
    numbers = ("n", "Pearson r", "p", "Spearman ρ", "p")
    made = table("What correlates with accuracy?", words=("x", "against", "networks"), numbers=numbers)
    for r in found:
        c = r.correlation
        figures = (str(c.n), signed(c.pearson), _p(c.pearson_p), signed(c.spearman), _p(c.spearman_p))
        made.add_row(r.x_name, r.y_name, r.where, *figures)
    return made


def ranking_table(found: Ranking) -> Table:
    """One line per predictor and truth."""
    title = f"Which figure ranks {len(found.texts)} networks as the truth does?"
    made = table(title, words=("figure", "truth"), numbers=("Kendall τ", "95% interval", "p"))
    agreements = sorted(found.agreements, key=lambda a: (a.truth != found.main, a.truth))
    for number, a in enumerate(agreements):
        k = a.kendall
        interval = f"{signed(k.low)} to {signed(k.high)}"
        last = number + 1 == len(agreements) or agreements[number + 1].truth != a.truth
        made.add_row(a.predictor.name, a.truth, signed(k.tau), interval, _p(k.p), end_section=last)
    return made


def _p(p: float) -> str:
    return p_text(p).removeprefix("p ").removeprefix("= ")
