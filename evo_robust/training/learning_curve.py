"""The learning curve of shared weights: printed epoch by epoch, kept as CSV, drawn."""

from __future__ import annotations

from pathlib import Path

from evo_robust.data.base import DataSet
from evo_robust.files import write_csv
from evo_robust.progress import Say
from evo_robust.spaces.base import SearchSpace
from evo_robust.training.epochs import EpochLog, read_logs
from evo_robust.training.recipes import Recipe

CURVE_FILES = ("learning_curve.csv", "learning_curve.png")


class LearningCurve:
    """The learning curve of a supernet so far.

    Args:
        folder: where ``learning_curve.csv`` and ``learning_curve.png`` are written.
        epochs: how many there will be.
        say: called with each line of progress text.
        checkpoint: the training's checkpoint file; where it exists, the curve begins with its epochs.
        prefix: put before the files' names.
    """

    def __init__(self, folder: Path, epochs: int, say: Say, checkpoint: Path, prefix: str = "") -> None:
        self.csv, self.png = (folder / f"{prefix}{name}" for name in CURVE_FILES)
        self.epochs, self.say = epochs, say
        self.logs = read_logs(checkpoint) if checkpoint.exists() else []

    def tell_start(self) -> None:
        """Print how many epochs are done, if any."""
        if self.logs:
            self.say(f"{len(self.logs)} of {self.epochs} epochs are done already")

    def add(self, log: EpochLog) -> None:
        """Add an epoch that is over: print its figures and write the file again."""
        self.logs.append(log)
        self.write()
        left = (self.epochs - log.epoch) * sum(entry.seconds for entry in self.logs) / len(self.logs)
        self.say(
            f"supernet epoch {log.epoch}/{self.epochs}: loss {log.loss:.3f}, training error {log.train_error:.1%}, "
            f"{log.seconds:.1f} s, {left:.0f} s left"
        )

    def write(self) -> None:
        """Write ``learning_curve.csv``."""
        names = ("epoch", "loss", "train_error", "lr", "seconds")
        write_csv(self.csv, names, [[getattr(log, name) for name in names] for log in self.logs])

    def draw(self, recipe: Recipe, space: SearchSpace, data: DataSet, sampling: str) -> None:
        """Draw ``learning_curve.png``; ``sampling`` describes the paths in words."""
        from evo_robust.training.learning_picture import draw_learning  # matplotlib only where a picture is drawn

        self.write()  # a process that was killed after its last epoch may have left the file one line short
        error = "adversarial training error" if recipe.adversarial else "training error"
        text = (
            f"Supernet of {type(space).__name__} on {data.name}: {type(recipe).__name__}, {self.epochs} epochs, "
            f"{sampling}. Error on training images, of the paths in training."
        )
        draw_learning(self.png, self.logs, error, data.n_classes, text)
