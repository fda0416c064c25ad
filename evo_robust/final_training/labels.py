"""Places labels at the points of a line so that they cover nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

_NEAR = ((7, 6), (7, -6), (0, 9), (0, -9), (-7, -6), (-7, 6))
_FAR = ((24, 22), (24, 40), (40, 22), (-24, -22), (24, -24), (-24, -40))
"""Places around a point, in 1/72 inch; far ones are joined to the point by a line."""


@dataclasses.dataclass(frozen=True)
class Label:
    """A label for the point with this index; a ``needed`` label is always written, whatever it covers."""

    index: int
    text: str
    colour: str
    needed: bool = False


def label_points(axes: Axes, points: np.ndarray, labels: Sequence[Label], beside: Sequence[Text]) -> None:
    """Write labels at points of a line, the most important first; a label without a free place is left out.

    Args:
        axes: axes with the line; scales and limits must be final.
        points: points of the line ``(n, 2)``, in data units.
        labels: labels in order of importance.
        beside: texts that are in the axes already.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # positions are known only after this
    line = _dense(axes.transData.transform(points))
    taken = [_box(text) for text in beside]
    for label in labels:
        best = None
        for place in (*_NEAR, *_FAR):
            text = _write(axes, points[label.index], label, place)
            box = _box(text)
            faults = (_outside(box, axes), sum(box.padded(1).overlaps(other) for other in taken), _inside(line, box))
            text.remove()
            if best is None or faults < best[0]:
                best = (faults, place)
        assert best is not None
        if label.needed or not any(best[0]):
            taken.append(_box(_write(axes, points[label.index], label, best[1])))


def _write(axes: Axes, point: np.ndarray, label: Label, place: tuple[int, int]) -> Text:
    x, y = place
    arrow: Any = {"arrowstyle": "-", "color": label.colour, "lw": 0.7, "shrinkA": 1, "shrinkB": 3}
    text = axes.annotate(
        label.text, (float(point[0]), float(point[1])), place, textcoords="offset points", color=label.colour,
        fontsize=9, ha="left" if x > 0 else "right" if x < 0 else "center",
        va="center" if abs(y) < 8 and x else "bottom" if y > 0 else "top",
        arrowprops=arrow if place in _FAR else None,
    )  # fmt: skip
    text.set_in_layout(False)  # a new layout must not move what was measured
    return text


def _box(text: Text) -> Bbox:
    """The box of the letters only, in dots; an annotation's own box would include its line."""
    text.get_window_extent()  # moves the text to its final place
    return Text.get_window_extent(text)


def _outside(box: Bbox, axes: Axes) -> bool:
    frame = axes.bbox
    return bool(box.x0 < frame.x0 or box.y0 < frame.y0 or box.x1 > frame.x1 + 10 or box.y1 > frame.y1 + 2)


def _inside(points: np.ndarray, box: Bbox) -> bool:
    around = box.padded(2)
    return bool(((points > around.min) & (points < around.max)).all(axis=1).any())


def _dense(points: np.ndarray) -> np.ndarray:
    """Closely spaced points along a line of straight segments."""
    steps = np.linspace(0, 1, 200)[:, None, None]
    return (points[:-1] * (1 - steps) + points[1:] * steps).reshape(-1, 2)
