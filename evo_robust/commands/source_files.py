"""Python files of problems, read as text: which problems and parts they define. Nothing of them is run."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path


def _tree(path: Path) -> ast.Module:
    """What a file holds; nothing where it cannot be read."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError, RecursionError):
        return ast.Module([], [])


def _last(node: ast.AST | None) -> str:
    """The last name of ``a.b.c`` or of ``a.b.c[d]``, such as of a class; empty of anything else."""
    if isinstance(node, ast.Subscript):
        return _last(node.value)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.rpartition(".")[2]  # an annotation in quotes
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def scales_in(path: Path) -> list[str]:
    """Names that a file gives to problems at its top level, as far as its text tells.

    A problem is what ``Problem``, ``load``, ``override`` or a function of the file that returns one gives, a copy of
    one, or another name of one.
    """
    tree = _tree(path)
    makers = {"Problem", "load", "override"}
    makers |= {f.name for f in tree.body if isinstance(f, ast.FunctionDef) and _last(f.returns) == "Problem"}
    found: list[str] = []
    for line in tree.body:
        value = getattr(line, "value", None)
        made = isinstance(value, ast.Call) and (
            _last(value.func) in makers
            or (_last(value.func) == "replace" and bool(value.args) and _is_problem(value.args[0], found, makers))
        )
        if made or _last(value) in found:
            found += [name for name in _targets(line) if name not in found]
    return found


def _targets(line: ast.stmt) -> list[str]:
    """The names that an assignment gives."""
    places = line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
    return [place.id for place in places if isinstance(place, ast.Name)]


def _is_problem(value: ast.expr, known: list[str], makers: set[str]) -> bool:
    """Whether an expression is one of the known problems, or makes one."""
    return _last(value) in known or (isinstance(value, ast.Call) and _last(value.func) in makers)


def classes_in(path: Path, kinds: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Classes that a file derives from known ones: kind and first line of the docstring, by name.

    Args:
        path: the file.
        kinds: the kind of each class that is known, by name.
    """
    known, found = dict(kinds), {}
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef):
            kind = next((known[base] for base in map(_last, node.bases) if base in known), None)
            if kind is not None:
                known[node.name] = kind
                found[node.name] = (kind, (ast.get_docstring(node) or "").partition("\n")[0])
    return found
