"""Command: what is at hand: problems, parts by kind, run folders. ``evo_robust list [runs=FOLDER]``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import chz

from evo_robust import zoo
from evo_robust.algorithms.base import Algorithm
from evo_robust.attacks.base import Attack
from evo_robust.attacks.level.base import LevelAttack
from evo_robust.commands.cli import command
from evo_robust.commands.helping import WIDEST, first_line, plain_words
from evo_robust.commands.run_folders import FolderStanding, run_folders, standing_of
from evo_robust.commands.source_files import classes_in, scales_in
from evo_robust.data.base import DataSet
from evo_robust.distributions.base import Distribution
from evo_robust.estimators.base import Estimator
from evo_robust.evaluators.base import Evaluator
from evo_robust.final_training.published import PUBLISHED
from evo_robust.gradients.base import ArchitectureGradient
from evo_robust.objectives.base import Objective
from evo_robust.objectives.constraints import Constraint
from evo_robust.parts.base import Part, UserError, choices, short_names, subclasses
from evo_robust.parts.making import parse
from evo_robust.parts.paths import PATH, refuse_odd_path
from evo_robust.parts.plain import visible
from evo_robust.problem.files import own_source, problem_files, summary
from evo_robust.progress import fit, output, table
from evo_robust.record.ending import early_end
from evo_robust.spaces.base import SearchSpace
from evo_robust.training.recipes import Recipe

KINDS: dict[str, type[Part]] = {
    "spaces (space=)": SearchSpace,
    "data sets (data=)": DataSet,
    "objectives (objectives=, recorded=)": Objective,
    "constraints (constraints=)": Constraint,
    "evaluators (evaluator=)": Evaluator,
    "algorithms (algorithm=)": Algorithm,
    "recipes of training (evaluator.recipe=, recipe=)": Recipe,
    "attacks (attack=)": Attack,
    "attacks by level (adversarial_set.optimiser=)": LevelAttack,
    "distributions (algorithm.distribution=)": Distribution,
    "what moves distributions (algorithm.gradient=)": ArchitectureGradient,
    "estimators of noise (estimator=)": Estimator,
}
"""Kinds of parts that are listed, with the keys that take them."""


@chz.chz
class ListOptions(Part):
    """List problems with their scales, parts by kind, and run folders with their state."""

    runs: str = chz.field(default="runs", doc="folder that run folders are looked for in", metadata=PATH)

    @chz.validate
    def _sound(self) -> None:
        refuse_odd_path("runs", self.runs)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse(ListOptions, argv or [], "list")
    folder = Path(options.runs)
    if any(argument.startswith("runs=") for argument in argv or []) and not folder.is_dir():
        raise UserError(f"runs={folder}: no such folder")
    width = min(output().width, WIDEST)
    for line in (*_problems(width), "", *_parts(width), ""):
        print(visible(line))
    _show_runs(folder)
    return 0


def _problems(width: int) -> Iterator[str]:
    """Problems with their scales, as their files' text tells them."""
    yield "problems (run problem=NAME scale=SCALE)"
    for name, path in problem_files().items():
        yield from _entry(name, plain_words(summary(path)), width)
        found = scales_in(path)
        scales = f"scales: {', '.join(found)}" if found else f"scales: known when {path} is run"
        yield from textwrap.wrap(scales, width, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _parts(width: int) -> Iterator[str]:
    """Parts by kind, those of the person's own problem files last."""
    own = _own_parts()
    yield "parts (capitals do not matter)"
    for title, base in KINDS.items():
        short = {name: short for short, name in short_names(base).items()}
        yield f"  {title}"
        for name, cls in sorted(choices(base).items(), key=lambda item: item[0].lower()):
            called = f"{name} or {short[name]}" if name in short else name
            yield from _entry(called, first_line(cls), width, 4)
        for name, (words, path) in own.get(title, {}).items():
            yield from _entry(name, f"{plain_words(words)} ({path})".strip(), width, 4)
    yield "  the papers' recipes (retrain recipe=)"
    for name, found in PUBLISHED.items():
        yield from textwrap.wrap(found.told(name), width, initial_indent=" " * 4, subsequent_indent=" " * 8)
    yield "  networks (retrain network=), with what can be chosen beside their names"
    for name in zoo.names():
        yield from _entry(name, zoo.told(name), width, 4)


def _own_parts() -> dict[str, dict[str, tuple[str, Path]]]:
    """Parts that problem files of the person's own define: words and file, by kind and name. The files are not run."""
    kinds = {name: title for title, base in KINDS.items() for name in (base.__name__, *subclasses(base))}
    found: dict[str, dict[str, tuple[str, Path]]] = {}
    for path in problem_files().values():
        if own_source(path) is not None:
            for name, (kind, words) in classes_in(path, kinds).items():
                found.setdefault(kind, {})[name] = (words, path)
    return found


def _entry(name: str, words: str, width: int, indent: int = 2) -> list[str]:
    """A name, and words on the same line where they fit."""
    margin = " " * indent
    return textwrap.wrap(f"{name}: {words}", width, initial_indent=margin, subsequent_indent=margin + "    ")


def _show_runs(folder: Path) -> None:
    console = output()
    found = [standing_of(place) for place in run_folders(folder)]
    if not found:
        console.print(f"no run folders in {folder}")
        return
    shown = table(
        f"run folders in {folder}",
        words=("folder", "state", "problem"),
        numbers=("generations", "evaluations", "front"),
    )
    for run in found:
        shown.add_row(str(run.folder), run.state, run.problem, *_numbers(run))
    fit(shown, console)
    console.print(shown)
    for run in found:
        if run.reason:
            console.print(f"damaged: {run.reason}", markup=False, soft_wrap=True)
        elif run.early:
            console.print(early_end(run.folder, run.done, run.total or 0), markup=False, soft_wrap=True)


def _numbers(run: FolderStanding) -> tuple[str, str, str]:
    if run.state == "damaged":
        return "", "", ""
    return f"{run.done} of {'?' if run.total is None else run.total}", f"{run.evaluations:,}", str(run.front)
