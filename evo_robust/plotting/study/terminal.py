"""The study's numbers for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from evo_robust.analysis.ranking import Ranking
from evo_robust.analysis.relations import Relation
from evo_robust.correlations import p_text, signed


def relations_table(found: Sequence[Relation]) -> Table:
    """One line per correlation."""
    table = _table("What goes with accuracy?", ("n", "Pearson r", "p", "Spearman ρ", "p"), ("x", "against", "networks"))
    for r in found:
        c = r.correlation
        figures = (str(c.n), signed(c.pearson), _p(c.pearson_p), signed(c.spearman), _p(c.spearman_p))
        table.add_row(r.x_name, r.y_name, r.where, *figures)
    return table


def ranking_table(found: Ranking) -> Table:
    """One line per predictor and truth."""
    title = f"Which figure ranks {len(found.texts)} networks as the truth does?"
    table = _table(title, ("Kendall τ", "95% interval", "p"), ("figure", "truth"))
    agreements = sorted(found.agreements, key=lambda a: (a.truth != found.main, a.truth))
    for number, a in enumerate(agreements):
        k = a.kendall
        interval = f"{signed(k.low)} to {signed(k.high)}"
        last = number + 1 == len(agreements) or agreements[number + 1].truth != a.truth
        table.add_row(a.predictor.name, a.truth, signed(k.tau), interval, _p(k.p), end_section=last)
    return table


def _table(title: str, numbers: Sequence[str], words: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in words:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _p(p: float) -> str:
    return p_text(p).removeprefix("p ").removeprefix("= ")
