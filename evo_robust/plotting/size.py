"""Is it just size? Correlation of each objective with the number of parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from evo_robust.correlations import SIGNIFICANT, Correlation, correlate, p_text, signed
from evo_robust.files import write_csv
from evo_robust.record.quantity import Quantity, quantity, words
from evo_robust.record.view import View
from evo_robust.style import EVALUATED, FRONT, PALE, dress, grid, heading, note, picture

FEWEST = 10
"""Least number of networks: a perfect rank order of three has p = 1/3, but tests for large samples give 0."""


@dataclasses.dataclass(frozen=True)
class SizeRelation:
    """How one objective goes with the parameter count.

    Attributes:
        objective: its name.
        found: the correlations over n networks, as if these were independent. They are NaN where they are not defined
            (fewer than ten networks, or no spread).
    """

    objective: str
    found: Correlation

    @property
    def verdict(self) -> str:
        """The answer in words, by the stronger of both correlations, since either may miss a relation."""
        if self.found.n < FEWEST:
            return "too few networks to tell"
        if not self.found.known:
            return "unknown: all values are equal"
        both = ((self.found.spearman, self.found.spearman_p), (self.found.pearson, self.found.pearson_p))
        strength = max((abs(r) for r, p in both if p <= SIGNIFICANT), default=0.0)
        return next((said for least, said in _STRENGTHS if strength >= least), "no clear relation to size")


_STRENGTHS = ((0.9, "almost only size"), (0.7, "mostly size"), (0.3, "partly size"), (1e-9, "a little of it is size"))


def answer(found: Sequence[SizeRelation]) -> str:
    """The answer in one line, such as ``Partly size: clean error. Almost only size: FLOPs.``."""
    by_verdict: dict[str, list[str]] = {}
    for c in found:
        by_verdict.setdefault(c.verdict, []).append(words(c.objective))
    return " ".join(f"{verdict[0].upper()}{verdict[1:]}: {', '.join(names)}." for verdict, names in by_verdict.items())


def correlation(objective: str, values: np.ndarray, params: np.ndarray) -> SizeRelation:
    """Spearman and Pearson correlation of two columns ``(n,)``; rows with a NaN are left out."""
    found = correlate(params, values)
    return SizeRelation(objective, found if found.n >= FEWEST else Correlation(found.n))


def correlations(view: View) -> list[SizeRelation]:
    """One per objective other than the parameter count itself, over all usable evaluations.

    Empty when the record holds no parameter counts.
    """
    params = view.column("params")
    if not np.isfinite(params).any():
        return []
    return [correlation(name, view.column(name), params) for name in view.run.objectives if name != "params"]


def write_sizes(found: list[SizeRelation], path: Path) -> None:
    """Write the correlations as CSV, with empty cells where one is not defined."""
    names = ("n", "spearman", "spearman_p", "pearson", "pearson_p")
    rows = [["" if math.isnan(value := getattr(c.found, name)) else value for name in names] for c in found]
    lines = [[c.objective, *row, c.verdict] for c, row in zip(found, rows, strict=True)]
    write_csv(path, ["objective", *names, "verdict"], lines)


def draw_size(view: View, found: list[SizeRelation], path: Path) -> None:
    """Each objective against the parameter count, with its correlation."""
    params = quantity("params", "", view.column("params"))
    shown = {q.name: q for q in view.quantities()}
    rows, columns = grid(len(found))
    with picture(path, width=max(8.0, 3.5 * columns), height=3.9 * rows + 0.8) as figure:
        for k, c in enumerate(found):
            _panel(figure.add_subplot(rows, columns, k + 1), view, params, shown[c.objective], c)
        heading(figure, "Is it just size? Objectives against the number of parameters", answer(found))
        note(figure, "ρ: Spearman, r: Pearson. A search's networks are not independent, so p is only a hint.")


def _panel(axes: Axes, view: View, params: Quantity, shown: Quantity, c: SizeRelation) -> None:
    x, y = params.shown(view.column("params")), shown.shown(view.column(c.objective))
    dress(axes, "x", params)
    dress(axes, "y", shown)
    others = view.others
    if len(others):
        axes.scatter(x[others], y[others], s=18, color=EVALUATED, alpha=0.7, lw=0, label=view.evaluated)
    axes.scatter(x[view.front], y[view.front], s=42, color=FRONT, edgecolor="white", lw=0.8, label="Pareto front")
    axes.margins(0.08)
    known = c.found.known
    axes.set_title(f"{shown.words}\n", fontsize=11, linespacing=1.4, pad=18 if known else 4)
    axes.text(0, 1.075 if known else 1.015, c.verdict, transform=axes.transAxes, va="bottom")
    if known:
        spearman, pearson = signed(c.found.spearman), signed(c.found.pearson)
        figures = f"ρ = {spearman} ({p_text(c.found.spearman_p)}), r = {pearson} ({p_text(c.found.pearson_p)})"
        axes.text(0, 1.015, figures, transform=axes.transAxes, fontsize=8, color=PALE, va="bottom")
