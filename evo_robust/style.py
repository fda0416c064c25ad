"""How every picture looks: colours by role, sizes, how a quantity is named, scaled and written."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from evo_robust.files import whole_file

# Okabe and Ito's palette: told apart by colour-blind readers; one colour per role in every picture
INK = "#222222"
EVALUATED = "#9aa5ad"
FRONT = "#0072B2"
KNEE = "#D55E00"
RUNS = (FRONT, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000", "#8C564B")
MARKERS = ("o", "s", "^", "D", "v")
BASELINE = RUNS[1]

_RC: Any = {
    "figure.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.color": INK,
}


@contextlib.contextmanager
def picture(path: Path, width: float = 8.0, height: float = 5.5) -> Iterator[Figure]:
    """An empty figure, inches at 150 dots, that is written to ``path`` at the end.

    Nothing of matplotlib's global state (backend, current figure, settings) is touched.
    """
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        yield figure
        with whole_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:])


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A column of numbers as people read it.

    Attributes:
        name: column name in the record, such as ``clean_error``.
        unit: its unit in the record; for FLOPs it names the counting rule.
        log: drawn on a logarithmic axis.
        factor: record value × factor = shown value.
        suffix: what stands after a shown value.
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

    def dress(self, axes: Axes, which: str) -> None:
        """Label and scale of the ``x``, ``y`` or ``z`` axis."""
        getattr(axes, f"set_{which}label")(self.label)
        axis = getattr(axes, f"{which}axis")
        if self.log and which != "z":
            getattr(axes, f"set_{which}scale")("log")
            axis.set_major_locator(LogLocator(subs=(1,), numticks=9))
            axis.set_major_formatter(FuncFormatter(plain))
            axis.set_minor_formatter(NullFormatter())
        elif not self.log:
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def plain(value: float, _: object = None) -> str:
    """A tick's value without exponent, such as ``0.5`` or ``1,000``."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def words(name: str) -> str:
    """A column's name in words."""
    return {"flops": "FLOPs", "params": "parameters"}.get(name, name.replace("_", " "))


def grid(n: int) -> tuple[int, int]:
    """Rows and columns for ``n`` panels, at most three side by side."""
    columns = 2 if n in (2, 4) else min(n, 3)
    return math.ceil(n / columns), columns


def is_share(unit: str) -> bool:
    """Whether a column is a share in [0, 1], shown in percent: its unit says so, never its name."""
    return unit in ("fraction", "share")


def quantity(name: str, unit: str, values: np.ndarray) -> Quantity:
    """How the column ``name`` is shown, given all values ``(n,)`` that will be drawn."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if is_share(unit):
        return Quantity(name, unit, log=False, factor=100.0, suffix="%")
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    log = low > 0 and high / low > 10
    # the prefix suits the middle of the range, so that neither end has a row of zeros
    middle = float(np.sqrt(low * high)) if low > 0 else high
    steps = ((1e9, 1e-9, "G"), (1e6, 1e-6, "M"), (1e3, 1e-3, "k"))
    factor, suffix = next(((f, s) for least, f, s in steps if middle >= least), (1.0, ""))
    return Quantity(name, unit, log, factor, suffix)


def heading(figure: Figure, title: str) -> None:
    """A title over all panels, and below it the legend of the first panel, clear of both."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = max(1, int(figure.get_figwidth() * 10 / (max(map(len, labels)) + 7)))
    lines = math.ceil(len(labels) / columns)
    # the empty lines of the title keep the room that the legend then takes
    figure.suptitle(title + "\n" * lines + " ", x=0.01, ha="left", fontsize=12)
    below = 1 - 0.26 / figure.get_figheight()
    place: Any = {"loc": "upper left", "bbox_to_anchor": (0.002, below), "ncols": columns, "borderaxespad": 0}
    figure.legend(handles, labels, **place)


def note(figure: Figure, text: str) -> None:
    """Small print under a picture, wrapped to its width."""
    text = textwrap.fill(text, int(figure.get_figwidth() * 16))
    figure.supxlabel(text, fontsize=8, color="#666666", x=0.01, ha="left", multialignment="left")
