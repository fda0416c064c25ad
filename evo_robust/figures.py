"""Every number that a ledger row holds, by one name: what budgets, pictures and studies ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a ledger row by name: objectives, what was recorded beside them, then figures.

    Parts of a figure bear its name and their own, with a dot: ``robust_error.0.05``, ``fsp_distance.cells.3``.
    """
    # a measured error and its strengths bear one name: the number is meant
    numbers = {name: float(value) for name, value in {**row["objectives"], **row.get("recorded", {})}.items()}
    for name, value in row.get("figures", {}).items():
        for key, number in flat(name, value).items():
            numbers.setdefault(key, number)
    return numbers


def flat(name: str, value: Any) -> dict[str, float]:
    """The numbers in a JSON value by dotted name, such as ``{"robust_error.0.05": 0.3}``; what is none is left out."""
    if isinstance(value, bool):
        return {}
    if isinstance(value, (int, float)):
        return {name: float(value)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {}
    return {key: number for part, inner in value.items() for key, number in flat(f"{name}.{part}", inner).items()}
