"""Correlations of two columns, with p values and intervals; undefined ones are NaN, without warnings."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

FEWEST = 3
"""Least number of pairs of values for a correlation."""

RESAMPLES = 2000
"""Number of bootstrap resamples for an interval."""

SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Correlation of two columns over n rows, and the least-squares line y = slope·x + intercept.

    Attributes:
        n: rows with both values.
        pearson: linear correlation in [-1, 1]; all values are NaN with fewer than three rows or without spread.
        pearson_p: its two-sided p in [0, 1], as if rows were independent.
        spearman: rank correlation in [-1, 1].
        spearman_p: its two-sided p, never below 2/n!, the smallest value possible with n ranks.
        slope: slope of the line, in units of y per unit of x.
        intercept: intercept of the line, in units of y.
    """

    n: int
    pearson: float = math.nan
    pearson_p: float = math.nan
    spearman: float = math.nan
    spearman_p: float = math.nan
    slope: float = math.nan
    intercept: float = math.nan

    @property
    def known(self) -> bool:
        """Whether the correlation is defined."""
        return not math.isnan(self.pearson)

    @property
    def text(self) -> str:
        """The correlations as text: ``r = +0.61 (p < 0.001), ρ = +0.58 (p = 0.02), n = 200``."""
        if not self.known:
            return f"no correlation to tell, n = {self.n}"
        r, rho = signed(self.pearson), signed(self.spearman)
        return f"r = {r} ({p_text(self.pearson_p)}), ρ = {rho} ({p_text(self.spearman_p)}), n = {self.n}"


def correlate(x: np.ndarray, y: np.ndarray) -> Correlation:
    """Pearson, Spearman and the regression line of two columns ``(n,)``; rows with a NaN are left out."""
    x, y = _both(x, y)
    if len(x) < FEWEST or _flat(x) or _flat(y):
        return Correlation(len(x))
    from scipy import stats  # imported late: it takes a third of a second, and searches do not need it

    sx, sy = float(x.std()), float(y.std())
    # scaled, since Pearson's test warns of lost precision where values differ little compared with their size
    line, rank = stats.pearsonr((x - x.mean()) / sx, (y - y.mean()) / sy), stats.spearmanr(x, y)
    slope = float(line.statistic) * sy / sx
    least = 2 / math.factorial(len(x)) if len(x) < 20 else 0.0  # the test is made for large n and calls it 0
    return Correlation(
        n=len(x),
        pearson=float(line.statistic),
        pearson_p=float(line.pvalue),
        spearman=float(rank.statistic),
        spearman_p=min(1.0, max(float(rank.pvalue), least)),
        slope=slope,
        intercept=float(y.mean() - slope * x.mean()),
    )


@dataclasses.dataclass(frozen=True)
class Kendall:
    """Agreement of two rankings over n rows: τ-b, which allows for ties.

    Attributes:
        n: rows with both values.
        tau: τ-b in [-1, 1]; NaN with fewer than three rows or without spread.
        p: two-sided p of no agreement, in [0, 1].
        low: lower end of the 95% bootstrap interval of τ.
        high: its upper end.
    """

    n: int
    tau: float = math.nan
    p: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def text(self) -> str:
        """The agreement as text: ``τ = +0.42 (+0.20 to +0.61), p < 0.001``."""
        if math.isnan(self.tau):
            return "τ –"
        return f"τ = {signed(self.tau)} ({signed(self.low)} to {signed(self.high)}), {p_text(self.p)}"


def kendall(x: np.ndarray, y: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Kendall:
    """Kendall's τ-b of two columns ``(n,)``, its p, and the percentile interval over resampled rows.

    Args:
        x: one column; rows with a NaN are left out.
        y: the other column.
        resamples: number of bootstrap resamples, >= 1.
        seed: seed of the resampling.
    """
    x, y = _both(x, y)
    if len(x) < FEWEST or _flat(x) or _flat(y):
        return Kendall(len(x))
    from scipy import stats  # see above

    found = stats.kendalltau(x, y)
    taus = bootstrap_tau(x, y, np.random.default_rng(seed), resamples)
    low, high = np.percentile(taus[np.isfinite(taus)], [2.5, 97.5])
    return Kendall(len(x), float(found.statistic), float(found.pvalue), float(low), float(high))


def bootstrap_tau(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """τ-b ``(resamples,)`` of rows drawn with replacement; NaN where a draw has no spread.

    A draw is a count per row, and τ-b sums signs over pairs of rows, so all draws take three matrix products.
    """
    n = len(x)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    signs = [np.sign(v[:, None] - v[None]) for v in (x, y)]
    both, own_x, own_y = (
        ((counts @ product) * counts).sum(axis=1)
        for product in (signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))
    )
    scale = np.sqrt(own_x * own_y)
    return np.divide(both, scale, out=np.full(resamples, np.nan), where=scale > 0)


def p_text(p: float) -> str:
    """``p < 0.001``, ``p = 0.02``; ``p –`` where there is none."""
    if math.isnan(p):
        return "p –"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.995 else "p = 1"


def signed(value: float) -> str:
    """A correlation with its sign, such as ``+0.61`` or ``−0.20``; ``–`` where there is none."""
    return "–" if math.isnan(value) else f"{value:+.2f}".replace("-", "−")


def _both(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def _flat(values: np.ndarray) -> bool:
    """Whether values are equal up to rounding."""
    return float(np.ptp(values)) <= 1e-12 * float(np.abs(values).max())
