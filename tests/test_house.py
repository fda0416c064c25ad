"""Rooms lean on each other one way: a room is a folder of the package, or a file at its root."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import evo_robust

PACKAGE = Path(evo_robust.__file__).parent
MOST_ROOT_FILES = 18


def imports_of(path: Path, modules: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """Modules of the package that a file imports, anywhere in it, and whether only type checkers do."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # what is no module is a name of the module that it is taken from
            found = {name if name in modules else node.module for name in names}
        elif isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        else:
            continue
        yield from ((name, node in for_types) for name in found if name in modules)


def graph(package: Path, *, rooms: bool, typed: bool) -> dict[str, set[str]]:
    """What leans on what in a package: its modules, or its rooms; ``typed`` counts imports for type checkers too."""
    modules = {}
    for path in package.rglob("*.py"):
        if "_problems" not in path.parts:
            name = ".".join((package.name, *path.relative_to(package).with_suffix("").parts))
            modules[name.removesuffix(".__init__")] = path
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        for target, for_types in imports_of(path, modules):
            if typed or not for_types:
                one, other = (n.split(".")[1] if rooms and "." in n else n for n in (name, target))
                if one != other:
                    found.setdefault(one, set()).add(other)
    if rooms:
        found.pop(package.name, None)  # it gathers the public names
    return found


def ring(leans: dict[str, set[str]]) -> list[str]:
    """One ring of a graph, such as ``["a", "b", "a"]``; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for target in sorted(leans.get(name, ())):
                if found := visit(target, [*path, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(leans) if (found := visit(name, []))), [])


@pytest.mark.parametrize("typed", [False, True], ids=["at run time", "for type checkers too"])
@pytest.mark.parametrize("rooms", [False, True], ids=["files", "rooms"])
def test_imports_run_one_way(rooms: bool, typed: bool) -> None:
    leans = graph(PACKAGE, rooms=rooms, typed=typed)
    assert len(leans) > 20
    assert " → ".join(ring(leans)) == ""


@pytest.mark.parametrize("typed", [False, True])
def test_a_ring_of_rooms_is_found_where_no_file_is_in_one(typed: bool, tmp_path: Path) -> None:
    package = tmp_path / "house"
    line = "if TYPE_CHECKING:\n    from house.attic.floor import y\n" if typed else "from house.attic.floor import y\n"
    for file, text in {
        "__init__.py": "",
        "attic/__init__.py": "",
        "cellar/__init__.py": "",
        "attic/roof.py": "def late():\n    from house.cellar import wine\n",
        "attic/floor.py": "y = 1\n",
        "cellar/wine.py": "",
        "cellar/stairs.py": line,
    }.items():
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(text)
    assert ring(graph(package, rooms=False, typed=True)) == []
    assert ring(graph(package, rooms=True, typed=True)) == ["attic", "cellar", "attic"]
    assert ring(graph(package, rooms=True, typed=False)) == ([] if typed else ["attic", "cellar", "attic"])


def test_nothing_leans_on_the_packages_own_name() -> None:
    # it gathers the public names, and imports nearly everything; the command of all commands may
    leans = graph(PACKAGE, rooms=False, typed=True)
    assert [name for name, targets in leans.items() if "evo_robust" in targets] == []


def test_few_files_lie_at_the_root() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_ROOT_FILES


def test_nothing_imports_problem_files() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("problems")
