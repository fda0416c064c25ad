"""DARTS's cells: names of the operations, and their notations.

Keep this module to the standard library: ``export`` copies what it needs of it into stand-alone files.

A cell has one tuple of (operation, predecessor) pairs per intermediate node. Predecessor 0 is the output of cell k−2, 1
that of cell k−1, 2 the first intermediate node, and so on. In an architecture every node has two pairs, in the order of
their predecessors; in a supernet it has all pairs.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import operator
import re
from collections.abc import Sequence

from evo_robust.spaces.cells.layout import n_edges

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The operations of DARTS (Liu et al., ICLR 2019), in the order of the public code."""

NONE = "none"

CONVOLUTIONS = ("sep_conv_5x5", "sep_conv_3x3", "dil_conv_5x5", "dil_conv_3x3")
"""Operations with weights at every stride, those with most weights first."""

SHORT = {
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
}
"""Short names that notations may use."""

Cell = tuple[tuple[tuple[str, int], ...], ...]


@dataclasses.dataclass(frozen=True)
class DARTSArchitecture:
    """Two cells, each a tuple of nodes, each two pairs (operation, predecessor) in the order of the predecessors.

    Attributes:
        normal: the normal cell.
        reduction: the reduction cell; the same where cells are shared.
    """

    normal: Cell
    reduction: Cell


_WORD = re.compile(r"^\s*(normal|reduction|reduce)\b\s*:?")
_PAIR = r"\(\s*['\"]?(\w+)['\"]?\s*,\s*(\d+)\s*\)"


def edge_operations(cell: Cell) -> list[tuple[str, ...]]:
    """Names of the operations on every edge of the densely connected cell, in the order of its edges."""
    found: list[tuple[str, ...]] = [()] * n_edges(len(cell))
    for index, pairs in enumerate(cell):
        for name, source in pairs:
            found[n_edges(index) + source] += (name,)
    return found


def full_cell(operations: Sequence[str], nodes: int) -> Cell:
    """The supernet's cell: every operation but ``none`` on every edge."""
    names = [name for name in operations if name != NONE]
    return tuple(tuple((name, source) for source in range(i + 2) for name in names) for i in range(nodes))


def cell_to_text(cell: Cell) -> str:
    """``(sep_conv_3x3,0)(skip_connect,1) | …``, one pair per input, ``|`` between the nodes."""
    return " | ".join("".join(f"({name},{source})" for name, source in pairs) for pairs in cell)


def cell_from_text(text: str, nodes: int, operations: Sequence[str]) -> Cell:
    """The cell of a notation, with pairs in any order; see :func:`canonical_cell` for what is refused.

    Raises:
        ValueError: the text cannot be read.

    Example:
        >>> cell_from_text("(skip,1)(sep3,0)", 1, OPERATIONS)
        ((('sep_conv_3x3', 0), ('skip_connect', 1)),)
    """
    parts = text.split("|")
    if len(parts) != nodes:
        raise ValueError(f"expected {nodes} nodes separated by |, got {len(parts)} in {text.strip()!r}")
    wrong = next((part.strip() for part in parts if not re.fullmatch(rf"\s*({_PAIR}\s*)*", part)), None)
    if wrong is not None:
        raise ValueError(f"expected pairs such as (sep_conv_3x3,0)(skip_connect,1) for every node, got {wrong!r}")
    pairs = [[(name, int(source)) for name, source in re.findall(_PAIR, part)] for part in parts]
    return canonical_cell(pairs, operations)


def cells_from_text(text: str, nodes: int, operations: Sequence[str], n_cells: int) -> tuple[Cell, ...]:
    """The cells of a notation, separated by ``/`` or new lines; two cells may be marked normal and reduction.

    Raises:
        ValueError: there are not ``n_cells`` of them, or one cannot be read.
    """
    parts = [part for part in re.split(r"[/\n]", text) if part.strip()]
    if len(parts) != n_cells:
        expected = "the shared cell alone" if n_cells == 1 else "a normal and a reduction cell with / between them"
        raise ValueError(f"expected {expected}, got {len(parts)} cell{'s' * (len(parts) != 1)} in {text.strip()!r}")
    if n_cells == 1:
        return (cell_from_text(parts[0], nodes, operations),)
    found: dict[str, Cell] = {}
    for part, kind in zip(parts, ("normal", "reduction"), strict=True):
        word = _WORD.match(part)
        kind = kind if word is None else "normal" if word[1] == "normal" else "reduction"
        found[kind] = cell_from_text(_WORD.sub("", part), nodes, operations)
    if len(found) < 2:
        raise ValueError(f"expected one normal and one reduction cell, got two of a kind in {text.strip()!r}")
    return found["normal"], found["reduction"]


def canonical_cell(nodes: Sequence[Sequence[tuple[str, int]]], operations: Sequence[str]) -> Cell:
    """The cell with full names, each node's two pairs in the order of their predecessors.

    Args:
        nodes: pairs of every node, operations by full or short name.
        operations: names of the allowed operations.

    Raises:
        ValueError: an operation is not allowed or is ``none``, a predecessor comes too late, or a node has not two
            different predecessors.
    """
    return tuple(_canonical_node(index + 2, pairs, operations) for index, pairs in enumerate(nodes))


def _canonical_node(
    node: int, pairs: Sequence[tuple[str, int]], operations: Sequence[str]
) -> tuple[tuple[str, int], ...]:
    named = sorted(((_full_name(name, operations), source) for name, source in pairs), key=lambda pair: pair[1])
    sources = [source for _, source in named]
    if len(sources) != 2:
        raise ValueError(f"expected two inputs of node {node}, got {len(sources)}")
    late = [source for source in sources if not 0 <= source < node]
    if late:
        raise ValueError(f"expected predecessors 0 to {node - 1} of node {node}, got {late[0]}")
    if sources[0] == sources[1]:
        raise ValueError(
            f"expected two different predecessors of node {node}, got {sources[0]} twice: an edge carries one operation"
        )
    return tuple(named)


def _full_name(name: str, operations: Sequence[str]) -> str:
    full = SHORT.get(name, name)
    if full == NONE:
        raise ValueError("expected an operation that carries something, got none: leave its edge out")
    if full in operations:
        return full
    known = [option for option in operations if option != NONE]
    close = [] if full in OPERATIONS else difflib.get_close_matches(full, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"this space has {', '.join(known)}"
    raise ValueError(f"expected an operation of the space, got {name!r}: {hint}")


# --- a genotype of two cells ------------------------------------------------------------------------------------------


def is_python(text: str) -> bool:
    """Whether a text is a genotype in the notation of the public codes."""
    return "Genotype" in text or "normal_concat" in text


_KEYWORDS = ("normal", "normal_concat", "reduce", "reduce_concat")


def genotype_to_python(normal: Cell, reduction: Cell) -> str:
    """The public codes' notation, ``Genotype(normal=[…], normal_concat=range(2, 6), reduce=[…], reduce_concat=…)``."""
    concat = f"range(2, {len(normal) + 2})"
    lists = [repr([pair for pairs in cell for pair in pairs]) for cell in (normal, reduction)]
    return f"Genotype(normal={lists[0]}, normal_concat={concat}, reduce={lists[1]}, reduce_concat={concat})"


def genotype_from_python(text: str, nodes: int, operations: Sequence[str]) -> tuple[Cell, Cell]:
    """Normal and reduction cell of the public codes' notation; ``NAME =`` may come first.

    Raises:
        ValueError: the text cannot be read, or its cells do not output all ``nodes`` intermediate nodes.
    """
    call = _call(text)
    if call is None or call.args or {keyword.arg for keyword in call.keywords} != set(_KEYWORDS):
        concat = f"range(2, {nodes + 2})"
        raise ValueError(
            f"expected Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat={concat}, reduce=[…], "
            f"reduce_concat={concat}), got {text.strip()!r}"
        )
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    for key in ("normal_concat", "reduce_concat"):
        written = ast.unparse(given[key])
        if written not in (f"range(2, {nodes + 2})", str(list(range(2, nodes + 2)))):
            raise ValueError(f"expected cells that output all nodes, {key}=range(2, {nodes + 2}), got {written}")
    normal, reduction = (_pairs(given[key], nodes) for key in ("normal", "reduce"))
    return canonical_cell(normal, operations), canonical_cell(reduction, operations)


def _call(text: str) -> ast.Call | None:
    """The Python call in a text, without ``NAME =`` before it; None where the text is no call."""
    try:
        call = ast.parse(re.sub(r"^\s*\w+\s*=(?!=)", "", text).strip(), mode="eval").body
    except SyntaxError:
        return None
    return call if isinstance(call, ast.Call) else None


def _pairs(node: ast.expr, nodes: int) -> list[list[tuple[str, int]]]:
    """The pairs of every node, from a flat list of (operation, predecessor)."""
    try:
        flat = [(str(name), operator.index(source)) for name, source in ast.literal_eval(node)]
    except (TypeError, ValueError):
        raise ValueError(f"expected pairs such as ('sep_conv_3x3', 0), got {ast.unparse(node)}") from None
    if len(flat) != 2 * nodes:
        raise ValueError(f"expected {2 * nodes} pairs for {nodes} nodes, got {len(flat)}")
    return [flat[i : i + 2] for i in range(0, 2 * nodes, 2)]
