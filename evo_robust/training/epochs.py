"""Figures of the epochs of a training, and how they are read from a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from evo_robust.files import DamagedFile, read_tensors


@dataclasses.dataclass(frozen=True)
class EpochLog:
    """Figures of one epoch of training.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss.
        train_error: fraction of training images misclassified while training on them: augmented, by a network in
            train mode, and adversarial where the recipe trains on adversarial images.
        lr: learning rate.
        seconds: wall-clock time.
        validation_error: error on a validation split after the epoch; None where there is none.
    """

    epoch: int
    loss: float
    train_error: float
    lr: float
    seconds: float
    validation_error: float | None = None


def logs_of(info: dict[str, Any]) -> list[EpochLog]:
    """Figures of the epochs before a checkpoint: at least one epoch, in order.

    Raises:
        KeyError, TypeError, ValueError: the checkpoint holds no such figures.
    """
    found = info["logs"]
    expect(isinstance(found, list) and len(found) > 0, f"expected figures of its epochs, got {found!r:.60}")
    logs = [EpochLog(**log) for log in found]
    for number, log in enumerate(logs, 1):
        expect(log.epoch == number, f"expected figures of epoch {number}, got those of {log.epoch!r:.60}")
        for name, value in vars(log).items():
            if name == "validation_error" and value is None:
                continue
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            expect(good, f"{name} of epoch {number} is {value!r:.60}")
    return logs


def expect(good: bool, reason: str) -> None:
    """Raise ``ValueError`` with a reason unless all is good."""
    if not good:
        raise ValueError(reason)


def read_logs(checkpoint: Path) -> list[EpochLog]:
    """Figures of the epochs before a checkpoint; ``DamagedFile`` where the file is no checkpoint."""
    info = read_tensors(checkpoint)[1]
    try:
        return logs_of(info)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(checkpoint, f"it is not the state of a training: {error}") from error
