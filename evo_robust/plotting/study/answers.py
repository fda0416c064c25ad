"""Answers to the questions in the titles of a study's pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evo_robust.analysis.ranking import Ranking
from evo_robust.analysis.relations import Relation
from evo_robust.correlations import SIGNIFICANT, p_text, signed


def denser(density: Relation, size: Relation | None) -> str:
    """Whether denser networks are more robust, and whether larger ones are too."""
    if not density.correlation.known:
        return "That cannot be told: too few networks, or all alike."
    sure = density.correlation.pearson_p < SIGNIFICANT
    said = "Not clearly" if not sure else "Yes" if density.correlation.pearson > 0 else "No, they are less robust"
    rival = ""
    if size is not None and size.correlation.known and size.correlation.pearson_p < SIGNIFICANT:
        larger = "Larger ones are more robust, too" if size.correlation.pearson > 0 else "Larger ones are less robust"
        rival = f" {larger}: {_r(size)}."
    return f"{said}: {_r(density)}.{rival}"


def how_many_and_where(number: Relation, places: Sequence[Relation]) -> str:
    """Whether more convolutions make networks more robust, and in which budgets their place matters."""
    if not number.correlation.known:
        return "That cannot be told: too few networks, or all alike."
    sure = number.correlation.pearson_p < SIGNIFICANT
    many = "The number makes no clear difference"
    if sure:
        many = "More convolutions, more robust" if number.correlation.pearson > 0 else "More convolutions, less robust"
    telling = [r for r in places if r.correlation.known and r.correlation.pearson_p < SIGNIFICANT]
    sides = [f"{r.where}: {'on' if r.correlation.pearson > 0 else 'off'} direct edges ({_r(r)})" for r in telling]
    where = f"Better, {'; '.join(sides)}" if sides else "Their place makes no clear difference in any budget"
    return f"{many} ({_r(number)}). {where}."


def telling_cells(found: Sequence[Relation]) -> str:
    """The cells in which FSP distance correlates with the accuracy gap."""
    telling = [k for k, r in enumerate(found) if r.correlation.known and r.correlation.pearson_p < SIGNIFICANT]
    if not telling:
        return f"In none: p ≥ {SIGNIFICANT} everywhere."
    cells = ", ".join(f"{k} (r = {signed(found[k].correlation.pearson)})" for k in telling)
    return f"In cell{'s' * (len(telling) > 1)} {cells}, of {len(found)}."


def ranks_best(found: Ranking) -> str:
    """The figure with the highest τ, and whether its interval excludes chance."""
    known = [a for a in found.against(found.main) if not np.isnan(a.kendall.tau)]
    if not known:
        return "None: all figures are equal for all networks."
    best = max(known, key=lambda a: a.kendall.tau)
    told = f"τ = {signed(best.kendall.tau)}, 95% interval {signed(best.kendall.low)} to {signed(best.kendall.high)}"
    if best.kendall.low <= 0:
        return f"None for certain. {best.predictor.name} is closest ({told})."
    return f"{best.predictor.name} does best ({told})."


def _r(found: Relation) -> str:
    c = found.correlation
    return f"r = {signed(c.pearson)}, {p_text(c.pearson_p)}"
