"""What separates the best from the worst: t-SNE of their genes, and a linear classifier's weights (RobNet, Fig. 4)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from evo_robust.analysis.separation import FEW_EACH, SHARE, Separation
from evo_robust.style import FRONT, KNEE, PALE, heading, note, picture

MOST_BARS = 40
"""Number of weights that fit into the picture; it shows the strongest, and the CSV file has all."""


def draw_separation(found: Separation, words: str, path: Path) -> None:
    """Draw best and worst architectures as points, and every gene's weight as a bar.

    Args:
        found: the two groups and the classifier.
        words: name of the accuracy that decides which are best and worst.
        path: PNG file.
    """
    with picture(path, 12.0, 5.4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
        for chosen, colour, name in ((found.best, FRONT, "best"), (~found.best, KNEE, "worst")):
            points = found.points[chosen]
            label = f"{name} {SHARE:.0%} by {words} ({found.each} networks)"
            left.scatter(*points.T, s=26, color=colour, alpha=0.8, edgecolor="white", lw=0.4, label=label)
        left.set_title("Similar architectures lie close together (t-SNE)")
        left.set(xticks=[], yticks=[])
        left.spines[["top", "right"]].set_visible(True)
        _bars(right, found)
        right_ones = f"A linear classifier gets {found.accuracy:.0%} of unseen networks right (guessing: 50%)."
        heading(figure, "Do genes separate the best from the worst?", right_ones)
        note(figure, _small_print(found))


def _small_print(found: Separation) -> str:
    parts = [
        f"Right in 5-fold cross-validation: {100 * found.accuracy:.1f}%; on the networks of the fit: "
        f"{100 * found.training_accuracy:.1f}%.",
        "Weights per standard deviation of a gene.",
    ]
    if not np.isnan(found.positive):
        parts.append(f"{found.positive:.0%} of the weights of yes/no genes are positive.")
    parts.append(
        f"The paper's classifier (SGDClassifier): {100 * found.published.accuracy:.1f}% on the networks of its fit."
    )
    if found.each < FEW_EACH:
        parts.append(f"With fewer than {FEW_EACH} networks per group, this is only a hint.")
    return " ".join(parts)


def _bars(axes: Axes, found: Separation) -> None:
    strongest = np.sort(np.argsort(-np.abs(found.weights), kind="stable")[:MOST_BARS])
    weights, names = found.weights[strongest], [found.names[i] for i in strongest]
    axes.bar(range(len(names)), weights, 0.8, color=np.where(weights > 0, FRONT, KNEE))
    axes.axhline(0, color=PALE, lw=0.8)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_xlim(-0.8, len(names) - 0.2)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("weight")
    part = "" if len(names) == len(found.names) else f", the {len(names)} strongest of {len(found.names)}"
    axes.set_title(f"Weight of each gene{part}: above 0 means best")
