"""The common style of all pictures: colours by role, sizes, axes, legends and small print."""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from evo_robust.files import whole_file

# Okabe and Ito's palette, which colour-blind readers can distinguish; each role has the same colour in every picture
INK = "#222222"
PALE = "#667077"
"""Colour of secondary lines and words."""
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
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.color": INK,
}


@contextlib.contextmanager
def picture(path: Path, width: float = 8.0, height: float = 5.5) -> Iterator[Figure]:
    """An empty figure of this size in inches, at 150 dots per inch; it is written to ``path`` at the end.

    Matplotlib's global state (backend, current figure, settings) does not change.
    """
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        yield figure
        with whole_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:])


class Labelled(Protocol):
    """What an axis needs of a quantity."""

    @property
    def label(self) -> str:
        """Its name with its unit."""

    @property
    def log(self) -> bool:
        """Whether it is drawn on a logarithmic axis."""


def dress(axes: Axes, which: str, shown: Labelled) -> None:
    """Set label and scale of the ``x``, ``y`` or ``z`` axis for a quantity."""
    getattr(axes, f"set_{which}label")(shown.label)
    axis = getattr(axes, f"{which}axis")
    if shown.log and which != "z":
        getattr(axes, f"set_{which}scale")("log")
        axis.set_major_locator(LogLocator(subs=(1,), numticks=9))
        axis.set_major_formatter(FuncFormatter(plain))
        axis.set_minor_formatter(NullFormatter())
    elif not shown.log:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def plain(value: float, _: object = None) -> str:
    """A tick's value without exponent, such as ``0.5`` or ``1,000``."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def grid(n: int) -> tuple[int, int]:
    """Rows and columns for ``n`` panels, at most three side by side."""
    columns = 2 if n in (2, 4) else min(n, 3)
    return math.ceil(n / columns), columns


_LINE = 0.21
"""Inches that a line of a title, of its answer or of a legend takes."""


def heading(figure: Figure, title: str, answer: str = "") -> None:
    """Write a title over all panels; below it the answer to its question, and the legend of the first panel.

    Args:
        figure: the figure with its panels.
        title: a statement or a question.
        answer: the picture's answer to the question.
    """
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = max(1, int(figure.get_figwidth() * 10 / (max(map(len, labels)) + 7))) if labels else 1
    told = textwrap.wrap(answer, int(figure.get_figwidth() * 10))
    # empty lines in the title reserve room for answer and legend
    empty = "\n" * (len(told) + math.ceil(len(labels) / columns))
    figure.suptitle(f"{title}{empty} " if empty else title, x=0.01, ha="left", fontsize=12)
    height = figure.get_figheight()
    if told:
        top = 1 - 0.27 / height
        figure.text(0.01, top, "\n".join(told), va="top", fontsize=11, fontweight="bold", linespacing=1.15)
    if labels:
        below = 1 - (0.26 + _LINE * len(told)) / height
        figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.002, below), ncols=columns, borderaxespad=0)


def title_and_legend(axes: Axes, title: str) -> None:
    """Write a panel's title, and below it the panel's legend, outside of the axes."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.1)
    axes.set_title(title, pad=8 + 15 * len(labels))


def note(figure: Figure, text: str) -> None:
    """Write small print under a picture, wrapped to its width."""
    text = textwrap.fill(text, int(figure.get_figwidth() * 16))
    figure.supxlabel(text, fontsize=8, color=PALE, x=0.01, ha="left", multialignment="left")
