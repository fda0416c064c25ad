"""Command: which properties of architectures make them robust, by a run's record: RobNet's study."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import chz
from rich.console import Console

from evo_robust.analysis.finetuning import Change, finetuning_changes, write_changes
from evo_robust.analysis.places import curves_of, write_curves
from evo_robust.analysis.ranking import Ranking, ranking, write_ranking, write_scores
from evo_robust.analysis.relations import (
    Relation,
    convolution_relations,
    density_relations,
    fsp_relations,
    write_relations,
)
from evo_robust.analysis.separation import Separation, separation, write_points, write_separation
from evo_robust.analysis.study import LeftOut, Study, study_of, write_architectures
from evo_robust.commands import cli
from evo_robust.correlations import signed
from evo_robust.files import make_folder
from evo_robust.parts.base import UserError, changed
from evo_robust.parts.making import parse
from evo_robust.parts.paths import PATH, folders_of, refuse_odd_path, refuse_odd_paths
from evo_robust.parts.typed import as_typed
from evo_robust.plotting.study.panel import networks
from evo_robust.plotting.study.places import draw_places
from evo_robust.plotting.study.ranking import draw_ranking, draw_scores
from evo_robust.plotting.study.relations import draw_convolutions, draw_density, draw_finetuning, draw_fsp
from evo_robust.plotting.study.separation import draw_separation
from evo_robust.plotting.study.terminal import ranking_table, relations_table
from evo_robust.progress import output
from evo_robust.record.reading import IMAGES, Run, load_run
from evo_robust.record.view import names_of, view_of

USAGE = """usage: evo_robust analyze run=DIR [out=DIR] [objective=robust_error]
       evo_robust analyze run=DIR truth=DIR[,DIR…] …       does the run rank as the truth does?
       evo_robust analyze run=DIR,DIR,… truth=DIR[,DIR…]   which of several runs ranks best?
       evo_robust analyze --help                           every key with its type, default and meaning

DIR is the run folder of a search. A truth is a run that evaluated the same architectures with more care, such as from
scratch. The problem's seed proposes the architectures: give a truth the same. evaluator.seed trains them anew: give
several truths, each with another one, to see how far they agree among themselves. For example:

       evo_robust run problem=robnet scale=scratch out=runs/truth-0
       evo_robust run problem=robnet scale=scratch evaluator.seed=1 out=runs/truth-1"""


@chz.chz
class AnalyzeCommand:
    """Study a run: evo_robust analyze run=DIR [truth=DIR]."""

    run: tuple[str, ...] = chz.field(
        default=(), doc="run folder; several, separated by commas, are compared with truth=", metadata=PATH
    )
    truth: tuple[str, ...] = chz.field(
        default=(),
        doc="run folders that evaluated the same architectures (the same seed) with more care; several, such as with "
        "evaluator.seed=1, count as their mean",
        metadata=PATH,
    )
    objective: str = chz.field(
        default="robust_error",
        doc="the error that the study is about, searched for or recorded; or one of its strengths, robust_error.0.03",
    )
    out: str | None = chz.field(
        default=None, doc="folder for pictures and tables; the (first) run folder by default", metadata=PATH
    )
    trust: bool = chz.field(default=False, doc=cli.TRUST)

    @chz.validate
    def _sound(self) -> None:
        if not self.run or not all(self.run):
            raise ValueError("expected run=DIR, or run=DIR,DIR truth=DIR to compare how runs rank")
        if not all(self.truth):
            raise ValueError("expected truth=DIR or truth=DIR,DIR")
        if len(folders_of(self.run)) > 1 and not self.truth:
            raise ValueError("expected truth=DIR beside several runs: without it, study one run at a time")
        refuse_odd_paths("run", folders_of(self.run))
        refuse_odd_paths("truth", folders_of(self.truth))
        refuse_odd_path("out", self.out)


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What was found and written.

    Attributes:
        files: pictures and tables.
        left_out: why a picture is not there, by its name.
        relations: the correlations of all pictures.
        separation: best against worst; None where left out.
        changes: what finetuning changed; empty where left out.
        ranking: predictors against truths; None without truths.
        cautions: lines that a reader of the ranking must know, such as that a truth read other images.
    """

    files: list[Path]
    left_out: dict[str, str]
    relations: list[Relation]
    separation: Separation | None
    changes: list[Change]
    ranking: Ranking | None
    cautions: tuple[str, ...] = ()


def analyze(
    folders: Sequence[str | Path],
    truths: Sequence[str | Path] = (),
    objective: str = "robust_error",
    out: str | Path | None = None,
    trust: bool = False,
) -> Analysis:
    """Draw and tabulate the study of a run, and how well runs rank beside truths.

    Args:
        folders: run folders; the study's pictures are drawn for one, several are only compared with ``truths``.
        truths: run folders that evaluated the same architectures with more care.
        objective: name of the robust error in the records.
        out: folder for pictures and tables; the first run folder when not given.
        trust: run the Python files that the runs' problems came from; see ``load_run``.

    Raises:
        UserError: a folder that cannot be read, an unknown objective, no architecture in common with the truths, or
            nothing in the record that can be drawn.
    """
    paths = [Path(folder) for folder in (*folders, *truths)]
    names = names_of(paths)
    read = [load_run(path, trust=trust) for path in paths]
    views = [view_of(run, name) for run, name in zip(read, names, strict=True)]
    found = [study_of(view, objective) for view in views]
    runs, truth_runs = found[: len(folders)], found[len(folders) :]
    work = _Work()
    if len(runs) == 1:
        for name, part in _PARTS.items():
            work.attempt(name, part, runs[0])
    if truth_runs:
        work.attempt("ranking", _ranking, runs, truth_runs)
    if not work.writers:
        raise UserError(f"{folders[0]}: nothing to draw: {'; '.join(dict.fromkeys(work.left_out.values()))}")
    if len(runs) == 1:
        work.add("study.csv", lambda path: write_architectures(runs[0], path))
    cautions = _other_images(read[: len(folders)], read[len(folders) :])
    return dataclasses.replace(work.write(Path(out or folders[0])), cautions=cautions)


def _other_images(runs: Sequence[Run], truths: Sequence[Run]) -> tuple[str, ...]:
    """A line for every run and truth that did not read the same images."""
    said = []
    for run, truth in itertools.product(runs, truths):
        mine, other = (_images_of(one) for one in (run, truth))
        if IMAGES in mine and IMAGES in other:  # the digest says it, wherever the images lie
            mine, other = {IMAGES: mine[IMAGES]}, {IMAGES: other[IMAGES]}
        if differences := changed(mine, other):
            said.append(f"caution: {run.folder} and its truth {truth.folder} read other images: {differences[0]}")
    return tuple(said)


def _images_of(run: Run) -> dict[str, Any]:
    """What a run's record says of its images."""
    return {k: v for k, v in run.info["identity"].items() if k == "data" or k.startswith("data.")}


class _Work:
    """What is to be written: everything is computed before the first file is."""

    def __init__(self) -> None:
        self.writers: dict[str, Callable[[Path], None]] = {}
        self.left_out: dict[str, str] = {}
        self.relations: list[Relation] = []
        self.separation: Separation | None = None
        self.changes: list[Change] = []
        self.ranking: Ranking | None = None

    def attempt(self, name: str, part: Callable[..., None], *studies: Any) -> None:
        """Let a part of the study add its files, or keep the reason why it cannot."""
        try:
            part(self, *studies)
        except LeftOut as reason:
            self.left_out[name] = str(reason)

    def add(self, name: str, write: Callable[[Path], None]) -> None:
        """A file to be written."""
        self.writers[name] = write

    def write(self, out: Path) -> Analysis:
        """Write all files into a folder."""
        make_folder(out)
        files = [out / name for name in self.writers]
        for path in files:
            self.writers[path.name](path)
        return Analysis(files, self.left_out, self.relations, self.separation, self.changes, self.ranking)


def _finetuning(work: _Work, study: Study) -> None:
    found = work.changes = finetuning_changes(study)
    work.add("finetuning.png", lambda path: draw_finetuning(found, path))
    work.add("finetuning.csv", lambda path: write_changes(found, path))


def _separation(work: _Work, study: Study) -> None:
    found = work.separation = separation(study)
    work.add("separation.png", lambda path: draw_separation(found, study.robust_words, path))
    work.add("separation.csv", lambda path: write_separation(found, path))
    work.add("separation_points.csv", lambda path: write_points(found, path))


def _density(work: _Work, study: Study) -> None:
    found = density_relations(study)
    work.relations += found
    work.add("density.png", lambda path: draw_density(found, path, caution=study.caution))
    work.add("density.csv", lambda path: write_relations(found, path))


def _convolutions(work: _Work, study: Study) -> None:
    found = convolution_relations(study)
    work.relations += found
    work.add("convolutions.png", lambda path: draw_convolutions(found, path, caution=study.caution))
    work.add("convolutions.csv", lambda path: write_relations(found, path))


def _places(work: _Work, study: Study) -> None:
    found = curves_of(study)
    words = study.robust_words
    work.add("convolution_places.png", lambda path: draw_places(found, words, path, caution=study.caution))
    work.add("convolution_places.csv", lambda path: write_curves(found, path))


def _fsp(work: _Work, study: Study) -> None:
    found = fsp_relations(study)
    work.relations += found
    caution = f"{study.fsp_choice} {study.caution}".strip()
    work.add("fsp.png", lambda path: draw_fsp(found, path, inherited=study.fsp_inherited, caution=caution))
    work.add("fsp.csv", lambda path: write_relations(found, path))


def _ranking(work: _Work, runs: Sequence[Study], truths: Sequence[Study]) -> None:
    found = work.ranking = ranking(runs, truths)
    words = truths[0].robust_words
    work.add("ranking.png", lambda path: draw_ranking(found, words, path))
    work.add("ranking.csv", lambda path: write_ranking(found, path))
    work.add("ranking_scores.png", lambda path: draw_scores(found, words, path))
    work.add("ranking_scores.csv", lambda path: write_scores(found, path))


_PARTS: dict[str, Callable[[_Work, Study], None]] = {
    "finetuning": _finetuning,
    "separation": _separation,
    "density": _density,
    "convolutions": _convolutions,
    "convolution_places": _places,
    "fsp": _fsp,
}


def _show(console: Console, found: Analysis) -> None:
    for change in found.changes:
        before, after = 100 * change.before.mean(), 100 * change.after.mean()
        console.print(
            f"{change.name}: {before:.2f}% with inherited weights, {after:.2f}% after finetuning "
            f"(mean of {networks(len(change.before))}), order kept: τ = {signed(change.agreement.tau)}"
        )
    if found.separation is not None:
        s = found.separation
        positive = "" if math.isnan(s.positive) else f", {s.positive:.0%} of the weights positive"
        console.print(
            f"best against worst {s.each} networks, linear classifier: {s.accuracy:.1%} right by cross-validation, "
            f"{s.training_accuracy:.1%} of what it was fitted to (guessing: 50%){positive}"
        )
        positive = "" if math.isnan(s.published.positive) else f", {s.published.positive:.0%} of its weights positive"
        console.print(
            f"the paper's classifier (SGDClassifier): {s.published.accuracy:.1%} of what it was fitted to{positive}"
        )
    if found.relations:
        console.print(relations_table(found.relations))
    for line in found.cautions:
        console.print(line, markup=False, soft_wrap=True)
    if found.ranking is not None:
        console.print(ranking_table(found.ranking))
        if found.ranking.left_out:
            console.print(f"architectures that not all of these runs have, left out: {found.ranking.left_out}")
    for name, reason in found.left_out.items():
        console.print(f"{name} is left out: {reason}", markup=False)


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Run the command with ``argv``; the exit status."""
    if not argv:
        print(as_typed(USAGE))
        return 0
    command = parse(AnalyzeCommand, argv, "analyze")
    found = analyze(folders_of(command.run), folders_of(command.truth), command.objective, command.out, command.trust)
    _show(output(), found)
    for path in found.files:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(None))
