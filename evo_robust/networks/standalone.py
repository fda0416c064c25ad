"""Source of a network as one text that needs only torch.

The definitions that a network class uses are collected from this package's modules, in an order that runs; everything
else is left out. Network modules import only torch, the standard library and each other.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterable
from types import ModuleType

_PACKAGE = __name__.partition(".")[0]
_ALLOWED = frozenset(sys.stdlib_module_names) | {"torch"}


@dataclasses.dataclass
class _Module:
    """The definitions and imports of a module.

    Attributes:
        name: its dotted name.
        lines: its source.
        definitions: top-level statements by defined name, in order.
        imports: import statements of a single name, by bound name; those from this package are left out.
        own: ``(module, name)`` by bound name, for imports from this package.
    """

    name: str
    lines: list[str]
    definitions: dict[str, ast.stmt] = dataclasses.field(default_factory=dict)
    imports: dict[str, str] = dataclasses.field(default_factory=dict)
    own: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)


def standalone_source(root: type) -> tuple[list[str], str]:
    """Import lines and the text that defines the class ``root`` and all it uses, with torch and the standard library.

    Raises:
        ValueError: the class needs another package, or two modules define one name differently.
    """
    modules: dict[str, _Module] = {}
    kept: list[tuple[str, str]] = []
    _gather(modules, kept, root.__module__, root.__name__)
    owners: dict[str, str] = {}
    for module, name in kept:
        if owners.setdefault(name, module) != module:
            raise ValueError(f"expected one definition of {name!r}, got one in {owners[name]} and one in {module}")
    return _assemble(modules, kept)


def _gather(modules: dict[str, _Module], kept: list[tuple[str, str]], module: str, name: str) -> None:
    """Append to ``kept`` everything that ``name`` of ``module`` needs, then ``name`` itself."""
    if module not in modules:
        modules[module] = _dissect(importlib.import_module(module))
    parts = modules[module]
    if name in parts.own:
        _gather(modules, kept, *parts.own[name])
        return
    if name not in parts.definitions:
        _check_import(parts, name)
        return
    if (module, name) in kept:
        return
    at = len(kept)
    kept.append((module, name))  # before the names that it needs, so that recursion ends
    for need in sorted(_names(parts.definitions[name]) - {name}):
        _gather(modules, kept, module, need)
    kept.append(kept.pop(at))


def _check_import(parts: _Module, name: str) -> None:
    """Refuse a name that another package provides."""
    if name in parts.imports:
        top = parts.imports[name].split()[1].partition(".")[0]
        if top not in _ALLOWED:
            raise ValueError(f"expected {parts.name} to need only torch and the standard library, got {top!r}")


def _dissect(module: ModuleType) -> _Module:
    """Definitions and imports of a module."""
    source = inspect.getsource(module)
    parts = _Module(name=module.__name__, lines=source.splitlines())
    for statement in ast.parse(source).body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            parts.definitions[statement.name] = statement
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                parts.definitions |= {n.id: statement for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                bound = alias.asname or alias.name.partition(".")[0]
                parts.imports[bound] = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
        elif isinstance(statement, ast.ImportFrom) and statement.module != "__future__":
            _import_from(parts, statement)
    return parts


def _import_from(parts: _Module, statement: ast.ImportFrom) -> None:
    """Sort the names of a ``from … import …`` into those of other packages and those of this one."""
    source = statement.module or ""
    for alias in statement.names:
        if source.partition(".")[0] != _PACKAGE:
            rename = f" as {alias.asname}" if alias.asname else ""
            parts.imports[alias.asname or alias.name] = f"from {source} import {alias.name}{rename}"
        elif alias.asname:
            raise ValueError(f"expected {parts.name} to import {alias.name!r} under its own name, got {alias.asname!r}")
        else:
            parts.own[alias.name] = (source, alias.name)


def _names(statement: ast.stmt) -> set[str]:
    """Names that a statement reads, builtins left out."""
    loads = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return loads - set(dir(builtins))


def _assemble(modules: dict[str, _Module], kept: list[tuple[str, str]]) -> tuple[list[str], str]:
    """Import lines, and the definitions as one text."""
    imports: set[str] = set()
    blocks: dict[str, bool] = {}  # text: whether two empty lines surround it
    for module, name in kept:
        parts = modules[module]
        statement = parts.definitions[name]
        imports |= {parts.imports[n] for n in _names(statement) if n in parts.imports}
        # one statement may define several names; as a key it is kept once
        blocks[_text(parts, statement)] = isinstance(statement, (ast.FunctionDef, ast.ClassDef))
    source, spaced = "", False
    for text, tall in blocks.items():
        source += ("\n\n\n" if tall or spaced else "\n\n") * bool(source) + text
        spaced = tall
    return sorted(imports), source + "\n"


def tidy_imports(lines: Iterable[str]) -> list[str]:
    """Import lines without repetition, one per module: the standard library, an empty line, then torch."""
    names: dict[str, set[str]] = {}
    for line in lines:
        source, _, imported = line.removeprefix("from ").partition(" import ")
        names.setdefault(source, set()).update(imported.split(", ") if imported else ())
    merged = sorted(
        (f"from {s} import {', '.join(sorted(n))}" if n else s for s, n in names.items()),
        key=lambda line: (line.startswith("from"), line),
    )
    foreign = [line for line in merged if line.split()[1].partition(".")[0] == "torch"]
    return [*(line for line in merged if line not in foreign), "", *foreign]


def _text(parts: _Module, statement: ast.stmt) -> str:
    """Source of a top-level statement with its decorators and the comment above it."""
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(d.lineno for d in decorators)]) - 1
    while first > 0 and parts.lines[first - 1].startswith("#"):
        first -= 1
    last = statement.end_lineno or statement.lineno
    # a string right below an assignment is its documentation
    rest = parts.lines[last : last + 1]
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and rest and rest[0].startswith('"""'):
        while not parts.lines[last].rstrip().endswith('"""'):
            last += 1
        last += 1
    return "\n".join(parts.lines[first:last])
