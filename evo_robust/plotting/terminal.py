"""Tables for a terminal: the front of a run, and comparisons of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from evo_robust.plotting.groups import LEAST, GroupStanding, best_of, p_value, smallest_p
from evo_robust.plotting.tables import SEARCH_TIME, Pair, Top, pair_sides
from evo_robust.progress import table
from evo_robust.record.quantity import Quantity, quantity, words
from evo_robust.record.view import COSTS, View

if TYPE_CHECKING:  # they draw too: a table in the terminal needs no matplotlib
    from evo_robust.plotting.compare import Standing
    from evo_robust.plotting.size import SizeRelation

COMMON_BOX = (
    "Common box: from the best to a tenth beyond the worst of these runs; with other runs it changes. "
    "Own box: fixed by the run's first generation, as in its progress.csv; own-box figures do not compare."
)


def shown_figures(view: View, more: Sequence[str] = ()) -> list[Quantity]:
    """The figures in tables of a run: objectives, costs, reported figures of the front, and ``more``."""
    names = dict.fromkeys(name for name in (*COSTS, *view.reported, *more) if name not in view.run.objectives)
    return view.quantities() + [quantity(name, view.unit(name), view.column(name)) for name in names]


def front_table(view: View) -> Table:
    """The front: index, objectives, costs, labels of special networks. Architectures are only in ``front.csv``."""
    shown = shown_figures(view)
    title = f"Front of {view.name}: {view.summary()}, own-box hypervolume {view.hypervolume:.4f}"
    made = _table(title, ["#"], shown)
    made.add_column("stands out")
    roles = view.roles()
    for i, position in enumerate(view.front):
        values = [q.number(float(view.column(q.name)[position])) for q in shown]
        made.add_row(str(i), *values, roles.get(i, ""))
    return made


def size_table(relations: Sequence[SizeRelation]) -> Table:
    """The correlations with the number of parameters, one line per objective."""
    numbers = ("networks", "Spearman", "p", "Pearson", "p")
    made = table("Is it just size? Correlation with the number of parameters", words=("objective",), numbers=numbers)
    made.add_column("in words")
    for c in relations:
        r, rho = c.found.pearson, c.found.spearman
        values = (f"{rho:+.2f}", f"{c.found.spearman_p:.2g}", f"{r:+.2f}", f"{c.found.pearson_p:.2g}")
        shown = (value.replace("+nan", "–").replace("nan", "–") for value in values)
        made.add_row(words(c.objective), str(c.found.n), *shown, c.verdict)
    return made


def standings_table(found: Sequence[Standing], shown: Sequence[Quantity]) -> Table:
    """The standings of all runs: budget, front, hypervolume and best figures."""
    made = _table("Side by side: compare runs by their common-box hypervolume", ["run"], [])
    budget = min(s.evaluations for s in found)
    volumes = ("common-box hypervolume", f"common-box hypervolume after {budget}")
    names = ("evaluations", "front", *volumes, "of its front beaten by others", "own-box hypervolume")
    for name in names:
        made.add_column(name, justify="right")
    for q in shown:
        made.add_column(f"lowest {q.label}", justify="right")
    for s in found:
        values = [q.number(s.best[q.name]) for q in shown]
        common = (f"{s.common_box_hypervolume:.4f}", f"{s.common_box_hypervolume_at_equal_budget:.4f}")
        own = f"{s.own_box_hypervolume:.4f}"
        made.add_row(s.run, str(s.evaluations), str(s.front), *common, f"{s.dominated:.0%}", own, *values)
    made.caption = COMMON_BOX
    return made


def groups_table(found: Sequence[GroupStanding], budget: int) -> Table:
    """The hypervolume of each search over its runs, and whether a difference may be chance."""
    best = best_of(found)
    made = _table("Common-box hypervolume of these searches, over seeds: mean ± standard deviation", ["search"], [])
    tested = [g for g in found if g.n >= LEAST]
    longer = any((g.end.values != g.at_equal_budget.values).any() for g in found)
    names = ["runs", f"after {budget}", "lowest", "highest", *(["at the end", "lowest", "highest"] if longer else [])]
    for name in [*names, f"p against {best.name}"] if len(tested) > 1 else names:
        made.add_column(name, justify="right")
    for g in found:
        cells = [str(g.n)]
        for spread in (g.at_equal_budget, g.end) if longer else (g.at_equal_budget,):
            cells += [spread.text, f"{spread.values.min():.3f}", f"{spread.values.max():.3f}"]
        if len(tested) > 1:
            p = p_value(g, best)
            cells.append("–" if g is best or p != p else f"{p:.2g}")
        made.add_row(g.name, *cells)
    if len(tested) > 1:
        least = max(smallest_p(g.n, best.n) for g in tested if g is not best)
        made.caption = (
            f"p: two-sided Mann–Whitney after {budget} evaluations, not corrected for several comparisons; "
            f"with so few runs it cannot be below {least:.2g}"
        )
    return made


def top_table(tables: Sequence[Top], shown: Sequence[Quantity]) -> Table:
    """Means of the networks with the fewest FLOPs, by the search's figures."""
    title = "Means of the N networks of each front with the fewest FLOPs, as the search measured them"
    made = _table(title, ["top", "run", "networks"], shown)
    made.caption = SEARCH_TIME
    for number, t in enumerate(tables):
        last = number + 1 == len(tables) or tables[number + 1].n != t.n
        made.add_row(str(t.n), t.run, str(t.networks), *(q.number(t.means[q.name]) for q in shown), end_section=last)
    return made


def pairs_table(pairs: Sequence[Pair], shown: Sequence[Quantity]) -> Table:
    """Networks of nearly equal FLOPs side by side, by the search's figures."""
    names = [q.name for q in shown]
    made = _table("Networks of nearly equal FLOPs, as the search measured them", ["pair", "run", "index"], shown)
    made.caption = SEARCH_TIME
    for number, pair in enumerate(pairs, 1):
        for k, (run, index, _, figures) in enumerate(pair_sides(pair, names)):
            values = [q.number(figures[q.name]) for q in shown]
            made.add_row(str(number) if k == 0 else "", run, str(index), *values, end_section=k == 1)
    return made


def _table(title: str, first: Sequence[str], shown: Sequence[Quantity]) -> Table:
    made = table(title)
    for name in first:
        made.add_column(name, justify="left" if name in ("run", "search") else "right")
    add_quantities(made, shown)
    return made


def add_quantities(made: Table, shown: Sequence[Quantity]) -> None:
    """Add a column for each quantity."""
    for q in shown:
        # the unit goes below the name, so that columns stay narrow
        made.add_column(q.label.replace(" at ", "\nat ", 1).replace(" (", "\n(", 1), justify="right")
