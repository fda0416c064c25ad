"""How a column of numbers is named, scaled and written for readers: unit and digits."""

from __future__ import annotations

import dataclasses
import re

import numpy as np


@dataclasses.dataclass(frozen=True)
class Quantity:
    """How to show a column of numbers.

    Attributes:
        name: column name in the record, such as ``clean_error``.
        unit: its unit in the record; for FLOPs it names the counting rule.
        log: whether it is drawn on a logarithmic axis.
        factor: shown value = recorded value × factor.
        suffix: text after a shown value, such as ``%``.
    """

    name: str
    unit: str
    log: bool
    factor: float
    suffix: str

    @property
    def words(self) -> str:
        """The name in words, such as ``clean error`` or ``FLOPs``."""
        return words(self.name)

    @property
    def label(self) -> str:
        """Axis label with unit, such as ``clean error (%)`` or ``FLOPs (M, thop)``."""
        inside = self.suffix if is_share(self.unit) else ", ".join(filter(None, (self.suffix, self._rule())))
        return f"{self.words} ({inside})" if inside else self.words

    def _rule(self) -> str:
        return "" if self.unit in (self.name, self.words, "parameters") else self.unit

    def text(self, value: float) -> str:
        """A value with its unit, such as ``4.2 %`` or ``1.31 M``."""
        return f"{self.number(value)} {self.suffix}".rstrip()

    def number(self, value: float) -> str:
        """A value as shown, without unit: three significant digits, errors with two decimals."""
        shown = value * self.factor
        if not np.isfinite(shown):
            return "–"
        if self.suffix == "%":
            return f"{shown:.2f}"
        return f"{shown:,.0f}" if abs(shown) >= 1000 else f"{shown:.3g}"

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Values as drawn."""
        return np.asarray(values, dtype=float) * self.factor


def words(name: str) -> str:
    """A column's name in words.

    Example:
        >>> words("clean_error")
        'clean error'
        >>> words("pgd_error.0.05")
        'PGD error at 0.05'
    """
    known = {"flops": "FLOPs", "params": "parameters", "pgd": "PGD"}
    shown = re.sub(r"\.(\d+\.\d+(e-\d+)?)$", r" at \1", name.replace("_", " "))
    return " ".join(known.get(word, word) for word in shown.split(" "))


def is_share(unit: str) -> bool:
    """Whether a column is a share in [0, 1], shown in percent. Only its unit decides, not its name."""
    return unit in ("fraction", "share")


def quantity(name: str, unit: str, values: np.ndarray) -> Quantity:
    """How the column ``name`` is shown, given all values ``(n,)`` that will be drawn."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if is_share(unit):
        return Quantity(name, unit, log=False, factor=100.0, suffix="%")
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    log = low > 0 and high / low > 10
    # the prefix fits the middle of the range, so that neither end shows many zeros
    middle = float(np.sqrt(low * high)) if low > 0 else high
    steps = ((1e9, 1e-9, "G"), (1e6, 1e-6, "M"), (1e3, 1e-3, "k"))
    factor, suffix = next(((f, s) for least, f, s in steps if middle >= least), (1.0, ""))
    return Quantity(name, unit, log, factor, suffix)
