"""Pictures of a trained network: accuracy over the attack's strength, and its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from evo_robust.final_training.labels import Label, label_points
from evo_robust.style import EVALUATED, FRONT, INK, KNEE, PALE, note, picture, title_and_legend

if TYPE_CHECKING:
    from evo_robust.final_training.settings import Result
    from evo_robust.training.epochs import EpochLog

_NORMS = {"linf": "L∞: how far each pixel may move, of 0..1", "l2": "L2: length of the change, pixels in 0..1"}


def draw_curve(path: Path, result: Result) -> None:
    """Draw accuracy on the test images over ε, from clean images on; a dashed line shows random guessing."""
    eps, error = np.array(result.points()).T
    accuracy, chance = 100 * (1 - error), 100 / result.n_classes
    with picture(path, height=4.8) as figure:
        axes = figure.add_subplot()
        axes.fill_between(eps, accuracy, color=FRONT, alpha=0.08, lw=0)
        axes.plot(eps, accuracy, "-o", color=FRONT, lw=2, ms=6, clip_on=False, zorder=3)
        axes.plot(0, accuracy[0], "o", color=INK, ms=8, clip_on=False, zorder=4)
        axes.axhline(chance, color=EVALUATED, ls="--", lw=1.2)
        guessing = axes.annotate(
            f"guessing ({chance:.3g} %)", (0, chance), (8, 4), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", color=PALE, fontsize=9,
        )  # fmt: skip
        axes.set_xlabel(f"strength of the attack ε ({_NORMS.get(result.norm, result.norm)})")
        axes.set_ylabel("accuracy (%)")
        axes.set_xlim(0, eps[-1] * 1.09)
        axes.set_ylim(0, 109)
        axes.set_title(f"How much of its accuracy the network keeps under {result.attack}")
        note(figure, f"{result.how()}; {result.n_test:,} test images; {result.params:,} parameters.")
        label_points(axes, np.column_stack([eps, accuracy]), _labels(eps, accuracy, result.norm), [guessing])


def _labels(eps: np.ndarray, accuracy: np.ndarray, norm: str) -> list[Label]:
    """Labels of accuracies in order of importance: without attack, at 8/255, at the largest ε, others."""
    usual = [k for k in range(1, len(eps)) if norm == "linf" and abs(eps[k] - 8 / 255) < 1e-6]
    ends = [k for k in (len(eps) - 1,) if k > 0 and k not in usual]
    others = [k for k in range(1, len(eps)) if k not in (*usual, *ends)]
    clean = Label(0, f"{accuracy[0]:.1f} % without attack", INK, needed=True)
    named = [Label(k, f"{accuracy[k]:.1f} % at 8/255", FRONT, needed=True) for k in usual]
    return [clean, *named, *(Label(k, f"{accuracy[k]:.1f} %", FRONT) for k in (*ends, *others))]


def draw_training(path: Path, result: Result, logs: Sequence[EpochLog]) -> None:
    """Draw loss and accuracy on the training images over the epochs, and the final accuracy on the test images."""
    epochs = [log.epoch for log in logs]
    accuracy = [100 * (1 - log.train_error) for log in logs]
    with picture(path, height=4.8) as figure:
        left, right = figure.subplots(1, 2)
        left.plot(epochs, [log.loss for log in logs], color=KNEE, lw=2, marker="o" if len(logs) < 20 else None, ms=4)
        left.set_ylabel("training loss")
        left.set_ylim(bottom=0)
        left.set_title("Loss")
        right.plot(
            epochs, accuracy, color=FRONT, lw=2, marker="o" if len(logs) < 20 else None, ms=4, label=_what(result)
        )
        judged = [100 * (1 - log.validation_error) for log in logs if log.validation_error is not None]
        if judged:
            attacked = "" if result.recipe == "Standard" else ", attacked"
            right.plot(epochs, judged, color=KNEE, lw=2, label=f"validation images{attacked}")
        test = 100 * (1 - result.clean_error)
        right.axhline(test, color=INK, ls="--", lw=1.2, label=f"test images in the end, not attacked: {test:.1f} %")
        right.set_ylabel("accuracy (%)")
        right.set_ylim(0, 105)
        title_and_legend(right, "Accuracy")
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.set_xlim(0.5 if len(epochs) < 20 else 0, max(epochs) + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        note(figure, f"{result.how()}; {result.params:,} parameters.")


def _what(result: Result) -> str:
    return "training images" if result.recipe == "Standard" else "training images, attacked"
