"""Adversarial images for evaluating many networks: their origin, their table and their files."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from evo_robust.data.images import Images
from evo_robust.files import read_tensors, whole_file, write_tensors
from evo_robust.parts.base import UserError
from evo_robust.progress import table


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a victim attacked at a level.

    Attributes:
        victim: name of the attacked network.
        norm: ``l0`` or ``linf``.
        level: pixels changed (l0) or grey steps of 255 (linf).
        attacked: source images that the victim classifies correctly; only these were attacked.
        successes: how many of them it then misclassified; each is one sample.
        queries: total number of candidate images that the victim classified.
    """

    victim: str
    norm: str
    level: int
    attacked: int
    successes: int
    queries: int

    @property
    def rate(self) -> float:
        """Success rate in [0,1]; 0 where no image was attacked."""
        return self.successes / self.attacked if self.attacked else 0.0


@dataclasses.dataclass(frozen=True)
class Samples:
    """Adversarial images with their origin.

    Attributes:
        images: uint8 ``(n, c, h, w)`` with the true classes of their sources.
        rows: the attacks that made them.
        row: index into ``rows`` of each sample, int64 ``(n,)``.
        source: position of each sample's source in its split, int64 ``(n,)``.
    """

    images: Images
    rows: tuple[Row, ...]
    row: Tensor
    source: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: str | torch.device) -> Samples:
        """The same samples on a device."""
        return Samples(self.images.to(device), self.rows, self.row.to(device), self.source.to(device))

    def rates(self, wrong: Tensor) -> dict[str, dict[str, float]]:
        """Fraction of True in ``wrong``, bool ``(n,)``, by norm and level; levels without samples are left out."""
        groups: dict[tuple[str, int], list[int]] = {}
        for index, row in enumerate(self.rows):
            groups.setdefault((row.norm, row.level), []).append(index)
        rates: dict[str, dict[str, float]] = {}
        for (norm, level), members in groups.items():
            mask = torch.isin(self.row, torch.tensor(members, device=self.row.device))
            if mask.any():
                rates.setdefault(norm, {})[str(level)] = wrong[mask].double().mean().item()
        return rates

    def write(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {"x": self.images.x, "y": self.images.y, "row": self.row, "source": self.source}
        write_tensors(path, tensors, {"rows": [dataclasses.asdict(row) for row in self.rows]})

    @classmethod
    def read(cls, path: Path) -> Samples:
        """Read a file that ``write`` made.

        Raises:
            UserError: the file is damaged.
        """
        tensors, info = read_tensors(path)
        try:
            rows = tuple(Row(**row) for row in info["rows"])
            return cls(Images(tensors["x"], tensors["y"]), rows, tensors["row"], tensors["source"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no file of adversarial images ({error}); delete it and run again") from None

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """The samples of all parts, in order."""
        offsets = torch.tensor([0, *(len(part.rows) for part in parts)]).cumsum(0).tolist()
        rows = [part.row + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
        x = torch.cat([part.images.x for part in parts])
        y = torch.cat([part.images.y for part in parts])
        lines = tuple(row for part in parts for row in part.rows)
        return cls(Images(x, y), lines, torch.cat(rows), torch.cat([part.source for part in parts]))


@dataclasses.dataclass(frozen=True)
class AdversarialImages:
    """The adversarial set: samples for the search, and a second part that the search never sees.

    Attributes:
        search_samples: samples from validation images, for the search.
        judge_samples: samples from test images, only for the final evaluation.
    """

    search_samples: Samples
    judge_samples: Samples

    @property
    def search(self) -> Images:
        """Adversarial images for the search."""
        return self.search_samples.images

    @property
    def judge(self) -> Images:
        """Adversarial images for the final evaluation."""
        return self.judge_samples.images

    def table(self) -> Table:
        """Attacked images, successes and success rates for both sets (RoCo-NAS, Table I)."""
        numbers = ("level", "search: attacked", "fooled", "rate", "judge: attacked", "fooled", "rate")
        made = table("adversarial set", words=("victim", "norm"), numbers=numbers)
        for line in self._lines():
            if line[0] == "all" and line[1] == "l0":
                made.add_section()
            made.add_row(*map(_cell, line))
        return made

    def text(self) -> str:
        """The table as plain text."""
        written = io.StringIO()
        Console(file=written, width=120, color_system=None).print(self.table())
        return written.getvalue()

    def write_csv(self, path: Path) -> None:
        """Write the table as CSV: one line per split, victim, norm and level, without the totals."""
        with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["set", *(field.name for field in dataclasses.fields(Row)), "rate"])
            for name, samples in (("search", self.search_samples), ("judge", self.judge_samples)):
                for row in samples.rows:
                    writer.writerow([name, *dataclasses.astuple(row), f"{row.rate:.4f}"])

    def _lines(self) -> Iterable[list[Any]]:
        """Cells of the table: every row, then the sums by norm and the total."""
        pairs = list(zip(self.search_samples.rows, self.judge_samples.rows, strict=True))
        for search, judge in pairs:
            yield [search.victim, search.norm, search.level, *_figures([search]), *_figures([judge])]
        norms = list(dict.fromkeys(search.norm for search, _ in pairs))
        for norm in [*norms, "all"] if len(norms) > 1 else norms:
            chosen = [pair for pair in pairs if norm in ("all", pair[0].norm)]
            yield ["all", norm, "all", *_figures([s for s, _ in chosen]), *_figures([j for _, j in chosen])]


def _figures(rows: Sequence[Row]) -> list[Any]:
    attacked, successes = sum(row.attacked for row in rows), sum(row.successes for row in rows)
    return [attacked, successes, successes / attacked if attacked else 0.0]


def _cell(value: Any) -> str:
    return f"{100 * value:.1f}%" if isinstance(value, float) else str(value)
