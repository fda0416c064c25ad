"""What nobody can read in a picture: text that is cut or overlaps, and legends that lie on curves."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from mpl_toolkits.mplot3d import Axes3D

SLACK = 2.0
"""Dots that boxes of text may share: letters do not fill them."""

MARGIN = 8.0
"""Dots at a legend's edge that hold nothing."""


@contextlib.contextmanager
def watched(*, written: bool = False) -> Iterator[list[str]]:
    """The faults of all pictures that are saved meanwhile, each after the file's name; ``written``: in truth."""
    found: list[str] = []
    save = Figure.savefig

    def keep(figure: Figure, path: Any, **options: Any) -> None:
        name = Path(path).name.split(".")[1]  # a temporary one: .NAME.png.NUMBER
        found.extend(f"{name}: {fault}" for fault in faults(figure))
        if written:
            save(figure, path, **options)
        else:
            Path(path).touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", keep)
        yield found


def faults(figure: Figure) -> list[str]:
    """Every text that is cut by the picture's edge, pairs of texts that overlap, and legends on curves or dots."""
    figure.draw_without_rendering()
    texts = [(text.get_text().strip(), _extent(text)) for text in _texts(figure)]
    edge = figure.bbox
    found = [
        f"cut: {words!r}" for words, box in texts if min(box.x0, box.y0, edge.x1 - box.x1, edge.y1 - box.y1) < -SLACK
    ]
    for (one, box), (other, beside) in itertools.combinations(texts, 2):
        if _share(box, beside):
            found.append(f"overlap: {one!r} and {other!r}")
    boxes = [("legend", legend.get_window_extent()) for legend in _legends(figure)]
    for axes in _axes(figure):
        for name, box in boxes:
            if any(_crosses(points, box) for points in _curves(axes)):
                found.append(f"{name} on a curve")
    return found


def _axes(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if not isinstance(axes, Axes3D)]


def _legends(figure: Figure):
    return [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()))]


def _texts(figure: Figure) -> Iterator[Text]:
    """What is said; numbers along axes, which are placed by matplotlib, and those inside dots are left out."""
    left_out = {text for axes in figure.axes if isinstance(axes, Axes3D) for text in axes.findobj(Text)}
    for axes in _axes(figure):
        for axis in (axes.xaxis, axes.yaxis):
            left_out |= set(axis.findobj(Text)) - ({axis.label} if axes.axison else set())
    for text in figure.findobj(Text):
        number = text.get_text().isdigit() and text.get_color() == "white"
        if text.get_visible() and text.get_text().strip() and text not in left_out and not number:
            yield text


def _extent(text: Text) -> Bbox:
    """The box of a text; empty lines at its end only keep room for something else."""
    text.get_window_extent()  # puts an annotation where it belongs; its own box would include its arrow
    box, lines = Text.get_window_extent(text), text.get_text().split("\n")
    said = len("\n".join(lines).rstrip().split("\n"))
    return Bbox.from_extents(box.x0, box.y1 - (box.y1 - box.y0) * said / len(lines), box.x1, box.y1)


def _share(one: Bbox, other: Bbox) -> bool:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width > SLACK and height > SLACK


def _curves(axes: Axes) -> Iterator[np.ndarray]:
    """Lines and dots in dots of the picture, lines densely."""
    for line in axes.lines:
        points = line.get_transform().transform(np.column_stack(line.get_data(orig=False)).astype(float))
        if line.get_drawstyle() == "steps-post":
            points = np.repeat(points, 2, axis=0)[1:]
            points[1::2, 1] = points[0:-1:2, 1]
        yield _dense(points[np.isfinite(points).all(axis=1)])
    for dots in axes.collections:
        if isinstance(dots, PathCollection):
            yield axes.transData.transform(np.asarray(dots.get_offsets(), float))
    for bar in axes.patches:
        yield _dense(bar.get_transform().transform(bar.get_path().vertices))


def _dense(points: np.ndarray) -> np.ndarray:
    if len(points) < 2:
        return points
    steps = np.linspace(0, 1, 50)[:, None, None]
    return (points[:-1] * (1 - steps) + points[1:] * steps).reshape(-1, 2)


def _crosses(points: np.ndarray, frame: Bbox) -> bool:
    if len(points) == 0:
        return False
    box = frame.padded(-MARGIN)
    inside = (points > (box.x0, box.y0)) & (points < (box.x1, box.y1))
    return bool(inside.all(axis=1).any())
