"""DARTS's search space: a normal and a reduction cell of eight operations (Liu et al., ICLR 2019, §2.1)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import chz
import numpy as np
from torch import nn

from evo_robust.parts.base import nearest, refuse_unless
from evo_robust.spaces.base import Architecture, InvalidArchitecture, SearchSpace, check_sizes
from evo_robust.spaces.cells.layout import edges_of, n_edges
from evo_robust.spaces.cells.network import CellNetwork, frame_arguments
from evo_robust.spaces.darts.codec import (
    CONVOLUTIONS,
    NONE,
    OPERATIONS,
    Cell,
    DARTSArchitecture,
    canonical_cell,
    cell_to_text,
    cells_from_text,
    full_cell,
    genotype_from_python,
    genotype_to_python,
    is_python,
)
from evo_robust.spaces.darts.genotypes import NODES, PUBLISHED
from evo_robust.spaces.darts.network import DARTSNetwork
from evo_robust.spaces.darts.supernet import DARTSSupernet
from evo_robust.spaces.structure import Operation, Structure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evo_robust.spaces.supernet import Supernet


@chz.chz
class DARTS(SearchSpace):
    """Cells in which every node is the sum of two operations, on the outputs of two earlier nodes.

    Node 0 is the output of cell k−2, node 1 that of cell k−1; a cell outputs all its intermediate nodes. The order of a
    node's two inputs does not matter. Nodes are not renumbered: every edge has its own weights in the supernet, so
    isomorphic cells are different networks there.

    A genome describes the normal cell and then the reduction cell (or one cell for both), node by node. First comes the
    pair of predecessors, as an index into (0,1), (0,2), (1,2), …; the first node has no choice, and no such gene. Then
    come the operations on the earlier and the later predecessor, as indices into the operations other than ``none``.
    """

    shares_weights: ClassVar[bool] = True

    cells: Literal["separate", "shared"] = chz.field(
        default="separate", doc="separate: normal and reduction cells differ; shared: one description for both"
    )
    operations: tuple[str, ...] = chz.field(
        default=OPERATIONS, doc="names of the operations, at least one besides none; a mixture's columns, in this order"
    )
    channels: int = chz.field(default=16, doc="channels C of the first cells, >= 1; doubled at each reduction")
    layers: int = chz.field(default=8, doc="number of cells L, >= 1; those at L//3 and 2L//3 are reductions")
    nodes: int = chz.field(default=4, doc="intermediate nodes of a cell, >= 1")
    partial: int = chz.field(
        default=1,
        doc="K of PC-DARTS, a divisor of channels: operations process the first C/K channels, the others bypass them; "
        "only in networks of the search",
    )
    final: bool = chz.field(
        default=False,
        doc="build networks for training after the search: affine batch normalisation, none after pools; otherwise a "
        "cell's batch normalisation is not affine",
    )
    final_channels: int = chz.field(default=36, doc="channels of networks trained after the search, >= 1")
    final_layers: int = chz.field(default=20, doc="cells of networks trained after the search, >= 1")

    @chz.validate
    def _check_sizes(self) -> None:
        check_sizes(self, channels=1, layers=1, nodes=1, final_channels=1, final_layers=1)
        refuse_unless(
            self,
            ("partial", self.partial >= 1, ">= 1"),
            ("partial", self.partial < 1 or self.channels % self.partial == 0, f"to divide channels={self.channels}"),
            ("partial", self.partial == 1 or not self.final, "= 1 in final networks"),
        )

    @chz.validate
    def _check_operations(self) -> None:
        unknown = [name for name in self.operations if name not in OPERATIONS]
        if unknown:
            raise ValueError(f"expected names of operations, got {unknown[0]!r}: {nearest(unknown[0], OPERATIONS)}")
        twice = [name for name in self.operations if self.operations.count(name) > 1]
        if twice:
            raise ValueError(f"expected operations that differ, got {twice[0]!r} {len(twice)} times")
        if not self._chosen:
            raise ValueError(f"expected operations with at least one besides none, got {self.operations!r}")

    @property
    def _chosen(self) -> tuple[str, ...]:
        """Operations that an architecture may have."""
        return tuple(name for name in self.operations if name != NONE)

    @property
    def n_described(self) -> int:
        """Number of cells that a genome describes: 1 where they are shared."""
        return 1 if self.cells == "shared" else 2

    # --- genomes and notation ---------------------------------------------------------------------------------------

    @property
    def n_choices(self) -> np.ndarray:
        """For each node the number of pairs of predecessors (not for the first), then twice that of operations."""
        one = []
        for node in range(self.nodes):
            one += [len(_pairs(node))] * (node > 0) + [len(self._chosen)] * 2
        return np.array(one * self.n_described)

    @property
    def blocks(self) -> tuple[slice, ...]:
        """The genes of each node."""
        ends = np.cumsum(([2] + [3] * (self.nodes - 1)) * self.n_described)
        return tuple(slice(int(end) - (3 if k % self.nodes else 2), int(end)) for k, end in enumerate(ends))

    @property
    def gene_names(self) -> tuple[str, ...]:
        """Names such as ``normal node 3 inputs``, ``… earlier`` and ``… later``; no ``normal`` for shared cells."""
        cells = [""] if self.cells == "shared" else ["normal ", "reduction "]
        genes = [(node + 2, gene) for node in range(self.nodes) for gene in ("inputs", "earlier", "later")]
        return tuple(f"{cell}node {node} {gene}" for cell in cells for node, gene in genes if (node, gene) != _FIXED)

    def decode(self, genome: np.ndarray) -> DARTSArchitecture:
        """Architecture of a genome of whole numbers ``(n_genes,)``.

        Raises:
            InvalidArchitecture: the numbers are no genome of this space.
        """
        genome = np.asarray(genome)
        if genome.shape != (self.n_genes,) or not ((genome >= 0) & (genome < self.n_choices)).all():
            raise InvalidArchitecture(f"expected {self.n_genes} genes below {self.n_choices}, got {genome!r}")
        genes = iter(genome.tolist())
        cells = [tuple(self._node(node, genes) for node in range(self.nodes)) for _ in range(self.n_described)]
        return DARTSArchitecture(cells[0], cells[-1])

    def _node(self, node: int, genes: Any) -> tuple[tuple[str, int], ...]:
        """The pairs of a node, counted from 0, from the next genes."""
        sources = _pairs(node)[int(next(genes)) if node else 0]
        return tuple((self._chosen[int(next(genes))], source) for source in sources)

    def encode(self, architecture: Architecture) -> np.ndarray:
        """Genome ``(n_genes,)`` of an architecture.

        Raises:
            InvalidArchitecture: its nodes or operations are not those of this space.
        """
        genes: list[int] = []
        for cell in self._described(architecture):
            for node, ((first, low), (second, high)) in enumerate(cell):
                genes += [_pairs(node).index((low, high))] * (node > 0)
                genes += [self._chosen.index(first), self._chosen.index(second)]
        return np.array(genes)

    def _described(self, architecture: Architecture) -> tuple[Cell, ...]:
        """The cells that a genome describes, checked."""
        if not isinstance(architecture, DARTSArchitecture):
            raise InvalidArchitecture(f"expected an architecture of DARTS, got {architecture!r}")
        cells = architecture.normal, architecture.reduction
        for cell in cells:
            if len(cell) != self.nodes:
                raise InvalidArchitecture(f"expected cells of {self.nodes} nodes, got one of {len(cell)}")
            try:
                canonical = canonical_cell(cell, self.operations)
            except ValueError as error:
                raise InvalidArchitecture(str(error)) from None
            if canonical != cell:
                raise InvalidArchitecture(f"expected each node's inputs in order, as from_text gives them, got {cell}")
        return self._one_if_shared(*cells)

    def _one_if_shared(self, normal: Cell, reduction: Cell) -> tuple[Cell, ...]:
        if self.cells == "separate":
            return normal, reduction
        if normal != reduction:
            raise InvalidArchitecture("expected equal normal and reduction cells (cells=shared), got two that differ")
        return (normal,)

    def to_text(self, architecture: Architecture) -> str:
        """``normal (sep_conv_3x3,0)(skip_connect,1) | … / reduction …``; without these words where it is shared."""
        cells = [cell_to_text(cell) for cell in self._described(architecture)]
        return cells[0] if len(cells) == 1 else f"normal {cells[0]} / reduction {cells[1]}"

    def to_genotype(self, architecture: Architecture) -> str:
        """The public codes' notation, ``Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), …)``."""
        cells = self._described(architecture)
        return genotype_to_python(cells[0], cells[-1])

    def from_text(self, text: str) -> DARTSArchitecture:
        """Architecture of a notation as from ``to_text`` or ``to_genotype``; a node's inputs may be in any order.

        Operations may have short names: ``sep3``, ``sep5``, ``dil3``, ``dil5``, ``max``, ``avg``, ``skip``.

        Raises:
            InvalidArchitecture: the text cannot be read, or is no architecture of this space.
        """
        try:
            if is_python(text):
                cells = self._one_if_shared(*genotype_from_python(text, self.nodes, self.operations))
            else:
                cells = cells_from_text(text, self.nodes, self.operations, self.n_described)
        except InvalidArchitecture:
            raise
        except ValueError as error:
            raise InvalidArchitecture(str(error)) from None
        return DARTSArchitecture(cells[0], cells[-1])

    # --- networks ---------------------------------------------------------------------------------------------------

    def build(self, architecture: Architecture, n_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
        """Network from images ``(n, *in_shape)`` in [0,1] to logits ``(n, n_classes)``, weights from torch's generator.

        Images with a side of more than 64 pixels get ImageNet's stem of three convolutions of stride 2.
        """
        return DARTSNetwork(**self.network_arguments(architecture, n_classes, in_shape))

    def network_arguments(
        self, architecture: Architecture, n_classes: int, in_shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Arguments of :class:`DARTSNetwork`, literals whose ``repr`` can be written into a file."""
        cells = self._described(architecture)
        return self._arguments(cells[0], cells[-1], n_classes, in_shape)

    def supernet_arguments(self, n_classes: int, in_shape: tuple[int, int, int]) -> dict[str, Any]:
        """Arguments of :class:`DARTSSupernet`, literals."""
        cell = full_cell(self.operations, self.nodes)
        return {"operations": self.operations, **self._arguments(cell, cell, n_classes, in_shape)}

    def _arguments(
        self, normal: Cell, reduction: Cell, n_classes: int, in_shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        sizes = {name: getattr(self, name) for name in ("layers", "channels", "partial", "final")}
        frame = frame_arguments(self.layers, n_classes, in_shape)
        return {"normal": normal, "reduction": reduction, **sizes, **frame}

    def supernet(self, n_classes: int, in_shape: tuple[int, int, int]) -> Supernet:
        """See :meth:`SearchSpace.supernet`; it accepts mixtures too. All operations run until a path is chosen."""
        return DARTSSupernet(**self.supernet_arguments(n_classes, in_shape))

    def cells_of(self, network: nn.Module) -> Sequence[nn.Module]:
        """See :meth:`SearchSpace.cells_of`."""
        return tuple(network.cells) if isinstance(network, CellNetwork) else ()

    def for_final_training(self) -> DARTS:
        """The space of the papers' networks after the search: C=36, L=20, affine batch normalisation, all channels."""
        return chz.replace(self, channels=self.final_channels, layers=self.final_layers, partial=1, final=True)

    def draw(self, architecture: Architecture, figure: Figure) -> None:
        """Draw the normal and the reduction cell, or the shared cell."""
        from evo_robust.spaces.darts.drawing import draw_cells  # matplotlib only where pictures are asked for

        draw_cells(figure, self._described(architecture))

    # --- mixtures ---------------------------------------------------------------------------------------------------

    @property
    def mixture_shape(self) -> tuple[int, int, int]:
        """(described cells, edges, operations): (2, 14, 8) with the defaults."""
        return self.n_described, n_edges(self.nodes), len(self.operations)

    @property
    def mixture_operations(self) -> tuple[str, ...]:
        """See :attr:`SearchSpace.mixture_operations`."""
        return self.operations

    @property
    def mixed_channels(self) -> int:
        """See :attr:`SearchSpace.mixed_channels`: ``partial``."""
        return self.partial

    def mixture_edges(self) -> list[tuple[int, int]]:
        """(source, target) of every edge, in order: (0,2), (1,2), (0,3), …."""
        return edges_of(self.nodes)

    @property
    def mixture_choices(self) -> np.ndarray:
        """All but ``none``."""
        return np.array([name != NONE for name in self.operations])

    def cell_descriptions(self, network: nn.Module) -> list[int]:
        """See :meth:`SearchSpace.cell_descriptions`: reductions follow the last one."""
        last = self.mixture_shape[0] - 1
        return [last if cell.stride == 2 else 0 for cell in self.cells_of(network)]

    def derive(self, weights: np.ndarray) -> DARTSArchitecture:
        """The architecture of the largest weights (DARTS §2.4).

        Every edge gets the operation with its largest weight, ``none`` left out; every node keeps its two best edges.
        Of equal weights the first wins.

        Args:
            weights: ``(cells, edges, operations)`` as in ``mixture_shape``; an edge's own weight is multiplied in.

        Raises:
            ValueError: the shape is another one, or weights are not numbers.
        """
        weights = np.asarray(weights)
        if weights.shape != self.mixture_shape:
            raise ValueError(f"expected weights of shape {self.mixture_shape}, got {weights.shape}")
        if np.isnan(weights).any():
            raise ValueError(f"expected weights that are numbers, got {np.isnan(weights).sum()} NaN")
        columns = [self.operations.index(name) for name in self._chosen]
        cells = [self._derived(cell[:, columns]) for cell in weights]
        return DARTSArchitecture(cells[0], cells[-1])

    def weights_of(self, architecture: Architecture) -> np.ndarray:
        """See :meth:`SearchSpace.weights_of`: 1 for the two operations of every node."""
        cells = self._described(architecture)
        weights = np.zeros(self.mixture_shape)
        for cell, own in zip(cells, weights, strict=True):
            for node, pairs in enumerate(cell):
                for name, source in pairs:
                    own[n_edges(node) + source, self.operations.index(name)] = 1.0
        return weights

    def _derived(self, weights: np.ndarray) -> Cell:
        best, strength = weights.argmax(1), weights.max(1)
        cell = []
        for node in range(self.nodes):
            first = n_edges(node)
            strongest = np.argsort(-strength[first : first + node + 2], kind="stable")[:2]
            cell.append(tuple((self._chosen[best[first + s]], s) for s in sorted(strongest.tolist())))
        return tuple(cell)

    # --- special architectures --------------------------------------------------------------------------------------

    def seeds(self) -> tuple[DARTSArchitecture, ...]:
        """The published cells, where nodes and operations fit and cells are not shared."""
        if self.nodes != NODES or self.cells == "shared":
            return ()
        found = []
        for published in PUBLISHED.values():
            cells = cells_from_text(published.text, NODES, OPERATIONS, 2)
            if all(name in self.operations for cell in cells for pairs in cell for name, _ in pairs):
                found.append(DARTSArchitecture(*cells))
        return tuple(dict.fromkeys(found))

    def largest(self) -> DARTSArchitecture:
        """The operation with most weights, everywhere on edges from nodes 0 and 1: no architecture has more weights."""
        name = next((name for name in (*CONVOLUTIONS, "skip_connect") if name in self._chosen), self._chosen[0])
        cell = (((name, 0), (name, 1)),) * self.nodes
        return DARTSArchitecture(cell, cell)

    def draw_smallest(self, rng: np.random.Generator) -> DARTSArchitecture:
        """A random architecture without convolutions; where the space has only these, with the smallest one."""
        light = [name for name in self._chosen if name not in CONVOLUTIONS]
        light = light or [max(self._chosen, key=CONVOLUTIONS.index)]
        cells = [self._random_cell(rng, light) for _ in range(self.n_described)]
        return DARTSArchitecture(cells[0], cells[-1])

    def _random_cell(self, rng: np.random.Generator, names: Sequence[str]) -> Cell:
        pairs = [_pairs(node) for node in range(self.nodes)]
        sources = [choices[rng.integers(len(choices))] for choices in pairs]
        return tuple(tuple((names[int(rng.integers(len(names)))], s) for s in two) for two in sources)

    def structure(self, architecture: Architecture) -> Structure:
        """Operations edge by edge; each of them is a place for a convolution.

        All architectures have the same number of operations. Density is therefore the share of operations with weights
        (convolutions, and in the reduction cell the skips that halve their input). It is the mean of both cells.
        """
        cells = self._described(architecture)
        operations = [
            Operation(name, index, source, node, name in CONVOLUTIONS)
            for index, cell in enumerate(cells)
            for node, pairs in enumerate(cell, 2)
            for name, source in pairs
        ]
        places = 2 * self.nodes
        weighted = _with_weights(cells[0], stride=1) + _with_weights(cells[-1], stride=2)
        return Structure(tuple(operations), len(cells), places, weighted / (2 * places))


_FIXED = (2, "inputs")
"""The first node has no choice of inputs."""


def _pairs(node: int) -> list[tuple[int, int]]:
    """Pairs of predecessors of an intermediate node, counted from 0, in order."""
    return list(itertools.combinations(range(node + 2), 2))


def _with_weights(cell: Cell, stride: int) -> int:
    """Number of operations with weights in a cell whose edges from nodes 0 and 1 have ``stride``."""
    halving = stride == 2
    flat = [pair for pairs in cell for pair in pairs]
    return sum(name in CONVOLUTIONS or (name == "skip_connect" and source < 2 and halving) for name, source in flat)
