"""Spaces whose architectures are their genomes: the shortest way to a search space of your own."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import chz
import numpy as np

from evo_robust.spaces.base import Architecture, InvalidArchitecture, SearchSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@chz.chz
class GenomeSpace(SearchSpace, abc.ABC):
    """A space in which every genome is a different architecture: the tuple of its choices, written ``2-0-1``.

    A subclass defines ``n_choices`` and ``build``. If it defines ``network_arguments`` too, its networks can be
    exported as Python files. Where several genomes give the same network, derive from :class:`SearchSpace` instead, so
    that no network is evaluated twice.

    Example:
        >>> @chz.chz
        ... class Widths(GenomeSpace):
        ...     n_choices = (3, 3)
        ...
        ...     def build(self, architecture, n_classes, in_shape):
        ...         one, two = (8 * 2**choice for choice in architecture)
        ...         layers = [nn.Conv2d(in_shape[0], one, 3, 2), nn.ReLU(), nn.Conv2d(one, two, 3), nn.ReLU()]
        ...         return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(two, n_classes))
        >>> Widths().from_text("2-0")
        (2, 0)
    """

    @property
    def blocks(self) -> tuple[slice, ...]:
        """See :attr:`SearchSpace.blocks`: every gene is a block."""
        return tuple(slice(gene, gene + 1) for gene in range(self.n_genes))

    def decode(self, genome: np.ndarray) -> tuple[int, ...]:
        """See :meth:`SearchSpace.decode`."""
        return self._checked(tuple(int(gene) for gene in genome), genome)

    def encode(self, architecture: Architecture) -> np.ndarray:
        """See :meth:`SearchSpace.encode`."""
        return np.array(architecture, dtype=int)

    def to_text(self, architecture: Architecture) -> str:
        """See :meth:`SearchSpace.to_text`: the choices, first gene first, such as ``2-0-1``."""
        return "-".join(map(str, self.encode(architecture)))

    def from_text(self, text: str) -> tuple[int, ...]:
        """See :meth:`SearchSpace.from_text`."""
        genes = text.split("-")
        if not all(gene.isascii() and gene.isdecimal() for gene in genes):
            raise InvalidArchitecture(f"expected whole numbers with - between them, such as 2-0-1, got {text!r}")
        return self._checked(tuple(map(int, genes)), text)

    def draw(self, architecture: Architecture, figure: Figure) -> None:
        """See :meth:`SearchSpace.draw`: a bar for each gene, as high as its choice."""
        axes = figure.subplots()
        genes = self.encode(architecture)
        axes.barh(self.gene_names, np.asarray(self.n_choices) - 1, color="0.92")
        axes.barh(self.gene_names, genes, color="tab:blue")
        for place, gene in enumerate(genes):
            axes.text(gene, place, f" {gene}", va="center")
        axes.invert_yaxis()
        axes.set_xlabel("choice")
        axes.spines[["top", "right"]].set_visible(False)

    def _checked(self, genes: tuple[int, ...], told: object) -> tuple[int, ...]:
        choices = [int(n) for n in self.n_choices]
        if len(genes) != len(choices) or not all(0 <= gene < n for gene, n in zip(genes, choices, strict=True)):
            wanted = ", ".join(f"0..{n - 1}" for n in choices)
            raise InvalidArchitecture(f"expected {len(choices)} choices in {wanted}, got {told!r}")
        return genes
