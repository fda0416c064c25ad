"""The picture of accuracy against FLOPs with a trend line for each search (RoCo-NAS, Figs. 5 and 6)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from evo_robust.judging.judgement import WORST, Figure, Judgement, Verdict
from evo_robust.judging.pictures import draw
from evo_robust.judging.trends import draw_trends, trend, with_trends


def network(k: int, group: str | None, right: int) -> Verdict:
    """The larger k, the more FLOPs: 10 to the power of 6 + k."""
    figures = (
        Figure("clean", "clean", "", None, 95, 100, 0.0),
        Figure("FGSM", "FGSM 0.1", "linf", 0.1, right, 100, 1.0),
        Figure("DeepFool", "DeepFool 0.1", "linf", 0.1, right - 5, 100, 1.0),
        Figure(WORST, f"{WORST} 0.1", "linf", 0.1, right - 5, 100, 0.0),
    )
    return Verdict(f"{group} {k}", "here", "Standard", 0, None, 10**k, 10.0 ** (6 + k), figures, {}, {}, group=group)


def judged(*verdicts: Verdict) -> Judgement:
    return Judgement("digits", 100, 0, verdicts)


TWO = judged(*(network(k, "roco", 40 + 10 * k) for k in range(3)), *(network(k, "base", 60) for k in range(2)))


def test_a_trend_needs_three_networks_of_one_search() -> None:
    assert {name: len(found) for name, found in with_trends(TWO).items()} == {"roco": 3, "base": 2}
    assert with_trends(judged(*(network(k, "base", 60) for k in range(2)))) == {}
    assert with_trends(judged(*(network(k, None, 60) for k in range(4)))) == {}
    only_clean = [dataclasses.replace(v, figures=v.figures[:1]) for v in TWO.verdicts]
    assert with_trends(judged(*only_clean)) == {}


def test_each_attack_has_a_panel_with_a_line_for_each_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panels: list[Axes] = []
    made = matplotlib.figure.Figure.add_subplot

    def watched(self: matplotlib.figure.Figure, *args: int) -> Axes:
        panels.append(made(self, *args))
        return panels[-1]

    monkeypatch.setattr(matplotlib.figure.Figure, "add_subplot", watched)
    path = draw_trends(TWO, with_trends(TWO), tmp_path / "accuracy-flops.png")
    assert [axes.get_title(loc="left") for axes in panels] == ["FGSM 0.1", "DeepFool 0.1"]
    points, line, other = panels[0].lines  # two networks have no trend
    assert np.asarray(points.get_ydata()).tolist() == [40, 50, 60]
    # ten points for each power of ten
    assert np.asarray(line.get_ydata(), dtype=float) == pytest.approx([40, 60])
    assert np.asarray(other.get_xdata()).tolist() == [1e6, 1e7]
    assert imread(path).std() > 0.05


def test_the_picture_is_drawn_with_the_others(tmp_path: Path) -> None:
    assert tmp_path / "accuracy-flops.png" in draw(TWO, tmp_path)
    assert tmp_path / "accuracy-flops.png" not in draw(judged(*TWO.verdicts[:2]), tmp_path)


def test_a_trend_needs_points_of_different_size() -> None:
    axes = matplotlib.figure.Figure().add_subplot()
    trend(axes, np.array([1e6, 1e6, 1e6]), np.array([1.0, 2, 3]), "red")
    trend(axes, np.array([1e6, 2e6, 3e6]), np.array([1.0, np.nan, 3]), "red")
    assert not axes.lines
    trend(axes, np.array([1e6, 2e6, 4e6, 8e6]), np.array([1.0, 2, np.nan, 4]), "red")
    assert len(axes.lines) == 1
