"""Draws the training of shared weights: loss and error over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from evo_robust.style import EVALUATED, FRONT, KNEE, note, picture, title_and_legend

if TYPE_CHECKING:
    from evo_robust.training.epochs import EpochLog


def draw_learning(path: Path, logs: Sequence[EpochLog], error: str, n_classes: int, text: str) -> None:
    """Draw loss and training error of every epoch, and the error of random guessing as a dashed line.

    Args:
        path: picture to write.
        logs: figures of the epochs, at least one.
        error: name of the training error, such as ``adversarial training error``.
        n_classes: number of classes, which gives the error of guessing.
        text: small print below: what was trained, and how.
    """
    epochs = [log.epoch for log in logs]
    chance = 100 * (1 - 1 / n_classes)
    marker = "o" if len(logs) < 20 else None
    with picture(path, height=4.2) as figure:
        left, right = figure.subplots(1, 2)
        left.plot(epochs, [log.loss for log in logs], color=KNEE, lw=2, marker=marker, ms=4)
        left.set_ylabel("training loss, mean of an epoch's paths")
        left.set_title("Loss")
        left.set_ylim(bottom=0)
        errors = [100 * log.train_error for log in logs]
        right.plot(epochs, errors, color=FRONT, lw=2, marker=marker, ms=4, label=f"{errors[-1]:.1f} % in the end")
        right.axhline(chance, color=EVALUATED, ls="--", lw=1.2, label=f"guessing ({chance:.3g} %)")
        right.set_ylabel(f"{error} (%)")
        title_and_legend(right, error.capitalize())
        right.set_ylim(0, 105)
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.set_xlim(0.5 if len(epochs) < 20 else 0, epochs[-1] + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        note(figure, text)
