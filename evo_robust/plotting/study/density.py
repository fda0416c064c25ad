"""Do denser networks withstand more? Density, and parameters as its plain rival (RobNet, Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evo_robust.analysis.relations import GENOME_DENSITY, Relation
from evo_robust.plotting.study.panel import correlation_lines, networks, same_heights, scatter
from evo_robust.style import note, picture


def draw_density(found: Sequence[Relation], path: Path, *, caution: str) -> None:
    """Robust accuracy against density and, where recorded, against the parameter count.

    The genomes' own density is nearly the same picture: its correlation is told in the small print.

    Args:
        found: relations, the robust accuracy's among them; density first.
        path: PNG file.
        caution: what must be known about the sample.
    """
    robust = [r for r in found if r.y_name == found[0].y_name]
    shown = [r for r in robust if r.x_name != GENOME_DENSITY]
    asked = [f"{correlation_lines(r).splitlines()[0]}" for r in robust if r.x_name == GENOME_DENSITY]
    with picture(path, 4.6 * len(shown) if len(shown) > 1 else 7.0, 4.9) as figure:
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        labels = {"density": "density (% of all that could be there)"}
        titles = {"density": "Density", "parameters": "The plain rival: size"}
        for k, (axes, r) in enumerate(zip(panels, shown, strict=True)):
            scatter(axes, r, titles[r.x_name], x_label=labels.get(r.x_name), y_label=k == 0)
        same_heights(panels, 100 * np.concatenate([r.y for r in shown]))
        line = "Line: least squares. " if found[0].correlation.known else ""
        figure.suptitle("Do denser networks withstand more?", x=0.01, ha="left", fontsize=12)
        beside = f"Genomes' own density, edges that carry nothing counted: {asked[0]}. " if asked else ""
        note(figure, f"{networks(found[0].correlation.n)}. {line}{beside}{caution}")
