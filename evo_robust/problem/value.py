"""A problem as a value, and finding problem files by name."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import chz
import cloudpickle

from evo_robust.algorithms.adapter import Ledger, SearchProblem
from evo_robust.algorithms.base import Algorithm
from evo_robust.attacks.base import check_balls
from evo_robust.clusters import choose_staff, hire
from evo_robust.commands.cli import make
from evo_robust.data.sets import DataSet, cache_folder
from evo_robust.device import choose_device
from evo_robust.estimators.strengths import STRENGTHS, Strengths
from evo_robust.evaluators.base import Evaluator, Session
from evo_robust.files import check_cache
from evo_robust.objectives.base import Constraint, Context, Gate, Objective
from evo_robust.parts.base import Fraction, Part, UserError, dotted, nearest, parts_in, refuse_unwritable, subclasses
from evo_robust.parts.plain import is_printable
from evo_robust.parts.resolve import from_dotted
from evo_robust.parts.stand_ins import MODULE, StandIns, tell
from evo_robust.progress import Say, silent
from evo_robust.spaces.base import SearchSpace
from evo_robust.workers import Staff

_HERE = Path(__file__).resolve().parents[1]
_TUPLES = ("objectives", "constraints", "recorded")


@chz.chz
class Problem(Part):
    """A search, declared: what is searched, on which data, for what, how candidates are measured and proposed."""

    space: SearchSpace = chz.field(doc="the architectures")
    data: DataSet = chz.field(doc="the images")
    objectives: tuple[Objective, ...] = chz.field(doc="what is minimised, in this order; names must differ")
    constraints: tuple[Constraint, ...] = chz.field(default=(), doc="what must not exceed a limit")
    recorded: tuple[Objective, ...] = chz.field(
        default=(), doc="what is measured and recorded beside the objectives, for comparisons; not searched for"
    )
    evaluator: Evaluator = chz.field(doc="how candidates get weights and figures")
    algorithm: Algorithm = chz.field(doc="how candidates are proposed")
    seed: int = chz.field(default=0, doc="all randomness of the search comes from it; >= 0")

    @chz.validate
    def _sound(self) -> None:
        if not self.objectives:
            raise ValueError("expected at least one objective, got none (objectives is empty)")
        measured = (*self.objectives, *self.recorded)
        for what, items in (("objective", measured), ("constraint", self.constraints)):
            names = [item.name for item in items]
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ValueError(f"expected different {what} names, got {twice[0]!r} twice: give one of them a label")
        self._check_names()
        if self.seed < 0:
            raise ValueError(f"expected seed >= 0, got {self.seed}")
        if missing_of(self) is None:  # what stands for a part knows nothing of the others
            self._check_parts(measured)

    def _check_parts(self, measured: tuple[Objective, ...]) -> None:
        """Refuse parts that do not go together."""
        for objective in (*measured, *(c.of for c in self.constraints)):
            objective.check(self.data)
        check_balls(self, self.data.in_shape)
        self.evaluator.check(self.space, self.data)
        gates = [constraint.name for constraint in self.constraints if isinstance(constraint, Gate)]
        if gates and not self.evaluator.inherits:
            raise ValueError(
                f"expected an evaluator whose candidates inherit weights (OneShot) for the gate {gates[0]}, "
                f"got {type(self.evaluator).__name__}"
            )
        self.algorithm.check(self.space, self.evaluator, self.objectives)
        for objective in (*measured, *(c.of for c in self.constraints)):
            objective.check_search(self.evaluator, self.algorithm)
        self._check_estimators()

    def _check_estimators(self) -> None:
        """Refuse noise estimators that nobody would train."""
        trained = self.algorithm.trains_estimators and self.evaluator.co_trains
        # inside a sum too, where nothing would train it either
        for objective in _objectives_in((self.objectives, self.recorded, self.constraints)):
            source = objective.noise_source
            if source is not None and source.learned and not (trained and objective in self.objectives):
                raise ValueError(
                    f"{objective.name}: the noise estimator {type(source.kind).__name__} is learned: expected it in an "
                    "objective of a search with evaluator=CoTrained, algorithm=GradientHybrid and "
                    "algorithm.gradient=EstimatedLoss, or estimator=WA, which has nothing to learn"
                )

    def _check_names(self) -> None:
        """Refuse names that are no text, and two objectives of one name: both would write the same figures."""
        known: dict[str, Objective] = {}
        for objective in _objectives_in((self.objectives, self.recorded, self.constraints)):
            for what, text in (("name", objective.name), ("unit", objective.unit)):
                if not isinstance(text, str) or not is_printable(text) or (what == "name" and not text.strip()):
                    raise ValueError(
                        f"expected the {what} of {type(objective).__name__} to be text of one line without control "
                        f"characters, got {text!r}"
                    )
            first = known.setdefault(objective.name, objective)
            if first != objective:
                raise ValueError(
                    f"expected different names of different objectives, got two that are called {objective.name!r} "
                    f"({_difference(first, objective)}): give one of them a label"
                )

    def to_pymoo(
        self, *, device: str = "auto", workers: int | None = None, cluster: str | None = None
    ) -> SearchProblem:
        """This problem for any pymoo algorithm, without a record; ``algorithm`` is not used.

        Args:
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
            workers: candidates evaluated at a time; all cores, or one per CUDA device, when not given.
            cluster: whose workers evaluate candidates; see :func:`evo_robust.search`.
        """
        device = choose_device(device)
        here, staff = choose_staff(self.evaluator, cluster, workers, device)
        return self.adapt(self.start(device, here, staff=staff))

    def start(
        self,
        device: str,
        workers: int,
        folder: Path | None = None,
        say: Say = silent,
        measured_under: frozenset[str] = frozenset(),
        staff: Staff | None = None,
    ) -> Session:
        """The evaluator at work; what candidates share (adversarial sets, supernets) is built now.

        ``measured_under`` are the fingerprints of rows that the run folder holds already. ``staff`` are the workers of
        a cluster; the session sends them home.
        """
        context = dataclasses.replace(
            self._context(device, workers),
            folder=folder,
            say=say,
            measured_under=measured_under,
            staff=staff or hire(self.evaluator, None, workers, device, say),
        )
        session = self.evaluator.start(context, self.objectives, self.constraints)
        if not isinstance(session, Session):
            raise UserError(f"expected {type(self.evaluator).__name__}.start to return a Session, got {session!r}")
        return session

    def check_cache(self, device: str) -> None:
        """Raise ``UserError`` where the cache takes no files, and something has to be built there."""
        context = self._context(device, workers=1)
        wanted = [*self.evaluator.builds(context)]
        for objective in (*self.objectives, *self.recorded, *(c.of for c in self.constraints)):
            wanted += objective.builds(context)
        if not all(file.is_file() for file in wanted):
            check_cache(context.cache)

    def _context(self, device: str, workers: int) -> Context:
        return Context(
            space=self.space,
            data=self.data.pinned(),
            seed=self.seed,
            device=device,
            workers=workers,
            cache=cache_folder(),
            recorded=self.recorded,
        )

    def adapt(self, session: Session, ledger: Ledger | None = None) -> SearchProblem:
        """The pymoo problem that asks ``session`` and keeps what it learns in ``ledger``."""
        return SearchProblem(self.space, session, self.objectives, self.constraints, self.seed, ledger)


def problem_folders() -> list[Path]:
    """Where problem files are looked for: ``./problems``, then the shipped ones."""
    # an installed wheel carries them inside the package, a checkout beside it
    return [Path("problems"), _HERE / "_problems", _HERE.parent / "problems"]


def problem_files() -> dict[str, Path]:
    """Problem files by name; the current folder's hide shipped ones of the same name."""
    found: dict[str, Path] = {}
    for folder in problem_folders():
        for path in sorted(folder.glob("[!_]*.py")):
            found.setdefault(path.stem, path)
    return found


def summary(path: Path) -> str:
    """First line of a problem file's docstring."""
    try:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        return f"(cannot be read: {error})"
    return text.strip().splitlines()[0] if text.strip() else ""


def find(name: str) -> Path:
    """The file of a problem: a name such as ``roco`` or a path such as ``./mine.py``.

    Raises:
        UserError: no such problem, with the nearest name.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UserError(f"no problem file {name}")
        return Path(name)
    files = problem_files()
    if name not in files:
        raise UserError(f"unknown problem {name!r}: {nearest(name, files)}")
    return files[name]


def own_source(path: Path) -> str | None:
    """The full path of a problem file that is not shipped; None for shipped ones, which are found by name."""
    shipped = any(path.resolve().is_relative_to(folder.resolve()) for folder in problem_folders()[1:])
    return None if shipped else str(path.resolve())


def scales(name: str) -> dict[str, Problem]:
    """All ``Problem`` values of a problem file by name (``demo``, ``paper``, …)."""
    module = _load_module(find(name))
    return {key: value for key, value in vars(module).items() if isinstance(value, Problem)}


def load(name: str, scale: str = "demo", overrides: Mapping[str, str] | None = None) -> Problem:
    """The problem ``name`` at ``scale``, with ``key.path: value`` texts put over it.

    Raises:
        UserError: unknown problem, scale, key, part or value.
    """
    if not isinstance(name, str) or not isinstance(scale, str):
        raise UserError(
            f"expected the names of a problem and a scale, such as 'roco' and 'demo', got {name!r}, {scale!r}"
        )
    known = scales(name)
    if scale not in known:
        raise UserError(f"unknown scale {scale!r} of problem {name!r}: {nearest(scale, known)}")
    return override(known[scale], overrides or {}, f"{name} scale={scale}")


_reading: list[Path] = []
"""Files that are being run to learn their parts and problems, the innermost last."""


def refuse_while_reading() -> None:
    """Refuse to search in the middle of reading a file: it would search whenever its runs are plotted.

    Raises:
        UserError: a file is being read.
    """
    if _reading:
        raise UserError(
            f'{_reading[-1]} searches while it is read for its parts: put the search under if __name__ == "__main__":'
        )


def _loaded(path: Path) -> ModuleType | None:
    """The module that was made of a file: a problem file, an imported one, or the script that is running."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(path.name) and Path(file).resolve() == path:
            return module
    return None


def _load_module(path: Path) -> ModuleType:
    path = path.resolve()
    name = f"{MODULE}{path.stem}"
    loaded = _loaded(path)
    if loaded is not None:
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be read as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _reading.append(path)
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        del sys.modules[name]
        raise UserError(text if (text := str(error)).startswith(str(path)) else f"{path}: {text}") from error
    except Exception as error:  # whatever its author's mistake is, it is theirs to mend
        del sys.modules[name]
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    finally:
        _reading.pop()
    # workers cannot import a file that was loaded by path: its classes travel by value
    cloudpickle.register_pickle_by_value(module)
    return module


def override(problem: Problem, given: Mapping[str, str], label: str) -> Problem:
    """``problem`` with ``key.path: text`` values put over it.

    A part that is replaced loses the values below it, except those of fields that both parts have from a common base:
    ``algorithm=RandomSearch`` keeps ``pop_size`` and ``n_gen``, so that budgets stay equal. Strengths go by name too:
    ``objectives.0.strengths=plus`` are those of ``STRENGTHS``, as much larger as the problem's are.

    Raises:
        UserError: unknown key, part or value.
    """
    base = {key: _fractions(value) for key, value in chz.beta_to_blueprint_values(problem).items()}
    given = _bring_settings(problem, _expand_tuples(problem, _expand_strengths(dict(given), base), base), base)
    for key, text in given.items():
        if not isinstance(old := base.get(key), type):
            continue
        if text == "None":  # what was set of the part goes with it
            for below in [k for k in base if k.startswith(key + ".")]:
                del base[below]
            continue
        new = _part_class(old, text)
        if new is None or new is old:
            continue
        shared = _shared_fields(old, new)
        for below in [k for k in base if k.startswith(key + ".")]:
            if below[len(key) + 1 :].split(".")[0] not in shared:
                del base[below]
    return make(Problem, given, base, label)


def _shared_fields(old: type, new: type) -> set[str]:
    common = next(cls for cls in old.__mro__ if issubclass(new, cls))
    return set(chz.chz_fields(common)) if chz.is_chz(common) else set()


def _part_class(old: type, text: str) -> type | None:
    root = [cls for cls in old.__mro__ if isinstance(cls, type) and issubclass(cls, Part) and cls is not Part][-1]
    return subclasses(root).get(text)


def _fractions(value: Any) -> Any:
    """Floats as fractions, which are floats too: files may write ``eps=(0.1, 0.2)``, chz wants the field's type."""
    if isinstance(value, tuple):
        return tuple(map(_fractions, value))
    return Fraction(value) if type(value) is float else value


def _expand_strengths(given: dict[str, str], base: Mapping[str, Any]) -> dict[str, str]:
    """``objectives.0.strengths=plus`` as its values and N1, scaled so that the problem's smallest strength stays."""
    for key, name in list(given.items()):
        if base.get(key) is not Strengths or name == Strengths.__name__:
            continue
        if name not in STRENGTHS:
            own = f"numbers go to {key}.values=0.03,0.06"
            raise UserError(f"{key}={name}: unknown strengths ({own}): {nearest(name, STRENGTHS)}")
        named = STRENGTHS[name]
        smallest = base.get(f"{key}.values", named.values)[0]
        del given[key]
        for below, value in dotted(named.scaled(smallest / named.values[0])).items():
            given.setdefault(f"{key}.{below}", _text(value))
    return given


def _expand_tuples(problem: Problem, given: dict[str, str], base: dict[str, Any]) -> dict[str, str]:
    """``objectives=CleanError,Flops`` as ``objectives.0=CleanError objectives.1=Flops``; drops what ``base`` held."""
    for name in _TUPLES:
        if any(key.startswith(f"{name}.") for key in given) and not base.get(name, True):
            del base[name]  # an empty tuple would hide the items that are given
        if name not in given:
            continue
        names = [n.strip() for n in given.pop(name).split(",") if n.strip()]
        if not names and name == "objectives":
            raise UserError("expected at least one objective, got none (objectives is empty)")
        for key in [k for k in base if k == name or k.startswith(f"{name}.")]:
            del base[key]
        for index, n in enumerate(names):
            given.setdefault(f"{name}.{index}", n)
    _refuse_odd_places(given)
    return given


def _refuse_odd_places(given: Mapping[str, str]) -> None:
    """``objectives.one`` is no place."""
    for key in given:
        name, *below = key.split(".")
        if name in _TUPLES and not re.fullmatch(r"0|[1-9][0-9]*", (below or "0")[0]):
            raise UserError(f"unknown key {key!r}: expected {name}.0, {name}.1 and so on")


def _bring_settings(problem: Problem, given: dict[str, str], base: Mapping[str, Any]) -> dict[str, str]:
    """An objective that is named where it was not keeps the settings under which the problem declares it elsewhere."""
    declared: dict[str, Objective] = {}
    for objective in _objectives_in((problem.objectives, problem.recorded, problem.constraints)):
        declared.setdefault(type(objective).__name__, objective)
    for key, name in list(given.items()):
        # a misspelt key is said as it was typed, not with what would stand below it
        if key.partition(".")[0] not in _TUPLES:
            continue
        if name in declared and base.get(key) is not type(declared[name]):
            for below, value in dotted(declared[name]).items():
                given.setdefault(f"{key}.{below}", _text(value))
    return given


def _objectives_in(value: object) -> Iterator[Objective]:
    """All objectives in a part or tuple, outer ones first."""
    return (part for part in parts_in(value) if isinstance(part, Objective))


def _difference(first: Objective, second: Objective) -> str:
    """What tells two objectives apart, such as ``cells: deep and all``."""
    one, other = ({"class": type(o).__name__, **dotted(o)} for o in (first, second))
    differing = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return "; ".join(f"{key}: {one.get(key)} and {other.get(key)}" for key in differing[:2])


def _text(value: Any) -> str:
    return ",".join(map(_text, value)) if isinstance(value, list) else str(value)


def problem_to_dict(problem: Problem) -> dict[str, Any]:
    """The problem as ``problem.json`` holds it.

    Raises:
        UserError: a part has a field that no file could hold.
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

    The file that it names as its source is run only where that is safe: when it is loaded already, lies in the present
    folder's ``problems/`` or is shipped; or when ``trust`` says so.

    Args:
        info: what the file holds.
        trust: run the source wherever it lies.
        stand_ins: let parts whose classes are not at hand be stood for by parts that do nothing; ``missing_of`` tells.

    Raises:
        ValueError: it names an unknown part, key or value.
        UserError: its parts are defined in a file that is gone or was not run.
    """
    source, why = _load_source(info, trust)
    about = {f"objectives.{i}": told for i, told in enumerate(info.get("objectives", [])) if isinstance(told, dict)}
    substitutes = StandIns(info["values"], why, source, about)
    problem = from_dotted(Problem, info["values"], substitutes=substitutes)
    if substitutes.missing and not stand_ins:
        raise UserError(substitutes.missing)
    return problem


def missing_of(problem: Problem) -> str | None:
    """What is missing of a problem some of whose parts are stand-ins, in words; None where it is whole."""
    absent = [part for part in parts_in(problem) if part.stand_in]
    return tell((type(part).__name__ for part in absent), str(absent[0].stand_in)) if absent else None


def _load_source(info: Mapping[str, Any], trust: bool) -> tuple[Path | None, str]:
    """Run the file that defines a problem's own parts, where that is safe; the file, and what to say of its parts."""
    named, name = info.get("source"), info.get("problem")
    shipped = problem_files().get(name) if isinstance(name, str) else None
    if not named and shipped is None:
        return None, "no part of this version, and problem.json names no file that defines it"
    path = Path(str(named or shipped)).resolve()
    if not path.is_file():
        return path, f"defined in {path}, which is gone: put the file back"
    own = path.is_relative_to(Path("problems").resolve()) or own_source(path) is None
    if own or trust or _loaded(path):
        _load_module(path)
        return path, f"not defined in {path} any more"
    return path, f"defined in {path}, which is not run unasked: trust=yes runs it, if you know what it does"
