"""Which strengths a search looks at, which of them are attacked and which are estimated (Wsr-NAS's rule)."""

from __future__ import annotations

import chz

from evo_robust.attacks.curve import check_strengths
from evo_robust.parts.base import Fraction, Part
from evo_robust.training.recipes import SPECTRUM

REACH = 0.15 / 0.105
"""Extra strengths of the memory lie below this many times the largest strength: U(0, .15) beside .105 in the paper."""


@chz.chz
class Strengths(Part):
    """N1 + N2 ascending strengths, of which N1 are attacked and N2 estimated (Cheng et al., AAAI 2023: Wsr-NAS).

    The strengths are split, in order, into N1 intervals. The first of each interval is attacked, the rest are
    estimated. If N1 + N2 is no multiple of N1, the first intervals get one strength more; the paper leaves that open.
    The paper's 3 + 3: .03, .06, .09 are attacked, .045, .075, .105 are estimated.

    Example:
        >>> Strengths(n_real=3).real
        (0.03, 0.06, 0.09)
    """

    values: tuple[Fraction, ...] = chz.field(
        default=SPECTRUM,
        doc="all strengths, L∞, ascending, in units of the pixel range 0..1, such as 0.03,0.045 or 8/255,16/255",
    )
    n_real: int | None = chz.field(
        default=None,
        doc="N1, how many of them are attacked, from 1 to all; all of them when not given, which is a naive search",
    )

    @chz.validate
    def _sensible(self) -> None:
        check_strengths(self.values, name="strengths.values")
        if self.n_real is not None and not 1 <= self.n_real <= len(self.values):
            raise ValueError(
                f"expected strengths.n_real (N1, strengths that are attacked) from 1 to {len(self.values)}, "
                f"got {self.n_real}"
            )

    @property
    def n1(self) -> int:
        """How many strengths are attacked, >= 1."""
        return len(self.values) if self.n_real is None else self.n_real

    @property
    def intervals(self) -> tuple[tuple[float, ...], ...]:
        """The N1 intervals; the first strength of each is attacked."""
        size, longer = divmod(len(self.values), self.n1)
        values, intervals = [float(value) for value in self.values], []
        for index in range(self.n1):
            cut = size + (index < longer)
            intervals.append(tuple(values[:cut]))
            values = values[cut:]
        return tuple(intervals)

    @property
    def real(self) -> tuple[float, ...]:
        """The N1 strengths that are attacked, ascending."""
        return tuple(interval[0] for interval in self.intervals)

    @property
    def estimated(self) -> tuple[float, ...]:
        """The N2 strengths that are estimated, ascending; none in a naive search."""
        return tuple(value for interval in self.intervals for value in interval[1:])

    def scaled(self, factor: float) -> Strengths:
        """The same strengths times ``factor`` > 0, for images on which .03 to .105 do little or too much."""
        if not factor > 0:
            raise ValueError(f"expected factor > 0, got {factor}")
        return chz.replace(self, values=tuple(Fraction(factor * value) for value in self.values))


def _evenly(n: int, step: float) -> tuple[Fraction, ...]:
    return tuple(Fraction(round(0.03 + step * index, 6)) for index in range(n))


STRENGTHS: dict[str, Strengths] = {
    "basic": Strengths(n_real=3),
    "plus": Strengths(values=_evenly(11, 0.0075), n_real=3),
    "naive-1": Strengths(values=_evenly(1, 0.03)),
    "naive-3": Strengths(values=_evenly(3, 0.03)),
    "naive-6": Strengths(values=_evenly(6, 0.015)),
    "naive-11": Strengths(values=_evenly(11, 0.0075)),
}
"""The paper's searches by name: Basic (3 + 3), Plus (3 + 8) and the naive ones, which attack every strength.

A command line has them by name too, ``objectives.0.strengths=plus``, scaled as the problem's own strengths are.

The paper does not print Plus's eleven strengths: here they go from .03 to .105 in equal steps of .0075, so that they
hold Basic's six, and the rule gives intervals of 4, 4 and 3 whose first strengths are Basic's .03, .06 and .09.
"""
