"""Finds problem files by name, and writes and reads a problem as in problem.json."""

from __future__ import annotations

import ast
import dataclasses
import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from evo_robust.parts.base import UserError, classes_of, dotted, nearest, refuse_unwritable, retire, spelt
from evo_robust.parts.resolve import from_dotted
from evo_robust.parts.stand_ins import MODULE, StandIns
from evo_robust.parts.strict_json import fault, is_absent_or_path, is_absent_or_text, is_object, read_json
from evo_robust.problem.overrides import override
from evo_robust.problem.value import Problem

_HERE = Path(__file__).resolve().parents[1]


def problem_folders() -> list[Path]:
    """Folders with problem files, in order of search: ``./problems``, then the shipped ones."""
    # in an installed wheel they are inside the package, in a checkout beside it
    return [Path("problems"), _HERE / "_problems", _HERE.parent / "problems"]


def problem_files() -> dict[str, Path]:
    """Problem files by name; a file of the current folder hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in problem_folders():
        for path in sorted(folder.glob("[!_]*.py")):
            if path.is_file():
                found.setdefault(path.stem, path)
    return found


def summary(path: Path) -> str:
    """First line of a problem file's docstring."""
    try:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        return f"(cannot be read: {error})"
    return text.strip().splitlines()[0] if text.strip() else ""


def is_record(name: str) -> bool:
    """Whether a name is the path of a run folder's ``problem.json``."""
    return name.endswith(".json")


def find(name: str) -> Path:
    """The file of a problem: a name such as ``roco``, or a path such as ``./mine.py`` or ``runs/x/problem.json``.

    Capitals of a name do not matter, unless it fits exactly.

    Raises:
        UserError: there is no such problem; the message gives the nearest name.
    """
    if name.endswith(".py") or is_record(name):
        if not Path(name).is_file():
            raise UserError(f"no problem file {name}")
        return Path(name)
    files = problem_files()
    if name not in files and (record := Path(name) / "problem.json").is_file():  # a name takes precedence over a folder
        raise UserError(f"{name} is a run folder: expected a problem, or problem={record} to run its settings again")
    if spelt(name, files) not in files:
        raise UserError(f"unknown problem {name!r}: {nearest(name, files)}")
    return files[spelt(name, files)]


def own_source(path: Path) -> str | None:
    """The full path of a problem file that is not shipped; None for shipped ones, which are found by name."""
    shipped = any(path.resolve().is_relative_to(folder.resolve()) for folder in problem_folders()[1:])
    return None if shipped else str(path.resolve())


def scales(name: str) -> dict[str, Problem]:
    """All ``Problem`` values of a problem file by name (``demo``, ``paper``, …), as the file is now."""
    module = _load_module(find(name), again=True)
    return {key: value for key, value in vars(module).items() if isinstance(value, Problem)}


def load(
    name: str, scale: str | None = None, overrides: Mapping[str, str] | None = None, *, trust: bool = False
) -> Problem:
    """The problem ``name`` at ``scale``, with ``key.path: value`` overrides.

    A problem file that was edited since it was loaded is read again, with the files that it loads. A file that the
    program itself imported or runs is not read again.

    Example:
        >>> problem = load("roco", overrides={"algorithm.n_gen": "2"})

    Args:
        name: a name such as ``roco`` (searched in ``./problems``, then among the shipped ones; capitals do not matter),
            a path that ends in ``.py``, or the path of a run folder's ``problem.json``, which gives that run's
            settings.
        scale: which of the file's problems: ``demo`` (the default), ``paper``, …; a ``problem.json`` has only one.
        overrides: texts by dotted key, as on the command line.
        trust: for a ``problem.json``: run the file that defines its parts, wherever that file is; see
            ``problem_from_dict``.

    Raises:
        UserError: the problem, scale, a key, part or value is unknown.
    """
    if not isinstance(name, str) or not isinstance(scale, (str, type(None))):
        raise UserError(
            f"expected the names of a problem and a scale, such as 'roco' and 'demo', got {name!r}, {scale!r}"
        )
    overrides = _texts({} if overrides is None else overrides)
    if is_record(name):
        if scale is not None:
            raise UserError(f"scale={scale}: {name} has the settings of one scale only: leave scale out")
        return override(_recorded(find(name), overrides, trust), overrides, name)
    known = scales(name)
    if not known:
        raise UserError(f"{find(name)} holds no problem: expected one, such as demo = Problem(…)")
    scale = spelt(scale or "demo", known)
    if scale not in known:
        raise UserError(f"unknown scale {scale!r} of problem {name!r}: {nearest(scale, known)}")
    return override(known[scale], overrides, f"{name} scale={scale}")


def _texts(overrides: object) -> dict[str, str]:
    """Overrides as a dictionary of texts, which is what they have to be."""
    told = overrides if isinstance(overrides, Mapping) else {None: None}
    if not all(isinstance(text, str) for item in told.items() for text in item):
        raise UserError(f"expected overrides to be texts by key, such as {{'algorithm.n_gen': '2'}}, got {overrides!r}")
    return dict(told)


def _recorded(path: Path, overrides: Mapping[str, str], trust: bool) -> Problem:
    """The problem of a run folder's ``problem.json``; with other data than its own, the images are not checked."""
    info = _record(path)
    where = ("data.root", "data.download")  # the same images may be in another place
    if any(key.partition(".")[0] == "data" for key in overrides if key not in where):
        info = {**info, "values": {key: value for key, value in info["values"].items() if key != "data.content"}}
    try:
        return problem_from_dict(info, trust=trust)
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _record(path: Path) -> dict[str, Any]:
    """Content of a run folder's ``problem.json``, checked as far as making its problem again needs it."""
    info = read_json(path, "a run's problem.json")
    if wrong := fault(info, _RECORD, {"objectives": [], **dict.fromkeys(("problem", "scale", "source"))}):
        raise UserError(f"{path} is no run's: {wrong}")
    return info


_RECORD = {
    "values": (is_object, "the problem's values"),
    "objectives": (lambda told: isinstance(told, list), "a list"),
    "problem": (is_absent_or_text, "a name or null"),
    "scale": (is_absent_or_text, "a name or null"),
    "source": (is_absent_or_path, "a path or null"),
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a problem comes from.

    Attributes:
        info: ``problem``, ``scale`` and ``source``, for the ``problem.json`` of its run.
        title: the origin in words.
        folder: default run folder.
    """

    info: dict[str, str | None]
    title: str
    folder: str


def origin_of(name: str, scale: str | None = None) -> Origin:
    """Origin of the problem with this name; see ``load``."""
    path = find(name)
    if is_record(name):
        info = _record(path)
        folder = path.resolve().parent.name
        told = {key: info.get(key) for key in ("problem", "scale", "source")}
        return Origin(told, f"the settings of {path}", f"runs/{folder}-again")
    scale = spelt(scale or "demo", scales(name))
    told = {"problem": path.stem, "scale": scale, "source": own_source(path)}
    return Origin(told, f"{path.stem} ({scale})", f"runs/{path.stem}-{scale}")


_reading: list[Path] = []
"""Files that are being read at present, the innermost last."""

_content: dict[Path, dict[Path, bytes]] = {}
"""For each file that was read: the contents, at that time, of the file itself and of those that it loaded."""


def refuse_while_reading() -> None:
    """Refuse a search while a file is being read: it would start again whenever the file's runs are plotted.

    Raises:
        UserError: a file is being read.
    """
    if _reading:
        raise UserError(
            f'{_reading[-1]} starts a search while it is loaded: put the search under if __name__ == "__main__":'
        )


def _loaded(path: Path) -> ModuleType | None:
    """The module of a file that is loaded: a problem file, an imported one, or the running script."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(path.name) and Path(file).resolve() == path:
            return module
    return None


def _load_module(path: Path, *, again: bool = False) -> ModuleType:
    """The module of a problem file.

    Args:
        path: the file.
        again: read it again where it, or a file that it loaded, was edited since. Commands that read a run do not: they
            need the classes that are loaded.
    """
    path = path.resolve()
    loaded = _loaded(path)
    if loaded is not None and not (again and _edited(path, loaded)):
        for reading in _reading:  # files being read depend on this one, and on what it loaded
            _content[reading].update(_content.get(path, {}))
        return loaded
    spec = importlib.util.spec_from_file_location(f"{MODULE}{path.stem}", path)
    if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
        raise UserError(f"{path} cannot be read as a Python file")
    module = importlib.util.module_from_spec(spec)
    former = classes_of(module.__name__) if loaded is not None else []
    _run(path, module, spec.loader)
    retire(former)
    # workers cannot import a file that was loaded by path, so its classes are pickled by value
    cloudpickle.register_pickle_by_value(module)
    return module


def _run(path: Path, module: ModuleType, loader: importlib.machinery.SourceFileLoader) -> None:
    """Fill a module by running its file; if that fails, the former module of that name stays.

    Raises:
        UserError: the file has an error.
    """
    name, before, known = module.__name__, sys.modules.get(module.__name__), _content.get(path)
    sys.modules[name], _content[path] = module, {}
    _reading.append(path)
    try:
        content = path.read_bytes()
        for reading in _reading:
            _content[reading][path] = content
        # without cached bytecode, which is checked by size and whole seconds only: an edit may change neither
        exec(loader.source_to_code(content, str(path)), vars(module))
    except BaseException as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        _content.pop(path)
        if known is not None:
            _content[path] = known
        if isinstance(error, UserError):
            raise UserError(text if (text := str(error)).startswith(str(path)) else f"{path}: {text}") from error
        if isinstance(error, (Exception, SystemExit)):  # an error in the user's file, for the user to mend
            raise UserError(f"{path}: {type(error).__name__}: {error}") from error
        raise
    finally:
        _reading.pop()


def _edited(path: Path, loaded: ModuleType) -> bool:
    """Whether a module was loaded here, and its file, or a file that it loaded, has changed since."""
    if not loaded.__name__.startswith(MODULE):
        return False  # the running script or an imported module: the program keeps what it imported
    return any(not file.is_file() or file.read_bytes() != content for file, content in _content.get(path, {}).items())


def problem_to_dict(problem: Problem) -> dict[str, Any]:
    """The problem as ``problem.json`` holds it.

    Raises:
        UserError: a part has a field that cannot be written to a file.
    """
    refuse_unwritable(problem)
    return {
        "values": dotted(problem),
        "identity": dotted(problem, identity=True),
        "objectives": [{"name": o.name, "unit": o.unit} for o in problem.objectives],
        "constraints": [c.name for c in problem.constraints],
    }


def problem_from_dict(info: Mapping[str, Any], *, trust: bool = False, stand_ins: bool = False) -> Problem:
    """The problem of a ``problem.json``, which may come from a stranger.

    The Python file that it names as its source is run only where that is safe: if it is loaded already, is in the
    current folder's ``problems/``, or is shipped; or if ``trust`` is set.

    Args:
        info: content of the file.
        trust: run the source wherever it is.
        stand_ins: replace parts whose classes are missing by stand-ins that do nothing; see ``missing_of``.

    Raises:
        ValueError: a part, key or value is unknown.
        UserError: parts are defined in a file that is missing or was not run.
    """
    source, why = load_source(info, trust)
    about = {f"objectives.{i}": told for i, told in enumerate(info.get("objectives", [])) if isinstance(told, dict)}
    substitutes = StandIns(info["values"], why, source, about)
    problem = from_dotted(Problem, info["values"], substitutes=substitutes)
    if substitutes.missing and not stand_ins:
        raise UserError(substitutes.missing)
    return problem


def load_source(info: Mapping[str, Any], trust: bool) -> tuple[Path | None, str]:
    """Run the file that defines a problem's own parts, where that is safe; the file, and what to say of its parts."""
    named, name = info.get("source"), info.get("problem")
    shipped = problem_files().get(name) if isinstance(name, str) else None
    if not named and shipped is None:
        return None, "no part of this version, and problem.json names no file that defines it"
    path = Path(str(named or shipped)).resolve()
    if not path.is_file():
        return path, f"defined in {path}, which is missing: put the file back"
    own = path.is_relative_to(Path("problems").resolve()) or own_source(path) is None
    if own or trust or _loaded(path):
        _load_module(path)
        return path, f"no longer defined in {path}"
    return path, f"defined in {path}, which is not run without your consent: trust=yes runs it, if you trust it"
