"""What a retraining leaves: its settings and its result, as files, table and sentences."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from evo_robust.parts import UserError

SCHEMA = 1
SETTINGS_FILE = "retrain.json"
RESULT_FILE = "result.json"


@dataclasses.dataclass(frozen=True)
class Result:
    """How a retrained network fares on the test images.

    Attributes:
        network: notation of the architecture, or name of the reference network.
        data: name of the data set.
        recipe: class of the training recipe.
        epochs: passes over the training images.
        n_train: number of training images.
        n_test: number of test images.
        n_classes: number of classes.
        params: number of parameters.
        flops: multiply-accumulates of one image (thop).
        attack: attack of the curve, such as ``PGD-20``.
        norm: norm of its ball.
        clean_error: fraction of the test images that is misclassified.
        eps: strengths of the curve, ascending, in units of the pixel range 0..1.
        error: fraction misclassified at each strength.
        adversarial: error on and size of the adversarial set's test part; None where it was not asked for.
        seconds: time of training (of the last process) and attack.
    """

    network: str
    data: str
    recipe: str
    epochs: int
    n_train: int
    n_test: int
    n_classes: int
    params: int
    flops: float
    attack: str
    norm: str
    clean_error: float
    eps: tuple[float, ...]
    error: tuple[float, ...]
    adversarial: dict[str, float] | None
    seconds: dict[str, float]

    def points(self) -> list[tuple[float, float]]:
        """Strength and error from the clean images on."""
        return [(0.0, self.clean_error), *zip(self.eps, self.error, strict=True)]

    def how(self) -> str:
        """The training in a few words."""
        return f"{self.recipe}, {self.epochs} epochs on {self.n_train:,} images of {self.data}"

    def table(self) -> Table:
        """Accuracy at every strength, for people."""
        table = Table(title=f"{self.how()}; {self.params:,} parameters", title_justify="left")
        table.add_column("attack")
        table.add_column("ε", justify="right")
        table.add_column("ε·255", justify="right")
        table.add_column(f"accuracy on {self.n_test:,} test images", justify="right")
        for eps, error in self.points():
            row = (f"{self.attack}, {self.norm}", f"{eps:.4g}", f"{255 * eps:.3g}") if eps else ("none", "", "")
            table.add_row(*row, f"{100 * (1 - error):.2f} %")
        if self.adversarial:
            accuracy = f"{100 * (1 - self.adversarial['error']):.2f} % of {self.adversarial['n']:,}"
            table.add_row("adversarial set", "", "", accuracy)
        return table

    def summary(self) -> dict[str, Any]:
        """JSON values for a genotype's provenance."""
        keys = (
            "recipe",
            "epochs",
            "data",
            "n_train",
            "n_test",
            "params",
            "flops",
            "attack",
            "norm",
            "clean_error",
            "adversarial",
        )
        return {**{key: getattr(self, key) for key in keys}, "eps": list(self.eps), "error": list(self.error)}

    def sentences(self) -> list[str]:
        """Training and accuracy, one line each, for a model card."""
        lines = [f"trained from scratch: {self.how()}", f"accuracy on the {self.n_test:,} test images:"]
        for eps, error in self.points():
            attack = f"{self.attack}, {self.norm}, eps {eps:.4g}" if eps else "not attacked"
            lines.append(f"  {100 * (1 - error):6.2f} %  {attack}")
        if self.adversarial:
            share, n = 100 * (1 - self.adversarial["error"]), self.adversarial["n"]
            lines.append(f"  {share:6.2f} %  on the {n:,} images of the adversarial set made of test images")
        return lines


def read_settings(folder: Path) -> dict[str, Any]:
    """Content of a retraining folder's settings file.

    Raises:
        UserError: it is absent or damaged.
    """
    return _read(folder / SETTINGS_FILE, "identity")


def load_result(folder: Path) -> Result:
    """Result of a finished retraining.

    Raises:
        UserError: it is not finished, or damaged.
    """
    if not (folder / RESULT_FILE).is_file():
        raise UserError(f"the training in {folder} is not finished; the command that began it goes on where it stopped")
    content = _read(folder / RESULT_FILE, "error")
    try:
        values = {field.name: content[field.name] for field in dataclasses.fields(Result)}
        values["eps"], values["error"] = tuple(values["eps"]), tuple(values["error"])
        return Result(**values)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / RESULT_FILE} is damaged: {error}") from None


def _read(path: Path, key: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or key not in content:
        raise UserError(f"{path}: expected a retraining of schema {SCHEMA}, got something else")
    return content
