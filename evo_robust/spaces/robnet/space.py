"""RobNet's search space: which operations run on the edges of a densely wired cell (Guo et al., CVPR 2020, §3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import chz
import numpy as np
from torch import nn

from evo_robust.spaces.base import Architecture, InvalidArchitecture, SearchSpace, check_sizes
from evo_robust.spaces.cells.layout import edges_of, n_edges
from evo_robust.spaces.cells.network import CellNetwork, frame_arguments
from evo_robust.spaces.robnet.codec import (
    CONVOLUTION,
    IDENTITY,
    Alpha,
    RobNetArchitecture,
    alpha_from_text,
    alpha_to_text,
    live_cell,
    live_cells,
)
from evo_robust.spaces.robnet.genotypes import NODES, PUBLISHED
from evo_robust.spaces.robnet.network import RobNetNetwork, RobNetSupernet
from evo_robust.spaces.structure import Budget, Operation, Structure, budget_range, draw_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evo_robust.spaces.supernet import Supernet

_PATIENCE = 10_000


@chz.chz
class RobNet(SearchSpace):
    """Cells in which every node may read every earlier one, through identity, separable convolution, both or neither.

    Edges that cannot carry anything from image to logits are not part of an architecture. A node without live inputs is
    zero, and so are the edges that leave it. With ``cells=free``, a cell is empty if it outputs zero or if no other
    cell reads it. Genomes that differ only in such edges are the same architecture. Nodes are not renumbered: every
    edge has its own weights in the supernet, so isomorphic cells are different networks there.
    """

    shares_weights: ClassVar[bool] = True

    cells: Literal["shared", "free"] = chz.field(
        default="shared", doc="one α for all cells (reductions too), or free: one for each cell"
    )
    channels: int = chz.field(default=16, doc="channels C of the first cells, >= 1; doubled at each reduction")
    layers: int = chz.field(default=8, doc="number of cells L, >= 1; those at L//3 and 2L//3 are reductions")
    nodes: int = chz.field(default=4, doc="intermediate nodes of a cell, >= 1")
    no_path: Literal["repair", "refuse"] = chz.field(
        default="repair",
        doc="a genome without a path from image to logits: repair (every cell without a path passes on the output of "
        "the cell before it, by an identity into its first node) or refuse",
    )
    final_channels: int = chz.field(default=36, doc="channels of networks trained after the search, >= 1")
    final_layers: int = chz.field(
        default=20, doc="cells of networks trained after the search, >= 1; cell-free networks keep theirs"
    )

    @chz.validate
    def _check_sizes(self) -> None:
        check_sizes(self, channels=1, layers=1, nodes=1, final_channels=1, final_layers=1)

    @property
    def n_described(self) -> int:
        """Number of cells that a genome describes: 1 where they share α."""
        return self.layers if self.cells == "free" else 1

    @property
    def n_choices(self) -> np.ndarray:
        """All 2: for each edge the identity bit, then the convolution bit; cell by cell."""
        return np.full(2 * n_edges(self.nodes) * self.n_described, 2)

    @property
    def blocks(self) -> tuple[slice, ...]:
        """The bits of each cell; with a shared α, the bits of the edges into each node."""
        if self.cells == "free":
            size = 2 * n_edges(self.nodes)
            return tuple(slice(i * size, (i + 1) * size) for i in range(self.layers))
        return tuple(slice(2 * n_edges(k), 2 * n_edges(k + 1)) for k in range(self.nodes))

    @property
    def gene_names(self) -> tuple[str, ...]:
        """Names such as ``e3 identity`` and ``e3 conv``, with the cell in front where cells are free."""
        cells = [f"cell {i} " for i in range(self.layers)] if self.cells == "free" else [""]
        edges = range(n_edges(self.nodes))
        return tuple(f"{cell}e{edge} {bit}" for cell in cells for edge in edges for bit in ("identity", "conv"))

    def decode(self, genome: np.ndarray) -> RobNetArchitecture:
        """Architecture of bits ``(n_genes,)``; a genome without a path is repaired or refused.

        Raises:
            InvalidArchitecture: these are no such bits, or there is no path from image to logits and ``no_path`` is
                ``refuse``.
        """
        architecture = self._live(self._alphas(genome))
        if architecture is None and self.no_path == "repair":
            architecture = self._live(self._alphas(self.repair(genome)))
        if architecture is None:
            raise InvalidArchitecture("expected a path from the image to the logits, got cells that put out zero")
        return architecture

    def _alphas(self, genome: np.ndarray) -> list[Alpha]:
        genome = np.asarray(genome)
        if genome.shape != (self.n_genes,) or not np.isin(genome, (0, 1)).all():
            raise InvalidArchitecture(f"expected {self.n_genes} genes of 0 or 1, got {genome!r}")
        codes = genome.reshape(self.n_described, -1, 2).astype(int) @ (IDENTITY, CONVOLUTION)
        return [tuple(alpha) for alpha in codes.tolist()]

    def _live(self, alphas: list[Alpha]) -> RobNetArchitecture | None:
        """The architecture of these α; None where nothing reaches the output."""
        free = self.cells == "free"
        kept = live_cells(alphas, self.nodes) if free else (live_cell(alphas[0], self.nodes),)
        return RobNetArchitecture(kept) if any(kept[-1]) else None

    def encode(self, architecture: Architecture) -> np.ndarray:
        """Bits ``(n_genes,)`` of an architecture.

        Raises:
            InvalidArchitecture: its cells or nodes are not those of this space.
        """
        codes = np.array(self._cells(architecture))
        return np.stack((codes // IDENTITY, codes % IDENTITY), -1).reshape(-1)

    def _cells(self, architecture: Architecture) -> tuple[Alpha, ...]:
        if not isinstance(architecture, RobNetArchitecture):
            raise InvalidArchitecture(f"expected an architecture of RobNet, got {architecture!r}")
        sizes = [len(alpha) for alpha in architecture.cells]
        if sizes != [n_edges(self.nodes)] * self.n_described:
            raise InvalidArchitecture(
                f"expected {self.n_described} cells of {n_edges(self.nodes)} edges, got cells of {sizes}"
            )
        return architecture.cells

    def to_text(self, architecture: Architecture) -> str:
        """``11 10 00 …``, one pair (identity, convolution) per edge; `` / `` between the cells where they are free."""
        return " / ".join(alpha_to_text(alpha) for alpha in self._cells(architecture))

    def from_text(self, text: str) -> RobNetArchitecture:
        """Architecture of a notation. Nodes may be separated by ``|``; cells are separated by ``/`` or new lines.

        Raises:
            InvalidArchitecture: the text cannot be read, or has no path from image to logits (a text is taken
                literally and never repaired).
        """
        cells = [part for part in text.replace("\n", "/").split("/") if part.strip()]
        if len(cells) != self.n_described:
            raise InvalidArchitecture(
                f"expected {self.n_described} cell{'s' * (self.n_described > 1)} (cells={self.cells}), "
                f"got {len(cells)}: separate cells with /"
            )
        try:
            alphas = [alpha_from_text(cell, self.nodes) for cell in cells]
        except ValueError as error:
            raise InvalidArchitecture(str(error)) from None
        architecture = self._live(alphas)
        if architecture is None:
            raise InvalidArchitecture(f"expected a path from the image to the logits, got none in {text.strip()!r}")
        return architecture

    # --- networks ---------------------------------------------------------------------------------------------------

    def build(self, architecture: Architecture, n_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
        """Network from images ``(n, *in_shape)`` in [0,1] to logits ``(n, n_classes)``, weights from torch's generator.

        Images with a side of more than 64 pixels get ImageNet's stem of three convolutions of stride 2.
        """
        return RobNetNetwork(**self.network_arguments(architecture, n_classes, in_shape))

    def network_arguments(
        self, architecture: Architecture, n_classes: int, in_shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Arguments of :class:`RobNetNetwork`, literals whose ``repr`` can be written into a file."""
        alphas = self._cells(architecture)
        return {
            "cells": [alpha_to_text(alpha) for alpha in alphas] * (self.layers // len(alphas)),
            "nodes": self.nodes,
            "channels": self.channels,
            **frame_arguments(self.layers, n_classes, in_shape),
        }

    def supernet(self, n_classes: int, in_shape: tuple[int, int, int]) -> Supernet:
        """See :meth:`SearchSpace.supernet`; all operations run until a path is chosen."""
        return RobNetSupernet(**self.network_arguments(self.largest(), n_classes, in_shape))

    def cells_of(self, network: nn.Module) -> Sequence[nn.Module]:
        """See :meth:`SearchSpace.cells_of`."""
        return tuple(network.cells) if isinstance(network, CellNetwork) else ()

    def for_final_training(self) -> RobNet:
        """The same space with the paper's size after the search: C=36, L=20 (cell-free networks keep their L)."""
        layers = self.layers if self.cells == "free" else self.final_layers
        return chz.replace(self, channels=self.final_channels, layers=layers)

    def draw(self, architecture: Architecture, figure: Figure) -> None:
        """Draw the cell, or all cells where they are free."""
        from evo_robust.spaces.robnet.drawing import draw_cells  # matplotlib only where pictures are asked for

        draw_cells(figure, self._cells(architecture), self.nodes)

    # --- drawing genomes --------------------------------------------------------------------------------------------

    def repair(self, genome: np.ndarray) -> np.ndarray:
        """The genome itself; where nothing reaches the logits, one with an identity through every empty cell."""
        alphas = self._alphas(genome)
        if self.no_path == "refuse" or self._live(alphas) is not None:
            return genome
        # edge 1 is node 1 → node 2: the cell passes on the output of the cell before it
        repaired = [a if any(live_cell(a, self.nodes)) else (0, IDENTITY, *a[2:]) for a in alphas]
        if self._live(repaired) is None:  # some cells read only empty ones
            repaired = [(a[0], a[1] | IDENTITY, *a[2:]) for a in alphas]
        codes = np.array(repaired)
        return np.stack((codes // IDENTITY, codes % IDENTITY), -1).reshape(-1).astype(genome.dtype)

    def seeds(self) -> tuple[RobNetArchitecture, ...]:
        """The published cells that fit: shared cells always; free cells where the number of cells is the same."""
        if self.nodes != NODES:
            return ()
        found = []
        for published in PUBLISHED.values():
            alphas = [alpha_from_text(text, NODES) for text in published.alphas]
            if len(alphas) in (1, self.n_described):
                found.append(self._live(alphas * (self.n_described // len(alphas))))
        return tuple(dict.fromkeys(architecture for architecture in found if architecture is not None))

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A uniform random genome ``(n_genes,)``, repaired; drawn again where repair is refused."""
        genome = super().sample(rng)
        while self._live(self._alphas(genome)) is None:
            genome = super().sample(rng)
        return genome

    def draw_path(self, rng: np.random.Generator, keep: float = 0.5) -> RobNetArchitecture:
        """See :meth:`SearchSpace.draw_path`: every bit of α stays with probability ``keep``.

        Raises:
            ValueError: ``keep`` is so small that no draw had a path from image to logits.
        """
        for _ in range(_PATIENCE):
            bits = (rng.random(self.n_genes) < keep).astype(int)
            architecture = self._live(self._alphas(bits))
            if architecture is not None:
                return architecture
        raise ValueError(f"none of {_PATIENCE} draws with keep={keep:g} has a path from image to logits: raise keep")

    def largest(self) -> RobNetArchitecture:
        """All operations on every edge."""
        return RobNetArchitecture(((IDENTITY | CONVOLUTION,) * n_edges(self.nodes),) * self.n_described)

    def draw_smallest(self, rng: np.random.Generator) -> RobNetArchitecture:
        """Architecture with one operation into every node of every cell: on a random edge, identity or convolution."""
        while True:
            alphas = []
            for _ in range(self.n_described):
                codes = np.zeros(n_edges(self.nodes), dtype=int)
                for node in range(self.nodes):
                    codes[n_edges(node) + rng.integers(node + 2)] = rng.choice((IDENTITY, CONVOLUTION))
                alphas.append(tuple(codes.tolist()))
            architecture = self._live(alphas)
            if architecture is not None:
                return architecture

    def structure(self, architecture: Architecture) -> Structure:
        """Operations edge by edge. Density counts live operations only; where cells are free, it is the mean over them.

        The paper's D = Σα / (2·edges) (eq. 2) also counts edges that carry nothing: see :meth:`genome_density`.
        """
        alphas = self._cells(architecture)
        operations = [
            Operation(name, cell, source, target, convolution=bit == CONVOLUTION)
            for cell, alpha in enumerate(alphas)
            for code, (source, target) in zip(alpha, edges_of(self.nodes), strict=True)
            for name, bit in (("identity", IDENTITY), ("conv", CONVOLUTION))
            if code & bit
        ]
        places = n_edges(self.nodes)
        return Structure(tuple(operations), len(alphas), places, len(operations) / (2 * places * len(alphas)))

    def genome_density(self, genome: np.ndarray) -> float:
        """The paper's D = Σα / (2·edges) of bits ``(n_genes,)`` (eq. 2); where cells are free, the mean over them.

        7.6% of uniform random genomes have edges that carry nothing, so their networks' own density is smaller. A
        genome without a path counts before its repair.
        """
        return float(np.mean(genome))

    def sample_in(self, rng: np.random.Generator, budget: Budget) -> np.ndarray:
        """Random bits, uniform among those of the budget; where cells are free, every cell has the budget.

        Uniform bits give a large budget only 3% of the time, so the number of convolutions is drawn first.
        """
        places = n_edges(self.nodes)
        low, high = budget_range(budget, places)
        for _ in range(_PATIENCE):
            bits = rng.integers(0, 2, (self.n_described, places, 2))
            for cell in bits:
                cell[:, 1] = 0
                cell[rng.choice(places, draw_count(rng, low, high, places), replace=False), 1] = 1
            genome = bits.reshape(-1)
            architecture = self._live(self._alphas(genome))
            # edges that carry nothing do not count, so a few draws miss the budget
            if architecture is not None and self.structure(architecture).budget == budget:
                return genome
        raise ValueError(f"none of {_PATIENCE} draws of RobNet(nodes={self.nodes}) has a {budget} budget")
