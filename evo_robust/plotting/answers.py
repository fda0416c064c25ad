"""Answers to the questions in the titles of comparisons."""

from __future__ import annotations

from collections.abc import Sequence

from evo_robust.correlations import SIGNIFICANT, p_text
from evo_robust.plotting.groups import LEAST, GroupStanding, p_value


def who_leads(found: Sequence[GroupStanding], budget: int) -> str:
    """Which search has the best hypervolume in the common box after ``budget`` evaluations; whether by chance."""
    if len(found) == 1:
        ends = found[0].at_equal_budget
        low, high = ends.values.min(), ends.values.max()
        return f"From {low:.3f} to {high:.3f} after {budget} evaluations, on average {_text(found[0])}."
    best, second = sorted(found, key=lambda group: -group.at_equal_budget.mean)[:2]
    figures = f"{_text(best)} against {_text(second)}"
    if best.at_equal_budget.text == second.at_equal_budget.text:
        return f"None: {best.name} and {second.name} are equal after {budget} evaluations ({figures})."
    return f"{best.name} is ahead of {second.name} after {budget} evaluations: {figures}. {_chance(best, second)}"


def beats(search: GroupStanding, other: GroupStanding, budget: int) -> str:
    """Whether a search has a better hypervolume than its random baseline after ``budget`` evaluations of each."""
    own, its = search.at_equal_budget, other.at_equal_budget
    said = "Yes" if own.mean > its.mean else "No" if own.mean < its.mean else "Neither is ahead"
    box = f"common-box hypervolume {_text(search)} against {_text(other)} after {budget} evaluations each"
    return f"{said}: {box}. {_chance(search, other)}"


def _text(group: GroupStanding) -> str:
    """Mean and deviation, in text that is never split at the end of a line."""
    return group.at_equal_budget.text.replace(" ", "\N{NO-BREAK SPACE}")


def _chance(one: GroupStanding, other: GroupStanding) -> str:
    if one.n == other.n == 1:
        return "With one run of each, that may be chance."
    if min(one.n, other.n) < LEAST:
        return f"With fewer than {LEAST} runs of a search, that may be chance."
    p = p_value(one, other)
    return f"That is unlikely to be chance ({p_text(p)})." if p < SIGNIFICANT else f"That may be chance ({p_text(p)})."
