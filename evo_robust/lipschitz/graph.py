"""How networks are wired, as plain data: which values are computed from which, through which modules.

Network modules need not know of this. :func:`graph_of` reads the wiring of their cells and phases, and what runs now.
For a network of your own use ``graph_of.register``, or ``cell_values.register`` for cells of a ``CellNetwork``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from evo_robust.lipschitz.operations import Factor, Step, Steps, steps_of
from evo_robust.parts.base import Shape
from evo_robust.spaces.cells.network import CellNetwork
from evo_robust.spaces.darts.network import DARTSCell
from evo_robust.spaces.nsga.network import Phase, PhasesNetwork
from evo_robust.spaces.robnet.codec import CONVOLUTION, IDENTITY
from evo_robust.spaces.robnet.network import RobNetCell

IMAGE = "image"
"""Name of the network's input."""

Join = Literal["sum", "concat", "beside"]
Role = Literal["outside", "input", "edge", "node", "cell", "block"]


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """weight · modules(source), one of the terms that a value is made of.

    Attributes:
        source: name of the value it reads.
        modules: applied one after the other.
        weight: > 0; a scalar tensor, where gradients are wanted.
        channels: how many of the source's channels it reads; all when not given.
        operation: name of the operation and
        place: (cell, edge) it stands on, where it is one that a search chooses.
    """

    source: str
    modules: tuple[nn.Module, ...] = ()
    weight: Tensor | float = 1.0
    channels: int | None = None
    operation: str | None = None
    place: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A tensor in the network.

    Attributes:
        name: differs from all others'.
        terms: what it is made of.
        join: ``sum`` of the terms, ``concat`` of their channels, or ``beside``: channels too, of terms that
            read different channels of one source.
        role: ``outside`` of cells; in a cell ``input`` (preprocessing), ``edge``, ``node``, ``cell`` (its output);
            ``block``: anything else.
        cell: index of the cell it belongs to.
    """

    name: str
    terms: tuple[Term, ...]
    join: Join = "sum"
    role: Role = "outside"
    cell: int | None = None


@functools.singledispatch
def graph_of(network: nn.Module, everything: bool = False) -> list[Value]:
    """The values of a network in an order that runs, the logits last.

    Args:
        network: of RobNet, DARTS or NSGA-Net phases, or a chain of layers.
        everything: take all operations that a supernet holds, each with weight 1, instead of those that run now.

    Raises:
        ValueError: the network's wiring is not known.
    """
    if isinstance(network, nn.Sequential):
        return [Value("logits", (Term(IMAGE, tuple(network)),))]
    raise ValueError(
        "expected a network of cells (RobNet, DARTS) or phases (NSGA-Net) or a chain of layers, whose wiring is known, "
        f"got {type(network).__name__}: register how it is wired (graph_of.register in evo_robust/lipschitz/graph.py)"
    )


@graph_of.register
def _of_cells(network: CellNetwork, everything: bool = False) -> list[Value]:
    values = [Value("stem", (Term(IMAGE, (network.normalize, network.stem)),))]
    if network.stem2 is not None:
        values.append(Value("stem 2", (Term("stem", (network.stem2,)),)))
    earlier, before = "stem", values[-1].name
    for index, cell in enumerate(network.cells):
        values += cell_values(cell, index, earlier, before, everything)
        earlier, before = before, f"cell {index}"
    values.append(Value("logits", (Term(before, (network.pool, nn.Flatten(), network.classifier)),)))
    return values


@graph_of.register
def _of_phases(network: PhasesNetwork, everything: bool = False) -> list[Value]:
    values: list[Value] = []
    source, cell = IMAGE, 0
    chain: list[nn.Module] = [network.normalize]
    for module in network.features:
        if isinstance(module, Phase):
            values.append(Value(f"phase {cell} input", (Term(source, tuple(chain)),), role="block", cell=cell))
            values += _of_phase(module, cell)
            source, chain, cell = f"cell {cell}", [], cell + 1
        else:
            chain.append(module)
    head = (*chain, network.pool, nn.Flatten(), network.classifier)
    return [*values, Value("logits", (Term(source, head),))]


def _of_phase(phase: Phase, cell: int) -> Iterator[Value]:
    """A phase's nodes: what they read concatenated, then their modules."""
    names = [f"phase {cell} input"]
    for node, sources in zip((*phase.nodes, phase.output), (*phase.inputs, phase.outputs), strict=True):
        joined = f"phase {cell} into {len(names)}"
        yield Value(joined, tuple(Term(names[i]) for i in sources), "concat", "block", cell)
        last = len(names) > len(phase.inputs)
        names.append(f"cell {cell}" if last else f"phase {cell} node {len(names)}")
        yield Value(names[-1], (Term(joined, (node,)),), role="cell" if last else "block", cell=cell)


# --- cells ----------------------------------------------------------------------------------------------------------


class _WiredCell(Protocol):
    """What cells of RobNet and DARTS have in common."""

    wiring: list[tuple[int, int]]

    @property
    def preprocess0(self) -> nn.Module: ...  # noqa: D102

    @property
    def preprocess1(self) -> nn.Module: ...  # noqa: D102


@dataclasses.dataclass
class _Edge:
    """What runs on an edge, and the term that it puts into its node.

    Attributes:
        term: read by the node.
        values: what has to be there before, in order.
    """

    term: Term
    values: tuple[Value, ...] = ()


class Nothing(nn.Module):
    """Stands for zeros of the input's height and width over ``stride``, ``channels`` of them (the input's if None)."""

    def __init__(self, channels: int | None = None, stride: int = 1) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride


@steps_of.register
def _nothing(module: Nothing, shape: Shape) -> Steps:
    channels, height, width = shape
    sides = -(-height // module.stride), -(-width // module.stride)
    return [Step(Factor(0.0, paper=0.0), shape)], (module.channels or channels, *sides)


@functools.singledispatch
def cell_values(cell: nn.Module, index: int, earlier: str, before: str, everything: bool) -> list[Value]:
    """The values of a cell, the last of them its output ``cell {index}``; none of an empty cell that nothing reads.

    Args:
        cell: the cell.
        index: its place in the network.
        earlier: name of the output of cell k−2.
        before: name of the output of cell k−1.
        everything: see :func:`graph_of`.

    Raises:
        ValueError: the cell's wiring is not known.
    """
    raise ValueError(f"expected cells of RobNet or DARTS, whose wiring is known, got {type(cell).__name__}")


@cell_values.register
def _of_robnet(cell: RobNetCell, index: int, earlier: str, before: str, everything: bool) -> list[Value]:
    # an identity of stride 1 needs no module, so every network has it
    codes = [IDENTITY | CONVOLUTION] * len(cell.wiring) if everything else cell.active
    if not any(codes):
        return []
    edges: list[list[_Edge]] = []
    for edge, (code, (source, _)) in enumerate(zip(codes, cell.wiring, strict=True)):
        here = functools.partial(Term, _node(index, source), place=(index, edge))
        terms = []
        if code & CONVOLUTION:
            terms.append(here((cell.convolutions[f"e{edge}"],), operation="conv"))
        if code & IDENTITY:
            reduced = (cell.identities[f"e{edge}"],) if f"e{edge}" in cell.identities else ()
            terms.append(here(reduced, operation="identity"))
        edges.append([_Edge(term) for term in terms])
    return _wired(cell, index, earlier, before, edges, Nothing())


@cell_values.register
def _of_darts(cell: DARTSCell, index: int, earlier: str, before: str, everything: bool) -> list[Value]:
    edges: list[list[_Edge]] = []
    one = torch.ones(())  # what an edge makes of it is its weight
    for edge, (source, _) in enumerate(cell.wiring):
        operations = getattr(cell, f"e{edge}", {})
        active = tuple(operations) if everything else cell.active[edge]
        if active is None:
            edges.append([])
            continue
        terms = tuple(
            Term(
                source=_node(index, source),
                modules=(operations[name],),
                weight=1.0 if everything else cell.weigh(edge, name, one),
                channels=cell.seen,
                operation=name,
                place=(index, edge),
            )
            for name in active
        )
        if cell.partial == 1:
            edges.append([_Edge(term) for term in terms])
        else:
            edges.append([_partial(cell, index, edge, terms, 1.0 if everything else cell.weigh_rest(edge, one))])
    return _wired(cell, index, earlier, before, edges, Nothing(cell.channels, cell.stride))


def _partial(cell: DARTSCell, index: int, edge: int, terms: tuple[Term, ...], whole: Tensor | float) -> _Edge:
    """An edge of PC-DARTS: operations on the first channels, the others pass by; then an order that moves nothing."""
    source = _node(index, cell.wiring[edge][0])
    halved = cell.stride == 2 and cell.wiring[edge][0] < 2
    name, front = f"cell {index} edge {edge}", f"cell {index} edge {edge} operations"
    # without operations (`none` alone) zeros stand in front
    some = terms or (Term(source, (Nothing(cell.seen, 2 if halved else 1),)),)
    rest = Term(source, (cell.halve,) if halved else (), whole, cell.channels - cell.seen)
    return _Edge(
        Term(name),
        (Value(front, some, "sum", "edge", index), Value(name, (Term(front), rest), "beside", "edge", index)),
    )


def _wired(
    cell: _WiredCell, index: int, earlier: str, before: str, edges: list[list[_Edge]], nothing: Nothing
) -> list[Value]:
    """Preprocessing, edges, nodes and output of a cell; nodes that nothing enters are zero, and so is what leaves them.

    Args:
        cell: tells wiring and preprocessing.
        index: its place in the network.
        earlier: name of the output of cell k−2.
        before: name of the output of cell k−1.
        edges: what runs on every edge.
        nothing: zeros like a node's, made from the output of cell k−1.
    """
    read = {source for runs, (source, _) in zip(edges, cell.wiring, strict=True) if runs}
    values: list[Value] = []
    for node, given in ((0, earlier), (1, before)):
        if node in read:
            preprocess = cell.preprocess1 if node else cell.preprocess0
            values.append(Value(_node(index, node), (Term(given, (preprocess,)),), role="input", cell=index))
    live = read & {0, 1}
    last = cell.wiring[-1][1]
    for target in range(2, last + 1):
        entering = [
            run
            for runs, (source, end) in zip(edges, cell.wiring, strict=True)
            if end == target and source in live
            for run in runs
        ]
        if entering:
            live.add(target)
            values += [value for run in entering for value in run.values]
            terms = tuple(run.term for run in entering)
            values.append(Value(_node(index, target), terms, role="node", cell=index))
    filled = [node for node in range(2, last + 1) if node in live]
    zeros = Term(_node(index, filled[0]), (Nothing(),)) if filled else Term(before, (nothing,))
    outputs = tuple(Term(_node(index, node)) if node in live else zeros for node in range(2, last + 1))
    return [*values, Value(f"cell {index}", outputs, "concat", "cell", index)]


def _node(index: int, node: int) -> str:
    return f"cell {index} node {node}"
