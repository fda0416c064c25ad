"""Spaces whose architectures are their genomes: the shortest way to a space of one's own."""

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
    """A space in which every genome is an architecture of its own: the tuple of its choices, written ``2-0-1``.

    A subclass says ``n_choices`` and ``build``; with ``network_arguments`` its networks are exported as Python files
    too. Where several genomes make one and the same network, derive from :class:`SearchSpace` instead, so that none is
    evaluated twice.
    """

    @property
    def blocks(self) -> tuple[slice, ...]:
        """See :attr:`SearchSpace.blocks`: each gene on its own."""
        return tuple(slice(gene, gene + 1) for gene in range(self.n_genes))

    def decode(self, genome: np.ndarray) -> tuple[int, ...]:
        """See :meth:`SearchSpace.decode`."""
        return self._checked(tuple(int(gene) for gene in genome), genome)

    def encode(self, architecture: Architecture) -> np.ndarray:
        """See :meth:`SearchSpace.encode`."""
        return np.array(architecture, dtype=int)

    def to_text(self, architecture: Architecture) -> str:
        """See :meth:`SearchSpace.to_text`: choices from the first gene on, such as ``2-0-1``."""
        return "-".join(map(str, self.encode(architecture)))

    def from_text(self, text: str) -> tuple[int, ...]:
        """See :meth:`SearchSpace.from_text`."""
        genes = text.split("-")
        if not all(gene.isascii() and gene.isdecimal() for gene in genes):
            raise InvalidArchitecture(f"expected whole numbers with - between them, such as 2-0-1, got {text!r}")
        return self._checked(tuple(map(int, genes)), text)

    def draw(self, architecture: Architecture, figure: Figure) -> None:
        """See :meth:`SearchSpace.draw`: each gene as a bar, its choices from 0 upwards."""
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
